"""Tables on their way into a log: frames, vocabularies, tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl
from torch import Tensor

from recfb.data import door
from recfb.data.columns import COLUMNS, Source
from recfb.data.vocabulary import Vocabulary, distinct, encode, identity
from recfb.errors import LogError, nearest


def to_frame(data: Any) -> pl.DataFrame:
    """Any table as a polars frame; values are not touched."""
    if isinstance(data, pl.DataFrame):
        return data
    if isinstance(data, pl.LazyFrame):
        try:
            return data.collect()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise LogError(f"the lazy frame cannot be collected: {error}") from None
    if isinstance(data, dict):
        data = {
            key: value.numpy(force=True) if isinstance(value, Tensor) else value
            for key, value in data.items()
        }
    elif not hasattr(data, "__arrow_c_stream__"):
        raise LogError(
            "a log is made of a polars or pandas frame, a dict of columns or anything with "
            "__arrow_c_stream__; "
            f"found {type(data).__name__}. For files: Log.read(path, ...)."
        )
    try:
        return pl.DataFrame(data, strict=False)
    except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError) as error:
        raise LogError(f"the data is no table of equal columns: {error}") from None


def checked_names(columns: Mapping[str, Any]) -> Mapping[str, Source]:
    """Refuse a keyword that is no canonical column."""
    for name in columns:
        if name not in COLUMNS:
            raise LogError(
                f"{name!r} is no canonical column; there are "
                f"{list(COLUMNS)}.{nearest(name, COLUMNS)}"
            )
    return columns


def vocabulary_of(
    frame: pl.DataFrame, like: Any, n_users: int | None, n_items: int | None
) -> Vocabulary:
    """The vocabularies a frame is to be encoded with."""
    if like is not None:
        known = getattr(like, "vocabulary", None)
        if not isinstance(known, Vocabulary):
            raise LogError(
                f"like= takes a log or a fitted module; {type(like).__name__} has no vocabulary. "
                "Fit it first."
            )
        return known
    if n_users is not None:
        users = identity(n_users)
    else:
        users = distinct(frame["user"]).to_frame() if "user" in frame.columns else identity(1)
    items = identity(n_items) if n_items is not None else distinct(frame["item"]).to_frame()
    return Vocabulary(users, items)


def encode_ids(
    frame: pl.DataFrame, vocabulary: Vocabulary, problems: door.Problems | None, offset: int
) -> pl.DataFrame:
    """Original ids -> dense ids; unknown ones are a problem, or null where there is no list of
    problems."""
    for side, known in (("user", vocabulary.users), ("item", vocabulary.items)):
        if side not in frame.columns:
            continue
        dense = encode(frame[side], known, side)
        if problems is not None:
            unknown = dense.is_null() & frame[side].is_not_null()
            fix = "filter them, or log.recode(model.vocabulary) leaves them out"
            problems.add_mask(side, "have an id outside the vocabulary", unknown, offset, fix)
        frame = frame.with_columns(dense)
    if problems is not None:
        door.check_items(frame, vocabulary.items.height, problems, offset)
    return frame


def check_numbers(frame: pl.DataFrame, before: pl.DataFrame, after: pl.DataFrame) -> None:
    """Refuse new numbers for the items of a log whose lists hold the old ones."""
    lists = [name for name in ("history", "available", "mu") if name in frame.columns]
    if lists and not before["id"].equals(after["id"]):
        raise LogError(
            f"{lists} hold the numbers of this log's items, and the other vocabulary has other "
            "items. Make both logs with one vocabulary, Log.of(frame, like=log), or without these "
            "columns."
        )


def grow(known: pl.DataFrame, more: pl.DataFrame) -> pl.DataFrame:
    """The known ids in their order, then the new ones."""
    if known["id"].dtype != more["id"].dtype:
        raise LogError(
            f"ids are {known['id'].dtype} in one log and {more['id'].dtype} in the other. Cast one "
            "of them."
        )
    return pl.concat(
        [known, more.join(known.select("id"), on="id", how="anti", maintain_order="left")],
        how="diagonal",
    )


def attach(known: pl.DataFrame, frame: Any, id: str) -> pl.DataFrame:
    """Join columns to a vocabulary by original id; every known id keeps its place."""
    more = to_frame(frame)
    if id not in more.columns:
        raise LogError(
            f"the frame has no column {id!r}; it has {more.columns}. Name the id column: id=..."
        )
    more = more.rename({id: "id"})
    if more["id"].is_duplicated().any():
        raise LogError(
            f"the column {id!r} names {int(more['id'].is_duplicated().sum())} rows twice; one row "
            "an id."
        )
    if more["id"].dtype != known["id"].dtype:
        more = more.with_columns(pl.col("id").cast(known["id"].dtype, strict=False))
    return known.join(more, on="id", how="left", maintain_order="left")


def series_tensor(column: pl.Series) -> Tensor:
    """A polars column as a tensor; integers become int64, null becomes NaN or, in integers, -1."""
    if column.dtype.is_integer():
        return column.cast(pl.Int64).fill_null(-1).rechunk().to_torch()
    if column.dtype.is_float():
        return column.fill_null(float("nan")).rechunk().to_torch()
    if isinstance(column.dtype, pl.Array) and column.dtype.inner.is_integer():
        return column.cast(pl.Array(pl.Int64, column.dtype.size)).rechunk().to_torch()
    return column.rechunk().to_torch()
