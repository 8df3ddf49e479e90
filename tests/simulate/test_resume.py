"""Runs that were killed, and go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from recfb import Recommender, objectives, samplers, scorers, solvers
from recfb.beliefs import Bootstrap, Linear
from recfb.contracts import Policy, Slate, World
from recfb.errors import PrepareError
from recfb.policies import (
    IGW,
    BetaThompson,
    DartboardFull,
    EpsilonGreedy,
    Exp3,
    LinTS,
    Mixture,
    Ranked,
    TsallisSwitch,
    Uniform,
)
from recfb.simulate import Refit, Run, record, rounds, saved, simulate
from recfb.worlds import (
    Arms,
    Attraction,
    Budgeted,
    Contextual,
    Delayed,
    MultiScaleWalk,
    SwitchingCost,
    Tastes,
)

TASTES = Tastes(60, 30, drift=Attraction(0.1))
WALK = SwitchingCost(Budgeted(MultiScaleWalk(2, 64)))


def trained() -> Recommender:
    return Recommender(scorers.MF(dim=4), objectives.BPR(), samplers.Clicks())


class InTurn(Uniform):
    """Shows one item after the other, by a plain number."""

    turn: int

    def bind(self, log: Any) -> Any:
        self.turn = 0
        return super().bind(log)

    def act(self, context: Any, generator: Any, *, k: int = 1) -> Slate:
        self.turn += 1
        return Slate(torch.full((len(context), k), self.turn % self.n_items))


CASES: dict[str, tuple[World[Any], Policy, dict[str, Any]]] = {
    "als": (TASTES, Ranked(solvers.ALS(dim=3, sweeps=2), 0.2), {"slate": 4}),
    "als in two runs": (TASTES, Ranked(solvers.ALS(dim=3), 0.2), {"slate": 4, "replications": 2}),
    "warm": (TASTES, Ranked(trained(), 0.2), {"slate": 4, "refit": Refit(every=3, warm=True)}),
    "linear": (Contextual(4, 3, requests=8), LinTS(0.5), {"replications": 3}),
    "bootstrap": (Contextual(4, 3, requests=8), EpsilonGreedy(Bootstrap(3)), {"replications": 3}),
    "mixture": (Contextual(4, 3, requests=8), Mixture(IGW(Linear()), 0.1), {"replications": 3}),
    "in turn": (Contextual(4, 3, requests=8), InTurn(), {"replications": 3}),
    "delays": (Delayed(Arms([0.2, 0.8]), mean=3.0), Exp3(), {"replications": 20}),
    "thompson": (Arms([0.2, 0.8]), BetaThompson(), {"replications": 20}),
    "dartboard": (WALK, DartboardFull(16), {"replications": 20}),
    "blocks": (WALK, TsallisSwitch(), {"replications": 20}),
}


def play(case: str, out: Path | None = None, **options: Any) -> Run:
    world, policy, more = CASES[case]
    base = {"rounds": 12, "refit": Refit(warmup=1), "seed": 3, "out": out}
    return simulate(world, policy, **{**base, **more, **options})


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def interrupt(monkeypatch: pytest.MonkeyPatch, time: int) -> None:
    """The process ends before a round, without an error that could be caught."""
    whole = rounds.Loop.round

    def round(self: rounds.Loop) -> None:
        if self.time == time:
            raise KeyboardInterrupt
        whole(self)

    monkeypatch.setattr(rounds.Loop, "round", round)


@pytest.mark.parametrize("time", [3, 8])
@pytest.mark.parametrize("case", list(CASES))
def test_w_a_run_that_was_interrupted_ends_as_if_it_had_not_been(
    case: str, time: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "KEPT_ROWS", 1)
    monkeypatch.setattr(record, "CHUNK_ROWS", 1)
    play(case, tmp_path / "whole")
    with monkeypatch.context() as cut:
        interrupt(cut, time)
        with pytest.raises(KeyboardInterrupt):
            play(case, tmp_path / "cut")
    assert not (tmp_path / "cut" / "log").exists()
    begun = []
    go_on = record.Recorder.go_on
    monkeypatch.setattr(
        record.Recorder, "go_on", lambda self, **kept: begun.append(kept) or go_on(self, **kept)
    )
    run = play(case, tmp_path / "cut")
    assert begun and begun[0]["parts"] > 0, "it began anew"
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    assert run.log.frame.equals(play(case).log.frame)


def test_what_cannot_be_kept_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy that holds what is no plain data, and is not trained from scratch each time."""

    class Odd(Uniform):
        def bind(self, log: Any) -> Any:
            self.odd = object()
            return super().bind(log)

    monkeypatch.setattr(record, "CHUNK_ROWS", 1)
    with pytest.raises(saved.Unsaved, match="object"):
        saved.policy_state(Odd().bind(TASTES.opening(TASTES.start(torch.Generator()), 1, 1)))
    whole = simulate(TASTES, Odd(), rounds=6, seed=3, out=tmp_path / "whole")
    with monkeypatch.context() as cut:
        interrupt(cut, 4)
        with pytest.raises(KeyboardInterrupt):
            simulate(TASTES, Odd(), rounds=6, seed=3, out=tmp_path / "cut")
    again = simulate(TASTES, Odd(), rounds=6, seed=3, out=tmp_path / "cut")
    assert again.log.frame.equals(whole.log.frame)
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_another_run_does_not_go_on_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as cut:
        interrupt(cut, 4)
        with pytest.raises(KeyboardInterrupt):
            play("als", tmp_path / "run")
    with pytest.raises(PrepareError, match=r"interrupted run with other settings.*rm -r"):
        play("als", tmp_path / "run", seed=4)
    play("als", tmp_path / "run")
    assert not (tmp_path / "run" / ".unfinished").exists()


SCRIPT = """
import os, signal, sys
from test_resume import play
from pathlib import Path
from recfb.simulate import record, rounds
record.KEPT_ROWS = 1
whole = rounds.Loop.round
def round(self):
    if self.time == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    whole(self)
rounds.Loop.round = round
play("als", Path(sys.argv[1]))
"""


@pytest.mark.parametrize("time", [1, 7, 12])
def test_w_killed_at_any_round(time: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "KEPT_ROWS", 1)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    killed = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "cut"), str(time)], env=environment
    )
    assert killed.returncode == (-signal.SIGKILL if time < 12 else 0)
    if time < 12:
        play("als", tmp_path / "cut")
    play("als", tmp_path / "whole")
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_what_an_interrupted_removal_left_is_swept(tmp_path: Path) -> None:
    left = tmp_path / "run" / ".unfinished"
    for again in (False, True):
        (left / "log").mkdir(parents=True)
        (left / "state-00000.pt").write_bytes(b"")
        if again:
            with pytest.raises(PrepareError, match="exists already"):
                play("als", tmp_path / "run")
        else:
            play("als", tmp_path / "run")
        assert not left.exists()


def test_a_folder_of_others_is_not_swept(tmp_path: Path) -> None:
    theirs = tmp_path / "run" / ".unfinished" / "thesis.txt"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("mine")
    with pytest.raises(PrepareError, match="of another version"):
        play("als", tmp_path / "run")
    assert theirs.read_text() == "mine"
