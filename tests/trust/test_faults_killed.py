"""Processes that are killed: at any moment, while they write, between any two steps on the disk."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import fault_jobs as jobs
import polars as pl
import pytest
from ledger import Ledger
from pytorch_lightning import Callback

from recfb import Log
from recfb.data.product import verify
from recfb.evaluation import State, report, state
from recfb.fit import Best, feed, keep
from recfb.fit.keep import Figures, Whole
from recfb.simulate import rounds, saved
from recfb.store import load

Undo = Callable[[], None]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # processes beside threads


def nothing() -> None:
    """Undo no guard."""


def doing(undo: Undo, job: Callable[..., Any], *args: Any) -> None:
    undo()
    job(*args)


# ---- killed at random moments, then begun again


def killed_at(job: Any, result: Any, folder: Path, wait: float, sign: int, undo: Undo) -> Any:
    """Kill a job after some seconds and do it again: what it gave. One that says it ended well must
    have given it before."""
    process = jobs.start(doing, undo, job, folder)
    time.sleep(wait)
    with suppress(ProcessLookupError):  # it has ended
        os.kill(process.pid, sign)
    process.join()
    first = result(folder) if process.exitcode == 0 else None
    jobs.finish(doing, undo, job, folder)
    assert first is None or first == result(folder)
    return result(folder)


class Evaluating:
    """`jobs.evaluating` of a folder of parts."""

    def __init__(self, data: Path) -> None:
        self.data, self.__name__ = data, "evaluating"
        jobs.parts_of(data)

    def __call__(self, folder: Path) -> None:
        jobs.evaluating(folder, self.data)


def often(folder: Path) -> None:
    """A fit that keeps every step."""
    jobs.fitting(folder, often=True)


def random_moments(
    ledger: Ledger, tmp_path: Path, whole: bool, undo: Undo = nothing, only: Any = None
) -> None:
    """Weights, figures, rows and tables are to the bit those of a run that nobody killed."""
    verbs = {
        "fit": (jobs.fitting, jobs.fitted),
        "fit, every step kept": (often, jobs.fitted),
        "simulate": (jobs.looping, jobs.looped),
        "evaluate": (Evaluating(tmp_path / "data"), jobs.evaluated),
    }
    rng = random.Random(7)
    jobs.finish(nothing)  # so that the server is there
    for name in only or verbs:
        job, result = verbs[name]
        place = tmp_path / name.replace(" ", "_")
        took = jobs.finish(job, place / "whole")
        truth = result(place / "whole")
        for sign in (signal.SIGKILL, signal.SIGTERM):
            for k in range(20 if whole else 2):
                share = rng.uniform(0.1, 1) if only is None else 0.75 + 0.1 * k
                folder = place / f"{sign.name}-{k}"
                ledger.gives(
                    f"{name} under {sign.name} after {share:.2f} of its time",
                    partial(killed_at, job, result, folder, share * took, sign, undo),
                    lambda found, truth=truth: found == truth,
                )


def test_killed_at_random_moments(ledger: Any, whole: bool, tmp_path: Path) -> None:
    with ledger("faults: killed, then resumed") as each:
        random_moments(each, tmp_path, whole)


def forget_the_world() -> None:
    """Undo: a resumed loop begins with the world of round 0, a resumed fit with the first rows."""
    rounds.unpack = lambda like, data: like  # type: ignore[attr-defined]
    feed.divmod = lambda a, b: (0, 0)  # type: ignore[attr-defined]


def test_a_resumption_that_forgets_is_seen(tmp_path: Path) -> None:
    each = Ledger("x")
    random_moments(each, tmp_path, False, undo=forget_the_world, only=["fit", "simulate"])
    assert each.counts["silent"] >= 3
    assert {fault.split(" under")[0] for fault in each.faults} >= {"simulate", "fit"}


# ---- fits resumed at every kind of step


class Stop(Callback):
    """Ends the process, as it were, after some steps."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.after:
            raise KeyboardInterrupt

    def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.after - 1:
            raise KeyboardInterrupt


def resumed_fit(folder: Path, after: int, options: dict[str, Any], patch: Any) -> Any:
    with patch.context() as cut:
        add = jobs.fit
        cut.setattr(
            jobs, "fit", lambda *a, callbacks, **o: add(*a, callbacks=[Stop(after), callbacks], **o)
        )
        with pytest.raises((SystemExit, KeyboardInterrupt)):
            jobs.fitting(folder, **options)
    model = jobs.fitting(folder, **options)
    return *jobs.fitted(folder), model.validation


FITS: dict[str, tuple[dict[str, Any], list[int]]] = {
    "every step kept": ({"often": True}, list(range(2, 50))),
    "every epoch kept": ({}, list(range(5, 49, 3))),
    "stopped early": ({"often": True, "patience": 1, "lr": 2.0}, [2, 4, 5, 6, 8, 9, 13]),
}


