"""Compact rows of one part -> a Cell a group: sums by bucket, extremes, counts of odd rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recfb.contracts import Block
from recfb.errors import LogError
from recfb.estimate import Rows
from recfb.evaluation.cell import Cell
from recfb.evaluation.drivers import drivers
from recfb.evaluation.sketch import sketch
from recfb.evaluation.state import Facts, Faults
from recfb.evaluation.tables import MANY
from recfb.evaluation.tail import TOP
from recfb.evaluation.terms import Terms, accumulate
from recfb.random import mix64


@dataclass(frozen=True)
class Grouping:
    """Which group each row belongs to: everything to one, unless said otherwise."""

    rows: Tensor | None = None  # (n,) index into labels
    labels: tuple[str, ...] = ("",)

    @property
    def many(self) -> bool:
        """Whether there are too many groups to describe each; then one has 256 buckets."""
        return len(self.labels) > MANY

    def places(self, n: int) -> list[Tensor | slice]:
        """The rows of every group, in their order."""
        if self.rows is None or len(self.labels) == 1:
            return [slice(None)]
        order = self.rows.argsort(stable=True)
        size = torch.bincount(self.rows, minlength=len(self.labels)).tolist()
        return list(torch.split(order, size))


@dataclass(frozen=True)
class Source:
    """Where rows come from: which rows of which part, and what of them is known beside `Rows`."""

    part: str
    unit: Tensor  # (n,) the cluster of each row
    place: Tensor  # (n,) its number in the part
    item: Tensor | None = None  # (n,) what it shows
    position: Tensor | None = None  # (n,) and where

    @classmethod
    def of(cls, block: Block, place: Tensor) -> Source:
        """Of rows of single items."""
        return cls(block.part, block.unit, place, block.slate.item[:, 0], block.context.position)

    def __getitem__(self, rows: Tensor | slice) -> Source:
        item = None if self.item is None else self.item[rows]
        position = None if self.position is None else self.position[rows]
        return Source(self.part, self.unit[rows], self.place[rows], item, position)

    def first(self, odd: Tensor, kind: str = "row") -> str:
        """The name of the first of some rows (n,) bool; "" where there is none."""
        if not bool(odd.any()):
            return ""
        return f"{kind} {int(self.place[odd.to(torch.int8).argmax()]):,} of part {self.part!r}"


@dataclass(frozen=True)
class Tally:
    """How rows become cells: the same for all parts of a plan."""

    terms: Terms
    facts: Facts
    buckets: int
    seed: int
    views: Sequence[str] = ("",)

    def __call__(self, rows: Rows, source: Source, groups: Grouping) -> dict[str, Cell]:
        """One Cell for every group of these rows."""
        cells = zip(groups.labels, self._cells(rows, source, groups), strict=True)
        return dict(cells)

    def _cells(self, rows: Rows, source: Source, groups: Grouping) -> Iterator[Cell]:
        for mine in groups.places(len(rows)):
            some, where = (rows, source) if isinstance(mine, slice) else (rows[mine], source[mine])
            cell = self._cell(some, where, min(self.buckets, 256) if groups.many else self.buckets)
            yield cell if groups.many else self._described(cell, some, where)

    def _cell(self, rows: Rows, source: Source, buckets: int) -> Cell:
        """What estimates and gates are made of."""
        bucket = mix64(source.unit ^ self.seed) & (buckets - 1)  # (n,)
        low = float(rows.p.nan_to_num(nan=torch.inf).min()) if len(rows) else float("inf")
        lo, up = self.facts.reward_range
        draws = self.facts.draws
        rest = torch.where(rows.p >= 1, 1 - rows.pe, 0.0)  # (P, n)
        return Cell(
            n=len(rows),
            sums=accumulate(self.terms, rows, bucket, buckets),
            top=_largest(rows, self.views),
            certain=rest.sum(1),
            low=low,
            where=source.first(rows.p == low),
            below=0 if draws is None else int((rows.p < 1 / draws).sum()),
            unknown=int(rows.p.isnan().sum()),
            outside=int(((rows.r < lo) | (rows.r > up)).sum()),
        )

    def _described(self, cell: Cell, rows: Rows, source: Source) -> Cell:
        """With what tells how the weights are spread, who carries them, and of clusters."""
        here = source.part, source.place, source.item, source.position
        return cell._replace(
            sketch=sketch(rows.w, rows.r),
            drivers=tuple(drivers(rows, *here)),
            squares=squares(self.terms, rows) if self.facts.unit else None,
        )


def squares(terms: Terms, rows: Rows, chunk: int = 16384) -> Tensor:
    """Products of every two columns, summed row by row: (P, m, m)."""
    total = torch.zeros(terms.policies, terms.size, terms.size, dtype=torch.float64)
    for start in range(0, len(rows), chunk):
        columns = terms.columns(rows[start : start + chunk]).transpose(0, 1)  # (P, m, chunk)
        total += columns @ columns.transpose(1, 2)
    return total


def _largest(rows: Rows, views: Sequence[str]) -> Tensor:
    """The largest weights of every view of the rows, largest first; -inf where there are fewer, and
    where w is NaN: (V, P, T)."""
    w = torch.stack([(getattr(rows, view) if view else rows).w for view in views])  # (V, P, n)
    best = w.nan_to_num(nan=-torch.inf).topk(min(TOP, w.shape[-1]), dim=-1).values
    return torch.nn.functional.pad(best, (0, TOP - best.shape[-1]), value=-torch.inf)


def range_faults(reward: Tensor, facts: Facts, source: Source) -> Faults:
    """Rewards outside the range that the log's owner declared."""
    lo, up = facts.reward_range
    odd = (reward < lo) | (reward > up)
    if not facts.declared or not bool(odd.any()):
        return {}
    what = f"lie outside the declared range ({lo:g}, {up:g}): correct them, or reward_range="
    return {("log", "reward", what): (int(odd.sum()), source.first(odd))}


