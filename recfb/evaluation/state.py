"""What a pass over a log leaves: sums by hash bucket of the unit, part by part. A keyed union."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Any, Literal, NamedTuple

import polars as pl
import torch
from torch import Tensor

from recfb.data.product import atomic_folder, verify
from recfb.errors import ConfigError, LogError, RecfbError, SupportError
from recfb.evaluation import tail

Faults = dict[tuple[str, str, str], tuple[int, str]]
"""("policy" or "log", who, what is wrong and what to type) -> rows, the first of them."""


class Cell(NamedTuple):
    """One group of rows of one part, or of many parts after merging."""

    n: int  # rows with a known reward
    sums: Tensor  # (m, P, H) columns of `Terms` by bucket
    top: Tensor  # (V, P, T) the largest weights, largest first, by view of the rows
    low: float = float("inf")  # the smallest propensity
    where: str = ""  # and its row
    below: int = 0  # rows with a propensity below 1 / draws
    missing: int = 0  # rows without a reward, which are not in n
    unknown: int = 0  # rows of n without a propensity
    outside: int = 0  # rows of n whose reward lies outside the reward range
    mass: Tensor | None = None  # (P, L, K) target probability by (position, item)
    seen: Tensor | None = None  # (L, K) logged rows by (position, item)
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


def pad(table: Tensor, positions: int) -> Tensor:
    """A table (..., L, K) with more positions; what was not there is 0."""
    grown = table.new_zeros(*table.shape[:-2], positions, table.shape[-1])
    grown[..., : table.shape[-2], :] = table
    return grown


def _tables(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return None
    positions = max(a.shape[-2], b.shape[-2])
    return pad(a, positions) + pad(b, positions)


def merge(a: Cell, b: Cell) -> Cell:
    """Two groups of rows as one: sums add, extremes compete."""
    size = min(a.sums.shape[-1], b.sums.shape[-1])
    low, where = min((a.low, a.where), (b.low, b.where))
    return Cell(
        n=a.n + b.n,
        sums=narrow(a.sums, size) + narrow(b.sums, size),
        top=tail.merge(a.top, b.top),
        low=low,
        where=where,
        below=a.below + b.below,
        missing=a.missing + b.missing,
        unknown=a.unknown + b.unknown,
        outside=a.outside + b.outside,
        mass=_tables(a.mass, b.mass),
        seen=_tables(a.seen, b.seen),
        seq=None if a.seq is None or b.seq is None else a.seq + b.seq,
    )


def merge_faults(*many: Mapping[tuple[str, str, str], tuple[int, str]]) -> Faults:
    """Counts add; the first row is the first of the first."""
    total: Faults = {}
    for faults in many:
        for key, (count, first) in faults.items():
            old = total.get(key)
            total[key] = (
                (count, first) if old is None else (old[0] + count, min(old[1], first, key=order))
            )
    return total


def order(name: str) -> list[str | int]:
    """A sorting key that reads numbers as numbers: part 9 comes before part 10.

    >>> sorted(["log[10:20]", "log[9:10]"], key=order)
    ['log[9:10]', 'log[10:20]']
    """
    return [int(x) if k % 2 else x for k, x in enumerate(re.split(r"(\d+)", name))]


@dataclass(frozen=True)
class Facts:
    """What a report must know of the log and of the plan; equal in all states of one evaluation."""

    plan: str
    reward_range: tuple[float, float] = (0.0, 1.0)
    declared: bool = False
    source: Literal["exact", "simulated", "estimated"] | None = None
    draws: int | None = None
    floor: float | None = None
    model: Literal["none", "cross-fitted", "other log", "same log", "unknown"] = "none"
    described: str = ""
    by: str | None = None
    unit: str = ""  # the column of clusters; "": rows
    loggers: int = 1  # strata of logging policies
    slots: int = 0  # of the longest slate, where slates are evaluated; else 0


@dataclass(frozen=True)
class State:
    """{part: {group: Cell}}. `+` is a union: the same bits in any order, a part twice is refused.

    Made by `Evaluation.scan`, in one process or in many; picklable; `save` and `load` keep it.
    """

    facts: Facts
    cells: Mapping[str, Mapping[str, Cell]] = field(default_factory=dict)
    faults: Mapping[tuple[str, str, str], tuple[int, str]] = field(default_factory=dict)
    folded: frozenset[str] = frozenset()  # parts that `compact` has added into another

    @property
    def parts(self) -> frozenset[str]:
        """The names of all parts that were counted."""
        return self.folded | frozenset(self.cells)

    def __add__(self, other: State) -> State:
        if self.facts != other.facts:
            raise ConfigError(
                f"these states are of different evaluations: {self.facts} and {other.facts}. "
                "Scan all parts with one plan: plan = plan.fit(log); plan.scan(log, part)."
            )
        twice = sorted(self.parts & other.parts, key=order)
        if twice:
            raise RecfbError(
                f"{len(twice)} parts are in both states, the first is {twice[0]!r}: their rows "
                "would count twice. Add each part once."
            )
        return State(
            self.facts,
            {**self.cells, **other.cells},
            merge_faults(self.faults, other.faults),
            self.folded | other.folded,
        )

    def groups(self) -> dict[str, Cell]:
        """All parts added up, group by group, in the order of their names."""
        parts = [self.cells[name] for name in sorted(self.cells, key=order)]
        labels = sorted({label for part in parts for label in part}, key=order)
        return {
            label: reduce(merge, (part[label] for part in parts if label in part))
            for label in labels
        }

    def compact(self) -> State:
        """The same counts in the room of one part; what was counted is still known by name."""
        if not self.cells:
            return self
        first = min(self.cells, key=order)
        return replace(self, cells={first: self.groups()}, folded=self.parts - {first})

    def raise_any(self) -> None:
        """One error with every row count that makes the numbers meaningless."""
        if not self.faults:
            return
        lines = [
            f"  {who}: {count:,} rows {what} (first: {first})."
            for (_, who, what), (count, first) in self.faults.items()
        ]
        policy = any(kind == "policy" for kind, _, _ in self.faults)
        error: type[RecfbError] = SupportError if policy else LogError
        raise error("the log cannot be evaluated:\n" + "\n".join(lines))

    def save(self, folder: str | Path) -> Path:
        """Write the state as a folder: cells.parquet, state.json and checksums."""
        folder = Path(folder)
        rows = [
            {"part": part, "group": label, **_flat(cell)}
            for part, groups in self.cells.items()
            for label, cell in groups.items()
        ]
        with atomic_folder(folder) as part:
            pl.DataFrame(rows, schema=_SCHEMA).write_parquet(part / "cells.parquet")
            plain = {
                "facts": asdict(self.facts),
                "faults": [[*key, *value] for key, value in self.faults.items()],
                "folded": sorted(self.folded),
                "empty": [name for name, groups in self.cells.items() if not groups],
            }
            (part / "state.json").write_text(json.dumps(plain, indent=1))
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> State:
        """Read what `save` wrote; a damaged file is a `PrepareError`."""
        folder = Path(folder)
        verify(folder)
        plain = json.loads((folder / "state.json").read_text())
        cells: dict[str, dict[str, Cell]] = {name: {} for name in plain["empty"]}
        for row in pl.read_parquet(folder / "cells.parquet").iter_rows(named=True):
            groups = cells.setdefault(row.pop("part"), {})
            label = row.pop("group")
            groups[label] = _cell(row)
        facts = plain["facts"]
        facts["reward_range"] = tuple(facts["reward_range"])
        faults = {(kind, who, what): (n, first) for kind, who, what, n, first in plain["faults"]}
        return cls(Facts(**facts), cells, faults, frozenset(plain["folded"]))


def total(states: Iterable[State], facts: Facts, *, keep: int = 64) -> State:
    """The union of many states, in the room of a few: every `keep` parts are added up."""
    whole = State(facts)
    for state in states:
        whole = whole + state
        if len(whole.cells) > keep:
            whole = whole.compact()
    return whole


_TENSORS = ("sums", "top", "mass", "seen", "seq")
_SCHEMA: dict[str, Any] = {
    "part": pl.String,
    "group": pl.String,
    "n": pl.Int64,
    "low": pl.Float64,
    "where": pl.String,
    "below": pl.Int64,
    "missing": pl.Int64,
    "unknown": pl.Int64,
    "outside": pl.Int64,
    **{name: pl.List(pl.Float64) for name in _TENSORS},
    **{f"{name}_shape": pl.List(pl.Int64) for name in _TENSORS},
}


def _flat(cell: Cell) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in cell._asdict().items():
        if name in _TENSORS:
            flat[name] = None if value is None else value.flatten().tolist()
            flat[f"{name}_shape"] = None if value is None else list(value.shape)
        else:
            flat[name] = value
    return flat


def _cell(row: dict[str, Any]) -> Cell:
    for name in _TENSORS:
        shape = row.pop(f"{name}_shape")
        if shape is not None:
            row[name] = torch.tensor(row[name], dtype=torch.float64).view(shape)
    return Cell(**row)
