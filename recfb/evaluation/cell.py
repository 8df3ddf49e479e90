"""A cell: what a pass keeps of one group of rows, and how two become one."""

from __future__ import annotations

import hashlib
import json
from itertools import chain
from typing import Any, NamedTuple

import polars as pl
import torch
from torch import Tensor

from recfb.evaluation import tail
from recfb.evaluation.drivers import Driver, largest
from recfb.evaluation.tables import add_items, add_strata


class Cell(NamedTuple):
    """One group of rows of one part, or of many parts after merging."""

    n: int  # rows with a known reward
    sums: Tensor  # (m, P, H) columns of `Terms` by bucket
    top: Tensor  # (V, P, T) the largest weights, largest first, by view of the rows
    certain: Tensor  # (P,) sum of 1 - pe over rows whose propensity is 1
    low: float = float("inf")  # the smallest propensity
    where: str = ""  # and its row
    below: int = 0  # rows with a propensity below 1 / draws
    missing: int = 0  # rows without a reward, which are not in n
    unknown: int = 0  # rows of n without a propensity
    outside: int = 0  # rows of n whose reward lies outside the reward range
    beyond: int | None = None  # rows of n with a predicted reward outside it; None: not known
    items: Tensor | None = None  # (6 + 3 P, L, K) `tables.of_items`
    strata: Tensor | None = None  # (S, 6 + 2 P) `tables.of_strata`
    span: int = 1  # days, or rounds, in a period
    sketch: Tensor | None = None  # (P, 3, B) `sketch.sketch`
    squares: Tensor | None = None  # (P, m, m) products of the columns row by row, for clusters
    drivers: tuple[tuple[Driver, ...], ...] = ()  # a policy: the rows that carry its number
    seq: Tensor | None = None  # (2, P, k) statistics of a confidence sequence

    @property
    def hi(self) -> Tensor:
        """(V, P) the largest weight."""
        return self.top[..., 0]


def narrow(sums: Tensor, size: int) -> Tensor:
    """Sums of H buckets as sums of fewer: bucket h becomes h mod size. (m, P, H) -> (m, P, size)"""
    if sums.shape[-1] == size:
        return sums
    return sums.reshape(*sums.shape[:-1], -1, size).sum(-2)


def _both(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return None if a is None or b is None else a + b


def merge(a: Cell, b: Cell) -> Cell:
    """Two groups of rows as one: sums add, extremes compete."""
    size = min(a.sums.shape[-1], b.sums.shape[-1])
    low, where = min((a.low, a.where), (b.low, b.where))
    strata, span = add_strata((a.strata, a.span), (b.strata, b.span))
    return Cell(
        n=a.n + b.n,
        sums=narrow(a.sums, size) + narrow(b.sums, size),
        top=tail.merge(a.top, b.top),
        certain=a.certain + b.certain,
        low=low,
        where=where,
        below=a.below + b.below,
        missing=a.missing + b.missing,
        unknown=a.unknown + b.unknown,
        outside=a.outside + b.outside,
        beyond=None if a.beyond is None or b.beyond is None else a.beyond + b.beyond,
        items=add_items(a.items, b.items),
        strata=strata,
        span=span,
        sketch=_both(a.sketch, b.sketch),
        squares=_both(a.squares, b.squares),
        drivers=tuple(map(largest, map(chain, a.drivers, b.drivers))),
        seq=_both(a.seq, b.seq),
    )


_TENSORS = ("sums", "top", "certain", "items", "strata", "sketch", "squares", "seq")
SCHEMA: dict[str, Any] = {
    "part": pl.String,
    "group": pl.String,
    **dict.fromkeys(("n", "below", "missing", "unknown", "outside", "beyond", "span"), pl.Int64),
    "low": pl.Float64,
    "where": pl.String,
    "drivers": pl.String,
    **{name: pl.List(pl.Float64) for name in _TENSORS},
    **{f"{name}_shape": pl.List(pl.Int64) for name in _TENSORS},
}


def digest(frame: pl.DataFrame, text: str) -> str:
    """A name for the content of a state: any other content has another."""
    hashed = hashlib.blake2b(text.encode(), digest_size=16)
    for column in frame.iter_columns():
        whole = column.explode() if column.dtype == pl.List else column
        ends = column.list.len().to_list() if column.dtype == pl.List else []
        numbers = whole.cast(pl.Float64).to_numpy() if whole.dtype.is_numeric() else None
        hashed.update(repr((column.name, ends)).encode())
        hashed.update(repr(whole.to_list()).encode() if numbers is None else numbers.tobytes())
    return hashed.hexdigest()


def flat(cell: Cell) -> dict[str, Any]:
    """A cell as a row of a table."""
    row: dict[str, Any] = {}
    for name, value in cell._asdict().items():
        if name in _TENSORS:
            row[name] = None if value is None else value.flatten().tolist()
            row[f"{name}_shape"] = None if value is None else list(value.shape)
        else:
            row[name] = json.dumps(value) if name == "drivers" else value
    return row


def cell_of(row: dict[str, Any]) -> Cell:
    """What `flat` made a row of."""
    for name in _TENSORS:
        shape = row.pop(f"{name}_shape")
        if shape is not None:
            row[name] = torch.tensor(row[name], dtype=torch.float64).view(shape)
    rows = json.loads(row.pop("drivers"))
    return Cell(**row, drivers=tuple(tuple(Driver(*one) for one in mine) for mine in rows))
