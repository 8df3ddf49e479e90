"""Gates on rows and rewards: drift, rewards that are not known, clusters."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from scipy.special import chdtrc, ndtr
from torch import Tensor

from recfb.contracts import Evidence, Finding
from recfb.contracts.evaluating import Level, Strata
from recfb.evaluation.gates.common import above, everyone
from recfb.evaluation.tables import periods

CHANCE = 1e-4
"""Below this p-value rewards are not missing by chance."""


def trend_z(when: Tensor, n: Tensor, total: Tensor, squares: Tensor) -> Tensor:
    """The slope of a mean over periods, in standard errors.

    Weighted least squares of the means of S periods on their times, with each mean's own variance
    from its rows. The last axis is S.

    Args:
        when: (S,) times.
        n: (S,) rows.
        total: (..., S) sums.
        squares: (..., S) sums of squares.

    >>> when, n = torch.arange(4.0), torch.full((4,), 100.0)
    >>> round(float(trend_z(when, n, 50 + 5 * when, 50 + 5 * when)), 2)
    2.28
    """
    mean = total / n
    variance = (squares / n - mean.square()).clamp(min=0) / (n - 1).clamp(min=1)
    weight = torch.where(variance > 0, 1 / variance, 0.0)
    centre = (weight * when).sum(-1, keepdim=True) / weight.sum(-1, keepdim=True)
    x = when - centre
    return (weight * x * mean).sum(-1) / (weight * x * x).sum(-1).sqrt()


def g11_drift(evidence: Evidence) -> Iterator[Finding]:
    """G11, what was logged drifts: a trend of the mean reward or of the mean weight over periods
    with p < .01 warns. Periods of fewer than 30 rows are left out; where rows of a unit are alike
    the standard error of the mean reward is larger, as in G13."""
    strata = evidence.strata
    if strata is None:
        return
    kept = periods(strata.kind) & (strata.n >= 30)
    if int(kept.sum()) < 3:
        return
    when, n = strata.key[kept].to(torch.float64), strata.n[kept]
    alike = float(evidence.clustered.nan_to_num(nan=1.0).max().clamp(min=1))
    z = float(trend_z(when, n, strata.r[kept], strata.rr[kept])) / alike
    if abs(z) > 2.576:
        text = f"the mean reward drifts over the {int(kept.sum())} periods of the log, z = {z:.3g}"
        advice = "the value is an average over them: evaluate late ones alone, or by="
        yield from everyone(evidence, "G11", "warn", text, advice)
    if not evidence.traits.weighs:
        return
    for policy, score in enumerate(
        trend_z(when, n, strata.w[:, kept], strata.ww[:, kept]).tolist()
    ):
        if abs(score) > 2.576:
            text = f"the mean weight drifts over periods, z = {score:.3g}; it should stay 1"
            advice = "some of the propensities are wrong: see which periods, by="
            yield Finding("G11", policy, "warn", text, advice)


def missing_p(gone: Tensor, seen: Tensor) -> float:
    """The p-value of: rewards are missing in the same share of all items' rows. Pearson's test over
    the cells that expect five missing ones and five known ones; 1 where there are fewer than two.

    >>> missing_p(torch.tensor([50.0, 1.0]), torch.tensor([50.0, 99.0])) < 1e-4
    True
    """
    rows = gone + seen
    rate = gone.sum() / rows.sum()
    kept = (rows * rate >= 5) & (rows * (1 - rate) >= 5)
    if int(kept.sum()) < 2:
        return 1.0
    gone, rows = gone[kept], rows[kept]
    rate = gone.sum() / rows.sum()
    chi = ((gone - rows * rate).square() / (rows * rate * (1 - rate))).sum()
    return float(chdtrc(len(rows) - 1, float(chi)))


def late_p(strata: Strata) -> float:
    """The p-value of: the last tenth of the periods lacks no more rewards than those before; 1
    where there are no two periods."""
    period = periods(strata.kind)
    order = strata.key[period].argsort()
    gone, seen = strata.gone[period][order], strata.n[period][order]
    last = -(-len(order) // 10)
    if len(order) < 2 or float(gone.sum()) == 0:
        return 1.0
    (a, b), (c, d) = ((float(x[:-last].sum()), float(x[-last:].sum())) for x in (gone, gone + seen))
    rate = (a + b) / (c + d)
    spread = rate * (1 - rate) * (1 / c + 1 / d)
    return float(ndtr(-(b / d - a / c) / spread**0.5)) if spread > 0 else 1.0


def g12_missing(evidence: Evidence) -> Iterator[Finding]:
    """G12, rewards that are not known: more than 1 % of the rows warns, and so does a share that
    could move the value by half a standard error; fails where the item, or the last periods, decide
    which (p < 1e-4)."""
    span = evidence.estimates.reward_range
    least = 0.0 if span is None else evidence.missing * (span[1] - span[0])
    moved = (least > evidence.estimates.se() / 2).tolist()
    if not evidence.missing > 0.01 and not any(moved):
        return
    text = f"{evidence.missing:.2%} of the rows have no known reward"
    items, strata = evidence.items, evidence.strata
    level: Level = "fail"
    if strata is not None and late_p(strata) < CHANCE:
        text += ", most of them late"
        advice = "wait for them, or leave out the rows that are too young to have theirs"
    elif items is not None and missing_p(items.gone.sum(0), items.seen.sum(0)) < CHANCE:
        text += ", and the item decides which"
        advice = "find out why: rows that are left out would have other rewards than those kept"
    else:
        level, advice = "warn", "see that no choice decides which"
    yield from everyone(evidence, "G12", level, text, advice)


UNITS = 50
"""Fewer independent units are too few for an interval that counts on their number."""


def g13_clusters(evidence: Evidence) -> Iterator[Finding]:
    """G13, units: fewer than 50 warn, and so does a standard error more than 1.2 times that of rows
    as independent."""
    units = evidence.estimates.df + 1
    if units < UNITS:
        advice = "collect more units: rows of the same unit say little more"
        yield from everyone(evidence, "G13", "warn", f"only {units} independent units", advice)
    yield from above(
        "G13",
        evidence.clustered,
        (1.2, float("inf")),
        "rows of one unit are alike: the standard error is {:.2f} times that of independent rows",
        "count units, not rows, when you plan for more data",
    )


def g15_range(evidence: Evidence) -> Iterator[Finding]:
    """G15, the value is no mean of rewards: farther outside their range than the range is wide
    fails. One row with a tiny propensity takes forms with a model there; G1 and G3 only warn of
    these."""
    limits = evidence.estimates.reward_range
    if limits is None or not evidence.traits.fields & {"p", "pbar"}:
        return
    low, high = limits
    value = evidence.estimates.value
    outside = torch.maximum(low - value, value - high)  # (P,)
    yield from above(
        "G15",
        outside / (high - low),
        (1.0, 1.0),
        "the value lies {:.3g} widths of the range of rewards outside it",
        "evaluate a policy closer to the logging policy, or declare the range: reward_range=",
    )
