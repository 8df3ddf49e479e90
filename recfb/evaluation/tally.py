"""Compact rows of one part -> a Cell a group: sums by bucket, extremes, counts of odd rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recfb.estimate import Rows
from recfb.evaluation.state import Cell, Facts, Faults
from recfb.evaluation.tail import TOP
from recfb.evaluation.terms import Terms, accumulate
from recfb.random import mix64

MANY = 16
"""Above this many groups a group gets 256 buckets."""


@dataclass(frozen=True)
class Grouping:
    """Which group each row belongs to: everything to one, unless said otherwise."""

    rows: Tensor | None = None  # (n,) index into labels
    labels: tuple[str, ...] = ("",)

    def code(self, n: int) -> Tensor:
        """(n,) int64"""
        return torch.zeros(n, dtype=torch.int64) if self.rows is None else self.rows

    def count(self, rows: Tensor) -> list[int]:
        """How many of these rows (n,) bool each group has."""
        found = torch.bincount(self.code(len(rows))[rows], minlength=len(self.labels))
        return [int(x) for x in found]


def tally(
    terms: Terms,
    rows: Rows,
    unit: Tensor,
    facts: Facts,
    *,
    buckets: int,
    seed: int,
    groups: Grouping,
    part: str,
    views: Sequence[str] = ("",),
) -> dict[str, Cell]:
    """One Cell for every group of these rows."""
    size, many = min(buckets, 256) if len(groups.labels) > MANY else buckets, len(groups.labels)
    bucket = groups.code(len(rows)) * size + (mix64(unit ^ seed) & (size - 1))  # (n,)
    sums = accumulate(terms, rows, bucket, many * size)
    sums = sums.view(*sums.shape[:2], many, size)  # (m, P, G, H)
    (low, row), top = _lowest(rows, groups), _largest(rows, groups, views)
    below = groups.count(rows.p < (0.0 if facts.draws is None else 1 / facts.draws))
    unknown, (lo, up) = groups.count(rows.p.isnan()), facts.reward_range
    outside = groups.count((rows.r < lo) | (rows.r > up))
    return {
        label: Cell(
            n=int(sums[0, 0, g].sum()),
            sums=sums[:, :, g].contiguous(),
            top=top[g],
            low=low[g],
            where=f"row {row[g]:,} of part {part!r}" if row[g] < len(rows) else "",
            below=below[g],
            unknown=unknown[g],
            outside=outside[g],
        )
        for g, label in enumerate(groups.labels)
    }


def _largest(rows: Rows, groups: Grouping, views: Sequence[str]) -> list[Tensor]:
    """The largest weights of every view of the rows, a tensor (V, P, T) a group."""
    w = torch.stack([(getattr(rows, view) if view else rows).w for view in views])  # (V, P, n)
    if len(groups.labels) == 1:
        return [_best(w)]
    code = groups.code(len(rows))
    return [_best(w[..., code == g]) for g in range(len(groups.labels))]


def _best(w: Tensor) -> Tensor:
    """(V, P, n) -> (V, P, T), largest first; -inf where there are fewer, and where w is NaN."""
    best = w.nan_to_num(nan=-torch.inf).topk(min(TOP, w.shape[-1]), dim=-1).values
    return torch.nn.functional.pad(best, (0, TOP - best.shape[-1]), value=-torch.inf)


def _lowest(rows: Rows, groups: Grouping) -> tuple[list[float], list[int]]:
    """Each group's smallest propensity with its row."""
    code, many, n = groups.code(len(rows)), len(groups.labels), len(rows)
    p = rows.p.nan_to_num(nan=torch.inf)
    low = torch.full((many,), torch.inf, dtype=torch.float64).scatter_reduce_(0, code, p, "amin")
    least = ((p == low[code]) & p.isfinite()).nonzero()[:, 0]
    row = torch.full((many,), n).scatter_reduce_(0, code[least], least, "amin")
    return low.tolist(), row.tolist()


def range_faults(reward: Tensor, facts: Facts, part: str) -> Faults:
    """Rewards outside the range that the log's owner declared."""
    lo, up = facts.reward_range
    odd = (reward < lo) | (reward > up)
    if not facts.declared or not bool(odd.any()):
        return {}
    what = f"lie outside the declared range ({lo:g}, {up:g}): correct them, or reward_range="
    first = f"row {int(odd.to(torch.int8).argmax()):,} of part {part!r}"
    return {("log", "reward", what): (int(odd.sum()), first)}
