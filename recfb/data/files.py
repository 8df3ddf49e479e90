"""Logs from files: Parquet, Arrow and separated text; whole in memory, or scanned part by part."""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from recfb.data import door, tables, text
from recfb.data.columns import Source
from recfb.data.log import Log, Meta
from recfb.data.product import SUMS, verify
from recfb.data.vocabulary import Vocabulary
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


def is_written(path: str | Path) -> bool:
    """Whether a path is a folder that `Log.write` made."""
    return (Path(path) / "log.json").is_file() and (Path(path) / SUMS).is_file()


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
    return log if how.like is None else log.recode(how.like.vocabulary)
