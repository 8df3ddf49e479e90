"""Gates on the weights: overlap, tail, contributions, mean, shrinkage."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from recfb.contracts import Evidence, Finding
from recfb.contracts.evaluating import Level
from recfb.evaluation.gates.common import above, below, effective
from recfb.evaluation.intervals import RANGED
from recfb.evaluation.shape import through
from recfb.evaluation.tail import tail_index
from recfb.evaluation.terms import weight

LIKELIHOOD = "read the likelihood interval of ips or snips: interval='likelihood'"


def g1_ess(evidence: Evidence) -> Iterator[Finding]:
    """G1, overlap: (sum w)^2 / sum w^2 below 300 warns, below 30 fails weighting and
    self-normalised forms; others with a model it warns."""
    if evidence.traits.weighs:
        ratio = evidence.traits.weighs_only or evidence.traits.equivariant
        fail = 30.0 if ratio else 0.0
        yield from below(
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
    yield from above(
        "G2",
        torch.tensor(shape, dtype=torch.float64),
        limits,
        "the largest weights grow like a Pareto tail of shape {:.2f}",
        "use dr or a shrunk form, or evaluate a policy closer to the logging policy",
    )


def g3_contribution(evidence: Evidence) -> Iterator[Finding]:
    """G3, few rows carry the number: (sum w r)^2 / sum (w r)^2 below 30 warns, below 10 fails forms
    without a model.

    The likelihood interval, and those that hold for any number of rows, stay honest there: with
    them nothing is found.
    """
    if evidence.traits.weighs and evidence.method not in RANGED:
        yield from below(
            "G3",
            effective(evidence)[1],
            (30.0, 10.0 if evidence.traits.weighs_only else 0.0),
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


def g14_shrinkage(evidence: Evidence) -> Iterator[Finding]:
    """G14, bias of clipped, switched and shrunk forms: above se/2 warns, above 2 se fails."""
    unshrunk = evidence.traits.unshrunk
    if unshrunk is None:
        return
    bias = (evidence.estimates.value - evidence.estimates.stat(unshrunk)).abs()
    ratio = bias / evidence.estimates.se()
    yield from above(
        "G14",
        ratio,
        (0.5, 2.0),
        "shrinking the weights moves the value by {:.1f} standard errors",
        "raise lam, or use the form without shrinkage",
    )
