"""How policies compare: rows of paired differences, lifts and adjusted p-values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

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
    """What was chosen for tuned estimators, and whether their interval counts the choice."""
    notes = []
    for label, result in found:
        chosen = result.estimates.terms.strengths(result.estimator, result.estimates.totals)
        if chosen and result.estimates.n:
            each = zip(settings.policies, chosen, strict=True)
            said = ", ".join(f"{strength:.3g} for {policy}" for policy, strength in each)
            counts = "repeats the choice" if "bootstrap" in result.method else "ignores the choice"
            where = f"{label} " if label else ""
            notes.append(
                f"{where}{result.estimator}: shrinkage {said}; the interval {counts}, "
                "and knows nothing of the bias that is left (gate G14)."
            )
    return notes
