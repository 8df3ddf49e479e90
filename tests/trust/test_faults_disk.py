"""Disks that are full, folders and files that may not be used: one named error, and what was there
is as it was."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import fault_jobs as jobs
import pytest
import torch
from ledger import Ledger, contents

from recfb import Log, evaluate, fit, simulate, solvers
from recfb.data import product
from recfb.errors import PrepareError
from recfb.evaluation import State
from recfb.evaluation.state import total
from recfb.fit.keep import Whole
from recfb.policies import Ranked
from recfb.simulate import record, saved
from recfb.store import load, save
from recfb.worlds import Tastes

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # processes beside threads
BIG = {"x": torch.zeros(100_000)}


def large(folder: Path) -> dict[str, Callable[[], Any]]:
    """Products of more than 64 KiB, each with the words of its error."""
    model = fit(
        Log.of({"user": [0], "item": [1], "reward": [1]}, n_items=30_000), solvers.Popularity()
    )
    log = jobs.logged(200_000)
    ready = jobs.plan()
    state = ready.scan(jobs.logged(500))
    few = total([ready.scan(jobs.logged(500, k)) for k in range(40)], state.facts)
    table = ready.report(state)
    long = type(table)(**{**vars(table), "table": jobs.pl.concat([table.table] * 400)})
    return {
        "model": lambda: save(model, folder / "model"),
        "log": lambda: log.write(folder / "log"),
        "state": lambda: few.save(folder / "state.parquet"),
        "table.csv": lambda: long.write(folder / "table.csv"),
        "table.json": lambda: long.write(folder / "table.json"),
        "checkpoint": lambda: Whole().save_checkpoint(BIG, folder / "last.ckpt"),
        "state of a loop": lambda: saved.save(folder / "state.pt", BIG),
        "figures of a fit": lambda: trained(folder / "fit"),
        "a loop": lambda: looped(folder / "loop"),
    }


def trained(folder: Path) -> Any:
    quiet = {"enable_progress_bar": False, "accelerator": "cpu"}
    return fit(jobs.taste(900, 100), jobs.bpr(), max_epochs=2, default_root_dir=folder, **quiet)


def looped(folder: Path, **options: Any) -> None:
    record.CHUNK_ROWS = 1 << 12
    simulate(Tastes(2000, 30), Ranked(solvers.ALS(dim=2)), rounds=9, out=folder, **options)


def small_files() -> None:
    """From here on, a file may have 20 KiB."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


def after(limit: Callable[[], None], folder: Path, make: Any, kind: str) -> Any:
    """A product of `make` once a limit holds; what is imported on the way is imported before."""
    wanted = make(folder)[kind]
    with tempfile.TemporaryDirectory() as first:
        make(Path(first))[kind]()
    limit()
    return wanted()


def none() -> None:
    """No limit."""