def check_columns(rows: Rows, unit: Tensor, policies: int) -> None:
    """Refuse rows that were reduced elsewhere and do not have one value for each of n rows.

    Raises:
        LogError: a column of another shape or type.
    """
    n = len(rows.r) if rows.r.dim() else 0
    shapes = {"r": (n,), "p": (n,), "q": (n,)} | dict.fromkeys(("pe", "v"), (policies, n))
    columns = {name: getattr(rows, name) for name in shapes}
    odd = {
        name: f"{column.dtype} {tuple(column.shape)}"
        for name, column in columns.items()
        if column is not None and (column.shape != shapes[name] or column.dtype != torch.float64)
    }
    if unit.shape != (n,) or unit.dtype != torch.int64:
        odd["unit"] = f"{unit.dtype} {tuple(unit.shape)}"
    if odd:
        raise LogError(
            f"rows are float64 columns r, p, q {(n,)} and pe, v {(policies, n)} with a unit int64 "
            f"{(n,)}, found {odd}. Make them so: column.to(torch.float64)."
        )


def value_faults(
    rows: Rows, policies: Iterable[str], source: Source, *, weights: bool = False
) -> Faults:
    """Rows that were reduced elsewhere, with values that are no rewards or no probabilities."""
    bad = {
        ("log", "r", "are NaN or infinite: leave rows without a reward out"): ~rows.r.isfinite(),
        ("log", "p", "are outside (0, 1]; unknown ones are NaN"): (rows.p <= 0) | (rows.p > 1),
    }
    most = 1e300 if weights else 1 + 1e-5
    for name, pe in zip(policies, rows.pe, strict=True):
        what = "are outside [0, 1]: they are the target's probability of the logged item"
        bad["policy", f"pe of {name!r}", what] = ~((pe >= 0) & (pe <= most))
    return {key: (int(odd.sum()), source.first(odd)) for key, odd in bad.items() if odd.any()}
