"""Files that are whole or absent: temporary name, fsync, rename; a SHA-256 beside every product."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import secrets
import shutil
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from recfb.errors import PrepareError, RecfbError

SUMS = "SHA256SUMS"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux


def sha256(path: Path) -> str:
    """The SHA-256 of a file as hexadecimal digits."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise PrepareError(f"cannot read {path}: {error.strerror or error}.") from None


def sync(path: Path) -> None:
    """Wait until a file or the names in a folder are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def writing(
    target: str | Path,
    then: str = "What was there before is as it was. Make room, or choose another place.",
) -> Iterator[None]:
    """Turn what the system says against writing `target`, a full disk for one, into a
    PrepareError."""
    try:
        yield
    except RecfbError:
        raise
    except Exception as error:
        found = re.search(r"([^:]+?) \(os error \d+\)", str(error))  # as polars and others say it
        if found is None and not isinstance(error, OSError):
            raise
        reason = found[1].strip() if found else getattr(error, "strerror", None) or error
        raise PrepareError(f"cannot write {target}: {reason}. {then}") from error


@contextmanager
def alone(target: Path) -> Iterator[None]:
    """Hold `target` against every other process that asks for it; a process lets go however it
    ends. Where a file system has no locks, nobody is held off.

    Raises:
        PrepareError: another process holds it.
    """
    if sys.platform == "win32":
        yield
        return
    lock = target.with_name(f".{target.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    handle = _locked(lock)
    if handle is None:
        raise PrepareError(
            f"another process is writing {target}. Wait for it to end, or choose another name."
        )
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(handle)


def _locked(lock: Path) -> int | None:
    """A handle of the file, locked; None where another has locked it."""
    import fcntl  # not on Windows

    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        except OSError:
            return handle
        if lock.exists() and os.path.samestat(os.fstat(handle), lock.stat()):
            return handle
        os.close(handle)  # who had it before has just removed it


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """A temporary name in the same folder, renamed to `path` when the block ends without an
    error."""
    target = Path(path)
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            sync(part)
            part.replace(target)
            sync(target.parent)
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
    without an error. What a killed process left of it is removed.

    An existing folder is refused, or with `replace` swapped for the new one at the end.
    """
    target = Path(path)
    if not replace:
        refuse_existing(target)
    part = target.with_name(f".{target.name}.part")
    with writing(target), alone(target):
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            yield part
            write_sums(part)
            for file in part.rglob("*"):
                if file.is_file():
                    sync(file)
            if not replace:
                refuse_existing(target)
            _put(part, target)
            sync(target.parent)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _put(part: Path, target: Path) -> None:
    """Rename a folder; what has the name is left under the other one, or removed."""
    if not target.exists():
        part.replace(target)
    elif not _exchange(part, target):
        old = target.with_name(f".{target.name}.old")
        target.replace(old)
        part.replace(target)
        shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step, so that neither is ever missing; False where that cannot be."""
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    here, there = os.fsencode(one), os.fsencode(other)
    return bool(libc.renameat2(_AT_FDCWD, here, _AT_FDCWD, there, _RENAME_EXCHANGE) == 0)


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS for every file under a folder, in the format of sha256sum."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file != folder / SUMS)
    (folder / SUMS).write_text(
        "".join(f"{sha256(file)}  {file.relative_to(folder).as_posix()}\n" for file in files)
    )


def add_sum(file: Path) -> None:
    """Add a file to the SHA256SUMS of its folder, while the folder is not whole."""
    with (file.parent / SUMS).open("a") as sums:
        sums.write(f"{sha256(file)}  {file.name}\n")


def verify_files(folder: Path, names: Sequence[str]) -> None:
    """Compare some files of a folder that is not whole; the last line that names one counts.

    Raises:
        PrepareError: the first that differs, or is in no line.
    """
    try:
        lines = (folder / SUMS).read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    listed = {line[66:]: line[:64] for line in lines}
    for name in names:
        if not (folder / name).is_file() or sha256(folder / name) != listed.get(name):
            raise PrepareError(
                f"{folder / name} is damaged: its SHA-256 is not that in {SUMS}. Begin anew: "
                f"rm -r {folder.parent}"
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
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise PrepareError(
            f"{folder} has no readable {SUMS} ({reason}): it is no product of recfb, or it is "
            "damaged."
        ) from None
    listed = {line[66:]: line[:64] for line in lines if line[64:66] == "  "}
    present = {
        file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()
    } - {SUMS}
    if set(listed) != present or len(listed) != len(lines):
        odd = sorted(set(listed) ^ present) or [SUMS]
        raise PrepareError(
            f"{folder}: by its {SUMS}, {', '.join(odd)} missing, unlisted or damaged. Write the "
            "product again."
        )
    for name, digest in listed.items():
        if sha256(folder / name) != digest:
            raise PrepareError(
                f"{folder / name} is damaged: its SHA-256 differs from {SUMS}. Write the product "
                "again."
            )


def damage(path: Path) -> str | None:
    """What is wrong with a file of torch, which writes checksums but does not compare them; None
    where nothing is."""
    try:
        with zipfile.ZipFile(path) as file:
            name = file.testzip()
        torch._C.PyTorchFileReader(str(path))  # reads the frame of the file in its own way
    except Exception as error:  # a flipped bit may make anything of it
        first = (str(error).splitlines() or [""])[0].partition(". ")[0]
        return getattr(error, "strerror", None) or f"it is cut or damaged ({first})"
    return None if name is None else f"{name} in it is damaged"
