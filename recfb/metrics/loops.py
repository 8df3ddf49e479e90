"""Metrics of closed loops: pure functions of a run's log and truth, one value a replication and
round.

Every function takes `(log, truth)`, whose rows describe the same shown items in the same order,
and returns (R, T) float64. A value that is not defined is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from recfb.errors import ConfigError
from recfb.random import mix64

if TYPE_CHECKING:
    import polars as pl

    from recfb.data.log import Log

LoopMetric = Callable[["Log", "pl.DataFrame"], Tensor]
"""(log, truth) -> (R, T)."""

BLOCK_CELLS = 1 << 24
"""At most so many counters are held at once."""
EXACT_PAIRS = 1 << 17
SAMPLED_PAIRS = 20_000


def concentration(counts: Tensor) -> Tensor:
    """The Gini coefficient over the last axis, zeros included: (..., n) -> (...,) float64.

        G = 2 sum_r r n_(r) / (n N) - (n + 1) / n,   n_(1) <= n_(2) <= ...,   N = sum n_(r)

    0 when all are equal, 1 - 1/n when one has everything; NaN where N = 0.

    >>> concentration(torch.tensor([[0, 0, 0, 10], [5, 5, 5, 5]])).tolist()
    [0.75, 0.0]
    """
    n = counts.shape[-1]
    ordered = counts.to(torch.float64).sort(-1).values
    rank = torch.arange(1, n + 1, dtype=torch.float64, device=counts.device)
    return 2 * (ordered * rank).sum(-1) / (n * ordered.sum(-1)) - (n + 1) / n


def overlap(first: Tensor, second: Tensor) -> Tensor:
    """Jaccard |A & B| / |A | B| of sets as indicator rows: (..., n) bool -> (...,); NaN for two
    empty sets.

    >>> a = torch.tensor([[1, 1, 0], [0, 0, 0]]).bool()
    >>> overlap(a, torch.tensor([[1, 0, 0], [0, 0, 0]]).bool()).tolist()
    [0.5, nan]
    """
    both = (first & second).sum(-1).to(torch.float64)
    return both / (first | second).sum(-1)


# ---- rows of a run as cells (replication, round) ------------------------------------------------


@dataclass(frozen=True)
class _Cells:
    """Where each row belongs: `cell` = replication * T + round, both from 0."""

    cell: Tensor  # (rows,)
    replications: int
    rounds: int

    def fold(self, values: Tensor) -> Tensor:
        """(R * T,) -> (R, T)."""
        return values.view(self.replications, self.rounds)

    def sum(self, weight: Tensor) -> Tensor:
        """Sums of a per-row number: (R, T) float64."""
        size = self.replications * self.rounds
        total = torch.bincount(self.cell, weights=weight.to(torch.float64), minlength=size)
        return self.fold(total)


def _cells(log: Log) -> _Cells:
    if not len(log):
        raise ConfigError("a metric of a loop needs a log with rows; this one is empty.")
    time = log.tensor("time")
    time = time - time.min()
    rounds = int(time.max()) + 1
    if "replication" in log.columns:
        number = log.tensor("replication")
        names, index = torch.unique(number, return_inverse=True)
        return _Cells(index * rounds + time, len(names), rounds)
    return _Cells(time, 1, rounds)


def _counts(log: Log, weight: Tensor) -> Iterator[Tensor]:
    """Counts of each item, block of rounds by block of rounds: (R, t, n_items) float64."""
    cells, n = _cells(log), log.n_items
    time = cells.cell % cells.rounds
    order = torch.argsort(time, stable=True)
    row = (cells.cell // cells.rounds)[order]
    time, item, weight = time[order], log.tensor("item")[order], weight.to(torch.float64)[order]
    step = max(1, BLOCK_CELLS // (cells.replications * n))
    for first in range(0, cells.rounds, step):
        t = min(step, cells.rounds - first)
        low, high = torch.searchsorted(time, torch.tensor([first, first + t])).tolist()
        here = slice(low, high)
        index = (row[here] * t + time[here] - first) * n + item[here]
        size = cells.replications * t * n
        count = torch.bincount(index, weights=weight[here], minlength=size)
        yield count.view(cells.replications, t, n)


def _truth(truth: pl.DataFrame, column: str) -> Tensor:
    if column not in truth.columns:
        raise ConfigError(
            f"this metric needs {column!r} in the truth of the world, which has {truth.columns}. "
            "Leave the metric out."
        )
    value: Tensor = truth[column].to_torch()
    return value.to(torch.float64)


def _clicked(log: Log) -> Tensor:
    return log.tensor("reward") > 0


def _requests(log: Log, cells: _Cells) -> Tensor:
    """How many slates were shown: (R, T)."""
    return cells.sum(log.tensor("position") == 1)


# ---- the metrics --------------------------------------------------------------------------------


def gini(log: Log, truth: pl.DataFrame) -> Tensor:
    """Concentration of the clicks so far over the items: (R, T); NaN before the first click."""
    before: Tensor | float = 0.0
    found = []
    for count in _counts(log, _clicked(log)):
        total = count.cumsum(1) + before  # (R, t, n_items)
        before = total[:, -1:]
        found.append(concentration(total))
    return torch.cat(found, 1)


def gini_shown(log: Log, truth: pl.DataFrame) -> Tensor:
    """Concentration of the round's displays over the items: (R, T). One slate for all gives
    1 - K / n_items."""
    blocks = _counts(log, torch.ones(len(log)))
    return torch.cat([concentration(count) for count in blocks], 1)


def coverage(log: Log, truth: pl.DataFrame) -> Tensor:
    """The share of the items that were shown to someone in the round: (R, T)."""
    blocks = _counts(log, torch.ones(len(log)))
    return torch.cat([(count > 0).to(torch.float64).mean(2) for count in blocks], 1)


def clicks(log: Log, truth: pl.DataFrame) -> Tensor:
    """Clicks a request, as the platform sees them: (R, T)."""
    cells = _cells(log)
    return cells.sum(_clicked(log)) / _requests(log, cells)


def reward(log: Log, truth: pl.DataFrame) -> Tensor:
    """True reward a request, hidden rewards included: (R, T)."""
    cells = _cells(log)
    return cells.sum(_truth(truth, "reward")) / _requests(log, cells)


def relevance(log: Log, truth: pl.DataFrame) -> Tensor:
    """Mean true relevance of what was shown in the round: (R, T)."""
    cells = _cells(log)
    shown = cells.sum(torch.ones(len(log)))
    return cells.sum(_truth(truth, "relevance")) / shown


def regret(log: Log, truth: pl.DataFrame) -> Tensor:
    """Cumulative pseudo-regret a request: best - value of what was shown, summed over the rounds
    so far: (R, T)."""
    cells = _cells(log)
    first = log.tensor("position") == 1
    lost = _truth(truth, "best") * first - _truth(truth, "value")  # (rows,)
    return (cells.sum(lost) / _requests(log, cells)).cumsum(1)


def switches(log: Log, truth: pl.DataFrame) -> Tensor:
    """Cumulative switches a request, in worlds with a `SwitchingCost`: (R, T)."""
    return _so_far(log, truth, "switch")


def observations(log: Log, truth: pl.DataFrame) -> Tensor:
    """Cumulative outcomes a request has paid for, in `Budgeted` worlds: (R, T)."""
    return _so_far(log, truth, "used")


def mistakes(log: Log, truth: pl.DataFrame) -> Tensor:
    """Cumulative mistakes a request, where decisions are right or wrong: (R, T)."""
    return _so_far(log, truth, "mistake")


def violations(log: Log, truth: pl.DataFrame) -> Tensor:
    """Cumulative rounds with a complaint, in `Audited` worlds: (R, T)."""
    return _so_far(log, truth, "violation")


def _so_far(log: Log, truth: pl.DataFrame, column: str) -> Tensor:
    """Sums over the rounds so far of a number of each request: (R, T)."""
    cells = _cells(log)
    each = _truth(truth, column) * (log.tensor("position") == 1)  # (rows,)
    return (cells.sum(each) / _requests(log, cells)).cumsum(1)


def jaccard(log: Log, truth: pl.DataFrame) -> Tensor:
    """Mean Jaccard overlap of two users' clicked items so far: (R, T).

    Chaney, Stewart and Engelhardt, RecSys 2018. All pairs of users where there are at most 2^17,
    else 20,000 fixed pairs; pairs in which nobody has clicked are left out.
    """
    cells = _cells(log)
    hit = _clicked(log)
    user, item, cell = log.tensor("user")[hit], log.tensor("item")[hit], cells.cell[hit]
    order = torch.argsort(cell, stable=True)
    user, item, cell = user[order], item[order], cell[order]
    ends = torch.arange(cells.replications * cells.rounds + 1)
    bounds = torch.searchsorted(cell, ends).tolist()
    pairs = _pairs(log.n_users)
    values = torch.full((cells.replications * cells.rounds,), torch.nan, dtype=torch.float64)
    owned = torch.zeros(log.n_users, log.n_items, dtype=torch.bool)
    for index in range(len(values)):
        if index % cells.rounds == 0:
            owned.zero_()
        here = slice(bounds[index], bounds[index + 1])
        owned[user[here], item[here]] = True
        values[index] = _mean_overlap(owned, pairs)
    return cells.fold(values)


def _pairs(n_users: int) -> tuple[Tensor, Tensor] | None:
    """Fixed pairs of different users; None where all pairs are few enough."""
    if n_users * (n_users - 1) // 2 <= EXACT_PAIRS:
        return None
    draw = mix64(torch.arange(2 * SAMPLED_PAIRS)) & 0x7FFFFFFFFFFF
    first = draw[:SAMPLED_PAIRS] % n_users
    apart = 1 + draw[SAMPLED_PAIRS:] % (n_users - 1)
    return first, (first + apart) % n_users


def _mean_overlap(owned: Tensor, pairs: tuple[Tensor, Tensor] | None) -> Tensor:
    if pairs is not None:
        return overlap(owned[pairs[0]], owned[pairs[1]]).nanmean()
    x = owned.to(torch.float32)  # (U, n_items): counts below 2^24 are exact
    size = x.sum(1)  # (U,)
    both = x @ x.T  # (U, U)
    ratio = both / (size[:, None] + size - both)
    first, second = torch.triu_indices(len(x), len(x), offset=1)
    return ratio[first, second].to(torch.float64).nanmean()


METRICS: Mapping[str, LoopMetric] = {
    "clicks": clicks,
    "coverage": coverage,
    "gini": gini,
    "gini_shown": gini_shown,
    "jaccard": jaccard,
    "mistakes": mistakes,
    "observations": observations,
    "regret": regret,
    "relevance": relevance,
    "reward": reward,
    "switches": switches,
    "violations": violations,
}
"""What `simulate(metrics=...)` can be asked for, by name."""
