"""Who gains and what is shown of whom: disparities between groups of users, exposure of sources."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from recfb.errors import ConfigError
from recfb.metrics.cells import blocks, cells_of, clicked, ratio, truth_of
from recfb.metrics.diversity import divergence

if TYPE_CHECKING:
    import polars as pl

    from recfb.data.log import Log

    LoopMetric = Callable[[Log, pl.DataFrame], Tensor]


def by_group(metric: LoopMetric, log: Log, truth: pl.DataFrame, *, column: str = "group") -> Tensor:
    """A metric of each group's rows alone: (R, T, G); NaN where a group has none.

    Args:
        metric: of (log, truth), such as those of `METRICS`.
        log: of a run.
        truth: of the same run, with the column.
        column: the user's group, whole numbers from 0.
    """
    cells, group = cells_of(log), truth_of(truth, column).to(torch.int64)
    groups = int(group.max()) + 1
    shape = (cells.replications, cells.rounds, groups)
    found = torch.full(shape, torch.nan, dtype=torch.float64)
    for g in range(groups):
        rows = (group == g).numpy()
        part = log.with_frame(log.frame.filter(rows))
        if not len(part):
            continue
        own = cells_of(part)  # a group can lack whole replications, and rounds at either end
        run = torch.searchsorted(cells.names, own.names)
        first = own.start - cells.start
        found[run, first : first + own.rounds, g] = metric(part, truth.filter(rows))
    return found


def gap(values: Tensor) -> Tensor:
    """Largest - smallest of the last axis, NaN left out: (..., G) -> (...,).

    >>> gap(torch.tensor([0.5, 0.25, torch.nan])).item()
    0.25
    """
    return _most(values) - _least(values)


def parity(values: Tensor) -> Tensor:
    """Smallest / largest of the last axis, NaN left out; 1 is parity: (..., G) -> (...,).

    >>> parity(torch.tensor([0.5, 0.25, torch.nan])).item()
    0.5
    """
    return _least(values) / _most(values)


def worst(values: Tensor) -> Tensor:
    """The smallest of the last axis, NaN left out: (..., G) -> (...,).

    >>> worst(torch.tensor([0.5, 0.25, torch.nan])).item()
    0.25
    """
    return _least(values)


def _most(values: Tensor) -> Tensor:
    most = values.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf).amax(-1)
    return most.where(most.isfinite(), torch.nan)


def _least(values: Tensor) -> Tensor:
    return -_most(-values)


def preference_shift(log: Log, truth: pl.DataFrame) -> Tensor:
    """How far the topics that a group has clicked so far are from those of its first clicks: the
    KL divergence, (R, T, G); NaN before a first click.

    Needs `group` and `topic` in the truth. The first clicks are those of the first round in which
    the group clicks. Mansoury, Abdollahpouri, Pechenizkiy, Mobasher and Burke, CIKM 2020.
    """
    cells = cells_of(log)
    group, topic = (truth_of(truth, name).to(torch.int64) for name in ("group", "topic"))
    groups, topics = int(group.max()) + 1, int(topic.max()) + 1
    size = groups * topics
    parts = [b.count(group * topics + topic, clicked(log), size) for b in blocks(cells, size)]
    total = torch.cat(parts, 1).cumsum(1)
    total = total.view(cells.replications, cells.rounds, groups, topics)  # (R, T, G, C)
    begin = (total.sum(3) > 0).to(torch.int64).argmax(1)  # (R, G) the first round with a click
    index = begin[:, None, :, None].expand(-1, 1, -1, topics)
    return divergence(total, total.gather(1, index).expand_as(total))


# ---- sources of items -------------------------------------------------------------------------


def source_share(log: Log, truth: pl.DataFrame, *, source: int = 1, so_far: bool = False) -> Tensor:
    """The share of a source, 1: generated, among what is shown: (R, T). Reads the column `source`
    of the log, else of the truth."""
    cells = cells_of(log)
    mine = (source_of(log, truth) == source).to(torch.float64)
    return cells.mean(mine, torch.ones_like(mine), so_far)


def source_by_position(log: Log, truth: pl.DataFrame, *, source: int = 1) -> Tensor:
    """The share of a source at each position: (R, T, K)."""
    cells, position = cells_of(log), log.tensor("position") - 1
    k, size = int(position.max()) + 1, cells.replications * cells.rounds
    key = cells.cell * k + position
    mine = (source_of(log, truth) == source).to(torch.float64)
    count = torch.bincount(key, minlength=size * k)
    share = torch.bincount(key, weights=mine, minlength=size * k) / count
    return cells.fold(share.view(size, k))


def source_lift(log: Log, truth: pl.DataFrame, catalogue: Tensor) -> Tensor:
    """A source's share of displays over its share of the items that could be shown: (R, T, S). 1
    is fair.

    Args:
        log: of a run.
        truth: of the same run.
        catalogue: the source, or the creator, of every item: (n_items,) int64.

    Raises:
        ConfigError: the catalogue is not that of the log.
    """
    if len(catalogue) != log.n_items:
        raise ConfigError(
            f"catalogue has the source of each of the log's {log.n_items} items, found "
            f"{len(catalogue)}."
        )
    cells, item, one = cells_of(log), log.tensor("item"), torch.ones(len(log))
    sources = int(catalogue.max()) + 1
    member = torch.nn.functional.one_hot(catalogue, sources).to(torch.float64)  # (n_items, S)
    found = []
    for block in blocks(cells, log.n_items):
        shown = block.count(item, one, log.n_items)  # (R, t, n_items)
        there = block.available(log).to(torch.float64)
        share = (shown @ member) / shown.sum(2, keepdim=True)
        found.append(ratio(share, (there @ member) / there.sum(2, keepdim=True)))
    return torch.cat(found, 1)


def source_of(log: Log, truth: pl.DataFrame) -> Tensor:
    """The source of each row's item: (rows,)."""
    return log.tensor("source") if "source" in log.columns else truth_of(truth, "source")


__all__ = [
    "by_group",
    "gap",
    "parity",
    "preference_shift",
    "source_by_position",
    "source_lift",
    "source_of",
    "source_share",
    "worst",
]
