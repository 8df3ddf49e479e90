"""The report of an evaluation: table, comparisons, gates, and the state they were made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from recfb.data.product import atomic_file
from recfb.errors import ConfigError, nearest
from recfb.evaluation import needs, words
from recfb.evaluation.cell import Cell
from recfb.evaluation.compare import AGAINST, COMPARE, against, compare_rows, tuned_notes
from recfb.evaluation.details import driver_table, item_table
from recfb.evaluation.results import Result, Settings, results
from recfb.evaluation.spread import SPREAD, spread
from recfb.evaluation.state import State

FAILED = "do not use"
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
            reasons; with `by=` its column comes first, with `base=` the difference from it, the
            lift with its limits and the adjusted p-value come last. Undefined values are null.
        compare: paired differences from the base policy, relative lifts with limits by the delta
            method, and Holm-adjusted p-values over all comparisons of one estimator (Student's, or
            limits at a level that holds for any number of rows and no p-value: `method`); no rows
            without `base=`.
        gates: gate, policy, estimator, level, evidence, advice.
        state: what it was computed from; `plan.report(a.state + b.state)` reports on both logs.
        notes: what a reader should know of all rows.
        logged: as `compare`, from the logging policy: the mean reward of the rows; base is null.
        weights: how the weights of each policy are spread, for `plots.weights`.
        drivers: the 100 rows of each policy with the largest weighted rewards: part, row, item,
            position, weight, reward and its share of their sum.
        items: every item at every position: n rows that show it of those that could; odds, the
            mean of 1[shown] / propensity, which is 1 where propensities are right, with its z
            (gate G6); the policy's mass on it, the mean weight and the share of sum(w r).
    """

    table: pl.DataFrame
    compare: pl.DataFrame
    gates: pl.DataFrame
    state: State
    notes: tuple[str, ...]
    logged: pl.DataFrame
    weights: pl.DataFrame
    alpha: float = 0.05
    drivers: pl.DataFrame = field(default_factory=pl.DataFrame)
    items: pl.DataFrame = field(default_factory=pl.DataFrame)

    @property
    def exit_code(self) -> int:
        """0: every number is usable, maybe with care. 3: one is not to be used. 4: one has no
        value."""
        if self.table["value"].null_count():
            return 4
        return 3 if (self.table["verdict"] == FAILED).any() else 0

    @property
    def sentence(self) -> str:
        """One sentence to forward: gain, interval, verdict, and how many more rows would decide."""
        return words.sentence(self)

    def export(self, *, allow_failed: bool = False) -> pl.DataFrame:
        """The table for machines: numbers that are not to be used are null, unless allowed."""
        return self.table if allow_failed else words.blank(self.table)

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
        return "\n".join([*words.lines(self.table, self.alpha), *self.notes])


def finish(state: State, settings: Settings, base: str | None) -> Report:
    """The report of a state: every group, estimator and policy.

    Raises:
        LogError: rows with bad or missing propensities or rewards, all counted.
        SupportError: policies whose rows are no distribution, all counted.
        ConfigError: a base that is none of the policies; an interval without what it needs.
    """
    state.raise_any()
    names = settings.policies
    if base is not None and base not in names:
        raise ConfigError(
            f"base={base!r} is none of the policies {list(names)}.{nearest(base, names)}"
        )
    cells = state.groups() or {"": _empty(settings)}
    if settings.weighs:
        needs.check_propensities(settings.estimators, cells)
    if isinstance(settings.interval, str):
        needs.check_declared(settings.interval, settings.estimators, state.facts, cells)
    found = [
        (label, result)
        for label, cell in cells.items()
        for result in results(cell, state.facts, settings)
    ]
    by = state.facts.by
    compared = [] if base is None else compare_rows(found, settings, base)
    table, columns = _table_rows(found, cells, settings), _TABLE
    if base is not None:
        columns = {**_TABLE, **{name: COMPARE[name] for name in AGAINST}}
        table = against(table, compared)
    return Report(
        _frame(table, columns, by),
        _frame(compared, COMPARE, by),
        _frame(_gate_rows(found, settings), _GATES, by),
        state,
        (
            *_notes(state, cells, settings, {result.method for _, result in found}),
            *tuned_notes(found, settings),
        ),
        _frame(compare_rows(found, settings, None), COMPARE, by),
        _frame(_weight_rows(found, cells, settings), SPREAD, by),
        settings.alpha,
        driver_table(cells, settings, by),
        item_table(cells, settings, by),
    )


def _empty(settings: Settings) -> Cell:
    policies = len(settings.policies)
    sums = settings.terms.columns(settings.terms.empty).new_zeros(settings.terms.size, policies, 1)
    none = sums.new_full((len(settings.views), policies, 1), -float("inf"))
    return Cell(0, sums, none, sums.new_zeros(policies))


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
        se, view = result.estimates.se(), settings.traits[result.estimator].view
        for k, policy in enumerate(settings.policies):
            numbers = {
                "value": result.estimates.value[k],
                "se": se[k],
                "lower": result.lower[k],
                "upper": result.upper[k],
                "ess": result.ess[k],
                "max_weight": cells[label].hi[settings.views.index(view), k],
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


def _weight_rows(found: Found, cells: Mapping[str, Cell], settings: Settings) -> Rows:
    first = next(iter(settings.estimators))
    return [
        {"group": label, "policy": policy, **row}
        for label, result in found
        if result.estimator == first
        for policy, row in zip(
            settings.policies, spread(result.estimates, cells[label]), strict=False
        )
    ]


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


def _notes(
    state: State, cells: Mapping[str, Cell], settings: Settings, shown: set[str]
) -> tuple[str, ...]:
    n = sum(cell.n for cell in cells.values())
    missing = sum(cell.missing for cell in cells.values())
    whole = state.facts.slots > 0
    kind = "slates" if whole else "rows"
    of = "whole slate" if whole else "shown row at its own position"
    notes = [f"{n:,} {kind}; a value is the mean reward of a {of}."]
    if missing:
        notes.append(f"{missing:,} {kind} without a known reward were left out.")
    if settings.models and state.facts.described:
        notes.append(f"Reward model: {state.facts.described}.")
    notes += needs.notes(settings.interval, shown, settings.estimators, state.facts)
    return tuple(notes)


__all__ = ["Report", "finish"]
