"""Logs from files: Parquet, Arrow and separated text; whole in memory, or scanned part by part."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from recfb.data import door, tables, text
from recfb.data.columns import Source
from recfb.data.log import Log, Meta
from recfb.data.product import SUMS, verify
from recfb.data.vocabulary import SIDES, Vocabulary
from recfb.errors import LogError, PrepareError

PARQUET = (".parquet", ".pq", ".parq")
ARROW = (".arrow", ".feather", ".ipc")
_MOST_IN_A_GROUP = 1 << 22
_UNMADE = (
    pl.exceptions.ColumnNotFoundError,
    pl.exceptions.DuplicateError,
    pl.exceptions.InvalidOperationError,
    pl.exceptions.SchemaError,
    pl.exceptions.ShapeError,
)
"""What expressions raise that do not fit a file."""


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
    kinds = {suffix(file) for file in files}
    problems = door.Problems()
    frames: list[pl.DataFrame] = []
    offset = 0
    for file in files:
        frame = load(file, how, problems, offset)
        if not kinds & {*PARQUET, *ARROW}:
            frames, frame = _text_ids(frames, frame)
        same_types(frames, frame, file)
        frames.append(frame)
        offset += frame.height
    frame = frames[0] if len(frames) == 1 else pl.concat(frames)
    door.check_slates(frame, problems)
    vocabulary = tables.vocabulary_of(frame, how.like, how.n_users, how.n_items)
    frame = tables.encode_ids(frame, vocabulary, problems, 0)
    problems.raise_any()
    return Log(frame, vocabulary, how.meta, "+".join(fingerprint(file) for file in files))


def load(file: Path, how: Reading, problems: door.Problems, offset: int = 0) -> pl.DataFrame:
    """One file's canonical columns, checked, with the original ids."""
    kind = suffix(file)
    if kind in PARQUET + ARROW:
        lazy = open_columns(file)
        chosen = sources(file, lazy.collect_schema().names(), how)
        frame = collect(door.pick(lazy, chosen, how.keep), file)
    else:
        raw = text.read(file, how.separator, how.has_header)
        chosen = sources(file, raw.columns, how)
        frame = door.made(door.pick(raw.lazy(), chosen, how.keep))
        frame = text.typed(frame, problems, offset)
        known = getattr(how.like, "vocabulary", None)
        if isinstance(known, Vocabulary):
            strings = [side for side in SIDES if known.of(side)["id"].dtype == pl.String]
            frame = frame.with_columns(text.as_text(frame[side]) for side in strings
                                       if side in frame.columns)  # fmt: skip
    return door.check(frame, problems, offset)


def sources(file: Path, names: Sequence[str], how: Reading) -> dict[str, Source]:
    """Which column of a file each column of the log is; an error names the file."""
    try:
        return door.sources(names, how.columns, how.keep)
    except LogError as error:
        raise LogError(f"{file}: {error}") from None


def suffix(file: Path) -> str:
    """The lower-case ending without compression: `.csv` of `log.CSV.gz`."""
    name = file.with_suffix("") if file.suffix.lower() in (".gz", ".zst", ".bz2") else file
    return name.suffix.lower()


def files_of(path: str | Path) -> list[Path]:
    """The files a path names: itself, a folder's Parquet parts, or what a pattern matches."""
    direct = Path(path).expanduser()
    try:
        if direct.is_dir():
            found = sorted(file for file in _inside(direct) if suffix(file) in PARQUET)
            if not found:
                raise PrepareError(
                    f"the folder {direct} has no .parquet file. Name a file instead."
                )
            return found
        if direct.exists():
            return [direct]
        matches = map(Path, glob.glob(str(direct), recursive=True))
        found = sorted(file for file in matches if not file.is_dir())
        if not found:
            parent = direct.parent
            near = sorted(file.name for file in parent.iterdir())[:5] if parent.is_dir() else []
            raise PrepareError(f"there is no file {direct}; {parent} has {near}.")
        return found
    except PrepareError:
        raise
    except OSError as error:
        raise PrepareError(f"cannot read {direct}: {error.strerror or error}.") from None


def _inside(folder: Path) -> Iterator[Path]:
    """Every file under a folder; one that cannot be looked into is an OSError."""

    def refuse(error: OSError) -> None:
        raise error

    for at, _, names in os.walk(folder, onerror=refuse):
        yield from (Path(at, name) for name in names)


