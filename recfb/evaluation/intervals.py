"""Confidence intervals from one pass: functions (estimates, alpha) -> (lower, upper)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from scipy.special import fdtri, stdtrit
from torch import Tensor

from recfb.contracts import Estimates, Interval, Traits
from recfb.estimate import EmpiricalLikelihood, Estimator, Tuned, dr, ips, replay, snips
from recfb.evaluation.bounds import OF_MATCHES, OF_MODELS, OF_WEIGHTS
from recfb.evaluation.sequences import SEQUENCES
from recfb.evaluation.terms import moments

DRAWS = 1000


def t_quantile(df: int, alpha: float) -> float:
    """The two-sided Student quantile; NaN without a degree of freedom.

    >>> round(t_quantile(10, 0.05), 4)
    2.2281
    """
    return float(stdtrit(df, 1 - alpha / 2)) if df >= 1 else float("nan")


def student(estimates: Estimates, alpha: float) -> tuple[Tensor, Tensor]:
    """value -+ t se, with the delta-method standard error clustered by unit."""
    half = t_quantile(estimates.df, alpha) * estimates.se()
    return estimates.value - half, estimates.value + half


def bootstrap(estimates: Estimates, alpha: float) -> tuple[Tensor, Tensor]:
    """Percentiles of 1,000 Poisson bootstraps of the units' buckets, denominators included.

    Chamandy et al. (2012). Replicates without a value (no row drawn) are left out.
    """
    return _percentiles(estimates, alpha, estimates.replicates)


def basic(estimates: Estimates, alpha: float) -> tuple[Tensor, Tensor]:
    """The bootstrap's percentiles mirrored at the value: 2 value - upper, 2 value - lower.

    Davison and Hinkley (1997), equation 5.6.
    """
    lower, upper = bootstrap(estimates, alpha)
    return 2 * estimates.value - upper, 2 * estimates.value - lower


def studentised(estimates: Estimates, alpha: float) -> tuple[Tensor, Tensor]:
    """value - q se, q the percentiles of (replicate - value) / (its own standard error).

    Davison and Hinkley (1997), equation 5.7. A side is NaN, and so the other, where too many
    replicates have no variance to divide by.
    """
    lower, upper = _percentiles(estimates, alpha, estimates.pivots)
    ends = estimates.value - upper * estimates.se(), estimates.value - lower * estimates.se()
    gone = torch.where((ends[0] + ends[1]).isfinite(), 0.0, torch.nan)
    return ends[0] + gone, ends[1] + gone


def _percentiles(
    estimates: Estimates, alpha: float, draw: Callable[[int], Tensor]
) -> tuple[Tensor, Tensor]:
    """The alpha / 2 and 1 - alpha / 2 quantiles of what is drawn; NaN below two units."""
    if estimates.df < 1:
        nothing = torch.full_like(estimates.value, torch.nan)
        return nothing, nothing
    drawn = draw(DRAWS)  # (draws, P)
    tails = torch.tensor([alpha / 2, 1 - alpha / 2], dtype=drawn.dtype)
    lower, upper = torch.nanquantile(drawn, tails, dim=0)
    gone = torch.where(estimates.value.isnan(), torch.nan, 0.0)
    return lower + gone, upper + gone


def likelihood(estimates: Estimates, alpha: float) -> tuple[Tensor, Tensor]:
    """The empirical-likelihood interval of the Cressie-Read(-2) divergence for the policy's value.

    Karampatziakis, Langford and Mineiro (2020). It knows that weights average 1 and that rewards
    lie in the declared range; its centre is not the IPS mean, which may even lie outside. Rows are
    taken as independent. A side without a solution is the range's own end.
    """
    if estimates.reward_range is None or estimates.n < 1:
        nothing = torch.full_like(estimates.value, torch.nan)
        return nothing, nothing
    sums = estimates.stat(moments) * estimates.n  # (6, P)
    return cressie_read(
        sums, estimates.n, estimates.reward_range, estimates.weight_range, alpha=alpha
    )


def cressie_read(
    sums: Tensor,
    n: int,
    reward_range: tuple[float, float],
    weight_range: tuple[float, float],
    *,
    alpha: float,
) -> tuple[Tensor, Tensor]:
    """Limits from sums (6, P) of w, w^2, w r, (w r)^2, w^2 r and r over n rows.

    A phantom row with an extreme weight and an extreme reward makes the limits hold for the
    weights that did not occur. Of one row nothing follows: the limits are the range.
    """
    if n < 2:
        gone = torch.where(sums.sum(0).isnan(), torch.nan, 0.0)
        return gone + reward_range[0], gone + reward_range[1]
    sw, sww = sums[0], sums[1]
    big_n = n + 1
    low, high = (torch.full_like(sw, end) for end in weight_range)
    fake = torch.where(sw < n, high, low)  # (P,)
    a, b = (fake + sw) / big_n, (fake * fake + sww) / big_n
    g = torch.where(fake.isinf(), 1 + 1 / n, big_n * (a - 1) ** 2 / (b - a * a))
    phi = -(g + float(fdtri(1, n, 1 - alpha))) / (2 * big_n)
    ends = []
    for sign, end in ((1.0, reward_range[0]), (-1.0, reward_range[1])):
        candidates = torch.stack(
            [_candidate(sums, n, phi, sign, end, wf) for wf in weight_range]
        )  # (2, P), inf where there is none
        best = candidates.amin(0)
        ends.append(torch.where(best.isinf(), end, sign * best).clamp(*reward_range))
    gone = torch.where(sums.sum(0).isnan(), torch.nan, 0.0)
    return ends[0] + gone, ends[1] + gone


def _candidate(sums: Tensor, n: int, phi: Tensor, sign: float, end: float, wf: float) -> Tensor:
    """One solution of the dual, for one phantom row (wf, end): (P,), inf where there is none.

    y is minus a variance: what rounding leaves above 0 counts as 0.
    """
    sw, sww, swr, swrwr, swwr, _ = sums
    big_n = n + 1
    if wf == float("inf"):
        x = sign * (end + (swr - end * sw) / n)
        spread = swrwr - 2 * end * swwr + end**2 * sww
        y = (end * sw - swr) ** 2 / (n * big_n) - spread / big_n
        z = phi + 1 / (2 * n)
        valid = torch.ones_like(x, dtype=torch.bool)
    else:
        w, ww = (sw + wf) / big_n, (sww + wf**2) / big_n
        wr = sign * (swr + wf * end) / big_n
        wwr = sign * (swwr + wf**2 * end) / big_n
        wrwr = (swrwr + (wf * end) ** 2) / big_n
        d = ww - w * w
        valid = d > 1e-9 * ww
        d = torch.where(valid, d, 1.0)
        x = wr + (1 - w) * (wwr - w * wr) / d
        y = (wwr - w * wr) ** 2 / d - (wrwr - wr * wr)
        z = phi + (1 - w) ** 2 / (2 * d)
    return torch.where(valid & (z <= 0), x - (2 * y * z).clamp(min=0).sqrt(), torch.inf)


INTERVALS: dict[str, Interval] = {
    "student": student,
    "bootstrap": bootstrap,
    "basic": basic,
    "studentised": studentised,
    "likelihood": likelihood,
    **OF_WEIGHTS,
    **SEQUENCES,
}
"""The intervals that `evaluate` takes by name."""

FINITE = frozenset({*OF_WEIGHTS, *SEQUENCES})
"""Those whose level holds for any number of rows (of `clopper_pearson` see there)."""

RANGED = frozenset({"likelihood", *FINITE})
"""Those that read the range of rewards, take rows as independent, and bound the policy's value:
they are for estimators of that value."""


def applies(kind: str, estimator: Estimator) -> bool:
    """Whether an interval is for this estimator.

    Those in `RANGED` bound the value by its weighted rewards, for ips, snips and el; some of them
    also by the terms of dr, and by the rewards of the rows that match, for replay.
    """
    if (
        kind not in RANGED
        or estimator in (ips, snips)
        or isinstance(estimator, EmpiricalLikelihood)
    ):
        return True
    return kind in _others(estimator)


def method(estimator: Estimator, traits: Traits, asked: str | None) -> str:
    """The interval of an estimator: as asked where it can be, else its own.

    Its own: likelihood for ips and el, bootstrap for ratios (snips, replay) and for what is tuned
    on the rows that it is valued on, student for the rest.
    """
    if asked is not None and applies(asked, estimator):
        return asked
    if estimator is ips or isinstance(estimator, EmpiricalLikelihood):
        return "likelihood"
    if isinstance(estimator, Tuned):
        return "student" if estimator.split else "bootstrap"
    return "bootstrap" if traits.equivariant and not traits.models else "student"


def function_of(kind: str, estimator: Estimator) -> Interval:
    """The interval of this name for this estimator."""
    return _others(estimator).get(kind, INTERVALS[kind])


def _others(estimator: Estimator) -> dict[str, Interval]:
    if estimator is replay:
        return OF_MATCHES
    return OF_MODELS if estimator is dr else {}
