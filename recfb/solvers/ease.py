"""Embarrassingly shallow autoencoders."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from recfb.contracts import Batch, Solver
from recfb.data.pairs import Pairs

if TYPE_CHECKING:
    from recfb.data.log import Log


_CELLS = 1 << 23  # entries of X that are made dense at a time


class EASE(Solver):
    """Minimises |X - X B|^2 + l2 |B|^2 over matrices B with a zero diagonal; scores are X B.

    Steck, "Embarrassingly shallow autoencoders for sparse data" (2019). X is
    (n_users, n_items), 1 on clicks. With P = (X'X + l2 I)^-1 the minimiser is B_ij = -P_ij / P_jj,
    computed in float64. It takes n_items^3 operations and n_items^2 numbers: 20,000 items are
    1.6 GB in float32, and several times as much while solving.

    A user's scores are sums over the user's clicks, so these are part of the state; a user without
    clicks scores 0 everywhere.

    Args:
        l2: weight of the squared entries of B, on the scale of clicks of an item.

    >>> from recfb import fit
    >>> from recfb.data import Log
    >>> log = Log.of({"user": [0, 0, 1], "item": [0, 1, 0], "reward": [1, 1, 1]}, n_items=3)
    >>> scores = fit(log, EASE(l2=1.0)).all(torch.tensor([1]))[0]
    >>> bool(scores[1] > scores[2])
    True
    """

    coefficient: Tensor  # (n_items, n_items): B
    clicked: Pairs  # X

    def __init__(self, l2: float = 250.0) -> None:
        super().__init__()
        self.l2 = l2

    def bind(self, log: Log) -> Self:
        super().bind(log)
        self.register_buffer("coefficient", torch.zeros(log.n_items, log.n_items))
        self.clicked = copy.copy(log.clicks)
        return self

    def get_extra_state(self) -> Tensor:
        """The clicks as keys `user * n_items + item`: (P,). They belong to the state_dict."""
        return self.clicked.key

    def set_extra_state(self, state: Tensor) -> None:
        """Score from these clicks."""
        n = max(1, self.n_items)
        key = state.to(self.coefficient.device)
        self.clicked = Pairs(key // n, key % n, n_users=self.n_users, n_items=self.n_items)

    def solve(self, log: Log) -> Self:
        """Invert X'X + l2 I."""
        gram = both(log.clicks).to(self.coefficient.device)
        gram.diagonal().add_(self.l2)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))  # P
        self.coefficient.copy_(inverse.div_(-inverse.diagonal().clone())).fill_diagonal_(0.0)
        return self

    def forward(self, user: Tensor, item: Tensor, batch: Batch | None = None) -> Tensor:
        """(B,), (B,) | (B, C) -> scores shaped like item."""
        wide = item if item.dim() > 1 else item[:, None]  # (B, C)
        return self.all(user).gather(1, wide).view(item.shape)

    def all(self, user: Tensor, out: Tensor | None = None) -> Tensor:
        """(B,) -> (B, n_items): the rows of B of the user's clicks, summed."""
        count = self.clicked.per_user[user]  # (B,)
        start = count.cumsum(0) - count  # (B,)
        shift = torch.repeat_interleave(self.clicked.offset[user] - start, count)  # (R,)
        index = self.clicked.item[shift + torch.arange(len(shift), device=user.device)]  # (R,)
        score = F.embedding_bag(index, self.coefficient, start, mode="sum")  # (B, n_items)
        return score if out is None else out.copy_(score)


def both(pairs: Pairs) -> Tensor:
    """X'X: how many users have clicked both items, (n_items, n_items) float64.

    >>> both(Pairs(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0]), n_users=2, n_items=2)).tolist()
    [[2.0, 1.0], [1.0, 1.0]]
    """
    n = pairs.n_items
    gram = torch.zeros(n, n, dtype=torch.float64, device=pairs.key.device)
    every = torch.arange(pairs.n_users, device=gram.device)
    for rows in torch.split(every, max(1, _CELLS // max(1, n))):
        x = pairs.mask(rows).double()  # (b, n)
        gram += torch.sparse.mm(x.T.to_sparse(), x)
    return gram
