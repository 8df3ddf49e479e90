"""Scores as dot products of two tables: what dot-product scorers share for one training step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from recfb.contracts import Batch, Context, Scorer
from recfb.optim import lookup

if TYPE_CHECKING:
    from recfb.data.pairs import Pairs


class Factors(Scorer):
    """s(u, i) = user[u] . item[i] + user_bias[u] + item_bias[i] + offset, over tables at hand.

    A dot-product scorer returns one from `ready`, so it lives for one step. Rows that were read
    with a gradient are kept until other rows are, hence `penalty` reads no table a second time.

    Args:
        user, item: (n_users, d) and (n_items, d); leaves or computed tables.
        user_bias, item_bias, offset: (n_users, 1), (n_items, 1) and (1, 1), or None.
        l2: the weight of half the squared length of the rows used.
    """

    def __init__(
        self,
        user: Tensor,
        item: Tensor,
        *,
        user_bias: Tensor | None = None,
        item_bias: Tensor | None = None,
        offset: Tensor | None = None,
        l2: float = 0.0,
    ) -> None:
        super().__init__()
        self.n_users, self.n_items, self.l2 = len(user), len(item), l2
        self.user, self.item, self.offset = user, item, offset
        self.user_bias, self.item_bias = user_bias, item_bias
        self._read: tuple[Tensor, Tensor, list[Tensor]] | None = None

    def rows(self, user: Tensor, item: Tensor) -> list[Tensor]:
        """The rows behind scores: (B, d), (B, [C,] d) and those of the biases that exist."""
        kept = self._read
        if kept is not None and kept[0] is user and kept[1] is item and torch.is_grad_enabled():
            return kept[2]
        read = [lookup(self.user, user), lookup(self.item, item)]
        read += [lookup(self.user_bias, user)] if self.user_bias is not None else []
        read += [lookup(self.item_bias, item)] if self.item_bias is not None else []
        if torch.is_grad_enabled():
            self._read = user, item, read
        return read

    def forward(self, user: Tensor, item: Tensor, batch: Batch | None = None) -> Tensor:
        """(B,), (B,) | (B, C) -> scores shaped like item."""
        u, v, *biases = self.rows(user, item)
        wide = item.dim() > 1
        score: Tensor = torch.linalg.vecdot(u[:, None] if wide else u, v)  # (B,) | (B, C)
        for bias in biases:
            one = bias.squeeze(-1)  # (B,) | (B, C)
            score = score + (one[:, None] if wide and one.dim() == 1 else one)
        return score if self.offset is None else score + self.offset.squeeze()

    def all(self, user: Tensor, out: Tensor | None = None) -> Tensor:
        """(B,) -> (B, n_items) by one matrix product."""
        u = lookup(self.user, user)  # (B, d)
        row = self.item_bias.T if self.item_bias is not None else None  # (1, n_items)
        if self.offset is not None:  # added to the row of biases, not to the whole table
            row = self.offset if row is None else row + self.offset
        if row is None:
            score = torch.mm(u, self.item.T, out=out)  # (B, n_items)
        else:
            score = torch.addmm(row, u, self.item.T, out=out)  # (B, n_items)
        return score if self.user_bias is None else score.add_(lookup(self.user_bias, user))

    def penalty(self, batch: Batch) -> Tensor | float:
        """l2 / 2 times the squared length of the vectors that each row uses, a mean over the rows.

        Rows count with their sampling weight, as their losses do, so that both estimate a mean over
        the same population. Biases are free.
        """
        if not self.l2:
            return 0.0
        u, v = self.rows(batch.user, batch.item)[:2]  # (B, d), (B, [C,] d)
        scale = 0.5 * self.l2 / max(1, len(batch))
        if batch.weight is None:
            return scale * (_square(u) + _square(v))
        weight = batch.weight if batch.weight.dim() == 1 else batch.weight.mean(1)  # (B,)
        own, other = torch.linalg.vecdot(u, u), torch.linalg.vecdot(v, v)  # (B,), (B, [C])
        if batch.weight.dim() == other.dim():
            total: Tensor = (own * weight).sum() + (other * batch.weight).sum()
        else:
            total = ((own + other.sum(1)) * weight).sum()
        return scale * total


def _square(x: Tensor) -> Tensor:
    flat = x.reshape(-1)
    return torch.dot(flat, flat)  # a third of the time of a sum of squares, with its gradient


class Factored(Scorer, ABC):
    """A scorer whose scores are dot products: `ready` makes the tables, the rest is theirs."""

    @abstractmethod
    def ready(self) -> Factors:
        """The tables of one step, with their graph and a memory of the rows read."""

    def forward(self, user: Tensor, item: Tensor, batch: Batch | None = None) -> Tensor:
        """(B,), (B,) | (B, C) -> scores shaped like item."""
        score: Tensor = self.ready()(user, item)
        return score

    def all(self, user: Tensor, out: Tensor | None = None) -> Tensor:
        """(B,) -> (B, n_items) by one matrix product."""
        return self.ready().all(user, out)

    @torch.no_grad()
    def top(self, context: Context, k: int, *, hide: Pairs | None = None) -> Tensor:
        """The k best available items of each request, best first: (B, k), the tables made once."""
        return self.ready().top(context, k, hide=hide)

    def penalty(self, batch: Batch) -> Tensor | float:
        """l2 / 2 times the squared length of the vectors a row uses, a mean over rows."""
        return self.ready().penalty(batch)
