"""Implicit-feedback matrix factorisation by alternating least squares."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from recfb.solvers.bilinear import Bilinear, Lists

if TYPE_CHECKING:
    from recfb.data.log import Log
    from recfb.data.pairs import Pairs

_ENTRIES = 1 << 15  # padded entries that are gathered at a time
_ROWS = 1 << 10  # systems that are solved at a time


class ALS(Bilinear):
    """Minimises sum C_ui (Y_ui - U_u . V_i)^2 + l2 (|U|^2 + |V|^2) over all pairs.

    Hu, Koren and Volinsky, "Collaborative filtering for implicit feedback datasets" (2008). C is
    1 + alpha r on clicks, with r the sum of their rewards, and 1 elsewhere. Each half sweep solves
    every row exactly, by batched Cholesky factorisations, so the loss never increases.

    Args:
        dim: length of the vectors.
        alpha: how much more a click counts than the absence of one. (The library `implicit` calls
            1 + alpha what it calls alpha.)
        l2: weight of the squared lengths.
        sweeps: over users and items.

    >>> from recfb import fit
    >>> from recfb.data import Log
    >>> log = Log.of({"user": [0, 0, 1], "item": [0, 1, 0], "reward": [1, 1, 1]}, n_items=3)
    >>> model = fit(log, ALS(dim=2, l2=0.1))
    >>> scores = model.all(torch.tensor([1]))[0]
    >>> bool(scores[1] > scores[2])
    True
    """

    def __init__(
        self, dim: int = 64, *, alpha: float = 10.0, l2: float = 100.0, sweeps: int = 15
    ) -> None:
        super().__init__(dim)
        self.alpha, self.l2, self.sweeps = alpha, l2, sweeps

    @torch.no_grad()
    def solve(self, log: Log) -> Self:
        """Sweep over users and items."""
        pairs = log.clicks
        extra = self.alpha * strength(log, pairs).to(self.item)  # (P,) C - 1
        user, item = pairs.user.to(extra.device), pairs.item.to(extra.device)
        users = Lists.of(user, item, extra, self.n_users)
        items = Lists.of(item, user, extra, self.n_items)
        for _ in range(self.sweeps):
            half_sweep(self.user, self.item, users, self.l2)
            half_sweep(self.item, self.user, items, self.l2)
        return self


def strength(log: Log, pairs: Pairs) -> Tensor:
    """The sum of the positive rewards of each clicked pair: (P,)."""
    reward = log.tensor("reward")  # (n,)
    clicked = reward > 0
    key = log.tensor("user")[clicked] * pairs.n_items + log.tensor("item")[clicked]
    place = torch.searchsorted(pairs.key, key)
    return torch.zeros(len(pairs)).index_add_(0, place, reward[clicked])


def half_sweep(table: Tensor, other: Tensor, lists: Lists, l2: float) -> None:
    """Set every row of `table` to the minimiser given `other`, in place; rows without clicks are 0.

        U_u = (V'V + V_u' D_u V_u + l2 I)^-1 V_u' (1 + d_u),   D_u = C_u - I = diag(d_u)

    With P = V'V + l2 I it is also P^-1 V_u' (I + D_u V_u P^-1 V_u')^-1 (1 + d_u), a system as large
    as the row is long: used for short rows.
    """
    d = other.shape[1]
    shared = other.T @ other + l2 * torch.eye(d, dtype=other.dtype, device=other.device)  # (d, d)
    solved = torch.cholesky_solve(other.T, torch.linalg.cholesky(shared)).T  # (n, d) V P^-1
    padded, padded_solved = (torch.cat([x, x.new_zeros(1, d)]) for x in (other, solved))
    table.zero_()
    for rows, index, extra in _chunks(lists, len(other)):
        v, c = padded[index], 1 + extra  # (b, L, d), (b, L)
        if 2 * index.shape[1] <= d:
            short = padded_solved[index]  # (b, L, d)
            inner = extra[:, :, None] * torch.bmm(short, v.mT)  # (b, L, L)
            inner.diagonal(dim1=1, dim2=2).add_(1)
            table[rows] = torch.bmm(torch.linalg.solve(inner, c)[:, None], short)[:, 0]
        else:
            system = torch.baddbmm(shared, (v * extra[:, :, None]).mT, v)  # (b, d, d)
            right = torch.bmm(c[:, None], v).mT  # (b, d, 1)
            factor = torch.linalg.cholesky_ex(system).L
            table[rows] = torch.cholesky_solve(right, factor)[:, :, 0]


def _chunks(lists: Lists, pad: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Rows of similar length, padded: (rows (b,), index (b, L), weight (b, L))."""
    count = lists.offset[1:] - lists.offset[:-1]  # (rows,)
    order = count.argsort(descending=True, stable=True)
    order = order[: int((count > 0).sum())]
    lengths = count[order].tolist()
    start = 0
    while start < len(order):
        longest = lengths[start]
        stop = start + max(1, min(_ROWS, _ENTRIES // longest))
        rows = order[start:stop]  # (b,)
        column = torch.arange(longest, device=rows.device)
        inside = column < count[rows][:, None]  # (b, L)
        place = torch.where(inside, lists.offset[rows][:, None] + column, 0)  # (b, L)
        index = torch.where(inside, lists.index[place], pad)
        yield rows, index, torch.where(inside, lists.weight[place], 0.0)
        start = stop
