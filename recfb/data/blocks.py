"""A log as acting records, block by block, in parts that the data fixes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl
import torch
from torch import Tensor

from recfb.data.batch import Block, Context, Feedback, Slate
from recfb.errors import LogError
from recfb.random import derive, mix64

if TYPE_CHECKING:
    from recfb.data.door import Problems
    from recfb.data.log import Log

PART = 1 << 18
"""Rows of a part: fixed by the data, never by the number of workers."""


@dataclass(frozen=True)
class Part:
    """Rows `start` to `stop` of a log in memory. Picklable, so that a worker can be given one."""

    name: str
    log: Log

    def load(self, problems: Problems) -> Log:
        """The rows; what is wrong with them is added to `problems`. In memory they are valid."""
        return self.log

    def record(
        self,
        problems: Problems,
        unit: str | None = None,
        by: str | None = None,
        *,
        mu: bool = False,
    ) -> Block:
        """All rows of the part as one Block: slice it for smaller ones."""
        return record(self.load(problems), self.name, unit, by, mu=mu)


def parts_of(log: Log) -> Iterator[Part]:
    """The parts of a log in memory."""
    start = 0
    while start < len(log):
        stop = _end(log, start + PART)
        rows = log.with_frame(log.frame.slice(start, stop - start))
        yield Part(f"{log.name}[{start}:{stop}]", rows)
        start = stop


def _end(log: Log, stop: int) -> int:
    """Where a part ends that would end at row `stop`: not within a slate."""
    if stop >= len(log) or "slate" not in log.columns:
        return min(stop, len(log))
    rest = log.frame["slate"].slice(stop - 1, 1 << 16)
    same = rest.rle_id() == 0  # the rows of the slate that row stop - 1 is of
    return stop - 1 + int(same.sum())


def record(rows: Log, name: str, unit: str | None, by: str | None, *, mu: bool = False) -> Block:
    """All rows of a log as one Block: one row a shown item; with `mu` in `slate.probs`, if
    asked."""

    def optional(column: str) -> Tensor | None:
        return rows.tensor(column) if column in rows.columns else None

    def slot(column: str) -> Tensor | None:
        return rows.tensor(column)[:, None] if column in rows.columns else None  # (n, 1)

    time = optional("time")
    context = Context(
        user=rows.tensor("user"),
        time=0 if time is None else time,
        features=optional("features"),
        available=_available(rows),
        history=optional("history"),
        position=optional("position"),
    )
    slate = Slate(
        rows.tensor("item")[:, None],
        propensity=slot("propensity"),
        p_prefix=slot("p_prefix"),
        p_display=slot("p_display"),
        probs=_whole(rows) if mu else None,
    )
    feedback = Feedback(rows.tensor("reward")[:, None])
    group, labels = _groups(rows, by)
    unit_of = _unit(rows, name, unit)
    own, visit = optional("logger"), optional("slate")
    return Block(context, slate, feedback, unit_of, name, group, labels, own, visit)


def _whole(rows: Log) -> Tensor | None:
    """The column `mu`: (n, n_items)."""
    if "mu" not in rows.columns:
        return None
    lists, width = rows.frame["mu"], rows.n_items
    odd = (lists.list.len() != width) | lists.list.contains(None)
    if odd.fill_null(True).any():
        raise LogError(
            f"mu must say the probability of each of {width} items, in their order, in every row; "
            f"{int(odd.fill_null(True).sum()):,} rows do not. Drop the column, or fill it."
        )
    return lists.explode().cast(pl.Float64).to_torch().view(len(rows), width)


def _groups(rows: Log, by: str | None) -> tuple[Tensor | None, tuple[str, ...]]:
    if by is None:
        return None, ()
    rows.require(by)
    text = rows.frame[by].cast(pl.String).fill_null("null")
    kinds = text.unique().sort()
    codes = text.cast(pl.Enum(kinds)).to_physical().cast(pl.Int64)
    return codes.to_torch(), tuple(kinds)


def unit_column(log: Log, unit: str | None = None) -> str:
    """The column of clusters: as asked, else unit, user or slate; "" for rows. A single user is
    none.

    >>> from recfb.data import Log
    >>> rows = {"item": [0, 1], "reward": [1, 0]}
    >>> unit_column(Log.of({**rows, "user": [7, 8]})), unit_column(Log.of({**rows, "user": [7, 7]}))
    ('user', '')
    """
    if unit is not None:
        return unit if unit in log.columns else ""
    order = ("unit", "user", "slate") if log.n_users > 1 else ("unit", "slate")
    return next((name for name in order if name in log.columns), "")


def _unit(rows: Log, name: str, unit: str | None) -> Tensor:
    """The cluster of each row, else a hash of (part, row)."""
    if unit is not None:
        rows.require(unit)
    column = unit_column(rows, unit)
    if column:
        return rows.tensor(column)
    return mix64(torch.arange(len(rows)) ^ (derive(0, name) >> 1))


def _available(rows: Log) -> Tensor | None:
    if "available" not in rows.columns:
        return None
    lists = rows.frame["available"]
    mask = torch.zeros(len(rows), rows.n_items, dtype=torch.bool)
    count = lists.list.len().cast(pl.Int64).to_torch()
    row = torch.repeat_interleave(torch.arange(len(rows)), count)
    mask[row, lists.explode().drop_nulls().cast(pl.Int64).to_torch()] = True
    return mask
