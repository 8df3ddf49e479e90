"""How policies compare: rows of paired differences, lifts and adjusted p-values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import polars as pl
from torch import Tensor

from recfb.estimate import Tuned
from recfb.evaluation.intervals import FINITE
from recfb.evaluation.results import Result, Settings, differences, holm

Found = Sequence[tuple[str, Result]]
Rows = list[dict[str, Any]]

COMPARE: dict[str, Any] = {
    "policy": pl.String,
    "base": pl.String,
    "estimator": pl.String,
    "difference": pl.Float64,
    "se": pl.Float64,
    "lower": pl.Float64,
    "upper": pl.Float64,
    "method": pl.String,
    "lift": pl.Float64,
    "lift_lower": pl.Float64,
    "lift_upper": pl.Float64,
    "p": pl.Float64,
    "p_adjusted": pl.Float64,
    "verdict": pl.String,
}
AGAINST = ("difference", "lift", "lift_lower", "lift_upper", "p_adjusted")


def compare_rows(found: Found, settings: Settings, base: str | None) -> Rows:
    """The policies against the base, or against the logging policy, estimator by estimator."""
    rows: Rows = []
    start = None if base is None else settings.policies.index(base)
    for name in settings.estimators:
        family = [
            (label, result, difference)
            for label, result in found
            if result.estimator == name
            for difference in differences(result, start, settings.alpha)
        ]
        adjusted = holm([difference.p for *_, difference in family])
        for (label, result, d), p in zip(family, adjusted, strict=True):
            verdicts = {result.verdict(k) for k in (d.policy, start) if k is not None}
            worst = max(verdicts, key=("usable", "usable with care", "do not use").index)
            rows.append(
                {
                    "group": label,
                    "policy": settings.policies[d.policy],
                    "base": base,
                    "estimator": name,
                    "difference": d.difference,
                    "se": d.se,
                    "lower": d.lower,
                    "upper": d.upper,
                    "method": result.method if result.method in FINITE else "student",
                    "lift": d.lift,
                    "lift_lower": d.lift_lower,
                    "lift_upper": d.lift_upper,
                    "p": d.p,
                    "p_adjusted": p,
                    "verdict": worst,
                }
            )
    return rows


def against(table: Rows, compared: Rows) -> Rows:
    """The rows of the table, with how they compare with the base; null for the base itself."""
    key = ("group", "policy", "estimator")
    found = {tuple(row[name] for name in key): row for row in compared}
    return [
        {**row, **{name: found.get(tuple(row[k] for k in key), {}).get(name) for name in AGAINST}}
        for row in table
    ]


def tuned_notes(found: Found, settings: Settings) -> list[str]:
    """What was chosen for tuned estimators, whether their interval counts the choice, and what a
    bound of the bias would have chosen where that is something else."""
    return [
        (f"{label} " if label else "") + _note(result, result.estimates.tuned, settings)
        for label, result in found
        if result.estimates.tuned is not None and result.estimates.n
    ]


def _note(result: Result, tuned: Tuned, settings: Settings) -> str:
    chosen = result.estimates.choices(tuned)
    said = ", ".join(_strengths(tuned, chosen, settings.policies))
    models = settings.traits[result.estimator].models
    left = ", nor of what the reward model errs in" if models else ""
    return (
        f"{result.estimator}: shrinkage {said}; {_counted(tuned, result.method)} nothing of the "
        f"bias that is left (gate G14){left}.{_otherwise(tuned, chosen, result, settings)}"
    )


def _strengths(tuned: Tuned, chosen: Sequence[Tensor], policies: Sequence[str]) -> list[str]:
    """What was chosen (P,) on each part, policy by policy: "10 for new", or "10 and 3.16 for
    new"."""
    names = [[f"{tuned.strengths[k]:.3g}" for k in part.tolist()] for part in chosen]
    each = zip(policies, zip(*names, strict=True), strict=True)
    return [f"{' and '.join(strengths)} for {policy}" for policy, strengths in each]


def _counted(tuned: Tuned, method: str) -> str:
    if tuned.split:
        return "each was chosen on one half of the units for the other; the interval knows"
    counts = "repeats the choice" if "bootstrap" in method else "ignores the choice"
    return f"the interval {counts}, and knows"


def _otherwise(tuned: Tuned, chosen: Sequence[Tensor], result: Result, settings: Settings) -> str:
    """A sentence on what "mse" would choose with the bias bounded, or with the plain one where it
    is."""
    low, high = result.estimates.reward_range or (-float("inf"), float("inf"))
    most, by = result.estimates.weight_range[1], "with the bias bounded"
    if tuned.by != "mse":
        return ""
    if tuned.highest is not None:
        other, by = replace(tuned, highest=None), "with the plain bias"
    elif most == float("inf") or max(-low, high) > 1:
        return " A bound of the bias needs the smallest propensity, Meta(floor=...), and |r| <= 1."
    else:
        other = replace(tuned, highest=most)
        by += " for residuals in [-1, 1]" if settings.traits[result.estimator].models else ""
    mine = _strengths(tuned, chosen, settings.policies)
    theirs = _strengths(tuned, result.estimates.choices(other), settings.policies)
    differ = [b for a, b in zip(mine, theirs, strict=True) if a != b]
    return f" {by.capitalize()} it would be {', '.join(differ)}." if differ else ""
