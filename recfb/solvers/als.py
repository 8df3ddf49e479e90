"""Implicit-feedback matrix factorisation by alternating least squares."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, Self

import torch
from torch import Tensor

from recfb.solvers.bilinear import Bilinear, Lists

if TYPE_CHECKING:
    from recfb.data.log import Log
    from recfb.data.pairs import Pairs

_ENTRIES = 1 << 15  # padded entries that are gathered at a time
_ROWS = 1 << 10  # systems that are solved at a time


class ALS(Bilinear):
    """Minimises sum C_ui (Y_ui - U_u . V_i)^2 + sum_u l2_u |U_u|^2 + sum_i l2_i |V_i|^2.

    Hu, Koren and Volinsky, "Collaborative filtering for implicit feedback datasets" (2008). C is
    1 + alpha r on clicks, with r the sum of their rewards, and 1 elsewhere. Each half sweep solves
    every row exactly, by batched Cholesky factorisations, so the loss never increases.

    Args:
        dim: length of the vectors.
        alpha: how much more a click counts than the absence of one. (The library `implicit` calls
            1 + alpha what it calls alpha.)
        l2: weight of the squared lengths.
        sweeps: over users and items.
        ridge: "relative" multiplies l2 by the sum of the row's C, so that one value serves logs of
            all sizes; Rendle et al., "Revisiting the performance of iALS" (2022), scale it alike.
            "absolute" takes l2 as it is, as the paper of 2008 does.

    >>> from recfb import fit
    >>> from recfb.data import Log
    >>> log = Log.of({"user": [0, 0, 1], "item": [0, 1, 0], "reward": [1, 1, 1]}, n_items=3)
    >>> scores = fit(log, ALS(dim=2)).all(torch.tensor([1]))[0]
    >>> bool(scores[1] > scores[2])
    True
    """

    def __init__(
        self,
        dim: int = 64,
        *,
        alpha: float = 10.0,
        l2: float = 0.01,
        sweeps: int = 15,
        ridge: Literal["relative", "absolute"] = "relative",
    ) -> None:
        super().__init__(dim)
        self.alpha, self.l2, self.sweeps, self.ridge = alpha, l2, sweeps, ridge

    @torch.no_grad()
    def solve(self, log: Log) -> Self:
        """Sweep over users and items."""
        pairs = log.clicks
        extra = self.alpha * strength(log, pairs).to(self.item)  # (P,) C - 1
        user, item = pairs.user.to(extra.device), pairs.item.to(extra.device)
        users = Lists.of(user, item, extra, self.n_users)
        items = Lists.of(item, user, extra, self.n_items)
        of_users = self._ridges(user, extra, self.n_users, self.n_items)
        of_items = self._ridges(item, extra, self.n_items, self.n_users)
        for _ in range(self.sweeps):
            half_sweep(self.user, self.item, users, of_users)
            half_sweep(self.item, self.user, items, of_items)
        return self

    def _ridges(self, row: Tensor, extra: Tensor, rows: int, columns: int) -> Tensor:
        """The weight of each row's squared length: (rows,)."""
        if self.ridge == "absolute":
            return extra.new_full((rows,), self.l2)
        return self.l2 * extra.new_full((rows,), float(columns)).index_add_(0, row, extra)


def strength(log: Log, pairs: Pairs) -> Tensor:
    """The sum of the positive rewards of each clicked pair: (P,)."""
    reward = log.tensor("reward")  # (n,)
    clicked = reward > 0
    key = log.tensor("user")[clicked] * pairs.n_items + log.tensor("item")[clicked]
    place = torch.searchsorted(pairs.key, key)
    return torch.zeros(len(pairs)).index_add_(0, place, reward[clicked])


def half_sweep(table: Tensor, other: Tensor, lists: Lists, ridge: Tensor) -> None:
    """Set every row of `table` to the minimiser given `other`, in place; rows without clicks are 0.

        U_u = (P_u + V_u' D_u V_u)^-1 V_u' (1 + d_u),
        P_u = V'V + ridge_u I,   D_u = C_u - I = diag(d_u)

    With V'V = Q diag(e) Q' and all vectors rotated by Q, P_u is diagonal. Short rows use the system
    as large as the row is long: U_u = P_u^-1 V_u' (I + D_u V_u P_u^-1 V_u')^-1 (1 + d_u).
    """
    e, q = torch.linalg.eigh(other.T @ other)  # (d,), (d, d)
    padded = torch.cat([other @ q, other.new_zeros(1, len(e))])  # (n + 1, d)
    table.zero_()
    for rows, index, extra in _chunks(lists, len(other)):
        v, c = padded[index], 1 + extra  # (b, L, d), (b, L)
        p = e.clamp(min=0) + ridge[rows, None]  # (b, d)
        if 2 * index.shape[1] <= len(e):
            short = v / p[:, None]  # (b, L, d)
            inner = extra[:, :, None] * torch.bmm(short, v.mT)  # (b, L, L)
            inner.diagonal(dim1=1, dim2=2).add_(1)
            solved = torch.bmm(torch.linalg.solve(inner, c)[:, None], short)[:, 0]  # (b, d)
        else:
            system = torch.bmm((v * extra[:, :, None]).mT, v)  # (b, d, d)
            system.diagonal(dim1=1, dim2=2).add_(p)
            right = torch.bmm(c[:, None], v).mT  # (b, d, 1)
            factor = torch.linalg.cholesky_ex(system).L
            solved = torch.cholesky_solve(right, factor)[:, :, 0]  # (b, d)
        table[rows] = solved @ q.T


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
