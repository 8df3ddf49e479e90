"""Files that are whole or absent: temporary name, fsync, rename; a SHA-256 beside every product."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recfb.errors import PrepareError

SUMS = "SHA256SUMS"


def sha256(path: Path) -> str:
    """The SHA-256 of a file as hexadecimal digits."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise PrepareError(f"cannot read {path}: {error.strerror or error}.") from None


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """A temporary name in the same folder, renamed to `path` when the block ends without an
    error."""
    target = Path(path)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield part
        _sync(part)
        part.replace(target)
        _sync(target.parent)
    except OSError as error:
        raise PrepareError(f"cannot write {target}: {error.strerror or error}.") from error
    finally:
        part.unlink(missing_ok=True)


def refuse_existing(*paths: Path) -> None:
    """Nothing is written over.

    Raises:
        PrepareError: one of them exists.
    """
    for path in paths:
        if path.exists():
            raise PrepareError(
                f"{path} exists already. Choose another name or remove it: rm -r {path}"
            )


@contextmanager
def atomic_folder(path: str | Path, *, replace: bool = False) -> Iterator[Path]:
    """A temporary folder beside `path`, given checksums and renamed to `path` when the block ends
    without an error.

    An existing folder is refused, or with `replace` swapped for the new one at the end.
    """
    target = Path(path)
    if not replace:
        refuse_existing(target)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    try:
        part.mkdir(parents=True)
        yield part
        write_sums(part)
        for file in part.rglob("*"):
            if file.is_file():
                _sync(file)
        if target.exists():
            target.replace(old)
        part.replace(target)
        _sync(target.parent)
    except OSError as error:
        raise PrepareError(f"cannot write {target}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS for every file under a folder, in the format of sha256sum."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file != folder / SUMS)
    (folder / SUMS).write_text(
        "".join(f"{sha256(file)}  {file.relative_to(folder).as_posix()}\n" for file in files)
    )


def verify(folder: str | Path) -> None:
    """Compare every file of a product with its SHA256SUMS; `PrepareError` names the first that
    differs."""
    folder = Path(folder)
    if not folder.is_dir():
        raise PrepareError(
            f"{folder} is not a folder. A product of recfb is a folder with {SUMS} in it."
        )
    try:
        lines = (folder / SUMS).read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        raise PrepareError(
            f"{folder} has no readable {SUMS}: it is no product of recfb, or it is damaged."
        ) from None
    listed = {line[66:]: line[:64] for line in lines if line[64:66] == "  "}
    present = {
        file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()
    } - {SUMS}
    if set(listed) != present or len(listed) != len(lines):
        odd = sorted(set(listed) ^ present) or [SUMS]
        raise PrepareError(
            f"{folder}: {', '.join(odd)} missing, unlisted or damaged. Write the product again."
        )
    for name, digest in listed.items():
        if sha256(folder / name) != digest:
            raise PrepareError(
                f"{folder / name} is damaged: its SHA-256 differs from {SUMS}. Write the product "
                "again."
            )
