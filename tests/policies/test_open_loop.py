"""Trained on another log, round by round, and never on its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from recfb.beliefs import Linear
from recfb.data import Log
from recfb.errors import ConfigError
from recfb.policies import Greedy, OpenLoop, Ranked, Uniform
from recfb.simulate import Refit, simulate
from recfb.solvers import Popularity
from recfb.worlds import Arms, Tastes


def other(rounds: int = 4) -> Log:
    return simulate(Tastes(20, 10), Uniform(), rounds=rounds, slate=2).log


def test_it_sees_the_other_log_up_to_its_own_round(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[pl.DataFrame] = []
    solve = Popularity.solve

    def spy(self: Popularity, log: Log) -> Any:
        seen.append(log.frame)
        return solve(self, log)

    monkeypatch.setattr(Popularity, "solve", spy)
    rows = other()
    policy = OpenLoop(Ranked(Popularity()), rows)
    simulate(Tastes(20, 10), policy, rounds=4, slate=2, refit=Refit(every=1, warmup=1), seed=1)
    assert [frame["time"].max() for frame in seen] == [0, 1, 2]
    assert seen[-1].equals(rows.frame.filter(pl.col("time") <= 2))


def test_what_it_shows_teaches_it_nothing() -> None:
    log = simulate(Arms([0.1, 0.9]), Uniform(), rounds=2).log
    run = simulate(Arms([0.1, 0.9]), OpenLoop(Greedy(Linear()), log), rounds=20)
    assert float(run.state[0].policy.policy.model.A.sum()) == 2.0  # the ridge


def test_a_log_may_be_a_file(tmp_path: Path) -> None:
    other().frame.write_parquet(tmp_path / "log.parquet")
    policy = OpenLoop(Ranked(Popularity(), 0.5), tmp_path / "log.parquet")
    assert len(simulate(Tastes(20, 10), policy, rounds=2, slate=2).log) == 80


def test_a_log_has_rounds_of_the_same_world() -> None:
    untimed = Log.of({"user": [0], "item": [0], "reward": [1.0]})
    with pytest.raises(ConfigError, match="no time"):
        OpenLoop(Uniform(), untimed)
    with pytest.raises(
        ConfigError, match=r"of \(20, 10\) users and items, the world has \(20, 9\)"
    ):
        simulate(Tastes(20, 9), OpenLoop(Uniform(), other()), rounds=1, slate=2)
