"""What alternating solvers share: two tables, and the clicks as lists of either side."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
from torch import Generator, Tensor, nn

from recfb.contracts import Batch, Solver
from recfb.optim import lookup, table

if TYPE_CHECKING:
    from recfb.data.log import Log

_SCALE = 0.1  # standard deviation of the first values


@dataclass(frozen=True)
class Lists:
    """Entries of a sparse matrix by row: row r has columns index[offset[r] : offset[r + 1]]."""

    offset: Tensor  # (rows + 1,) int64
    index: Tensor  # (P,) int64
    weight: Tensor  # (P,)

    @classmethod
    def of(cls, row: Tensor, column: Tensor, weight: Tensor, rows: int) -> Lists:
        """Lists of entries in any order."""
        order = row.argsort(stable=True)
        offset = torch.zeros(rows + 1, dtype=torch.int64, device=row.device)
        offset[1:] = torch.bincount(row, minlength=rows).cumsum(0)
        return cls(offset, column[order], weight[order])


class Bilinear(Solver, ABC):
    """A solver with s(u, i) = U_u . V_i; subclasses fill the tables."""

    user: nn.Parameter  # (n_users, dim)
    item: nn.Parameter  # (n_items, dim)

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def bind(self, log: Log) -> Self:
        super().bind(log)
        self.user = table(getattr(self, "user", None), log.n_users, self.dim)
        self.item = table(getattr(self, "item", None), log.n_items, self.dim)
        return self.requires_grad_(False)

    def reset(self, generator: Generator) -> None:
        super().reset(generator)
        self.user.zero_()  # the first half sweep fills it
        self.item.normal_(0.0, _SCALE, generator=generator)

    @abstractmethod
    def solve(self, log: Log) -> Self:
        """Fill the tables from the log."""

    def forward(self, user: Tensor, item: Tensor, batch: Batch | None = None) -> Tensor:
        """(B,), (B,) | (B, C) -> scores shaped like item."""
        u, v = lookup(self.user, user), lookup(self.item, item)  # (B, d), (B, [C,] d)
        score: Tensor = torch.linalg.vecdot(u[:, None] if item.dim() > 1 else u, v)
        return score

    def all(self, user: Tensor, out: Tensor | None = None) -> Tensor:
        """(B,) -> (B, n_items) by one matrix product."""
        return torch.mm(lookup(self.user, user), self.item.T, out=out)
