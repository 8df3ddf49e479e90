"""Gates on propensities: what was never logged, which are wrong, and where they come from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta

import torch
from torch import Tensor

from recfb.contracts import Evidence, Finding
from recfb.contracts.evaluating import ItemTable, Level, Strata
from recfb.evaluation.gates.common import above, everyone
from recfb.evaluation.multiple import benjamini_hochberg
from recfb.evaluation.tables import KINDS

FLOOR = 30.0
"""Effective rows, (sum 1/p)^2 / sum 1/p^2, below which a cell is not tested."""

SHARE = 0.01
"""Share of all rows above which a single row hides how often others were shown."""

OFF, SURE = 0.2, 5.0
"""How far the mean weight of a stratum must lie from 1, in itself or in standard errors."""

RATE = 0.003
"""The nominal false discovery rate of the tests of cells: sums of odds are skewed, and at a nominal
1 % sound logs alarmed in 3 % of trials, at .3 % in 1 %."""

ADVICE = (
    "log the propensity that the choice was made with, in the same moment; where an item could not "
    "be shown, say so in the column available"
)


def unsupported(items: ItemTable) -> Tensor:
    """The share of each target's mass on (position, item) cells without a logged row: (P,)."""
    total = items.mass.sum((1, 2))  # (P,)
    away = (items.mass * (items.seen == 0)).sum((1, 2))
    return torch.where(total > 0, away / total, 0.0)


def g5_support(evidence: Evidence) -> Iterator[Finding]:
    """G5, target mass that no logged row can speak for: on items never logged at that position, or
    where the logging policy was certain of another item. > 1 % warns; > 5 % fails forms without a
    model, > 20 % doubly robust ones."""
    traits, span = evidence.traits, evidence.estimates.reward_range
    fail = 0.05 if not traits.models else (0.2 if traits.weighs else 1.0)
    shares = {"lie where the logging policy was certain of another item": evidence.certain}
    if evidence.items is not None:
        shares["were never logged at that position"] = unsupported(evidence.items)
    for what, mass in shares.items():
        text = "{:.1%} of the target's choices " + what
        advice = "no estimator can know their reward: log them with some probability"
        for found in above("G5", mass, (0.01, fail), text, advice):
            most = 0.0 if span is None else float(mass[found.policy]) * (span[1] - span[0])
            worth = f", worth up to {most:.3g}" if most else ""
            yield replace(found, evidence=found.evidence + worth)


def odds_z(items: ItemTable) -> Tensor:
    """How far the propensities of each (position, item) lie from how often it was shown, in
    standard errors: (L, K); NaN where too few rows tell.

    Where propensities are right, 1[a = j] / p sums to the N rows in which j could be shown. The sum
    is read as m = (sum 1/p)^2 / sum 1/p^2 effective rows, of which N p were expected at the mean
    propensity p = sum 1/p / sum 1/p^2; the z-score is of square roots, 2 (sqrt(m + 3/8) - sqrt(N p
    + 3/8)) / sqrt(1 - p), because counts are skewed (Anscombe 1948). Given what could be shown,
    rows are uncorrelated, even within a unit.

    An item is tested where m is at least 30, and for too few rows only where none counts as more
    than 1 % of N: rarer ones that happen to be missing would explain it.
    """
    p = items.odds / items.square
    found, expected = items.odds * p, items.could * p
    root = (found + 0.375).sqrt() - (expected + 0.375).sqrt()
    z = 2 * root / (1 - p).clamp(min=1e-9).sqrt()
    told = (z > 0) | (items.rarest <= SHARE * items.could)
    return torch.where((found >= FLOOR) & (items.odds > 0) & told, z, torch.nan)


def weight_z(strata: Strata, largest: Tensor) -> Tensor:
    """How far the mean weight of each stratum lies from 1, in standard errors: (P, S); NaN where
    too few rows tell, as in `odds_z`.

    The variance is the larger of that about the mean and of n (sum w^2 / sum w - 1), which is equal
    to it where propensities are right, and does not shrink with a mean that is too small by chance.

    Args:
        strata: what a pass knows of them.
        largest: (P,) the largest weight of all rows.
    """
    w, ww, n = strata.w, strata.ww, strata.n
    variance = torch.maximum(ww - w * w / n, n * (ww / w - 1)).clamp(min=1e-9)  # (P, S)
    z = (w - n) / variance.sqrt()
    told = (z > 0) | (largest[:, None] <= SHARE * n)
    return torch.where((w.square() >= FLOOR * ww) & (w > 0) & told, z, torch.nan)


