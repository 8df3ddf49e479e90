"""Logs from files: Parquet, Arrow and separated text; whole in memory, or scanned part by part."""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl
import torch

from recfb.data import door, tables, text
from recfb.data.batch import Block
from recfb.data.blocks import PART, record
from recfb.data.columns import Source
from recfb.data.log import Log, Meta
from recfb.data.pairs import Pairs
from recfb.data.product import SUMS, verify
from recfb.data.vocabulary import Vocabulary, distinct, identity
from recfb.errors import LogError, PrepareError

PARQUET = (".parquet", ".pq", ".parq")
ARROW = (".arrow", ".feather", ".ipc")
_MOST_IN_A_GROUP = 1 << 22


@dataclass(frozen=True)
class Reading:
    """How to read files: what `Log.read` and `Log.scan` were told."""

    columns: Mapping[str, Source]
    separator: str | None = None
    has_header: bool = True
    like: Any = None
    n_users: int | None = None
    n_items: int | None = None
    keep: Sequence[str] = ()
    meta: Meta | None = None


def read(path: str | Path, how: Reading) -> Log:
    """All rows in memory."""
    if is_written(path):
        return read_written(Path(path), how)
    files = files_of(path)
    problems = door.Problems()
    frames: list[pl.DataFrame] = []
    offset = 0
    for file in files:
        frame = load(file, how, problems, offset)
        _same_types(frames, frame, file)
        frames.append(frame)
        offset += frame.height
    frame = frames[0] if len(frames) == 1 else pl.concat(frames)
    vocabulary = tables.vocabulary_of(frame, how.like, how.n_users, how.n_items)
    frame = tables.encode_ids(frame, vocabulary, problems, 0)
    problems.raise_any()
    return Log(frame, vocabulary, how.meta, "+".join(fingerprint(file) for file in files))


def scan(path: str | Path, how: Reading) -> Log:
    """The rows stay in their files; text has no row ranges to scan, so it is read."""
    if is_written(path):
        verify(path)
        folder = Path(path)
        files = tuple(sorted(folder.glob("part-*.parquet")))
        inner = Reading({}, like=_Written(folder).log, meta=how.meta or _Written(folder).log.meta)
        return ScannedLog(files, inner, encoded=True)
    files = tuple(files_of(path))
    if any(suffix(file) not in PARQUET for file in files):
        return read(path, how)
    return ScannedLog(files, how)


def load(file: Path, how: Reading, problems: door.Problems, offset: int = 0) -> pl.DataFrame:
    """One file's canonical columns, checked, with the original ids."""
    kind = suffix(file)
    if kind in PARQUET + ARROW:
        lazy = open_columns(file)
        chosen = door.sources(lazy.collect_schema().names(), how.columns, how.keep)
        frame = collect(door.pick(lazy, chosen, how.keep), file)
    else:
        raw = text.read(file, how.separator, how.has_header)
        chosen = door.sources(raw.columns, how.columns, how.keep)
        frame = door.pick(raw.lazy(), chosen, how.keep).collect()
        frame = text.typed(frame, problems, offset)
    return door.check(frame, problems, offset)


def suffix(file: Path) -> str:
    """The lower-case ending without compression: `.csv` of `log.CSV.gz`."""
    name = file.with_suffix("") if file.suffix.lower() in (".gz", ".zst", ".bz2") else file
    return name.suffix.lower()


def files_of(path: str | Path) -> list[Path]:
    """The files a path names: itself, a folder's Parquet parts, or what a pattern matches."""
    direct = Path(path).expanduser()
    if direct.is_dir():
        found = sorted(file for file in direct.rglob("*") if suffix(file) in PARQUET)
        if not found:
            raise PrepareError(f"the folder {direct} has no .parquet file. Name a file instead.")
        return found
    if direct.exists():
        return [direct]
    found = sorted(Path(name) for name in glob.glob(str(direct), recursive=True))
    if not found:
        parent = direct.parent
        near = sorted(file.name for file in parent.iterdir())[:5] if parent.is_dir() else []
        raise PrepareError(f"there is no file {direct}; {parent} has {near}.")
    return found


def open_columns(file: Path) -> pl.LazyFrame:
    """A lazy frame over a Parquet or Arrow file whose footer has been read."""
    try:
        if suffix(file) in ARROW:
            return pl.read_ipc(file).lazy()
        lazy = pl.scan_parquet(file, glob=False)
        lazy.collect_schema()
        return lazy
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise damaged(file, error) from None


