"""What a pass over a log leaves: sums by hash bucket of the unit, part by part. A keyed union."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Literal

import polars as pl

from recfb.data.product import atomic_file
from recfb.errors import ConfigError, LogError, PrepareError, RecfbError, SupportError
from recfb.evaluation.cell import SCHEMA, Cell, cell_of, digest, flat, merge

FORMAT = 1
Faults = dict[tuple[str, str, str], tuple[int, str]]
"""("policy" or "log", who, what is wrong and what to type) -> rows, the first of them."""


def merge_faults(*many: Mapping[tuple[str, str, str], tuple[int, str]]) -> Faults:
    """Counts add; the first row is the first row of the first part."""
    total: Faults = {}
    for faults in many:
        for key, (count, first) in faults.items():
            old = total.get(key)
            total[key] = (
                (count, first) if old is None else (old[0] + count, min(old[1], first, key=_place))
            )
    return total


def _place(row: str) -> tuple[list[str | int], list[str | int]]:
    """What sorts "row 3 of part 'x'": its part, then its number."""
    number, _, part = row.partition(" of part ")
    return order(part), order(number)


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

    def save(self, path: str | Path) -> Path:
        """Write the state as one Parquet file: a row a cell, and what all share as its metadata."""
        path = Path(path)
        if path.suffix != ".parquet":
            raise ConfigError(
                f"a state is written as one .parquet file, found {path.name!r}. "
                f"Try {path.with_suffix('.parquet').name!r}."
            )
        rows = [
            {"part": part, "group": label, **flat(cell)}
            for part, groups in self.cells.items()
            for label, cell in groups.items()
        ]
        frame = pl.DataFrame(rows, schema=SCHEMA)
        plain = {
            "format": FORMAT,
            "facts": asdict(self.facts),
            "faults": [[*key, *value] for key, value in self.faults.items()],
            "folded": sorted(self.folded),
            "empty": [name for name, groups in self.cells.items() if not groups],
        }
        text = json.dumps(plain)
        with atomic_file(path) as part:
            frame.write_parquet(
                part, metadata={"recfb.state": text, "recfb.digest": digest(frame, text)}
            )
        return path

    @classmethod
    def load(cls, path: str | Path) -> State:
        """Read what `save` wrote.

        Raises:
            PrepareError: a file that is no state, or is damaged.
        """
        path = Path(path)
        try:
            frame, metadata = pl.read_parquet(path), pl.read_parquet_metadata(path)
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
            raise PrepareError(f"{path} cannot be read as a state: {error}") from error
        text = metadata.get("recfb.state")
        if text is None:
            raise PrepareError(
                f"{path} is no state of an evaluation: report.state.save({path.name!r}) writes one."
            )
        if metadata.get("recfb.digest") != digest(frame, text):
            raise PrepareError(f"{path} is damaged: its content is not what was saved. Scan again.")
        plain = json.loads(text)
        if plain.get("format") != FORMAT:
            raise PrepareError(
                f"{path} has format {plain.get('format')!r}; this version of recfb reads format "
                f"{FORMAT}. Scan the rows again."
            )
        cells: dict[str, dict[str, Cell]] = {name: {} for name in plain["empty"]}
        for row in frame.iter_rows(named=True):
            groups = cells.setdefault(row.pop("part"), {})
            label = row.pop("group")
            groups[label] = cell_of(row)
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