def rejected(z: Tensor) -> Tensor:
    """Which of many z-scores are no chance, by Benjamini and Hochberg: the shape of z."""
    p = torch.special.erfc(z.abs() / 2**0.5)
    return benjamini_hochberg(p.flatten(), RATE).view(z.shape)


def g6_cells(evidence: Evidence) -> Iterator[Finding]:
    """G6, propensities that are wrong somewhere: any (position, item), day, position or logger
    whose propensities do not fit how often it was logged warns; fails where more than 5 % of the
    target's choices fall there."""
    if not evidence.traits.weighs or evidence.absent:
        return
    if evidence.items is not None:
        yield from _item_cells(evidence, evidence.items)
    if evidence.strata is not None:
        yield from _strata(evidence, evidence.strata)


def _item_cells(evidence: Evidence, items: ItemTable) -> Iterator[Finding]:
    z = odds_z(items)  # (L, K)
    wrong = rejected(z)
    if not bool(wrong.any()):
        return
    position, item = divmod(int(z.abs().where(wrong, 0.0).argmax()), z.shape[1])
    mean = float(items.odds[position, item] / items.could[position, item])
    place = f" at position {position}" if position else ""
    text = (
        f"{int(wrong.sum())} of {int((~z.isnan()).sum())} items do not fit their propensities, "
        f"most of all {evidence.called(item)}{place}: shown {mean:.2f} times as often as they say, "
        f"z = {z[position, item]:.3g}"
    )
    share = (items.mass * wrong).sum((1, 2)) / items.mass.sum((1, 2))
    for policy, mass in enumerate(share.tolist()):
        level: Level = "fail" if mass > 0.05 else "warn"
        yield Finding("G6", policy, level, f"{text}; {mass:.1%} of the target's choices", ADVICE)


def _strata(evidence: Evidence, strata: Strata) -> Iterator[Finding]:
    for policy, z in enumerate(weight_z(strata, evidence.largest[:, 0])):
        mean = strata.w[policy] / strata.n  # (S,)
        wrong = rejected(z) & (((mean - 1).abs() > OFF) | (z.abs() > SURE))
        if not bool(wrong.any()):
            continue
        worst = int(z.abs().where(wrong, 0.0).argmax())
        kind = strata.kind == strata.kind[worst]
        share = float((strata.n * wrong)[kind].sum() / strata.n[kind].sum())
        text = (
            f"the weights of {named(strata, worst)} average {mean[worst]:.3g} instead of 1, "
            f"z = {z[worst]:.3g}; {share:.1%} of the rows lie in such"
        )
        level: Level = "fail" if share > 0.05 and abs(z[worst]) > SURE else "warn"
        yield Finding("G6", policy, level, text, ADVICE)


def named(strata: Strata, index: int) -> str:
    """A stratum in words: "logger 2", "2026-03-01", "rounds 512 to 767"."""
    kind, key = KINDS[int(strata.kind[index])], int(strata.key[index])
    if kind in ("position", "logger"):
        return f"{kind} {key}"
    first, last = key * strata.span, (key + 1) * strata.span - 1
    ends = [
        str(date(1970, 1, 1) + timedelta(day)) if kind == "day" else day for day in (first, last)
    ]
    noun = "" if kind == "day" else "round " if first == last else "rounds "
    return f"{noun}{ends[0]}" if first == last else f"{noun}{ends[0]} to {ends[1]}"


def g7_source(evidence: Evidence) -> Iterator[Finding]:
    """G7, where propensities come from: estimated or simulated ones warn, values below one draw
    fail, without any only dm and replay run, and are flagged."""
    level: Level
    if evidence.absent:
        text, level = "the log has no propensities", "warn"
        advice = "log them: overlap and support cannot be judged without"
    elif evidence.below and evidence.traits.weighs:
        text = f"propensities below 1/{evidence.draws:,}: {evidence.below:,}; {evidence.lowest}"
        level, advice = "fail", "such a value is no count of simulations: correct or drop the rows"
    elif evidence.source == "simulated" and evidence.traits.weighs:
        draws = "" if evidence.draws is None else f" with {evidence.draws:,} draws"
        text, level = f"propensities were simulated{draws}", "warn"
        advice = "small ones carry a relative error of 1/sqrt(p draws)"
    elif evidence.source == "estimated" and evidence.traits.weighs:
        text, level = "propensities were estimated", "warn"
        advice = "the interval leaves out the error of that estimate"
    else:
        return
    yield from everyone(evidence, "G7", level, text, advice)
