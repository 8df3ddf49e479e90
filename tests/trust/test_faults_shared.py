"""Names that are taken, two processes on one run, workers that die: one named error, nothing is
lost."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import fault_jobs as jobs
import pytest
from ledger import Ledger, contents

from recfb import evaluate, fit, simulate, solvers
from recfb.cli.common import run_folder
from recfb.data import product
from recfb.data.product import atomic_folder
from recfb.errors import RecfbError
from recfb.evaluation import work
from recfb.policies import Ranked
from recfb.store import save
from recfb.worlds import Tastes

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # processes beside threads


class Waits(Tastes):
    """A world whose second round takes a minute."""

    def step(self, state: Any, *rest: Any) -> Any:
        time.sleep(60 * (state.time == 1))
        return super().step(state, *rest)


def looped(folder: Path, world: type[Tastes] = Tastes) -> None:
    simulate(world(20, 9), Ranked(solvers.ALS(dim=2)), rounds=3, out=folder)


def named(folder: Path, wait: float = 0.0) -> None:
    """A run of the command line."""
    os.chdir(folder.parent)
    with run_folder(folder.name, "fit", {}) as part:
        assert part is not None
        (part / "model").write_text("")
        time.sleep(wait)


def logged(folder: Path, wait: float = 0.0) -> None:
    with atomic_folder(folder) as part:
        (part / "rows").write_text("")
        time.sleep(wait)


def modelled(folder: Path) -> None:
    save(fit(jobs.taste(), solvers.Popularity()), folder)


SECOND: dict[str, tuple[Callable[[Path], None], Callable[..., None], Any]] = {
    "a loop": (looped, looped, Waits),
    "a run of the command line": (named, named, 60.0),
    "a log": (lambda folder: jobs.logged(9).write(folder) and None, logged, 60.0),
    "a model": (modelled, logged, 60.0),
}


def place_of(kind: str, tmp_path: Path) -> Path:
    name = kind.replace(" ", "_")
    return tmp_path / ("runs" if "command" in kind else "") / name


def shared(ledger: Ledger, tmp_path: Path) -> None:
    """A second process while the first one works, after it was killed, and after it has ended."""
    for kind, (act, slow, how) in SECOND.items():
        folder = place_of(kind, tmp_path)
        folder.parent.mkdir(exist_ok=True)
        at = tmp_path / folder.name if "command" in kind else folder
        first = jobs.start(slow, at, how)
        lock = (
            folder / "..unfinished.lock"
            if kind == "a loop"
            else folder.with_name(f".{folder.name}.lock")
        )
        late = time.monotonic() + 20
        while not lock.exists() and time.monotonic() < late:
            time.sleep(0.01)
        ledger.refuses(f"{kind}, by two at once", partial(act, at), "another process is writing")
        ledger.gives(f"{kind}: the first goes on", first.is_alive, bool)
        first.kill()
        first.join()
        if kind == "a loop":
            ledger.refuses(f"{kind} of other settings", partial(act, at), "other settings", "rm -r")
            jobs.saved.remove(folder / ".unfinished")
        ledger.gives(f"{kind}, after it was killed", lambda a=act, at=at: a(at), lambda _: True)
        before = contents(folder)
        ledger.refuses(f"{kind}, there already", partial(act, at), "exists already", "rm -r")
        ledger.gives(f"{kind}: it is as it was", lambda f=folder: contents(f), before.__eq__)


@pytest.mark.usefixtures("whole")
def test_two_on_one_run(ledger: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with ledger("faults: two on one run") as each:
        shared(each, tmp_path)


def test_a_lock_that_does_not_hold_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(product, "_locked", lambda lock: os.open(lock, os.O_CREAT | os.O_RDWR))
    each = Ledger("x")
    shared(each, tmp_path)
    assert each.counts["silent"] >= 3


# ---- workers


def workers(ledger: Ledger, tmp_path: Path) -> None:
    """A worker that dies on a part of the log."""
    log = jobs.parts_of(tmp_path / "data")
    deadly = jobs.Fixed(jobs.TARGET, os.getpid())
    with ProcessPoolExecutor(2, mp_context=jobs.SERVER) as executor:
        ledger.refuses(
            "a worker of evaluate",
            lambda: evaluate(log, {"t": deadly}, estimators=["ips"], executor=executor),
            "a worker process was killed",
            "memory",
        )
    alone = evaluate(log, {"t": deadly}, estimators=["ips"])
    with ProcessPoolExecutor(2, mp_context=jobs.SERVER) as executor:
        ledger.gives(
            "the same evaluation by workers that live",
            lambda: evaluate(
                log, {"t": jobs.Fixed(jobs.TARGET)}, estimators=["ips"], executor=executor
            ).table["value"][0],
            alone.table["value"][0].__eq__,
        )


@pytest.mark.usefixtures("whole")
def test_workers_that_die(ledger: Any, tmp_path: Path) -> None:
    with ledger("faults: workers that die") as each:
        workers(each, tmp_path)


def test_a_dead_worker_that_nobody_names_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "BrokenExecutor", RecfbError)
    each = Ledger("x")
    workers(each, tmp_path)
    assert each.counts["rude"] == 1