def open_columns(file: Path) -> pl.LazyFrame:
    """A lazy frame over a Parquet or Arrow file whose footer has been read."""
    try:
        if suffix(file) in ARROW:
            with file.open("rb") as stream:  # by name, [1] would be a pattern
                return pl.read_ipc(stream).lazy()
        lazy = pl.scan_parquet(file, glob=False)
        lazy.collect_schema()
        return lazy
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise damaged(file, error) from None


def collect(lazy: pl.LazyFrame, file: Path) -> pl.DataFrame:
    """Collect, with damage reported by the file's name."""
    try:
        return lazy.collect()
    except _UNMADE as error:
        raise LogError(f"{file}: {door.unmade(error)}") from None
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


def same_types(before: Sequence[pl.DataFrame], frame: pl.DataFrame, file: Path) -> None:
    """Refuse a file whose columns are not those of the first, or of other types."""
    if before and frame.schema != before[0].schema:
        here, first = frame.schema, before[0].schema
        odd = {
            name: f"{here.get(name, 'nothing')} instead of {first.get(name, 'nothing')}"
            for name in {**first, **here}
            if here.get(name) != first.get(name)
        }
        raise LogError(
            f"{file} has other columns or id types than the first file: {odd}. Make them equal."
        )


def same_columns(first: Mapping[str, Source], here: Mapping[str, Source], file: Path) -> None:
    """Refuse a file that makes other columns of a log than the first."""
    odd = sorted(set(first) ^ set(here))
    if odd:
        has = [name for name in odd if name in here]
        raise LogError(
            f"{file} has other columns than the first file: {odd}, of which it has {has}. Make "
            "them equal."
        )


def _text_ids(
    before: list[pl.DataFrame], frame: pl.DataFrame
) -> tuple[list[pl.DataFrame], pl.DataFrame]:
    """Ids of text files are numbers where those of all files are: else all are text."""
    for side in SIDES:
        kinds = {each[side].dtype for each in [*before, frame] if side in each.columns}
        if kinds == {pl.Int64, pl.String}:
            before = [each.with_columns(text.as_text(each[side])) for each in before]
            frame = frame.with_columns(text.as_text(frame[side]))
    return before, frame


def is_written(path: str | Path) -> bool:
    """Whether a path is a folder that `Log.write` made."""
    try:
        return (Path(path) / "log.json").is_file() and (Path(path) / SUMS).is_file()
    except OSError:  # what it is, `files_of` says
        return False


def written_shape(folder: Path) -> Log:
    """The vocabularies and meta of a folder of `Log.write`, without its rows."""
    declared = json.loads((folder / "log.json").read_text())["meta"]
    if declared["reward_range"]:
        declared["reward_range"] = tuple(declared["reward_range"])
    sides = (pl.read_parquet(folder / f"{side}.parquet") for side in ("users", "items"))
    return Log.empty(0, 0, meta=Meta(**declared), vocabulary=Vocabulary(*sides))


def read_written(folder: Path, how: Reading) -> Log:
    """A folder of `Log.write`, after its checksums."""
    verify(folder)
    shape, files = written_shape(folder), sorted(folder.glob("part-*.parquet"))
    frame = pl.concat([pl.read_parquet(file) for file in files])
    name = "+".join(fingerprint(file) for file in files)
    log = Log(frame, shape.vocabulary, how.meta or shape.meta, name)
    check_written(log, how, folder)
    if how.like is None:
        return log
    vocabulary, problems = tables.vocabulary_of(frame, how.like, None, None), door.Problems()
    if vocabulary.digest != log.vocabulary.digest:
        tables.check_numbers(frame, log.items, vocabulary.items)
        frame = tables.encode_ids(log.decode(), vocabulary, problems, 0)
        problems.raise_any()
    return Log(frame, vocabulary, log.meta, name)


def check_written(log: Log, how: Reading, folder: Path) -> None:
    """Refuse options that a folder of `Log.write` has no use for."""
    idle = [name for name, source in how.columns.items() if source not in (None, name)]
    sizes = {"n_users": (how.n_users, log.n_users), "n_items": (how.n_items, log.n_items)}
    idle += [name for name, (asked, found) in sizes.items() if asked not in (None, found)]
    if idle:
        raise LogError(
            f"{folder} was written by Log.write and has its columns and sizes, so {idle} would do "
            "nothing. Leave them out, or make a log of its rows: Log.of(log.decode(), ...)."
        )
    log.require(*how.keep)
