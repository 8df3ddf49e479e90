"""The door of a log: map columns, check every value once, and report all problems together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from recfb.data.columns import COLUMNS, ROW_LISTS, Source
from recfb.errors import LogError, nearest


@dataclass
class Problems:
    """What is wrong with a log, summed over blocks: (column, what) -> count, first row, what to
    type."""

    found: dict[tuple[str, str], tuple[int, int, str]] = field(default_factory=dict)

    def add(self, column: str, what: str, count: int, first: int, fix: str) -> None:
        old = self.found.get((column, what))
        self.found[column, what] = (
            (count, first, fix) if old is None else (old[0] + count, min(old[1], first), fix)
        )

    def add_mask(self, column: str, what: str, wrong: pl.Series, offset: int, fix: str) -> None:
        count = int(wrong.sum() or 0)
        if count:
            self.add(column, what, count, offset + int(wrong.arg_max() or 0), fix)

    def raise_any(self) -> None:
        """One LogError with every problem on a line of its own."""
        if self.found:
            lines = [
                f"  {column}: {count:,} rows {what} (first: row {first:,}). "
                f"{fix[:1].upper()}{fix[1:]}."
                for (column, what), (count, first, fix) in self.found.items()
            ]
            raise LogError("the log is not usable:\n" + "\n".join(lines))


def sources(
    names: Sequence[str], mapping: Mapping[str, Source], keep: Sequence[str]
) -> dict[str, Source]:
    """Which canonical column comes from where. Unnamed columns that carry a canonical name are
    taken as they are."""
    chosen: dict[str, Source] = {
        name: source for name, source in mapping.items() if source is not None
    }
    by_source: dict[str, str] = {}
    for name, source in chosen.items():
        if isinstance(source, str):
            if source not in names:
                raise LogError(_missing(name, source, names))
            if source in by_source:
                raise LogError(
                    f"column {source!r} was given for both {by_source[source]!r} and {name!r}; "
                    f"each column of a log has one meaning. Drop one of the two."
                )
            by_source[source] = name
    for name in COLUMNS:
        if name not in chosen and name in names and name not in by_source:
            chosen[name] = name
    chosen = {name: chosen[name] for name in COLUMNS if name in chosen}
    for name in ("item", "reward"):
        if name not in chosen:
            raise LogError(_missing(name, name, names))
    for name in keep:
        if name not in names:
            raise LogError(_missing("keep", name, names))
    return chosen


def _missing(name: str, source: str, names: Sequence[str]) -> str:
    example = {"reward": '"clicked") or reward=1 if every row is a click', "item": '"sku")'}.get(
        name, '"...")'
    )
    hint = nearest(source, names)
    return (
        f"log has no column {source!r}; it has {list(names)}.{hint} "
        f"Map yours: Log.read(path, {name}={example}"
    )


def pick(frame: pl.LazyFrame, chosen: Mapping[str, Source], keep: Sequence[str]) -> pl.LazyFrame:
    """Select and rename; types are still those of the source."""
    columns = []
    for name, source in chosen.items():
        if isinstance(source, str):
            columns.append(pl.col(source).alias(name))
        elif isinstance(source, pl.Expr):
            columns.append(source.alias(name))
        else:
            columns.append(pl.lit(source).alias(name))
    return frame.select(*columns, *(name for name in keep if name not in chosen))


def check(frame: pl.DataFrame, problems: Problems, offset: int = 0) -> pl.DataFrame:
    """Cast every canonical column but the ids; count what does not fit."""
    done = [
        _check_column(frame[name], problems, offset) if name in COLUMNS else frame[name]
        for name in frame.columns
    ]
    frame = pl.DataFrame(done)
    if {"slate", "position"} <= set(frame.columns):
        twice = frame.select(pl.struct("slate", "position").is_duplicated()).to_series()
        problems.add_mask(
            "slate",
            "share their slate and position with another row",
            twice,
            offset,
            "one row a shown item",
        )
    return frame


def _check_column(column: pl.Series, problems: Problems, offset: int) -> pl.Series:
    name, spec = column.name, COLUMNS[column.name]
    if name in ("user", "item"):
        return _check_ids(column, problems, offset)
    if not spec.nullable and column.null_count():
        problems.add_mask(name, "are null", column.is_null(), offset, "fill or filter them")
    typed = _cast(column, problems, offset)
    if spec.check is not None and len(typed) and typed.dtype == spec.dtype:
        wide = column if column.dtype.is_float() and not column.dtype.is_nested() else typed
        for wrong, what, fix in spec.check(pl.col(name)):
            problems.add_mask(name, what, wide.to_frame().select(wrong).to_series(), offset, fix)
    return typed


def _check_ids(column: pl.Series, problems: Problems, offset: int) -> pl.Series:
    name = column.name
    if isinstance(column.dtype, (pl.Categorical, pl.Enum)):
        column = column.cast(pl.String)
    if not (column.dtype.is_integer() or column.dtype in (pl.String, pl.Null)):
        problems.add(name, f"are {column.dtype}, not integers or strings", len(column), offset,
                     f"cast them: {name}=pl.col(...).cast(pl.Int64)")  # fmt: skip
        return pl.Series(name, [None] * len(column), dtype=pl.Int64)
    if column.null_count():
        problems.add_mask(
            name, "are null", column.is_null(), offset, "filter them: an id must be known"
        )
    return column.cast(pl.Int64) if column.dtype == pl.Null else column


def _cast(column: pl.Series, problems: Problems, offset: int) -> pl.Series:
    name, dtype = column.name, COLUMNS[column.name].dtype
    if name in ROW_LISTS:
        return _fixed_width(column, problems, offset)
    if column.dtype in (pl.Datetime, pl.Date) and dtype == pl.Int64:
        return column.cast(pl.Datetime("us")).cast(pl.Int64)
    if name in ("slate", "unit") and column.dtype == pl.String:
        return column.hash().reinterpret(signed=True)
    number = column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Null)
    if not number and not (column.dtype.is_nested() and dtype.is_nested()):
        what = f"hold {column.dtype}, not numbers" + (
            f", for example {_example(column)!r}" if column.dtype == pl.String else ""
        )
        problems.add(
            name, what, len(column), offset, f"convert them: {name}=pl.col(...).cast(pl.Float64)"
        )
        return pl.Series(name, [None] * len(column), dtype=dtype)
    try:
        typed = column.cast(dtype, strict=False)
    except pl.exceptions.PolarsError:
        problems.add(
            name,
            f"are {column.dtype}, not {dtype}",
            len(column),
            offset,
            f"see the type of {name!r}",
        )
        return pl.Series(name, [None] * len(column), dtype=dtype)
    lost = typed.is_null() & column.is_not_null()
    if column.dtype.is_float() and not typed.dtype.is_nested() and typed.dtype.is_integer():
        lost = lost | (typed.cast(pl.Float64) != column.cast(pl.Float64)).fill_null(False)
    problems.add_mask(name, f"do not fit {dtype}", lost, offset, "round, rescale or filter them")
    return typed


def _fixed_width(column: pl.Series, problems: Problems, offset: int) -> pl.Series:
    name, inner = column.name, pl.Int32 if column.name == "history" else pl.Float32
    if not isinstance(column.dtype, (pl.List, pl.Array)):
        problems.add(
            name,
            f"are {column.dtype}, not lists",
            len(column),
            offset,
            f"{name}=pl.concat_list(...)",
        )
        return pl.Series(name, [[]] * len(column), dtype=pl.Array(inner, 0))
    width = (
        column.list.len()
        if isinstance(column.dtype, pl.List)
        else pl.Series([column.dtype.size] * min(1, len(column)))
    )
    first = int(width[0] or 0) if len(width) else 0
    odd = (width != first).fill_null(True)
    if bool(odd.any()):
        problems.add_mask(
            name, f"do not have {first} entries", odd, offset, "pad them to one width"
        )
        return pl.Series(name, [[0] * first] * len(column), dtype=pl.Array(inner, first))
    typed = column.cast(pl.Array(inner, first), strict=False)
    values = typed.explode()
    bad = values.is_null() if inner == pl.Int32 else (values.is_null() | ~values.is_finite())
    if first and bool(bad.any()):
        rows = pl.Series(bad.to_numpy().reshape(-1, first).any(1))
        problems.add_mask(name, "hold null, NaN or infinity", rows, offset, "fill or filter them")
    return typed


def _example(column: pl.Series) -> Any:
    text = column.drop_nulls()
    number = text.cast(pl.Float64, strict=False)
    odd = text.filter(number.is_null())
    return odd[0] if len(odd) else (text[0] if len(text) else "")
