"""The canonical columns of a log: names, types, meaning, and the checks at the door."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import polars as pl
from typing_extensions import TypedDict

Check = tuple[pl.Expr, str, str]
"""(rows that are wrong, what was found, what to type)."""


@dataclass(frozen=True, slots=True)
class Column:
    """One canonical column: its type in a log, what it means, and which values are refused."""

    dtype: pl.DataType | type[pl.DataType]
    meaning: str
    nullable: bool = False
    check: Callable[[pl.Expr], Iterator[Check]] | None = None


def _finite(x: pl.Expr) -> Iterator[Check]:
    yield (
        x.is_nan().fill_null(False),
        "are NaN",
        "unknown values are null: pl.col(...).fill_nan(None)",
    )
    yield (
        (x.is_not_nan() & (x.abs() > 3.4028234e38)).fill_null(False),
        "do not fit a 32-bit float",
        "rescale them",
    )


def _probability(x: pl.Expr) -> Iterator[Check]:
    inside = (x > 0) & (x <= 1) & x.is_not_nan()
    yield (
        (~inside).fill_null(False),
        "are outside (0, 1]",
        "a propensity is the probability with which the logged item was chosen; unknown ones are "
        "null",
    )


def _positive(x: pl.Expr) -> Iterator[Check]:
    yield (x < 1).fill_null(False), "are below 1", "positions are 1-based: position=pl.col(...) + 1"


def _distribution(x: pl.Expr) -> Iterator[Check]:
    yield (
        (x.list.min() < 0).fill_null(False),
        "have negative entries",
        "they are probabilities: clip them, then divide each by its sum",
    )
    yield (
        ((x.list.sum() - 1).abs() > 1e-5).fill_null(False),
        "do not sum to 1",
        "divide each by its sum",
    )


COLUMNS: dict[str, Column] = {
    "user": Column(pl.Int32, "who; dense id, the vocabulary keeps the original"),
    "item": Column(pl.Int32, "what was shown: the action, the arm"),
    "reward": Column(pl.Float32, "click, rating, watch time; null = never revealed", True, _finite),
    "propensity": Column(
        pl.Float64, "P(this item at this position) under the logging policy", True, _probability
    ),
    "time": Column(pl.Int64, "order: epoch microseconds, or the round"),
    "position": Column(pl.Int16, "1-based rank in the slate", False, _positive),
    "slate": Column(pl.Int64, "rows shown together"),
    "unit": Column(pl.Int64, "cluster for intervals"),
    "p_prefix": Column(pl.Float64, "P(items 1..k in this order)", True, _probability),
    "p_display": Column(pl.Float64, "P(item anywhere in the slate)", True, _probability),
    "known": Column(pl.Int64, "when the reward became known", True),
    "history": Column(pl.List(pl.Int32), "what the platform held of the user, -1 pads"),
    "features": Column(pl.List(pl.Float32), "per-row context"),
    "mu": Column(
        pl.List(pl.Float32), "the logging policy's whole distribution", True, _distribution
    ),
    "duration": Column(pl.Float32, "watch time's ceiling", True, _finite),
    "complaint": Column(pl.Int8, "auditors' pair as signs", True),
    "source": Column(pl.Int8, "provenance of the item", True),
    "available": Column(pl.List(pl.Int32), "items that could have been shown; absent = all"),
    "logger": Column(pl.Int16, "which logging policy"),
    "replication": Column(pl.Int16, "parallel run"),
    "generation": Column(pl.Int16, "model generation"),
}

ROW_LISTS = ("history", "features")
"""Columns with one fixed width for all rows; stored as pl.Array."""

Source = str | int | float | pl.Expr | None
"""Where a column comes from: a name, one number for all rows, or a polars expression; None: its own
name."""


class Columns(TypedDict, total=False):
    """canonical=theirs, for every canonical column."""

    user: Source
    item: Source
    reward: Source
    propensity: Source
    time: Source
    position: Source
    slate: Source
    unit: Source
    p_prefix: Source
    p_display: Source
    known: Source
    history: Source
    features: Source
    mu: Source
    duration: Source
    complaint: Source
    source: Source
    available: Source
    logger: Source
    replication: Source
    generation: Source
