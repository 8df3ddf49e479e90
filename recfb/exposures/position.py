"""Exposure by the position at which an item was shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
import torch
from torch import Tensor

from recfb.contracts import Batch, Exposure
from recfb.errors import ConfigError

if TYPE_CHECKING:
    from recfb.data.log import Log


@dataclass(frozen=True)
class Cells:
    """How often each item was shown and clicked at each position: one entry a (item, position) that
    occurs."""

    item: Tensor  # (C,) int64
    position: Tensor  # (C,) int64, 1-based
    shown: Tensor  # (C,) float64
    clicks: Tensor  # (C,) float64

    @classmethod
    def of(cls, log: Log) -> Cells:
        """The counts of the rows whose reward is known; a reward above 0 is a click.

        >>> from recfb.data import Log
        >>> rows = {"item": [0, 0, 1], "position": [2, 2, 1], "reward": [1, 0, None]}
        >>> cells = Cells.of(Log.of(rows))
        >>> [x.tolist() for x in (cells.item, cells.position, cells.shown, cells.clicks)]
        [[0], [2], [2.0], [1.0]]
        """
        reward = log.tensor("reward")  # (n,)
        known = torch.isfinite(reward)
        item, position = log.tensor("item")[known], log.tensor("position")[known]
        width = int(position.max()) + 1 if len(position) else 1
        key, place = torch.unique(item * width + position, return_inverse=True)  # (C,), (rows,)
        click = (reward[known] > 0).to(torch.float64)
        shown = torch.bincount(place, minlength=len(key)).to(torch.float64)
        clicks = torch.bincount(place, weights=click, minlength=len(key))
        return cls(key // width, key % width, shown, clicks)

    def per_position(self, count: Tensor) -> Tensor:
        """Sums of (C,) by position, from 0: (K + 1,)."""
        return torch.bincount(self.position, weights=count)

    def per_item(self, count: Tensor) -> Tensor:
        """Sums of (C,) by item: (items,)."""
        return torch.bincount(self.item, weights=count)


def em(cells: Cells, sweeps: int) -> tuple[Tensor, Tensor]:
    """Fit P(click | i, k) = e_k gamma_i by expectation maximisation: e (K + 1,), gamma (items,).

    With E = 1 for an examined position and R = 1 for a relevant item, both hold after a click, and

        P(E = 1 | no click) = e (1 - gamma) / (1 - e gamma)
        P(R = 1 | no click) = (1 - e) gamma / (1 - e gamma).

    A sweep sets e_k to the mean of P(E = 1) over the rows at k, and gamma_i to the mean of
    P(R = 1) over the rows of i. All start at 1/2. Clicks fix only the product, so e and gamma mean
    something up to a common factor. What no row has gets 0.

    >>> one = torch.tensor([1])
    >>> cells = Cells(one - 1, one, shown=3.0 * one.double(), clicks=2.0 * one.double())
    >>> e, gamma = em(cells, sweeps=1)  # 2 clicks, and 1 row with P(E) = P(R) = 1/3
    >>> round(float(e[1] * 9), 6), round(float(gamma[0] * 9), 6)
    (7.0, 7.0)
    """
    rows = cells.per_position(cells.shown).clamp(min=1)  # (K + 1,)
    displays = cells.per_item(cells.shown).clamp(min=1)  # (items,)
    e, gamma = torch.full_like(rows, 0.5), torch.full_like(displays, 0.5)
    for _ in range(sweeps):
        at, of = e[cells.position], gamma[cells.item]  # (C,), (C,)
        quiet = (cells.shown - cells.clicks) / (1 - at * of).clamp(min=1e-300)
        e = cells.per_position(cells.clicks + quiet * at * (1 - of)) / rows
        gamma = cells.per_item(cells.clicks + quiet * (1 - at) * of) / displays
    return e, gamma


def slots(cells: Cells) -> Tensor:
    """e_k in proportion to the click rate at k, for items that were put to positions at random:
    (K + 1,).

    >>> item, position = torch.tensor([0, 0]), torch.tensor([1, 2])
    >>> cells = Cells(item, position, torch.tensor([4.0, 4.0]), torch.tensor([2.0, 1.0]))
    >>> slots(cells).tolist()
    [0.0, 0.5, 0.25]
    """
    return cells.per_position(cells.clicks) / cells.per_position(cells.shown).clamp(min=1)


def relative(e: Tensor, rows: Tensor, clicks: Tensor) -> Tensor:
    """Examination over its largest value, with a value in (0, 1] for every position: (K + 1,).

    A position without clicks gets one over its number of rows, one without rows the value of the
    closest position before it (or else after it), and position 0, which stands for pairs that were
    not shown, 1.

    >>> rows = torch.tensor([0.0, 0.0, 4.0, 0.0, 8.0])
    >>> relative(rows / 8, rows, torch.tensor([0.0, 0.0, 2.0, 0.0, 0.0])).tolist()
    [1.0, 1.0, 1.0, 1.0, 0.125]
    """
    most = e[clicks > 0].max()
    value = torch.where(clicks > 0, e / most, 1 / rows.clamp(min=1))
    known = torch.where(rows > 0, torch.arange(len(rows)), -1)  # (K + 1,)
    first = int((rows > 0).int().argmax())
    value = value[known.cummax(0).values.clamp(min=first)]
    value[0] = 1.0
    return value


def groups(cells: Cells) -> list[list[int]]:
    """The positions, in groups that no clicked item links: one group, if all can be compared.

    >>> item, position = torch.tensor([0, 0, 1]), torch.tensor([1, 2, 3])
    >>> some = torch.ones(3)
    >>> groups(Cells(item, position, some, some))
    [[1, 2], [3]]
    """
    from scipy.sparse import coo_array  # heavy, and for this fit only
    from scipy.sparse.csgraph import connected_components

    seen = cells.per_position(cells.clicks) > 0  # (K + 1,)
    liked = cells.per_item(cells.clicks) > 0  # (items,)
    edge = (seen[cells.position] & liked[cells.item]).numpy()
    row = cells.position.numpy()[edge]
    column = len(seen) + cells.item.numpy()[edge]
    size = len(seen) + len(liked)
    graph = coo_array((np.ones(len(row)), (row, column)), shape=(size, size))
    _, label = connected_components(graph, directed=False)
    position = np.unique(row)
    order = np.argsort(label[position], kind="stable")
    _, start = np.unique(label[position][order], return_index=True)
    return sorted(part.tolist() for part in np.split(position[order], start[1:]))


class Position(Exposure):
    """Estimates the examination of each position, relative to the position examined most.

    The position-based model, Craswell et al., "An experimental comparison of click position-bias
    models" (2008): P(click | item i at position k) = e_k gamma_i, the examination of the position
    times the attraction of the item. It is relative: only ratios of e mean anything, and the
    largest is set to 1.

    "em" fits e and gamma to any log by expectation maximisation, as Wang et al., "Position bias
    estimation for unbiased learning to rank in personal search" (2018), with one gamma an item. It
    needs items that were clicked and shown at several positions. "slots" takes e_k from click rates
    alone, CTR_k / CTR_1, which is right where the items of a slate were put in random order.

    It reads rows with a known reward. A position that no such row has takes the value of the
    closest one before it. Batches give the position of each row; 0, for pairs that were not shown,
    is 1. Without a click all positions are alike.

    Args:
        fit: how.
        sweeps: of "em". Clicks rarer than one in a thousand rows need more.

    Raises:
        LogError: on binding a log with rows but without positions.
        ConfigError: on binding, for "em", a log in which no item links some positions to others; in
            use, with a sampler whose batches carry no positions.

    >>> from recfb.data import Log
    >>> rows = {"item": [0, 1, 0, 1], "position": [1, 1, 2, 2], "reward": [1, 1, 0, 1]}
    >>> Position("slots").bind(Log.of(rows)).theta.tolist()
    [1.0, 1.0, 0.5]
    """

    theta: Tensor  # (K + 1,), by position

    def __init__(self, fit: Literal["slots", "em"] = "em", *, sweeps: int = 500) -> None:
        super().__init__()
        self.fit, self.sweeps = fit, sweeps

    def bind(self, log: Log) -> Self:
        super().bind(log)
        if len(log):
            log.require("position")
        table = self._table(Cells.of(log)) if len(log) else torch.ones(2)
        # its length depends on the rows, so it is no weight that a log without rows could hold
        self.register_buffer("theta", table.to(torch.float32), persistent=False)
        return self

    def _table(self, cells: Cells) -> Tensor:
        if not bool(cells.clicks.sum() > 0):
            return torch.ones(2)
        counts = cells.per_position(cells.shown), cells.per_position(cells.clicks)
        if self.fit == "slots":
            return relative(slots(cells), *counts)
        apart = groups(cells)
        if len(apart) > 1:
            shown = ", ".join(str(part) for part in apart[:3]) + (", ..." if apart[3:] else "")
            raise ConfigError(
                f"the positions fall into {len(apart)} groups, {shown}: every item that was "
                "clicked was shown in one group only, so nothing says how much more one group is "
                'examined than another. Use Position("slots") if items were put to positions at '
                "random, or give what you know of each item: exposures.Given(theta)."
            )
        return relative(em(cells, self.sweeps)[0], *counts)

    def forward(self, batch: Batch) -> Tensor:
        if batch.position is None:
            raise ConfigError(
                "exposures.Position reads the positions of rows, but the batch has none. Use "
                "samplers.Logged() or samplers.AllPairs(), and map the column: "
                'Log.read(path, position="...").'
            )
        return self.theta[batch.position.clamp(max=len(self.theta) - 1)]
