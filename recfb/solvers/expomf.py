"""Exposure matrix factorisation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, Self

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from recfb.data.pairs import Pairs
from recfb.solvers.bilinear import Bilinear

if TYPE_CHECKING:
    from recfb.data.log import Log

Constant = Literal["exact", "reference"]

_ENTRIES = 1 << 22  # numbers in a block's weighted vectors


class ExpoMF(Bilinear):
    """Estimates relevance U_u . V_i where the absence of a click may mean that the item went
    unseen.

    Liang et al., "Modeling user exposure in recommendation" (2016). A pair is seen,
    a = 1, with probability mu_i. Seen pairs have clicks Y ~ N(U_u . V_i, 1 / precision),
    others have Y = 0. It finds the most likely U, V and mu by expectation maximisation: each half
    sweep weighs every pair by its probability of having been seen,

        A = mu_i N / (mu_i N + 1 - mu_i),   N = N(0; U_u . V_i, 1 / precision),   A = 1 on clicks,

    solves weighted ridge regressions, and a sweep ends with mu_i = the mean of A over users. All
    pairs take part: a sweep costs n_users * n_items * dim^2, in float64. Items are ranked by
    U_u . V_i, not by its product with mu_i.

    Args:
        dim: length of the vectors.
        l2: precision of the vectors' normal priors with mean 0. The default is the authors', for
            logs with many clicks a user; where they are few it overfits: try 3.
        precision: of a seen pair's click around U_u . V_i.
        prior: mu of every item before the first sweep. 1 stays 1: plain matrix factorisation.
        sweeps: over users and items.
        constant: "exact" is the normal density; "reference" multiplies it by pi, as the authors'
            program does, and maximises no likelihood.

    >>> from recfb import fit
    >>> from recfb.data import Log
    >>> log = Log.of({"user": [0, 0, 1], "item": [0, 1, 0], "reward": [1, 1, 1]}, n_items=3)
    >>> scores = fit(log, ExpoMF(dim=1)).all(torch.tensor([1]))[0]
    >>> bool(scores[1] > scores[2])
    True
    """

    seen: Tensor  # (n_items,): mu

    def __init__(
        self,
        dim: int = 64,
        *,
        l2: float = 1e-5,
        precision: float = 1.0,
        prior: float = 0.01,
        sweeps: int = 10,
        constant: Constant = "exact",
    ) -> None:
        super().__init__(dim)
        self.l2, self.precision, self.prior = l2, precision, prior
        self.sweeps, self.constant = sweeps, constant

    def bind(self, log: Log) -> Self:
        super().bind(log)
        self.register_buffer("seen", self.item.new_full((log.n_items,), self.prior))
        return self

    def reset(self, generator: Generator) -> None:
        super().reset(generator)
        self.seen.fill_(self.prior)

    @torch.no_grad()
    def solve(self, log: Log) -> Self:
        """Sweep over users, items and mu."""
        m, n, pairs = self.n_users, self.n_items, log.clicks
        user, item = pairs.user.to(self.item.device), pairs.item.to(self.item.device)
        users = Pairs(user, item, n_users=m, n_items=n)
        items = Pairs(item, user, n_users=n, n_items=m)
        for _ in range(self.sweeps):
            self.half_sweep(self.user, self.item, users, self.seen[None, :])
            self.half_sweep(self.item, self.user, items, self.seen[:, None])
            self.expose(items)
        return self

    def weights(self, score: Tensor, mu: Tensor, click: Tensor) -> Tensor:
        """The E-step: P(a = 1 | Y) of pairs with these scores, shaped like score; 1 on clicks."""
        a = posterior(score, mu, precision=self.precision, constant=self.constant)
        return torch.where(click, 1.0, a)

    def half_sweep(self, table: Tensor, other: Tensor, clicks: Pairs, mu: Tensor) -> None:
        """Set every row of `table` to its most likely value given `other`, in place.

            U_u = (V' A_u V + l2 / precision I)^-1 V' Y_u

        `mu` is (1, columns) or (rows, 1).
        """
        v, mu = other.double(), mu.double()  # (n, d)
        ridge = self.l2 / self.precision
        every = torch.arange(len(table), device=table.device)
        for rows in torch.split(every, max(1, _ENTRIES // max(1, v.numel()))):
            click = clicks.mask(rows)  # (b, n)
            own = mu if len(mu) == 1 else mu[rows]
            a = self.weights(table[rows].double() @ v.T, own, click)  # (b, n)
            system = torch.matmul(v.T * a[:, None, :], v)  # (b, d, d)
            system.diagonal(dim1=1, dim2=2).add_(ridge)
            right = click.double() @ v  # (b, d)
            factor = torch.linalg.cholesky(system)
            table[rows] = torch.cholesky_solve(right[:, :, None], factor)[:, :, 0].to(table)

    def expose(self, clicks: Pairs) -> None:
        """mu_i = the mean over users of P(a = 1 | Y), under a flat prior of mu."""
        u = self.user.double()  # (m, d)
        every = torch.arange(self.n_items, device=u.device)
        for rows in torch.split(every, max(1, _ENTRIES // max(1, len(u)))):
            score = self.item[rows].double() @ u.T  # (b, m)
            a = self.weights(score, self.seen[rows, None].double(), clicks.mask(rows))
            self.seen[rows] = a.mean(1).to(self.seen)


def posterior(score: Tensor, mu: Tensor, *, precision: float, constant: Constant) -> Tensor:
    """P(seen | no click) = mu N / (mu N + 1 - mu) with N the density of 0 around the score.

    The reference has sqrt(precision / 2 * pi) where the density has sqrt(precision / (2 * pi)).

    >>> half = torch.tensor(0.5)
    >>> [round(float(posterior(0 * half, half, precision=1.0, constant=c)), 4)
    ...  for c in ("exact", "reference")]
    [0.2852, 0.5562]
    """
    pi = 1 / math.pi if constant == "reference" else math.pi
    density = 0.5 * math.log(precision / (2 * pi)) - 0.5 * precision * score.square()
    odds = torch.log(mu) - torch.log1p(-mu)  # -inf for 0, inf for 1
    return F.sigmoid(odds + density)
