"""Original ids and their dense numbers. Ids belong to a log; a fitted module carries its log's
vocabularies."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import polars as pl

from recfb.errors import LogError

SIDES = ("user", "item")
"""Columns of ids."""


@dataclass(frozen=True)
class Vocabulary:
    """Row number = dense id. Column `id` holds the original ids; further columns are features,
    dates and the like."""

    users: pl.DataFrame
    items: pl.DataFrame

    def of(self, side: str) -> pl.DataFrame:
        """Users or items, by the name of their column."""
        return self.users if side == "user" else self.items

    @cached_property
    def digest(self) -> str:
        """SHA-256 of both id columns with their types, in order."""
        state = hashlib.sha256()
        for side in (self.users, self.items):
            ids = side["id"]
            state.update(f"{ids.dtype}:{len(ids)};".encode())
            plain = ids.cast(pl.Binary) if ids.dtype == pl.String else ids
            if ids.dtype == pl.String:
                state.update(b"".join(len(x).to_bytes(4, "little") + x for x in plain))
            else:
                state.update(ids.to_numpy().tobytes())
        return state.hexdigest()


def identity(n: int) -> pl.DataFrame:
    """A vocabulary whose ids are 0..n-1 already."""
    if not isinstance(n, int) or not 0 <= n < 1 << 31:
        raise LogError(
            f"a number of users or items is whole, from 0 to 2,147,483,647; found {n!r}. Leave "
            "n_users or n_items out, and they are counted."
        )
    return pl.DataFrame({"id": pl.int_range(n, eager=True, dtype=pl.Int64)})


def is_identity(known: pl.DataFrame) -> bool:
    """Whether the ids are 0..n-1 in order, so that encoding is a check of the range."""
    ids = known["id"]
    return ids.dtype.is_integer() and bool((ids == pl.int_range(len(ids), eager=True)).all())


def distinct(ids: pl.Series) -> pl.Series:
    """The sorted distinct ids without null: the same vocabulary for any order of the rows."""
    return ids.drop_nulls().unique().sort().alias("id")


def encode(ids: pl.Series, known: pl.DataFrame, side: str) -> pl.Series:
    """Original ids -> dense Int32; an id that is not in the vocabulary becomes null.

    >>> encode(pl.Series(["b", "z"]), pl.DataFrame({"id": ["a", "b"]}), "item").to_list()
    [1, None]
    """
    vocabulary = known["id"]
    if ids.dtype == pl.Null or len(ids) == 0:
        return pl.Series(side, [None] * len(ids), dtype=pl.Int32)
    if ids.dtype.is_integer() and vocabulary.dtype.is_integer():
        if is_identity(known):
            wide = ids.cast(pl.Int64, strict=False)
            inside = wide.is_between(0, len(vocabulary) - 1).fill_null(False)
            return wide.set(~inside, None).cast(pl.Int32).alias(side)
        ids = ids.cast(vocabulary.dtype, strict=False)
    if ids.dtype != vocabulary.dtype:
        raise LogError(
            f"{side} ids are {ids.dtype}, but the vocabulary they must match holds "
            f"{vocabulary.dtype}. "
            f"Cast them: {side}=pl.col({ids.name!r}).cast(pl.{vocabulary.dtype})."
        )
    index = pl.DataFrame(
        {"id": vocabulary, "dense": pl.int_range(len(vocabulary), eager=True, dtype=pl.Int32)}
    )
    return (
        ids.alias("id")
        .to_frame()
        .join(index, on="id", how="left", maintain_order="left")["dense"]
        .alias(side)
    )
