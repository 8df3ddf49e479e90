"""Limits of a mean of bounded terms that hold for every number of rows: Hoeffding, empirical
Bernstein, Clopper-Pearson.

The terms are X = w (r - low) / (high - low), in [0, W]: rewards as declared, the largest weight W
as the two policies could produce it, never the sample's extremes. Their mean is the policy's value
in units of the range, since weights average 1. Replay's terms are the scaled rewards of the rows
that match, given how many match. Rows are taken as independent.

The terms of dr are X = v + w (r - q), rewards and predictions in units of the range. They lie in
[1 - W, W] where all predictions lie in [0, 1]: with pi the target's probability of the logged item,
p its propensity and w = pi / p, the logged item's part of v gives pi q <= v <= pi q + 1 - pi, so

    X >= pi q - w q = -q pi (1 / p - 1) >= -(1 / p - 1) >= 1 - W,
    X <= 1 - pi (1 - q) + w (1 - q) = 1 + (1 - q) pi (1 / p - 1) <= 1 / p <= W,

with equality where pi = 1, p = 1 / W, and q = 1, r = 0 or q = 0, r = 1. A model that was fitted
elsewhere leaves the rows independent. Cross-fitted ones tie them together, fold by fold: then the
level is that of simulations, not of a proof.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy.special import betaincinv
from torch import Tensor

from recfb.contracts import Estimates, Interval
from recfb.estimate import Mean, Rows
from recfb.estimate.rows import known
from recfb.evaluation.terms import moments


@dataclass(frozen=True)
class Bounded:
    """Terms in [bottom, top]: how many, their mean and their mean square."""

    n: Tensor  # (P,)
    mean: Tensor  # (P,)
    square: Tensor  # (P,)
    top: float
    bottom: float = 0.0

    @property
    def span(self) -> float:
        """The length of their range."""
        return self.top - self.bottom

    @property
    def var(self) -> Tensor:
        """(P,) the variance, divided by n."""
        return (self.square - self.mean * self.mean).clamp(min=0)


Bound = Callable[[Bounded, float], tuple[Tensor, Tensor]]


def matches(t: Rows, mean: Mean) -> Tensor:
    """What intervals of replay read: (3, P) the share of rows whose item a deterministic target
    picks, and over all rows the means of r and r^2 there."""
    hit = (t.pe == 1).to(t.r.dtype)  # (P, n)
    hit_r = hit * t.r
    return torch.stack([mean(hit), mean(hit_r), mean(hit_r * t.r)])


def doubly(t: Rows, mean: Mean) -> Tensor:
    """What intervals of dr read: (2, P) the means of v + w e and of its square."""
    term = known(t.v) + t.we  # (P, n)
    return torch.stack([mean(term), mean(term * term)])


def hoeffding(terms: Bounded, alpha: float) -> tuple[Tensor, Tensor]:
    """mean -+ span sqrt(log(2 / alpha) / (2 n)). Hoeffding (1963), theorem 2.

    >>> x = torch.tensor([0.5], dtype=torch.float64)
    >>> lower, upper = hoeffding(Bounded(torch.tensor([200.0]), x, x, 1.0), 0.05)
    >>> round(float(lower), 4), round(float(upper), 4)
    (0.404, 0.596)
    """
    half = terms.span * (math.log(2 / alpha) / (2 * terms.n)).sqrt()
    return terms.mean - half, terms.mean + half


def bernstein(terms: Bounded, alpha: float) -> tuple[Tensor, Tensor]:
    """mean -+ [sqrt(2 var log(4 / alpha) / (n - 1)) + 7 span log(4 / alpha) / (3 (n - 1))].

    Maurer and Pontil (2009), theorem 4, with alpha / 2 on each side; `var` divides by n. Of one
    term nothing follows: the second part alone exceeds `span`.
    """
    log, rest = math.log(4 / alpha), (terms.n - 1).clamp(min=1)
    half = (2 * log * terms.var / rest).sqrt() + 7 * terms.span * log / (3 * rest)
    return terms.mean - half, terms.mean + half


def clopper_pearson(terms: Bounded, alpha: float) -> tuple[Tensor, Tensor]:
    """The exact limits of a binomial share, with the sum of (X - bottom) / span as the number of
    successes.

    Clopper and Pearson (1934). Exact where a term is an end of the range (clicks under a uniform
    logger and a deterministic policy; replay of clicks); wider than needed where terms lie between,
    by simulation and not by proof.

    >>> n, x = torch.tensor([10.0]), torch.tensor([0.3])
    >>> lower, upper = clopper_pearson(Bounded(n, x, x, 1.0), 0.05)
    >>> round(float(lower), 4), round(float(upper), 4)
    (0.0667, 0.6525)
    """
    n = terms.n.double()
    hits = (n * (terms.mean - terms.bottom) / terms.span).clamp(min=0)  # (P,)
    hits = torch.minimum(hits, n)  # rounding
    low = betaincinv(hits.numpy(), (n - hits + 1).numpy(), alpha / 2)
    high = betaincinv((hits + 1).numpy(), (n - hits).numpy(), 1 - alpha / 2)
    lower = torch.where(hits > 0, torch.as_tensor(low), 0.0)
    upper = torch.where(hits < n, torch.as_tensor(high), 1.0)
    gone = torch.where(hits.isnan(), torch.nan, 0.0)
    scaled = [terms.bottom + terms.span * (end + gone) for end in (lower, upper)]
    return scaled[0], scaled[1]


def _weighted(estimates: Estimates, low: float, span: float) -> Bounded:
    """w (r - low) / span of all rows."""
    w, ww, wr, wrwr, wwr, _ = estimates.stat(moments)
    square = (wrwr - 2 * low * wwr + low * low * ww) / span**2
    n = torch.full_like(w, float(estimates.n))
    return Bounded(n, (wr - low * w) / span, square, estimates.weight_range[1])


def _matched(estimates: Estimates, low: float, span: float) -> Bounded:
    """(r - low) / span of the rows that match."""
    share, r, rr = estimates.stat(matches)
    mean, square = r / share, rr / share
    square = (square - 2 * low * mean + low * low) / span**2
    return Bounded((share * estimates.n).round(), (mean - low) / span, square, 1.0)


def _modelled(estimates: Estimates, low: float, span: float) -> Bounded:
    """(v + w e - low) / span of all rows."""
    term, square = estimates.stat(doubly)
    most = estimates.weight_range[1]
    square = (square - 2 * low * term + low * low) / span**2
    n = torch.full_like(term, float(estimates.n))
    return Bounded(n, (term - low) / span, square, most, 1 - most)


def _interval(bound: Bound, terms: Callable[[Estimates, float, float], Bounded]) -> Interval:
    """A bound of those terms as an interval, in the units of the reward and inside its range."""

    def interval(estimates: Estimates, alpha: float) -> tuple[Tensor, Tensor]:
        if estimates.reward_range is None or estimates.n < 1:
            nothing = torch.full_like(estimates.value, torch.nan)
            return nothing, nothing
        low, high = estimates.reward_range
        lower, upper = bound(terms(estimates, low, high - low), alpha)
        ends = [low + (high - low) * end.clamp(0, 1) for end in (lower, upper)]
        return ends[0], ends[1]

    interval.__name__ = getattr(bound, "__name__", "bound")
    return interval


_BOUNDS: tuple[Bound, ...] = (hoeffding, bernstein, clopper_pearson)
OF_WEIGHTS = {f.__name__: _interval(f, _weighted) for f in _BOUNDS}
"""Intervals by the terms of ips, for what ips and snips estimate."""

OF_MATCHES = {f.__name__: _interval(f, _matched) for f in _BOUNDS}
"""The same for replay, by the rewards of the rows that match."""

OF_MODELS = {f.__name__: _interval(f, _modelled) for f in _BOUNDS}
"""The same for dr, by its own terms: for reward models whose predictions lie in the range."""
