"""Which rows carry a number: those with the largest weighted rewards."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from recfb.estimate import Rows

KEPT = 100
"""Rows that a pass keeps of each policy."""


class Driver(NamedTuple):
    """A row, by what it adds to the sum of w r."""

    size: float  # abs(w r)
    part: str
    row: int  # of the part
    weight: float
    reward: float
    item: int  # -1 where rows name none
    position: int


def largest(drivers: Iterable[Driver]) -> tuple[Driver, ...]:
    """The rows that weigh most, the same whatever the order of the parts.

    >>> a, b = Driver(1.0, "a", 0, 1.0, 1.0, 0, 0), Driver(2.0, "b", 3, 2.0, 1.0, 0, 0)
    >>> largest([a, b])[0].part
    'b'
    """
    return tuple(heapq.nsmallest(KEPT, drivers, key=lambda d: (-d.size, d.part, d.row)))


def drivers(
    rows: Rows, part: str, place: Tensor, item: Tensor | None, position: Tensor | None
) -> list[tuple[Driver, ...]]:
    """For each policy the rows of a part that carry its number.

    Args:
        rows: of the part.
        part: its name.
        place: (n,) which rows of it.
        item: (n,) what they show.
        position: (n,) where.
    """
    none = torch.full_like(place, -1)
    item, position = (none if x is None else x for x in (item, position))
    found = []
    for w in rows.w:
        size = (w * rows.r).abs().nan_to_num(nan=0.0)
        best = _top(size)
        columns = (size, w, rows.r, item, position, place)
        lists = [column[best].tolist() for column in columns]
        lines = zip(*lists, strict=True)
        found.append(largest(Driver(s, part, i, x, r, a, k) for s, x, r, a, k, i in lines if s > 0))
    return found


def _top(size: Tensor) -> Tensor:
    """The rows of the largest sizes; of equal ones the first: topk alone says not which."""
    if len(size) <= KEPT:
        return torch.arange(len(size))
    least = size.topk(KEPT).values[-1]
    above = (size > least).nonzero()[:, 0]
    equal = (size == least).nonzero()[: KEPT - len(above), 0]
    return torch.cat([above, equal])
