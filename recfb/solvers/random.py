"""A ranking that knows nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from recfb.contracts import Batch, Solver

if TYPE_CHECKING:
    from recfb.data.log import Log


class Random(Solver):
    """Scores all items alike, so that the hash that breaks ties orders them: a random ranking.

    The other baseline of every table. The same user gets the same list every time.

    >>> from recfb.data import Log
    >>> Random().bind(Log.empty(n_users=1, n_items=2)).all(torch.tensor([0])).tolist()
    [[0.0, 0.0]]
    """

    def solve(self, log: Log) -> Self:
        """Nothing to learn."""
        return self

    def forward(self, user: Tensor, item: Tensor, batch: Batch | None = None) -> Tensor:
        """(B,), (B,) | (B, C) -> zeros shaped like item."""
        return torch.zeros(item.shape, device=item.device)

    def all(self, user: Tensor, out: Tensor | None = None) -> Tensor:
        """(B,) -> (B, n_items) zeros."""
        if out is not None:
            return out.zero_()
        return torch.zeros(len(user), self.n_items, device=user.device)
