"""Tables that a pass keeps beside its sums: of items by position, and of periods, positions and
loggers."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from recfb.contracts import Block
from recfb.contracts.evaluating import ItemTable, Strata
from recfb.estimate import Rows

CELLS = 1 << 19
"""The most (group, position, item) cells that a table of items may have; above it there is none."""

PERIODS = 512
"""The most periods that are told apart; the neighbours of a longer log are joined."""

MANY = 16
"""Above this many groups none is described further."""

DAY = 86_400_000_000
"""Microseconds."""

KINDS = ("round", "position", "logger", "day")
"""What strata are."""

_EPOCH = 10**14  # a larger time is no round: microseconds since 1970
_ITEM, _STRATUM = 6, 4  # lines of a table before those of each policy, 3 and 2
_RAREST = 5  # of them, the line of extremes


def of_items(table: Tensor | None) -> ItemTable | None:
    """A table of items by name, from its lines (6 + 3 P, L, K)."""
    if table is None:
        return None
    return ItemTable(*table[:_ITEM], *table[_ITEM:].chunk(3))  # mass, w, wr


def of_strata(table: Tensor | None, span: int) -> Strata | None:
    """Strata by name, from their lines (S, 2 + 4 + 2 P)."""
    if table is None:
        return None
    kind, key = table[:, :2].long().T
    n, gone, r, rr = table[:, 2 : 2 + _STRATUM].T
    w, ww = table[:, 2 + _STRATUM :].T.chunk(2)
    return Strata(kind, key, n, gone, r, rr, w, ww, span)


def grown(table: Tensor, positions: int) -> Tensor:
    """A table (..., L, K) with more positions; what was not there is 0."""
    more = table.new_zeros(*table.shape[:-2], positions, table.shape[-1])
    more[..., : table.shape[-2], :] = table
    return more


def periods(kind: Tensor) -> Tensor:
    """Which strata are periods: rounds or days."""
    return (kind == 0) | (kind == 3)


def add_items(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """Two tables of items as one; none where one part was too large for one."""
    if a is None or b is None:
        return None
    positions = max(a.shape[-2], b.shape[-2])
    a, b = grown(a, positions), grown(b, positions)
    added = a + b
    added[_RAREST] = torch.maximum(a[_RAREST], b[_RAREST])
    return added


def add_strata(
    a: tuple[Tensor | None, int], b: tuple[Tensor | None, int]
) -> tuple[Tensor | None, int]:
    """Two tables of strata as one, in periods that are long enough for both.

    >>> rows = torch.tensor([[0.0, 6, 1], [0, 7, 2]])  # kind, key and a count
    >>> add_strata((rows, 1), (torch.tensor([[0.0, 3, 4]]), 2))
    (tensor([[0., 3., 7.]]), 2)
    """
    (left, one), (right, two) = a, b
    span = max(one, two)
    if left is None or right is None:
        return None, span
    return _joined(torch.cat([_wider(left, one, span), _wider(right, two, span)]), span)


def _wider(rows: Tensor, old: int, span: int) -> Tensor:
    """Numbers of periods of the length `old` as those of the length `span`, a multiple of it."""
    key = torch.where(periods(rows[:, 0]), (rows[:, 1] * old / span).floor(), rows[:, 1])
    return torch.cat([rows[:, :1], key[:, None], rows[:, 2:]], 1)


def _joined(rows: Tensor, span: int) -> tuple[Tensor, int]:
    """Lines of the same (kind, key) added up; periods grow until there are few enough."""
    while True:
        code = (rows[:, 0] + 4 * rows[:, 1]).to(torch.int64)
        known, line = torch.unique(code, return_inverse=True)
        if int(periods(known % 4).sum()) <= PERIODS:
            break
        rows, span = _wider(rows, span, 2 * span), 2 * span
    added = rows.new_zeros(len(known), rows.shape[1] - 2).index_add_(0, line, rows[:, 2:])
    keys = torch.stack([known % 4, known.div(4, rounding_mode="floor")], 1)
    return torch.cat([keys.to(rows.dtype), added], 1), span


class Items:
    """The table of items of a part, group by group, filled block by block.

    Args:
        block: its rows with a known reward.
        lost: those without.
        policies: how many.
        groups: how many.
        n_items: of the catalogue.
    """

    def __init__(self, block: Block, lost: Block, policies: int, groups: int, n_items: int) -> None:
        levels = 1 + max(_top(block), _top(lost))
        levels = 1 if groups * levels * n_items > CELLS else levels
        self.on = groups * levels * n_items <= CELLS
        self.shape = (groups, levels, n_items)
        self.block, self.policies = block, policies
        self.line = self._lines(block)  # (n,)
        size = groups * levels if self.on else 0
        self.table = torch.zeros(_ITEM + 3 * policies, size, n_items, dtype=torch.float64)
        if self.on:
            self._count(lost)

    def _lines(self, block: Block) -> Tensor:
        """(group, position) of each row, as one number."""
        position = block.context.position if self.shape[1] > 1 else None
        return group_of(block) * self.shape[1] + (0 if position is None else position)

    def _count(self, lost: Block) -> None:
        """Rows, rows in which an item could be shown, 1/p, 1/p^2, rows without a reward, and the
        largest 1/p."""
        item, p = self.block.slate.item[:, 0], self.block.slate.propensity
        odds = torch.zeros(len(item), dtype=torch.float64) if p is None else 1 / p[:, 0].double()
        odds = odds.nan_to_num(nan=0.0, posinf=0.0)
        seen, could, inverse, square, gone, rarest = self.table[:_ITEM]
        self._add(seen, self.line, item, torch.ones_like(odds))
        self._add(inverse, self.line, item, odds)
        self._add(square, self.line, item, odds * odds)
        self._add(gone, self._lines(lost), lost.slate.item[:, 0], None)
        rarest.view(-1).scatter_reduce_(0, self.line * self.shape[2] + item, odds, "amax")
        available = self.block.context.available
        if available is None:
            could += torch.bincount(self.line, minlength=len(could))[:, None]
        else:
            for rows in torch.split(torch.arange(len(item)), 1 << 14):
                open_to = available[rows] if len(available) > 1 else available
                shown = open_to.expand(len(rows), -1).to(torch.float64)
                could.index_add_(0, self.line[rows], shown)

    def _add(self, table: Tensor, line: Tensor, item: Tensor, what: Tensor | None) -> None:
        """Add up a column (n,) by (line, item)."""
        what = torch.ones(len(item), dtype=torch.float64) if what is None else what
        table.view(-1).index_add_(0, line * self.shape[2] + item, what)

    def add(self, policy: int, rows: slice, probs: Tensor) -> None:
        """Add a block of target probabilities (B, n_items)."""
        if self.on:
            self.table[_ITEM + policy].index_add_(0, self.line[rows], probs)

    def weigh(self, rows: Rows) -> None:
        """Add the weights of all rows of the part."""
        item = self.block.slate.item[:, 0]
        for policy in range(self.policies if self.on else 0):
            w = rows.w[policy].nan_to_num(nan=0.0)
            first = _ITEM + self.policies + policy
            self._add(self.table[first], self.line, item, w)
            self._add(self.table[first + self.policies], self.line, item, w * rows.r)

    def tables(self) -> list[Tensor | None]:
        """A table (6 + 3 P, L, K) a group."""
        groups = self.shape[0]
        if not self.on:
            return [None] * groups
        whole = self.table.view(-1, *self.shape)
        return [whole[:, g].contiguous() for g in range(groups)]


def _top(block: Block) -> int:
    position = block.context.position
    return 0 if position is None or not len(block) else int(position.max())


def strata(block: Block, lost: Block, rows: Rows, groups: int) -> list[tuple[Tensor | None, int]]:
    """Counts, rewards and weights of a part by period, position and logger: a table a group, with
    how many rounds or days make a period.

    Args:
        block: its rows with a known reward.
        lost: those without.
        rows: as `block`, reduced.
        groups: how many.
    """
    if groups > MANY:
        return [(None, 1)] * groups
    w = rows.w.nan_to_num(nan=0.0)  # (P, n)
    known = torch.stack([torch.ones_like(rows.r), torch.zeros_like(rows.r), rows.r, rows.r**2])
    values = torch.cat([known, w, w * w]).T  # (n, 4 + 2 P)
    empty = values.new_zeros(len(lost), values.shape[1])
    empty[:, 1] = 1.0
    values = torch.cat([values, empty])
    group = torch.cat([group_of(block), group_of(lost)])
    found: list[list[Tensor]] = [[values.new_zeros(0, 2 + values.shape[1])] for _ in range(groups)]
    for kind, key in _keys(block, lost):
        for g in range(groups):
            mine = group == g if groups > 1 else slice(None)
            found[g].append(_summed(kind, key[mine], values[mine]))
    return [_joined(torch.cat(some), 1) for some in found]


def group_of(block: Block) -> Tensor:
    """The group of each row: (B,) int64"""
    return torch.zeros(len(block), dtype=torch.int64) if block.by is None else block.by


def _keys(block: Block, lost: Block) -> Iterator[tuple[int, Tensor]]:
    """What rows are told apart by: index into `KINDS`, and which (n,)."""
    time, late = block.context.time, lost.context.time
    if isinstance(time, Tensor) and isinstance(late, Tensor):
        when = torch.cat([time, late])
        days = bool((when >= _EPOCH).all())
        yield 3 if days else 0, when.div(DAY, rounding_mode="floor") if days else when
    position, gone = block.context.position, lost.context.position
    if position is not None and gone is not None:
        yield 1, torch.cat([position, gone])
    if block.logger is not None and lost.logger is not None:
        yield 2, torch.cat([block.logger, lost.logger])


def _summed(kind: int, key: Tensor, values: Tensor) -> Tensor:
    """Values (n, C) added up by key (n,): lines of kind, key and sums (S, 2 + C)."""
    known, line = torch.unique(key, return_inverse=True)
    added = values.new_zeros(len(known), values.shape[1]).index_add_(0, line, values)
    head = torch.stack([torch.full_like(known, kind), known], 1)
    return torch.cat([head.to(values.dtype), added], 1)
