"""Gates: which numbers not to use. Each is a function (evidence) -> findings.

Thresholds are those at which simulated logs showed the interval to miss too often.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from recfb.contracts import Evidence, Finding, Gate, Verdict
from recfb.contracts.evaluating import Level
from recfb.evaluation.intervals import RANGED
from recfb.evaluation.shape import through
from recfb.evaluation.tail import tail_index
from recfb.evaluation.terms import moments, residual, weight

LIKELIHOOD = "read the likelihood interval of ips or snips: interval='likelihood'"


def effective(evidence: Evidence) -> tuple[Tensor, Tensor]:
    """Effective sample sizes (P,): of the weights, and of the weighted rewards."""
    w, ww, wr, wrwr = evidence.estimates.stat(through(evidence.traits.view, moments))[:4]
    n = evidence.estimates.n
    return n * w * w / ww, torch.where(wrwr == 0, 0.0, n * wr * wr / wrwr)


def _below(
    gate: str, values: Tensor, limits: tuple[float, float], text: str, advice: str
) -> Iterator[Finding]:
    """Findings where values (P,) are below the warn or the fail limit. NaN finds nothing."""
    for policy, value in enumerate(values.tolist()):
        level: Level = "fail" if value < limits[1] else "warn"
        if value < limits[0]:
            yield Finding(gate, policy, level, text.format(value), advice)


def _above(
    gate: str, values: Tensor, limits: tuple[float, float], text: str, advice: str
) -> Iterator[Finding]:
    """Findings where values (P,) are above the warn or the fail limit. NaN finds nothing."""
    for policy, value in enumerate(values.tolist()):
        level: Level = "fail" if value > limits[1] else "warn"
        if value > limits[0]:
            yield Finding(gate, policy, level, text.format(value), advice)


def g1_ess(evidence: Evidence) -> Iterator[Finding]:
    """G1, overlap: (sum w)^2 / sum w^2 below 300 warns, below 30 fails weighting and
    self-normalised forms; others with a model it warns."""
    if evidence.traits.weighs:
        ratio = evidence.traits.weighs_only or evidence.traits.equivariant
        fail = 30.0 if ratio else 0.0
        yield from _below(
            "G1",
            effective(evidence)[0],
            (300.0, fail),
            "effective sample size {:.3g}",
            "collect more rows, or evaluate a policy closer to the logging policy",
        )


def g2_tail(evidence: Evidence) -> Iterator[Finding]:
    """G2, a heavy tail of weights, by the Pareto shape of the largest: for ips above .6 fails, for
    snips above .7 warns and above .9 fails. Shrunk forms cut the tail themselves."""
    traits = evidence.traits
    if not traits.weighs_only or traits.unshrunk is not None:
        return
    shape = [tail_index(largest, evidence.estimates.n) for largest in evidence.largest]
    limits = (0.7, 0.9) if traits.equivariant else (0.6, 0.6)
    yield from _above(
        "G2",
        torch.tensor(shape, dtype=torch.float64),
        limits,
        "the largest weights grow like a Pareto tail of shape {:.2f}",
        "use dr or a shrunk form, or evaluate a policy closer to the logging policy",
    )


def g3_contribution(evidence: Evidence) -> Iterator[Finding]:
    """G3, few rows carry the number: (sum w r)^2 / sum (w r)^2 below 30 warns, below 10 fails.

    The likelihood interval, and those that hold for any number of rows, stay honest there: with
    them nothing is found.
    """
    if evidence.traits.weighs_only and evidence.method not in RANGED:
        yield from _below(
            "G3",
            effective(evidence)[1],
            (30.0, 10.0),
            "the weighted rewards count as {:.3g} rows",
            LIKELIHOOD,
        )


def g4_mean_weight(evidence: Evidence) -> Iterator[Finding]:
    """G4, weights do not average 1: abs z > 2 warns and > 3 fails ips; > 5 and off by .1 fails
    all that weigh."""
    about = evidence.estimates.about(through(evidence.traits.view, weight))
    if not evidence.traits.weighs or about is None:
        return
    plain = evidence.traits.weighs_only and not evidence.traits.equivariant
    z = (about.value - 1) / about.se()
    for policy, (mean, score) in enumerate(zip(about.value.tolist(), z.tolist(), strict=True)):
        text = f"mean weight {mean:.3g}, z = {score:.3g}"
        if abs(score) > 5 and abs(mean - 1) > 0.1:
            advice = "the propensities are wrong, or the target leaves the logger's support"
            yield Finding("G4", policy, "fail", text, advice)
        elif plain and abs(score) > 2 and abs(mean - 1) > 1e-9:  # not mere rounding
            level: Level = "fail" if abs(score) > 3 else "warn"
            yield Finding("G4", policy, level, text, "use snips or dr, which correct for it")


def g5_support(evidence: Evidence) -> Iterator[Finding]:
    """G5, target mass on items never logged at that position: > 1 % warns; > 5 % fails forms
    without a model, > 20 % doubly robust ones."""
    if evidence.unsupported is None:
        return
    traits = evidence.traits
    fail = 0.05 if not traits.models else (0.2 if traits.weighs else 1.0)
    span = evidence.estimates.reward_range
    for finding in _above(
        "G5",
        evidence.unsupported,
        (0.01, fail),
        "{:.1%} of the target's choices were never logged at that position",
        "log them with some probability; no estimator can know their reward",
    ):
        mass = float(evidence.unsupported[finding.policy])
        hidden = "" if span is None else f", worth up to {mass * (span[1] - span[0]):.3g}"
        yield replace(finding, evidence=finding.evidence + hidden)


def g7_source(evidence: Evidence) -> Iterator[Finding]:
    """G7, where propensities come from: estimated or simulated ones warn, values below one draw
    fail, without any only dm and replay run, and are flagged."""
    everyone = range(len(evidence.estimates.value))
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
    yield from (Finding("G7", policy, level, text, advice) for policy in everyone)


def g8_cross_fit(evidence: Evidence) -> Iterator[Finding]:
    """G8, the reward model saw the rows that it is judged on: fails; not known: warns."""
    own = evidence.traits.view == "robust"  # mrdr fits its model itself, without the row's fold
    if not evidence.traits.models or own or evidence.model not in ("same log", "unknown"):
        return
    same = evidence.model == "same log"
    text = (
        "the reward model was fitted on the evaluated log"
        if same
        else "the reward model does not say on which log it was fitted"
    )
    advice = "fit it on another log, or give it unfitted: reward_model=evaluation.CrossFit(model)"
    for policy in range(len(evidence.estimates.value)):
        yield Finding("G8", policy, "fail" if same else "warn", text, advice)


def g10_residual(evidence: Evidence) -> Iterator[Finding]:
    """G10, what the model misses under the target: D > 2 se warns, and above 10 % of the value
    fails dm and shrunk forms; dr repairs it, so there it is a note."""
    about = evidence.estimates.about(through(evidence.traits.view, residual))
    if not evidence.traits.models or about is None:
        return
    biased = not evidence.traits.weighs or evidence.traits.unshrunk is not None
    rows = zip(about.value.tolist(), about.se().tolist(), evidence.estimates.value, strict=True)
    for policy, (d, se, value) in enumerate(rows):
        if not abs(d) > 2 * se:
            continue
        level: Level = "fail" if abs(d) > 0.1 * abs(float(value)) else "warn"
        yield Finding(
            "G10",
            policy,
            level if biased else "note",
            f"the model's weighted residual is {d:.3g}, {abs(d) / se:.1f} standard errors",
            "use dr, which corrects for it" if biased else "",
        )


def g14_shrinkage(evidence: Evidence) -> Iterator[Finding]:
    """G14, bias of clipped, switched and shrunk forms: above se/2 warns, above 2 se fails."""
    unshrunk = evidence.traits.unshrunk
    if unshrunk is None:
        return
    bias = (evidence.estimates.value - evidence.estimates.stat(unshrunk)).abs()
    ratio = bias / evidence.estimates.se()
    yield from _above(
        "G14",
        ratio,
        (0.5, 2.0),
        "shrinking the weights moves the value by {:.1f} standard errors",
        "raise lam, or use the form without shrinkage",
    )


def g12_missing(evidence: Evidence) -> Iterator[Finding]:
    """G12, rewards that are not known: more than 1 % of the rows warns."""
    if evidence.missing > 0.01:
        text = f"{evidence.missing:.1%} of the rows have no known reward"
        for policy in range(len(evidence.estimates.value)):
            advice = "see that it is not the item, or time, that decides which"
            yield Finding("G12", policy, "warn", text, advice)


def dm_is_a_model(evidence: Evidence) -> Iterator[Finding]:
    """DM is at best usable with care: its standard error leaves out the error of the model."""
    if evidence.traits.models and not evidence.traits.weighs:
        for policy in range(len(evidence.estimates.value)):
            text = "the standard error leaves out the error of the reward model"
            yield Finding("DM", policy, "warn", text, "compare with dr")


GATES: tuple[Gate, ...] = (
    g1_ess,
    g2_tail,
    g3_contribution,
    g4_mean_weight,
    g5_support,
    g7_source,
    g8_cross_fit,
    g10_residual,
    g12_missing,
    g14_shrinkage,
    dm_is_a_model,
)
"""The gates that every report runs, in this order."""


def verdict(findings: Iterable[Finding]) -> Verdict:
    """The worst finding decides.

    >>> verdict([Finding("G1", 0, "warn", ""), Finding("G3", 0, "note", "")])
    'usable with care'
    """
    levels = {finding.level for finding in findings}
    if "fail" in levels:
        return "do not use"
    return "usable with care" if "warn" in levels else "usable"


def unsupported(mass: Tensor | None, seen: Tensor | None) -> Tensor | None:
    """The share of each target's mass on (position, item) cells without a logged row: (P,)."""
    if mass is None or seen is None:
        return None
    total = mass.sum((1, 2))  # (P,)
    away = (mass * (seen == 0)).sum((1, 2))
    return torch.where(total > 0, away / total, 0.0)
