"""The most clicked items for everyone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from recfb.contracts import Batch, Solver

if TYPE_CHECKING:
    from recfb.data.log import Log


class Popularity(Solver):
    """Scores an item by how many users clicked it: the baseline that every table needs.

    >>> from recfb.data import Log
    >>> log = Log.of({"user": [0, 1, 1], "item": [0, 0, 1], "reward": [1, 1, 1]}, n_items=3)
    >>> Popularity().bind(log).solve(log).all(torch.tensor([0])).tolist()
    [[2.0, 1.0, 0.0]]
    """

    count: Tensor  # (n_items,)

    def bind(self, log: Log) -> Self:
        super().bind(log)
        self.register_buffer("count", torch.zeros(log.n_items))
        return self

    def solve(self, log: Log) -> Self:
        """Count."""
        self.count.copy_(log.clicks.per_item)
        return self

    def forward(self, user: Tensor, item: Tensor, batch: Batch | None = None) -> Tensor:
        """(B,), (B,) | (B, C) -> clicks shaped like item."""
        return self.count[item]

    def all(self, user: Tensor, out: Tensor | None = None) -> Tensor:
        """(B,) -> (B, n_items)."""
        table = self.count.expand(len(user), -1)  # (B, n_items)
        return table if out is None else out.copy_(table)
