"""Confidence sequences: intervals that hold at all times at once, so one may look and stop at will.

The terms are X = w (r - low) / (high - low) for the lower limit, and X' = w (high - r) /
(high - low) for the upper one, since E[X'] = 1 - E[X]: at least 0 and without an upper bound. Each
row's mean given the rows before it must be the value; rows are taken as independent. What is summed
of a part looks at the past of that part alone (for `betting` also at a pilot, the log's first
rows), so parts add up in any order.

A state keeps (2, P, k) numbers: lower and upper side, policies, and k = 2 sums or 1,000 log
wealths.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import gammainc, gammaln
from torch import Tensor

from recfb.contracts import Estimates, Interval

GRID = 1000
"""Candidate means of `betting`."""

BLOCK = 512
"""The most rows that a bet of `betting` stands for."""


def bounded_terms(w: Tensor, r: Tensor, low: float, high: float) -> Tensor:
    """X and X' of weights (..., n): (2, ..., n).

    >>> bounded_terms(torch.tensor([2.0]), torch.tensor([1.0]), 0.0, 4.0).tolist()
    [[0.5], [1.5]]
    """
    share = (r - low) / (high - low)
    return torch.stack([w * share, w * (1 - share)])


# ---- gamma-exponential


def running_sums(x: Tensor) -> Tensor:
    """S = sum X and Q = sum (X - Xh)^2, Xh = (1/2 + sum of earlier X) / t: (..., n) -> (..., 2).

    >>> running_sums(torch.tensor([0.5, 1.5])).tolist()
    [2.0, 1.0]
    """
    t = torch.arange(1, x.shape[-1] + 1, dtype=x.dtype)
    before = torch.nn.functional.pad(x.cumsum(-1), (1, 0))[..., :-1]  # (..., n)
    q = (x - (0.5 + before) / t).square().sum(-1)
    return torch.stack([x.sum(-1), q], -1)


def mixture(s: Tensor, q: Tensor) -> Tensor:
    """log of the gamma-exponential mixture martingale (rho = 1) at s = S - t m >= 0.

    exp(theta s - psi(theta) q), psi(theta) = -log(1 - theta) - theta, mixed over theta by a gamma
    law cut off at 1. Howard et al. (2021), proposition 9.
    """
    a = q.numpy() + 1.0
    x = s.numpy() + a
    with np.errstate(invalid="ignore"):
        tail = np.log(gammainc(a, x)) + gammaln(a) - math.log(gammainc(1.0, 1.0))
        return torch.as_tensor(s.numpy() + q.numpy() - a * np.log(x) + tail)


def mixture_limit(n: Tensor | float, s: Tensor, q: Tensor, alpha: float) -> Tensor:
    """The least mean that `mixture` does not reject at log(1 / alpha): 0 to S / n."""
    low, high = torch.zeros_like(s), s / n
    for _ in range(60):
        middle = (low + high) / 2
        rejected = mixture(s - n * middle, q) >= math.log(1 / alpha)
        low, high = torch.where(rejected, middle, low), torch.where(rejected, high, middle)
    nothing = mixture(s, q) < math.log(1 / alpha)
    return torch.where(nothing, 0.0, low) + torch.where(s.isnan(), torch.nan, 0.0)


def gamma_exponential(estimates: Estimates, alpha: float) -> tuple[Tensor, Tensor]:
    """The gamma-exponential confidence sequence: weights may be unbounded, two sums a side.

    Karampatziakis, Mineiro and Ramdas (2021), section 4.
    """

    def limit(sums: Tensor) -> Tensor:
        return mixture_limit(float(estimates.n), sums[..., 0], sums[..., 1], alpha / 2)

    return _two_sided(estimates, limit)


# ---- betting


@dataclass(frozen=True)
class Pilot:
    """What the bets of a later part start from: rows, and sums of X and X^2 a side and policy."""

    n: int
    total: Tensor  # (2, P)
    square: Tensor  # (2, P)


def candidates(size: int = GRID) -> Tensor:
    """Means in (0, 1], closer together near both ends: sin(pi g / (2 size))^2. (size,)

    >>> [round(m, 3) for m in candidates(4).tolist()]
    [0.146, 0.5, 0.854, 1.0]
    """
    g = torch.arange(1, size + 1, dtype=torch.float64) / size
    return (1 - (math.pi * g).cos()) / 2


def bets(n: int, total: Tensor, square: Tensor, m: Tensor) -> Tensor:
    """How much to stake on X > m after n terms with these sums: (...,), (G,) -> (..., G).

    (mh - m) / (sh^2 + (mh - m)^2), at least 0 and at most 1 / (2 m), where mh and sh^2 are the
    running mean and variance with one more term of 1/2 and 1/4.
    """
    mean = (0.5 + total) / (n + 1)
    var = ((0.25 + square - 2 * mean * total + n * mean * mean) / (n + 1)).clamp(min=1e-12)
    edge = mean[..., None] - m  # (..., G)
    return torch.minimum((edge / (var[..., None] + edge * edge)).clamp(min=0), 0.5 / m)


def log_wealth(x: Tensor, m: Tensor, start: Pilot | None = None) -> Tensor:
    """log prod (1 + bet (X - m)) at every candidate mean m: (L, n), (G,) -> (L, G).

    A bet is made before the rows it is on: it stands for a quarter of the rows so far, at most 512.
    Waudby-Smith and Ramdas (2024); with Wu, Karampatziakis and Mineiro (2022), section 3.
    """
    known, total, square = 0, x.new_zeros(len(x)), x.new_zeros(len(x))
    if start is not None:
        known, total, square = start.n, start.total, start.square
    wealth = x.new_zeros(len(x), len(m))  # (L, G)
    at = 0
    while at < x.shape[1]:
        rows = x[:, at : at + max(1, min(BLOCK, known // 4))]
        stake = bets(known, total, square, m)  # (L, G)
        wealth += _log_growth(rows, stake, 1 - stake * m)
        total, square = total + rows.sum(1), square + rows.square().sum(1)
        at, known = at + rows.shape[1], known + rows.shape[1]
    return wealth


def _log_growth(x: Tensor, stake: Tensor, keep: Tensor) -> Tensor:
    """Sum of log(keep + stake X) over rows (L, n): (L, G). Eight factors share a logarithm."""
    rest = x.shape[1] % 8
    grown = x.new_zeros(stake.shape)
    if x.shape[1] >= 8:
        eights = x[:, rest:].view(len(x), -1, 8)  # (L, n / 8, 8)
        factor = torch.addcmul(keep[:, None], eights[..., 0, None], stake[:, None])
        for k in range(1, 8):
            factor *= torch.addcmul(keep[:, None], eights[..., k, None], stake[:, None])
        grown += factor.log_().sum(1)
    for k in range(rest):
        grown += torch.addcmul(keep, x[:, k, None], stake).log()
    return grown


def wealth_limit(wealth: Tensor, alpha: float) -> Tensor:
    """The candidate below the least one that is not rejected at log(1 / alpha): (..., G) -> (...,).

    A true mean below it lies below a rejected candidate, so rounding to the grid costs width, never
    coverage. Infinite where all are rejected.
    """
    m = torch.nn.functional.pad(candidates(wealth.shape[-1]), (1, 0))  # (1 + G,)
    kept = wealth < math.log(1 / alpha)
    below = torch.where(kept.any(-1), m[kept.to(torch.int8).argmax(-1)], torch.inf)
    return below + torch.where(wealth.isnan().any(-1), torch.nan, 0.0)


def betting(estimates: Estimates, alpha: float) -> tuple[Tensor, Tensor]:
    """The confidence sequence of two bettors: usually the narrowest, 1,000 log wealths a side.

    Waudby-Smith, Wu, Ramdas, Karampatziakis and Mineiro (2022). Limits lie on the grid of
    `candidates`.
    """
    return _two_sided(estimates, lambda wealth: wealth_limit(wealth, alpha / 2))


# ---- both


def _two_sided(estimates: Estimates, limit: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Limits from both sides of a sequence; NaN where no value is left between them."""
    if estimates.reward_range is None or estimates.sequence is None or estimates.n < 1:
        nothing = torch.full_like(estimates.value, torch.nan)
        return nothing, nothing
    low, high = estimates.reward_range
    lower, upper = limit(estimates.sequence[0]), 1 - limit(estimates.sequence[1])  # (P,)
    gone = torch.where(lower <= upper, 0.0, torch.nan)
    return low + (high - low) * lower + gone, low + (high - low) * upper + gone


SEQUENCES: dict[str, Interval] = {"gamma_exponential": gamma_exponential, "betting": betting}
"""Sequences by name; a pass collects one only if its plan asks for it."""
