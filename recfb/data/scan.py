"""Logs whose rows stay in their Parquet files, and are streamed part by part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import polars as pl
import torch

from recfb.data import door, tables
from recfb.data.batch import Block
from recfb.data.blocks import PART, record
from recfb.data.files import (
    PARQUET,
    Reading,
    check_written,
    collect,
    files_of,
    fingerprint,
    is_written,
    open_columns,
    read,
    same_columns,
    same_types,
    sources,
    suffix,
    written_shape,
)
from recfb.data.log import Log, Meta
from recfb.data.pairs import Pairs
from recfb.data.product import verify
from recfb.data.vocabulary import Vocabulary, distinct, identity
from recfb.errors import LogError


def scan(path: str | Path, how: Reading) -> Log:
    """The rows stay in their files; text has no row ranges to scan, so it is read."""
    if is_written(path):
        if how.like is not None:  # other numbers for its ids
            return read(path, how)
        verify(path)
        shape = written_shape(Path(path))
        check_written(shape, replace(how, keep=()), Path(path))
        files = tuple(sorted(Path(path).glob("part-*.parquet")))
        inner = Reading({}, like=shape, meta=how.meta or shape.meta)
        log = ScannedLog(files, inner, encoded=True)
        log.require(*how.keep)
        return log
    files = tuple(files_of(path))
    if any(suffix(file) not in PARQUET for file in files):
        return read(path, how)
    return ScannedLog(files, how)


@dataclass(frozen=True)
class ScannedPart:
    """Rows `start` to `start + PART` of a file. Picklable: a worker reads them itself."""

    name: str
    file: Path
    start: int
    offset: int
    how: Reading
    vocabulary: Vocabulary
    encoded: bool = False

    def load(self, problems: door.Problems) -> Log:
        """Read, check and encode the rows; what is wrong with them is added to `problems`."""
        lazy = open_columns(self.file).slice(self.start, PART)
        if self.encoded:
            return Log(collect(lazy, self.file), self.vocabulary, self.how.meta, self.name)
        chosen = sources(self.file, lazy.collect_schema().names(), self.how)
        frame = collect(door.pick(lazy, chosen, self.how.keep), self.file)
        frame = door.check(frame, problems, self.offset)
        door.check_slates(frame, problems, self.offset)
        frame = tables.encode_ids(frame, self.vocabulary, problems, self.offset)
        return Log(self._stand_in(frame), self.vocabulary, self.how.meta, self.name)

    def _stand_in(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Ids and positions that were refused become the first ones, which any table has room for:
        the pass goes on, and rows keep their numbers. They are among the problems already."""
        if not (self.vocabulary.users.height and self.vocabulary.items.height):
            return frame.clear()
        first = {"user": 0, "item": 0, "position": 1}
        return frame.with_columns(
            pl.when(pl.col(name) >= least).then(pl.col(name)).otherwise(least).alias(name)
            for name, least in first.items()
            if name in frame.columns
        )

    def record(
        self,
        problems: door.Problems,
        unit: str | None = None,
        by: str | None = None,
        *,
        mu: bool = False,
    ) -> Block:
        """All rows of the part as one Block."""
        return record(self.load(problems), self.name, unit, by, mu=mu)


def _names(file: Path) -> list[str]:
    return open_columns(file).collect_schema().names()


@dataclass
class _Rows:
    file: Path
    count: int = field(init=False)

    def __post_init__(self) -> None:
        self.count = int(collect(open_columns(self.file).select(pl.len()), self.file).item())


class ScannedLog(Log):
    """A log whose rows stay in Parquet files. `frame` loads them; parts and blocks stream them."""

    def __init__(self, files: Sequence[Path], how: Reading, *, encoded: bool = False) -> None:
        self._files = [_Rows(file) for file in files]
        self._how, self._encoded = how, encoded
        if not encoded:
            chosen = [sources(file, _names(file), how) for file in files]
            self._chosen = chosen[0]
            for file, own in zip(files, chosen, strict=True):
                same_columns(self._chosen, own, file)
        self.vocabulary = self._first_pass()
        self.meta = how.meta or Meta()
        self._name = "+".join(fingerprint(file) for file in files)

    def _first_pass(self) -> Vocabulary:
        how = self._how
        if how.like is not None:
            return tables.vocabulary_of(pl.DataFrame(), how.like, None, None)
        sides = {"user": how.n_users, "item": how.n_items}
        found: dict[str, pl.DataFrame] = {}
        for side, known in sides.items():
            if known is not None:
                found[side] = identity(known)
            elif side not in self._chosen:
                found[side] = identity(1)
            else:
                found[side] = self._distinct(side)
        return Vocabulary(found["user"], found["item"])

    def _distinct(self, side: str) -> pl.DataFrame:
        problems, kinds = door.Problems(), []
        for rows in self._files:
            lazy = door.pick(open_columns(rows.file), {side: self._chosen[side]}, ()).unique()
            kinds.append(door.check(collect(lazy, rows.file), problems)[side])
        types = {str(ids.dtype) for ids in kinds}
        if len(types) > 1:
            raise LogError(
                f"{side} ids are {sorted(types)} in different files. Make them one type."
            )
        return distinct(pl.concat(kinds)).to_frame()

    def parts(self) -> Iterator[ScannedPart]:
        offset, how = 0, replace(self._how, like=None)  # parts travel to workers without it
        for rows in self._files:
            name = fingerprint(rows.file)
            for start in range(0, rows.count, PART):
                label = f"{name}[{start}:{min(rows.count, start + PART)}]"
                yield ScannedPart(
                    label,
                    rows.file,
                    start,
                    offset + start,
                    how,
                    self.vocabulary,
                    self._encoded,
                )
            offset += rows.count

    @cached_property
    def frame(self) -> pl.DataFrame:
        """All rows, loaded and checked."""
        problems = door.Problems()
        frames: list[pl.DataFrame] = []
        parts = list(self.parts())
        rows = [part.load(problems).frame for part in parts]
        problems.raise_any()
        for part, own in zip(parts, rows, strict=True):
            same_types(frames, own, part.file)
            frames.append(own)
        frame = pl.concat(frames) if frames else Log.empty(0, 0).frame
        if len(frames) > 1:
            door.check_slates(frame, problems)
            problems.raise_any()
        return frame

    @property
    def columns(self) -> list[str]:
        if self._encoded:
            return _names(self._files[0].file)
        return [*self._chosen, *(name for name in self._how.keep if name not in self._chosen)]

    def __len__(self) -> int:
        return sum(rows.count for rows in self._files)

    def _pairs(self, clicked: bool) -> Pairs:
        problems, keys = door.Problems(), [torch.empty(0, dtype=torch.int64)]
        for part in self.parts():
            rows = part.load(problems)
            keys.append((rows.clicks if clicked else rows.shown).key)
        problems.raise_any()
        key = torch.cat(keys)
        n = max(1, self.n_items)
        return Pairs(key // n, key % n, n_users=self.n_users, n_items=self.n_items)