def collect(lazy: pl.LazyFrame, file: Path) -> pl.DataFrame:
    """Collect, with damage reported by the file's name."""
    try:
        return lazy.collect()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise damaged(file, error) from None


def damaged(file: Path, error: BaseException) -> PrepareError:
    """A file that cannot be read."""
    first = (str(error).splitlines() or [""])[0]
    return PrepareError(
        f"{file} cannot be read ({first}). "
        f"It is cut, damaged or no {suffix(file)} file: write or copy it again."
    )


def fingerprint(file: Path) -> str:
    """The name and a digest of the size and both ends of a file: the same wherever it lies."""
    try:
        with file.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(0)
            state = hashlib.blake2b(f"{size}".encode() + stream.read(1 << 16), digest_size=6)
            stream.seek(max(0, size - (1 << 16)))
            state.update(stream.read())
    except OSError as error:
        raise PrepareError(f"cannot read {file}: {error.strerror or error}.") from None
    return f"{file.name}:{state.hexdigest()}"


def _same_types(before: Sequence[pl.DataFrame], frame: pl.DataFrame, file: Path) -> None:
    if before and frame.schema != before[0].schema:
        odd = {
            name: str(kind)
            for name, kind in frame.schema.items()
            if before[0].schema.get(name) != kind
        }
        raise LogError(
            f"{file} has other columns or id types than the first file: {odd}. Make them equal."
        )


# ---- folders that Log.write made ----------------------------------------------------------------


def is_written(path: str | Path) -> bool:
    """Whether a path is a folder that `Log.write` made."""
    return (Path(path) / "log.json").is_file() and (Path(path) / SUMS).is_file()


@dataclass(frozen=True)
class _Written:
    folder: Path

    @cached_property
    def log(self) -> Log:
        """The shape: vocabularies and meta without rows."""
        declared = json.loads((self.folder / "log.json").read_text())["meta"]
        if declared["reward_range"]:
            declared["reward_range"] = tuple(declared["reward_range"])
        vocabulary = Vocabulary(
            pl.read_parquet(self.folder / "users.parquet"),
            pl.read_parquet(self.folder / "items.parquet"),
        )
        return Log.empty(0, 0, meta=Meta(**declared), vocabulary=vocabulary)


def read_written(folder: Path, how: Reading) -> Log:
    """A folder of `Log.write`, after its checksums."""
    verify(folder)
    shape = _Written(folder).log
    frame = pl.concat([pl.read_parquet(file) for file in sorted(folder.glob("part-*.parquet"))])
    name = "+".join(fingerprint(file) for file in sorted(folder.glob("part-*.parquet")))
    log = Log(frame, shape.vocabulary, how.meta or shape.meta, name)
    return log if how.like is None else log.recode(how.like.vocabulary)


# ---- scanned logs -------------------------------------------------------------------------------


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
        chosen = door.sources(lazy.collect_schema().names(), self.how.columns, self.how.keep)
        frame = collect(door.pick(lazy, chosen, self.how.keep), self.file)
        frame = door.check(frame, problems, self.offset)
        frame = tables.encode_ids(frame, self.vocabulary, problems, self.offset)
        sides = [side for side in ("user", "item") if side in frame.columns]
        return Log(frame.drop_nulls(sides), self.vocabulary, self.how.meta, self.name)

    def record(
        self, problems: door.Problems, unit: str | None = None, by: str | None = None
    ) -> Block:
        """All rows of the part as one Block."""
        return record(self.load(problems), self.name, unit, by)


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
            names = open_columns(files[0]).collect_schema().names()
            self._chosen = door.sources(names, how.columns, how.keep)
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
        offset = 0
        for rows in self._files:
            name = fingerprint(rows.file)
            for start in range(0, rows.count, PART):
                label = f"{name}[{start}:{min(rows.count, start + PART)}]"
                yield ScannedPart(
                    label,
                    rows.file,
                    start,
                    offset + start,
                    self._how,
                    self.vocabulary,
                    self._encoded,
                )
            offset += rows.count

    @cached_property
    def frame(self) -> pl.DataFrame:
        """All rows, loaded and checked."""
        problems = door.Problems()
        frames = [part.load(problems).frame for part in self.parts()]
        problems.raise_any()
        return pl.concat(frames) if frames else Log.empty(0, 0).frame

    @property
    def columns(self) -> list[str]:
        if self._encoded:
            return open_columns(self._files[0].file).collect_schema().names()
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