@contextmanager
def tiny_disk(folder: Path) -> Iterator[bool]:
    """A disk of 48 KiB, where one can be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", str(folder)]
    mounted = os.getuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


KINDS = [
    "model", "log", "state", "table.csv", "table.json", "checkpoint", "state of a loop",
    "figures of a fit", "a loop",
]  # fmt: skip


def full(ledger: Ledger, tmp_path: Path, whole: bool) -> None:
    """Disks without room, and files that may not grow."""
    for kind in KINDS if whole else KINDS[:7:2] + KINDS[8:]:
        folder = tmp_path / f"short {kind}"
        folder.mkdir()
        act = partial(jobs.apart, after, small_files, folder, large, kind)
        if kind != "figures of a fit":  # its table is small
            ledger.refuses(f"{kind}, a file too large", act, "cannot write", "File too large")
            ledger.gives(f"{kind}: nothing half-written", lambda f=folder: left(f), lambda x: not x)
        with tiny_disk(tmp_path / f"disk {kind}") as mounted:
            if mounted:
                act = partial(jobs.apart, after, none, tmp_path / f"disk {kind}", large, kind)
                ledger.refuses(f"{kind}, a full disk", act, "cannot write", "No space left")
                ledger.gives(
                    f"{kind}: nothing half-written on it",
                    lambda kind=kind: left(tmp_path / f"disk {kind}"),
                    lambda x: not x,
                )


def left(folder: Path) -> list[str]:
    """What a failed product left, other than a loop on its way and the folders of a fit."""
    kept = (".unfinished", "lightning_logs", "checkpoints")
    return [name for name in contents(folder) if not any(word in name for word in kept)]


def test_full_disks(ledger: Any, whole: bool, tmp_path: Path) -> None:
    with ledger("faults: full disks") as each:
        full(each, tmp_path, whole)


def test_a_loop_goes_on_once_there_is_room(tmp_path: Path) -> None:
    with pytest.raises(PrepareError, match=r"File too large.*run it again"):
        jobs.apart(after, small_files, tmp_path, large, "a loop")
    before = (tmp_path / "loop" / ".unfinished" / saved.RUN).read_bytes()
    assert before
    jobs.apart(looped, tmp_path / "loop")
    jobs.apart(looped, tmp_path / "whole")
    assert contents(tmp_path / "loop") == contents(tmp_path / "whole")


def test_errors_of_the_system_that_nobody_names_are_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = Ledger("x")

    @contextmanager
    def silent(*_: Any) -> Iterator[None]:
        yield

    monkeypatch.setattr(product, "writing", silent)
    folder = tmp_path / "file"
    folder.write_text("")
    for name in ("a", "b"):
        each.refuses(name, lambda n=name: jobs.logged(9).write(folder / n), "cannot write")
    assert each.counts == {"rude": 2}


# ---- folders and files that may not be used


def readers(folder: Path) -> dict[str, Callable[[], Any]]:
    return {
        "model": lambda: load(folder / "model"),
        "log": lambda: Log.read(folder / "log"),
        "scanned log": lambda: evaluate(Log.scan(folder / "log"), {"t": jobs.Fixed(jobs.TARGET)}),
        "state": lambda: State.load(folder / "state.parquet"),
        "checkpoint": lambda: Whole().load_checkpoint(folder / "last.ckpt", weights_only=True),
        "state of a loop": lambda: saved.load(folder / "state.pt", "cpu"),
    }


def written(folder: Path) -> dict[str, Callable[[], Any]]:
    """Products, and what reads them."""
    for kind in ("model", "log", "state", "checkpoint", "state of a loop"):
        large(folder)[kind]()
    return readers(folder)


def shut(folder: Path) -> None:
    """Nobody may read a file of the folder."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0)
    jobs.unprivileged()


def forbidden(ledger: Ledger, whole: bool, limit: Callable[[], None] = jobs.unprivileged) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        for kind in KINDS if whole else KINDS[1:6:2] + KINDS[7:]:
            place = folder / f"locked {kind}"
            place.mkdir()
            place.chmod(0o555)
            act = partial(jobs.apart, after, limit, place, large, kind)
            ledger.refuses(f"{kind}, a locked folder", act, "cannot write", "Permission denied")
            ledger.gives(f"{kind}: an empty folder", lambda p=place: contents(p), lambda x: not x)
        for kind in list(readers(folder))[:: 1 if whole else 2]:
            place = folder / f"shut {kind}"
            place.mkdir()
            act = partial(jobs.apart, unreadable, place, kind)
            ledger.refuses(f"{kind}, an unreadable file", act, "Permission denied")


def unreadable(folder: Path, kind: str) -> Any:
    reader = written(folder)[kind]
    reader()
    shut(folder)
    return reader()


def test_locked_folders_and_unreadable_files(ledger: Any, whole: bool) -> None:
    with ledger("faults: what may not be used") as each:
        forbidden(each, whole)


def unnamed() -> None:
    """Undo: what the system says is raised as it is."""

    @contextmanager
    def silent(*_: Any) -> Iterator[None]:
        yield

    product.writing = silent
    jobs.unprivileged()


@pytest.mark.claims
def test_locked_folders_that_nobody_names_are_seen() -> None:
    each = Ledger("x")
    forbidden(each, False, unnamed)
    assert each.counts["rude"] >= 2