def resumed_fits(
    ledger: Ledger, tmp_path: Path, whole: bool, patch: pytest.MonkeyPatch, only: Any = None
) -> None:
    """In the middle of an epoch, at its last step, after its validation, under one cycle of the
    learning rate; 4 steps an epoch."""
    for name, (options, steps) in FITS.items():
        place = tmp_path / name.replace(" ", "_")
        model = jobs.fitting(place / "whole", **options)
        truth = (*jobs.fitted(place / "whole"), model.validation)
        length = 4 * len(truth[1].splitlines()) - 4
        chosen = [k for k in steps if k <= length + 1 and (only is None or k in only)]
        for after in chosen[:: 1 if whole else 8]:
            folder = place / str(after)
            ledger.gives(
                f"fit, {name}, resumed after step {after - 1}",
                lambda f=folder, n=after, options=options: resumed_fit(f, n, options, patch),
                lambda found, truth=truth: found == truth,
            )


def test_fits_resumed_at_every_kind_of_step(
    ledger: Any, whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ledger("faults: fits resumed") as each:
        resumed_fits(each, tmp_path, whole, monkeypatch)


@pytest.mark.parametrize("part", [Best, Figures])
def test_an_end_that_is_not_made_up_for_is_seen(
    part: type[Callback], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part, "on_fit_end", lambda *hook: None)
    each = Ledger("x")
    resumed_fits(each, tmp_path, True, monkeypatch, only=(5, 9, 49))
    assert each.counts["silent"] >= 1


# ---- killed while a product is written


def read_tables(folder: Path) -> bool:
    frames = [
        pl.read_csv(folder / "t.csv"),
        pl.DataFrame(json.loads((folder / "t.json").read_text())),
    ]
    return all(frame.height == 6 for frame in frames)


def constant(data: dict[str, Any] | None) -> bool:
    return data is not None and len(data["x"]) == 50_000 and data["x"].unique().numel() == 1


def visible(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def one_version(folder: Path) -> bool:
    verify(folder / "set")
    return len({(folder / "set" / name).read_text() for name in "abc"}) == 1


READERS: dict[str, Callable[[Path], bool]] = {
    "model": lambda folder: all(load(path).n_users == 40 for path in visible(folder)),
    "log": lambda folder: all(len(Log.read(path)) == 4000 for path in visible(folder)),
    "state": lambda folder: State.load(folder / "state.parquet").groups()[""].n == 50,
    "table": read_tables,
    "checkpoint": lambda folder: constant(Whole().load_checkpoint(folder / "last.ckpt")),
    "state of a loop": lambda folder: constant(saved.load(folder / "state.pt", "cpu")),
    "prepared data set": one_version,
}


def killed_writing(kind: str, folder: Path, wait: float, undo: Undo) -> bool:
    folder.mkdir(parents=True)
    process = jobs.start(doing, undo, jobs.versions, kind, folder)
    need = 2 if kind == "table" else 1
    late = time.monotonic() + 20
    while len(visible(folder)) < need and process.is_alive() and time.monotonic() < late:
        time.sleep(0.002)
    time.sleep(wait)
    alive = process.is_alive()
    process.kill()
    process.join()
    return alive and len(visible(folder)) >= need and READERS[kind](folder)


def writes(ledger: Ledger, tmp_path: Path, whole: bool, undo: Undo = nothing) -> None:
    """Each process writes versions of a product until it is killed; then one of them is there."""
    rng = random.Random(11)
    for kind in READERS:
        for k in range(25 if whole else 3):
            folder, wait = tmp_path / kind.replace(" ", "_") / str(k), 0.15 * rng.random()
            ledger.gives(
                f"{kind} under SIGKILL, {k}",
                lambda kind=kind, folder=folder, wait=wait: killed_writing(
                    kind, folder, wait, undo
                ),
                bool,
            )


def test_killed_while_writing(ledger: Any, whole: bool, tmp_path: Path) -> None:
    with ledger("faults: killed while writing") as each:
        writes(each, tmp_path, whole)


@contextmanager
def in_place(path: Path) -> Iterator[Path]:
    path.write_bytes(b"")
    time.sleep(0.02)
    yield path


def write_in_place() -> None:
    """Undo: files are written under their own names."""
    for module in (state, report, keep, saved):
        module.atomic_file = in_place  # type: ignore[attr-defined]


def test_products_written_in_place_are_seen(tmp_path: Path) -> None:
    each = Ledger("x")
    writes(each, tmp_path, False, undo=write_in_place)
    assert len(each.faults) >= 4 and each.counts["rude"] + each.counts["silent"] >= 4
