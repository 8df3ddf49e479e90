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
        if name in by_source and name not in chosen:
            raise LogError(
                f"column {name!r} was given for {by_source[name]!r}, and nothing is left for "
                f'{name!r} itself. Name its column too: Log.read(path, {name}="...").'
            )
        if name not in chosen:
            raise LogError(_missing(name, name, names))
    for name in keep:
        if name not in names:
            raise LogError(
                f"keep= names the column {name!r}; there is {_brief(names)}.{nearest(name, names)}"
            )
    return chosen


def _missing(name: str, source: str, names: Sequence[str]) -> str:
    example = {"reward": '"clicked") or reward=1 if every row is a click', "item": '"sku")'}.get(
        name, '"...")'
    )
    hint = nearest(source, names)
    return (
        f"log has no column {source!r}; it has {_brief(names)}.{hint} "
        f"Map yours: Log.read(path, {name}={example}"
    )


def _brief(names: Sequence[str]) -> str:
    """The names of a table's columns, which in a file that is no table may be anything."""
    text = str(list(names))
    return text if len(text) <= 1000 else f"{text[:1000]}..."


def pick(frame: pl.LazyFrame, chosen: Mapping[str, Source], keep: Sequence[str]) -> pl.LazyFrame:
    """Select and rename; types are still those of the source. No row is lost: an expression gives
    a value a row, or one for all."""
    columns = []
    for name, source in chosen.items():
        if isinstance(source, str):
            columns.append(pl.col(source).alias(name))
        elif isinstance(source, pl.Expr):
            columns.append(source.alias(name))
        else:
            columns.append(pl.lit(source).alias(name))
    names = dict.fromkeys([*chosen, *keep])
    return frame.with_columns(*columns).select(*names)


def made(frame: pl.LazyFrame) -> pl.DataFrame:
    """What `pick` chose; expressions that do not fit the table are a LogError."""
    try:
        return frame.collect()
    except pl.exceptions.PolarsError as error:
        raise unmade(error) from None


def unmade(error: Exception) -> LogError:
    """A column that cannot be made of a table."""
    first = (str(error).splitlines() or [""])[0]
    return LogError(
        f"the columns cannot be made of this table: {first}. Look at the expressions that were "
        'given: each is one column with a value a row, as in reward=pl.col("stars") > 3.'
    )


def check(frame: pl.DataFrame, problems: Problems, offset: int = 0) -> pl.DataFrame:
    """Cast every canonical column but the ids; count what does not fit."""
    done = [
        _check_column(frame[name], problems, offset) if name in COLUMNS else frame[name]
        for name in frame.columns
    ]
    return pl.DataFrame(done)


def check_slates(frame: pl.DataFrame, problems: Problems, offset: int = 0) -> None:
    """Count rows that have the slate and the position of another row."""
    if not {"slate", "position"} <= set(frame.columns):
        return
    twice = frame.select(pl.struct("slate", "position").is_duplicated()).to_series()
    what = "share their slate and position with another row"
    problems.add_mask("slate", what, twice, offset, "one row a shown item")


def check_items(frame: pl.DataFrame, n_items: int, problems: Problems, offset: int = 0) -> None:
    """Count rows whose lists name items that are not there, or leave out the one that was shown.

    Lists hold dense numbers, 0 to n_items - 1; `item` of the frame is encoded already.
    """
    fix = f"lists hold the items' numbers in log.items, 0 to {n_items - 1}"
    if "history" in frame.columns:
        listed = frame["history"].cast(pl.List(pl.Int32))
        odd = (listed.list.min() < -1) | (listed.list.max() >= n_items)
        what = "name items that are not in the log"
        problems.add_mask("history", what, odd.fill_null(False), offset, fix + ", and -1 pads")
    if "available" in frame.columns:
        listed = frame["available"]
        gaps = (listed.list.len() == 0) | listed.list.contains(None)
        odd = gaps | (listed.list.min() < 0) | (listed.list.max() >= n_items)
        odd = odd.fill_null(False)
        problems.add_mask("available", "are empty, or name no item of the log", odd, offset, fix)
        there = frame.select(pl.col("available").list.contains(pl.col("item"))).to_series()
        lost = ~there.fill_null(True) & ~odd
        what = "leave out the item that was shown"
        problems.add_mask("available", what, lost, offset, "it was available: add it")


def _check_column(column: pl.Series, problems: Problems, offset: int) -> pl.Series:
    name, spec = column.name, COLUMNS[column.name]
    if name in ("user", "item"):
        return _check_ids(column, problems, offset)
    if not spec.nullable and column.null_count():
        problems.add_mask(name, "are null", column.is_null(), offset, "fill or filter them")
    typed = _cast(column, problems, offset)
    if spec.check is not None and len(typed) and typed.dtype == spec.dtype:
        wide = column if column.dtype.is_float() and not typed.dtype.is_nested() else typed
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
    if column.dtype in (pl.Int128, pl.UInt128):
        return _narrow(column, problems, offset)
    return column.cast(pl.Int64) if column.dtype == pl.Null else column


def _narrow(column: pl.Series, problems: Problems, offset: int) -> pl.Series:
    """Ids of 128 bits in 64, which all tables can hold."""
    kinds: tuple[type[pl.DataType], ...] = (pl.Int64, pl.UInt64)
    typed = [column.cast(kind, strict=False) for kind in kinds]
    best = min(typed, key=pl.Series.null_count)
    lost = best.is_null() & column.is_not_null()
    fix = f"make them strings: {column.name}=pl.col(...).cast(pl.String)"
    problems.add_mask(column.name, "do not fit 64 bits together with the others", lost, offset, fix)
    return best


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
    if dtype.is_nested() and column.dtype != pl.Null and not _holds(column.dtype, dtype):
        return _refused(column, dtype, problems, offset)
    try:
        typed = column.cast(dtype, strict=False)
    except pl.exceptions.PolarsError:
        return _refused(column, dtype, problems, offset)
    lost = typed.is_null() & column.is_not_null()
    fractions = column.dtype.is_float() or column.dtype.is_decimal()
    if fractions and typed.dtype.is_integer():
        lost = lost | (typed.cast(pl.Float64) != column.cast(pl.Float64)).fill_null(False)
    problems.add_mask(name, f"do not fit {dtype}", lost, offset, "round, rescale or filter them")
    return typed


def _holds(found: pl.DataType, wanted: Any) -> bool:
    """Whether lists hold what the column is for: whole numbers are not made of others."""
    inner, kind = getattr(found, "inner", None), getattr(wanted, "inner", None)
    if inner is None or kind is None:
        return False
    return bool(inner == pl.Null or inner.is_integer() or (kind.is_float() and inner.is_numeric()))


def _refused(column: pl.Series, dtype: Any, problems: Problems, offset: int) -> pl.Series:
    name = column.name
    what = f"are {column.dtype}, not {dtype}"
    problems.add(name, what, len(column), offset, f"convert them: {name}=pl.col(...).cast(...)")
    return pl.Series(name, [None] * len(column), dtype=dtype)


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
    if not _holds(column.dtype, pl.List(inner)):
        _refused(column, pl.List(inner), problems, offset)
        return pl.Series(name, [[]] * len(column), dtype=pl.Array(inner, 0))
    if isinstance(column.dtype, pl.Array):
        first, odd = column.dtype.size, column.is_null()
    else:
        width = column.list.len()
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
