"""Estimators of a policy's value from logged rows: functions of (rows, mean).

`mean` is the only door to the data: an estimator may combine means of per-row columns, and reduces
rows in no other way. Called with `torch.mean` over the last axis it is a differentiable objective;
`recfb.evaluate` calls it with a recording mean, with stored sums and with resampled sums, and so
gets values, standard errors and bootstraps of one pass over the data.

>>> import torch
>>> rows = Rows(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5]), torch.tensor([0.8, 0.2]))
>>> round(float(ips(rows, average)), 3), round(float(snips(rows, average)), 3)
(0.8, 0.8)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

Mean = Callable[[Tensor], Tensor]
"""The mean over the last axis: (n,) or (P, n) -> () or (P,)."""

Estimator = Callable[["Rows", Mean], Tensor]
"""One value a policy. No other reduction over rows, no branch on data, no Python number of rows."""


def average(x: Tensor) -> Tensor:
    """The mean over the last axis: what a training loss passes as `mean`."""
    return x.mean(-1)


@dataclass(frozen=True)
class Rows:
    """What estimators read of n logged rows: shared columns (n,), and a line a policy (P, n).

    In training with one policy `pe` and `v` are (n,). What the log or the plan does not have is
    None (`v`, `q`: no reward model) or NaN (`p`: no propensity).
    """

    r: Tensor  # (n,) reward
    p: Tensor  # (n,) propensity of the logged item
    pe: Tensor  # (P, n) the target policy's probability of the logged item
    v: Tensor | None = None  # (P, n) sum over items of the target's probability x predicted reward
    q: Tensor | None = None  # (n,) or (P, n) predicted reward of the logged item

    def __len__(self) -> int:
        return self.r.shape[-1]

    def __getitem__(self, rows: slice | Tensor) -> Rows:
        v = None if self.v is None else self.v[..., rows]
        q = None if self.q is None else self.q[..., rows]
        return Rows(self.r[..., rows], self.p[..., rows], self.pe[..., rows], v, q)

    @cached_property
    def w(self) -> Tensor:
        """The weight pe / p."""
        return self.pe / self.p

    @cached_property
    def wr(self) -> Tensor:
        """The weighted reward."""
        return self.w * self.r

    @cached_property
    def ww(self) -> Tensor:
        """The squared weight."""
        return self.w * self.w

    @cached_property
    def e(self) -> Tensor:
        """The residual of the reward model at the logged item."""
        return self.r - known(self.q)

    @cached_property
    def we(self) -> Tensor:
        """The weighted residual."""
        return self.w * self.e


def known(column: Tensor | None) -> Tensor:
    """A column of the reward model, which the caller must have given."""
    if column is None:
        raise TypeError("this estimator reads a reward model: give Rows(..., v=..., q=...).")
    return column


def ips(t: Rows, mean: Mean) -> Tensor:
    """Inverse propensity scoring, mean(w r): unbiased under common support and right propensities.

    Horvitz and Thompson (1952); Dudik et al. (2014), eq. 2.
    """
    return mean(t.wr)


def cips(t: Rows, mean: Mean, lam: float = 10.0) -> Tensor:
    """Clipped IPS, mean(min(w, lam) r); bias -E[(w - lam)+ q].

    Bottou et al. (2013), section 4.4.
    """
    return mean(t.w.clamp(max=lam) * t.r)


def snips(t: Rows, mean: Mean) -> Tensor:
    """Self-normalised IPS, mean(w r) / mean(w): shifts with the reward, stays in its range.

    Bias -Cov(SNIPS, mean w), of order 1/n. Swaminathan and Joachims (2015), eq. 4.

    >>> import torch
    >>> two, half = torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5])
    >>> float(snips(Rows(two, half, torch.tensor([0.6, 0.2])), average))
    0.75
    """
    return mean(t.wr) / mean(t.w)


def dm(t: Rows, mean: Mean) -> Tensor:
    """Direct method, mean(v): the reward model's word; its bias is E_pi[q_hat - q]."""
    return mean(known(t.v))


def dr(t: Rows, mean: Mean) -> Tensor:
    """Doubly robust, mean(v) + mean(w e): unbiased if the propensities or the model are right.

    Dudik et al. (2014), eq. 9.
    """
    return mean(known(t.v)) + mean(t.we)


def shrink(w: Tensor, lam: float) -> Tensor:
    """Optimistic shrinkage of weights, lam w / (w^2 + lam): 0 at lam = 0, w at lam = inf.

    Su et al. (2020), section 4.2.

    >>> import torch
    >>> shrink(torch.tensor([2.0]), 4.0).tolist()
    [1.0]
    """
    return w / (1 + w * w / lam) if lam >= 1 else lam * w / (w * w + lam)


def dros(t: Rows, mean: Mean, lam: float = 10.0) -> Tensor:
    """Doubly robust with optimistic shrinkage, mean(v) + mean(lam w / (w^2 + lam) e).

    lam = 0 is DM, inf is DR; bias E[(h - w)(q - q_hat)]. Su et al. (2020), section 4.2.
    """
    return mean(known(t.v)) + mean(shrink(t.w, lam) * t.e)


def switch(t: Rows, mean: Mean, lam: float = 10.0) -> Tensor:
    """Switch-DR, mean(v) + mean(w 1[w <= lam] e): the model alone where weights are large.

    lam = 0 is DM, inf is DR. Wang, Agarwal and Dudik (2017), section 4.
    """
    return mean(known(t.v)) + mean(torch.where(t.w <= lam, t.we, 0.0))


def replay(t: Rows, mean: Mean) -> Tensor:
    """Replay: the mean reward of the rows whose item a deterministic target picks too.

    Unbiased under a uniform logger. Without a match 0/0 = NaN, never 0. Li et al. (2011),
    algorithm 3.
    """
    hit = (t.pe == 1).to(t.r.dtype)  # (P, n)
    return mean(hit * t.r) / mean(hit)


ESTIMATORS: dict[str, Estimator] = {
    "ips": ips,
    "cips": cips,
    "snips": snips,
    "dm": dm,
    "dr": dr,
    "dros": dros,
    "switch": switch,
    "replay": replay,
}
"""The estimators that `evaluate` takes by name."""

UNSHRUNK: dict[Estimator, Estimator] = {cips: ips, dros: dr, switch: dr}
"""Which estimator a biased one becomes without its shrinkage: their difference estimates the bias
(gate G14)."""
