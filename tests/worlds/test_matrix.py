"""A fully observed matrix."""

from __future__ import annotations

import pytest
import torch

from recfb.contracts import Slate
from recfb.data import Log
from recfb.errors import ConfigError
from recfb.policies import Oracle
from recfb.random import stream
from recfb.simulate import Refit, simulate
from recfb.worlds import PBM, Matrix

REWARDS = torch.tensor([[1.0, 5.0, 3.0], [4.0, 0.0, 2.0]])


def test_rewards_are_the_entries() -> None:
    world = Matrix(REWARDS)
    assert torch.equal(Matrix(REWARDS.tolist()).rewards, REWARDS)
    state = world.start(stream(0))
    feedback, truth = world.respond(state, Slate(torch.tensor([[2, 0], [1, 0]])), stream(0))
    assert feedback.reward.tolist() == [[3.0, 1.0], [0.0, 4.0]]
    assert truth["best"].tolist() == [8.0, 6.0]
    assert world.opening(state, 1, 9).meta.reward_range == (0.0, 5.0)


def test_the_oracle_has_no_regret() -> None:
    run = simulate(
        Matrix(REWARDS), Oracle(), rounds=3, refit=Refit(warmup=0), metrics=["regret", "reward"]
    )
    assert run.metrics["regret"].to_list() == [0.0, 0.0, 0.0]
    assert run.metrics["reward"].to_list() == [4.5, 4.5, 4.5]


def test_entries_are_attractions_under_a_click_model() -> None:
    world = Matrix(torch.full((20_000, 2), 0.5), clicks=PBM(1.0))
    slate = Slate(torch.tensor([[1, 0]]).expand(20_000, -1))
    feedback, truth = world.respond(world.start(stream(0)), slate, stream(1))
    assert feedback.reward.mean(0).tolist() == pytest.approx([0.5, 0.25], abs=4 * 0.5 / 141)
    assert truth["value"][0].tolist() == [0.5, 0.25]


def test_from_a_log_with_all_pairs() -> None:
    rows = {"user": [0, 0, 1, 1, 1], "item": [0, 1, 0, 1, 1], "reward": [1.0, 2.0, 3.0, 4.0, 6.0]}
    assert Matrix.of(Log.of(rows)).rewards.tolist() == [[1.0, 2.0], [3.0, 5.0]]
    del rows["user"][0], rows["item"][0], rows["reward"][0]
    with pytest.raises(ConfigError, match="1 holes"):
        Matrix.of(Log.of(rows))


def test_refuses_what_are_no_probabilities() -> None:
    with pytest.raises(ConfigError, match="probabilities"):
        Matrix(REWARDS, clicks=PBM())
