"""The report of an evaluation: table, comparisons, gates, and the state they were made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from recfb.data.product import atomic_file
from recfb.errors import ConfigError, LogError, nearest
from recfb.evaluation.results import Result, Settings, differences, holm, results
from recfb.evaluation.state import Cell, State

FAILED = "do not use"
_NUMBERS = ("value", "se", "lower", "upper", "difference", "lift", "p", "p_adjusted")
_TABLE: dict[str, Any] = {
    "policy": pl.String,
    "estimator": pl.String,
    "value": pl.Float64,
    "se": pl.Float64,
    "lower": pl.Float64,
    "upper": pl.Float64,
    "method": pl.String,
    "n": pl.Int64,
    "ess": pl.Float64,
    "max_weight": pl.Float64,
    "verdict": pl.String,
    "reasons": pl.String,
}
_COMPARE: dict[str, Any] = {
    "policy": pl.String,
    "base": pl.String,
    "estimator": pl.String,
    "difference": pl.Float64,
    "se": pl.Float64,
    "lower": pl.Float64,
    "upper": pl.Float64,
    "lift": pl.Float64,
    "p": pl.Float64,
    "p_adjusted": pl.Float64,
    "verdict": pl.String,
}
_GATES: dict[str, Any] = {
    "gate": pl.String,
    "policy": pl.String,
    "estimator": pl.String,
    "level": pl.String,
    "evidence": pl.String,
    "advice": pl.String,
}


@dataclass(frozen=True, repr=False)
class Report:
    """What an evaluation found.

    Values are mean rewards of a shown row, at its own position: the value of a page of L positions
    is L times that where every position is logged.

    Attributes:
        table: policy, estimator, value, se, lower, upper, method, n, ess, max_weight, verdict,
            reasons; with `by=` its column comes first. Undefined values are null.
        compare: paired differences from the base policy, with Holm-adjusted p-values over all
            comparisons of one estimator; no rows without `base=`.
        gates: gate, policy, estimator, level, evidence, advice.
        state: what it was computed from; `plan.report(a.state + b.state)` reports on both logs.
        notes: what a reader should know of all rows.
    """

    table: pl.DataFrame
    compare: pl.DataFrame
    gates: pl.DataFrame
    state: State
    notes: tuple[str, ...]
    alpha: float = 0.05

    @property
    def exit_code(self) -> int:
        """0: every number is usable, maybe with care. 3: one is not to be used. 4: one has no
        value."""
        if self.table["value"].null_count():
            return 4
        return 3 if (self.table["verdict"] == FAILED).any() else 0

    def export(self, *, allow_failed: bool = False) -> pl.DataFrame:
        """The table for machines: numbers that are not to be used are null, unless allowed."""
        return self.table if allow_failed else _blank(self.table)

    def write(self, path: str | Path, *, allow_failed: bool = False) -> Path:
        """Write `export` to a .parquet, .json or .csv file, whole or not at all."""
        path, table = Path(path), self.export(allow_failed=allow_failed)
        writers: dict[str, Callable[[Path], object]] = {
            ".parquet": table.write_parquet,
            ".json": table.write_json,
            ".csv": table.write_csv,
        }
        if path.suffix not in writers:
            raise ConfigError(
                f"a report is written as .parquet, .json or .csv, found {path.name!r}. "
                f"Try {path.with_suffix('.parquet').name!r}."
            )
        with atomic_file(path) as part:
            writers[path.suffix](part)
        return path

    def __repr__(self) -> str:
        return "\n".join([*_lines(self.table, self.alpha), *self.notes])


def _blank(frame: pl.DataFrame) -> pl.DataFrame:
    bad = pl.col("verdict") == FAILED
    numbers = [name for name in _NUMBERS if name in frame.columns]
    return frame.with_columns(pl.when(~bad).then(pl.col(name)).alias(name) for name in numbers)


def _lines(table: pl.DataFrame, alpha: float) -> list[str]:
    """Aligned text; numbers that are not to be used stand in parentheses, with the reason below."""
    by = [name for name in table.columns if name not in _TABLE]
    head = [*by, "policy", "estimator", "value", f"{1 - alpha:.0%} interval", "ess", "verdict"]
    rows, below = [head], [""]
    for row in table.iter_rows(named=True):
        value = "null" if row["value"] is None else f"{row['value']:.4g}"
        if row["verdict"] == FAILED:
            value = f"({value})"
        ends = "" if row["lower"] is None else f"[{row['lower']:.4g}, {row['upper']:.4g}]"
        ess = "" if row["ess"] is None else f"{row['ess']:,.0f}"
        start = [str(row[name]) for name in (*by, "policy", "estimator")]
        rows.append([*start, value, f"{ends} {row['method']}".strip(), ess, row["verdict"]])
        below.append(row["reasons"])
    width = [max(len(row[k]) for row in rows) for k in range(len(head))]
    lines = []
    for cells, reason in zip(rows, below, strict=True):
        lines.append("  ".join(x.ljust(w) for x, w in zip(cells, width, strict=True)).rstrip())
        lines += [f"    {reason}"] if reason else []
    return lines


def finish(state: State, settings: Settings, base: str | None) -> Report:
    """The report of a state: every group, estimator and policy.

    Raises:
        LogError: rows with bad or missing propensities or rewards, all counted.
        SupportError: policies whose rows are no distribution, all counted.
        ConfigError: a base that is none of the policies.
    """
    state.raise_any()
    names = settings.policies
    if base is not None and base not in names:
        raise ConfigError(
            f"base={base!r} is none of the policies {list(names)}.{nearest(base, names)}"
        )
    cells = state.groups() or {"": _empty(settings)}
    _check_propensities(cells, settings)
    found = [
        (label, result)
        for label, cell in cells.items()
        for result in results(cell, state.facts, settings)
    ]
    by = state.facts.by
    return Report(
        _frame(_table_rows(found, cells, settings), _TABLE, by),
        _frame(_compare_rows(found, settings, base), _COMPARE, by),
        _frame(_gate_rows(found, settings), _GATES, by),
        state,
        _notes(state, cells, settings),
        settings.alpha,
    )


def _empty(settings: Settings) -> Cell:
    policies = len(settings.policies)
    sums = settings.terms.columns(settings.terms.empty).new_zeros(settings.terms.size, policies, 1)
    return Cell(0, sums, sums.new_full((policies,), -float("inf")))


def _check_propensities(cells: Mapping[str, Cell], settings: Settings) -> None:
    """Some rows without a propensity cannot be weighed, and leaving them out would be a choice."""
    n = sum(cell.n for cell in cells.values())
    unknown = sum(cell.unknown for cell in cells.values())
    if settings.weighs and 0 < unknown < n:
        raise LogError(
            f"{unknown:,} of {n:,} rows have no propensity, and {list(settings.estimators)} read "
            'it. Leave them out: log.filter(pl.col("propensity").is_not_null()), or ask for '
            'estimators=["dm", "replay"].'
        )


Found = Sequence[tuple[str, Result]]
Rows = list[dict[str, Any]]


def _frame(rows: Rows, schema: dict[str, Any], by: str | None) -> pl.DataFrame:
    whole = schema if by is None else {by: pl.String, **schema}
    return pl.DataFrame(
        [{name: _plain(row.get(name, row["group"])) for name in whole} for row in rows],
        schema=whole,
    )


def _plain(value: object) -> object:
    """NaN and infinity become null."""
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value


def _table_rows(found: Found, cells: Mapping[str, Cell], settings: Settings) -> Rows:
    rows: Rows = []
    for label, result in found:
        se = result.estimates.se()
        for k, policy in enumerate(settings.policies):
            numbers = {
                "value": result.estimates.value[k],
                "se": se[k],
                "lower": result.lower[k],
                "upper": result.upper[k],
                "ess": result.ess[k],
                "max_weight": cells[label].hi[k],
            }
            rows.append(
                {
                    "group": label,
                    "policy": policy,
                    "estimator": result.estimator,
                    **{name: float(x) for name, x in numbers.items()},
                    "method": result.method,
                    "n": cells[label].n,
                    "verdict": result.verdict(k),
                    "reasons": result.reasons(k),
                }
            )
    return rows


def _compare_rows(found: Found, settings: Settings, base: str | None) -> Rows:
    if base is None:
        return []
    rows: Rows = []
    start = settings.policies.index(base)
    for name in settings.estimators:
        family = [
            (label, result, difference)
            for label, result in found
            if result.estimator == name
            for difference in differences(result, start, settings.alpha)
        ]
        adjusted = holm([difference.p for *_, difference in family])
        for (label, result, d), p in zip(family, adjusted, strict=True):
            verdicts = {result.verdict(d.policy), result.verdict(start)}
            worst = max(verdicts, key=("usable", "usable with care", FAILED).index)
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
                    "lift": d.lift,
                    "p": d.p,
                    "p_adjusted": p,
                    "verdict": worst,
                }
            )
    return rows


def _gate_rows(found: Found, settings: Settings) -> Rows:
    return [
        {
            "group": label,
            "gate": finding.gate,
            "policy": settings.policies[finding.policy],
            "estimator": result.estimator,
            "level": finding.level,
            "evidence": finding.evidence,
            "advice": finding.advice,
        }
        for label, result in found
        for finding in result.findings
    ]


def _notes(state: State, cells: Mapping[str, Cell], settings: Settings) -> tuple[str, ...]:
    n = sum(cell.n for cell in cells.values())
    missing = sum(cell.missing for cell in cells.values())
    notes = [f"{n:,} rows; a value is the mean reward of a shown row at its own position."]
    if missing:
        notes.append(f"{missing:,} rows without a known reward were left out.")
    if settings.models and state.facts.described:
        notes.append(f"Reward model: {state.facts.described}.")
    return tuple(notes)


__all__ = ["Report", "finish"]
