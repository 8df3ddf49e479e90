"""Runs whose parts changed on the disk: while the run was interrupted, and after it."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from ledger import Ledger

from recfb import Log, solvers
from recfb.evaluate import Evaluation
from recfb.evaluation import State, state
from recfb.policies import Ranked, Uniform
from recfb.simulate import record, rounds, simulate
from recfb.worlds import Tastes


def play(out: Path) -> Any:
    policy = Ranked(solvers.ALS(dim=2, sweeps=1), 0.2)
    return simulate(Tastes(20, 9), policy, rounds=8, slate=2, seed=3, out=out, metrics=["coverage"])


def content(run: Any) -> Any:
    return [run.log.decode().to_dicts(), run.truth.to_dicts(), run.metrics.to_dicts()]


def interrupted(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is killed before its sixth round."""
    whole = rounds.Loop.round

    def round(self: rounds.Loop) -> None:
        if self.time == 5:
            raise KeyboardInterrupt
        whole(self)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(rounds.Loop, "round", round)
        play(out)


def flips(ledger: Ledger, folder: Path, whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Single bits of a run on its way, then of its truth once it is there."""
    monkeypatch.setattr(record, "KEPT_ROWS", 1)
    monkeypatch.setattr(record, "CHUNK_ROWS", 1)
    truth, draw = content(play(folder / "whole")), random.Random(1)
    interrupted(folder / "kept", monkeypatch)
    kept = [file for file in (folder / "kept").rglob("*") if file.is_file() and file.stat().st_size]
    for case in range(100 if whole else 20):
        shutil.rmtree(folder / "again", ignore_errors=True)
        shutil.copytree(folder / "kept", folder / "again")
        name = flip(folder / "again", draw.choice(kept).relative_to(folder / "kept"), draw)
        ledger.settles(
            f"{case}: {name} of a run on its way",
            lambda: content(play(folder / "again")),
            lambda found: found == truth,
        )
    run = play(folder / "done")

    def run_truth() -> Any:
        return run.truth.to_dicts()

    for file in sorted((folder / "done" / "truth").iterdir()):
        good = file.read_bytes()
        for case in range(20 if whole else 3):
            flip(folder / "done" / "truth", Path(file.name), draw)
            name = f"{case}: {file.name} of the truth"
            ledger.settles(name, run_truth, lambda found: found == truth[1])
            file.write_bytes(good)


def flip(folder: Path, name: Path, draw: random.Random) -> Path:
    data = bytearray((folder / name).read_bytes())
    at = draw.randrange(8 * len(data))
    data[at // 8] ^= 1 << at % 8
    (folder / name).write_bytes(bytes(data))
    return name


def test_runs_go_on_from_what_they_wrote(
    ledger: Callable[..., Ledger], whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ledger("products: flipped bits") as each:
        flips(each, tmp_path, whole, monkeypatch)


@pytest.mark.usefixtures("whole")
def test_a_state_of_another_version_is_refused(
    ledger: Callable[..., Ledger], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log.of({"item": [0, 1], "reward": [1, 0], "propensity": [0.5, 0.5]})
    path = Evaluation({"u": Uniform()}).scan(log).save(tmp_path / "state.parquet")
    monkeypatch.setattr(state, "FORMAT", 2)
    with ledger("products: of others") as each:
        each.refuses("a state of an earlier version", lambda: State.load(path), "format 1")


def test_the_family_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "verify_files", lambda folder, names: None)
    monkeypatch.setattr(import_module("recfb.simulate.verb"), "verify", lambda folder: None)
    each = Ledger("x")
    flips(each, tmp_path, False, monkeypatch)
    assert each.counts["silent"], each.counts
