"""Rows of a run's log as cells (replication, round): what the metrics of closed loops share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from recfb.errors import ConfigError

if TYPE_CHECKING:
    import polars as pl

    from recfb.data.log import Log

BLOCK_CELLS = 1 << 24
"""At most so many counters are held at once."""


@dataclass(frozen=True)
class Cells:
    """Where each row belongs: `cell` = run * rounds + round, both from 0."""

    cell: Tensor  # (rows,)
    names: Tensor  # (R,) the number of each replication
    start: int  # the time of round 0
    rounds: int

    @property
    def replications(self) -> int:
        return len(self.names)

    @cached_property
    def run(self) -> Tensor:
        """The place of each row's replication: (rows,)."""
        return self.cell // self.rounds

    @cached_property
    def round(self) -> Tensor:
        """The round of each row, from 0: (rows,)."""
        return self.cell % self.rounds

    def fold(self, values: Tensor) -> Tensor:
        """(R * T, ...) -> (R, T, ...)."""
        return values.view(self.replications, self.rounds, *values.shape[1:])

    def sum(self, weight: Tensor) -> Tensor:
        """Sums of a number of each row: (rows,) -> (R, T) float64."""
        size = self.replications * self.rounds
        total = torch.bincount(self.cell, weights=weight.to(torch.float64), minlength=size)
        return self.fold(total)

    def mean(self, value: Tensor, weight: Tensor, so_far: bool = False) -> Tensor:
        """Weighted means of a number of each row: (rows,), (rows,) -> (R, T)."""
        value = torch.where(weight > 0, value.to(torch.float64), 0.0)
        return ratio(self.sum(value * weight), self.sum(weight), so_far)


def ratio(top: Tensor, bottom: Tensor, so_far: bool = False) -> Tensor:
    """Ratios of sums of each round, or of all rounds so far: (R, T), (R, T) -> (R, T).

    >>> ratio(torch.tensor([[1.0, 3.0]]), torch.tensor([[1.0, 1.0]]), so_far=True).tolist()
    [[1.0, 2.0]]
    """
    return top.cumsum(1) / bottom.cumsum(1) if so_far else top / bottom


def cells_of(log: Log) -> Cells:
    """The cells of a log. Raises ConfigError if it has no rows."""
    if not len(log):
        raise ConfigError("a metric of a loop needs a log with rows; this one is empty.")
    time = log.tensor("time")
    start = int(time.min())
    rounds = int(time.max()) - start + 1
    if "replication" not in log.columns:
        return Cells(time - start, torch.zeros(1, dtype=torch.int64), start, rounds)
    names, index = torch.unique(log.tensor("replication"), return_inverse=True)
    return Cells(index * rounds + time - start, names, start, rounds)


@dataclass(frozen=True)
class Block:
    """Consecutive rounds, few enough that (R, t, size) counters fit."""

    cells: Cells
    rows: Tensor  # of these rounds, in the order of time
    first: int
    t: int

    def place(self, rows: Tensor) -> Tensor:
        """run * t + round within the block."""
        return self.cells.run[rows] * self.t + self.cells.round[rows] - self.first

    def count(self, index: Tensor, weight: Tensor, size: int) -> Tensor:
        """Sums of the weights by index: (rows,), (rows,) -> (R, t, size) float64."""
        key = self.place(self.rows) * size + index[self.rows]
        shape = (self.cells.replications, self.t, size)
        total = torch.zeros(shape, dtype=torch.float64)
        total.view(-1).index_add_(0, key, weight[self.rows].to(torch.float64))
        return total

    def available(self, log: Log) -> Tensor:
        """Which items someone could have been shown: (R, t, n_items) bool; all, if the log does
        not say."""
        shape = (self.cells.replications, self.t, log.n_items)
        if "available" not in log.columns:
            return torch.ones(shape, dtype=torch.bool)
        rows = self.rows[log.tensor("position")[self.rows] == 1]
        mask = torch.zeros(shape[0] * self.t, log.n_items, dtype=torch.bool)
        for part in torch.split(rows, max(1, BLOCK_CELLS // log.n_items)):
            lists = log.frame["available"].gather(part.numpy())
            size, item = lists.list.len().to_torch().to(torch.int64), lists.explode().to_torch()
            mask[self.place(part).repeat_interleave(size), item.to(torch.int64)] = True
        return mask.view(shape)


def blocks(cells: Cells, size: int) -> Iterator[Block]:
    """All rounds of a run, block by block, for counters of this many things."""
    order = torch.argsort(cells.round, stable=True)
    time = cells.round[order]
    step = max(1, BLOCK_CELLS // (cells.replications * size))
    for first in range(0, cells.rounds, step):
        t = min(step, cells.rounds - first)
        low, high = torch.searchsorted(time, torch.tensor([first, first + t])).tolist()
        yield Block(cells, order[low:high], first, t)


def truth_of(truth: pl.DataFrame, column: str) -> Tensor:
    """A number of each row, (rows,), or a vector, (rows, d): float64.

    Raises:
        ConfigError: the world does not tell it.
    """
    if column not in truth.columns:
        raise ConfigError(
            f"this metric needs {column!r} in the truth of the world, which has {truth.columns}. "
            "Leave the metric out."
        )
    value: Tensor = truth[column].to_torch().to(torch.float64)
    return value


def clicked(log: Log) -> Tensor:
    """Whether the platform saw a reward: (rows,) bool."""
    return log.tensor("reward") > 0


def lead(log: Log) -> Tensor:
    """1 for the first row of each slate: (rows,) float64."""
    return (log.tensor("position") == 1).to(torch.float64)


def requests(log: Log, cells: Cells) -> Tensor:
    """How many slates were shown: (R, T)."""
    return cells.sum(lead(log))


def user_share(log: Log, cells: Cells) -> Tensor:
    """1 / the rows of the row's user in its round, so that sums are over users: (rows,)."""
    key = cells.cell * log.n_users + log.tensor("user")
    index, count = torch.unique(key, return_inverse=True, return_counts=True)[1:]
    share: Tensor = 1 / count[index].to(torch.float64)
    return share


def first_of(log: Log, cells: Cells, vector: Tensor) -> Tensor:
    """A user's vector in the first request of the run: (rows, d) -> (R, n_users, d); NaN where
    there is none."""
    key = cells.run * log.n_users + log.tensor("user")
    order = torch.argsort(cells.round, stable=True)
    size = cells.replications * log.n_users
    place = torch.full((size,), len(order))
    place.scatter_reduce_(0, key[order], torch.arange(len(order)), "amin")  # first in time
    there = place < len(order)
    row = order[place.clamp(max=len(order) - 1)]
    found = torch.where(there[:, None], vector[row], torch.nan)
    return found.view(cells.replications, log.n_users, -1)
