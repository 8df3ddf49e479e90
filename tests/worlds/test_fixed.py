"""Oblivious adversaries."""

from __future__ import annotations

import pytest
import torch

from recfb.contracts import Policy
from recfb.errors import ConfigError
from recfb.policies import UCB1, Exp3, TsallisINF, Uniform
from recfb.random import stream
from recfb.simulate import Refit, simulate
from recfb.worlds import Budgeted, Fixed, Phases


def final(world: Fixed, policy: Policy, rounds: int) -> float:
    """Mean regret after the last round, 20 replications."""
    run = simulate(
        world, policy, rounds=rounds, replications=20, refit=Refit(warmup=0), metrics=["regret"],
        keep="metrics",
    )  # fmt: skip
    return float(run.metrics.filter(round=rounds - 1)["regret"].mean())  # type: ignore[arg-type]


def test_regret_is_against_the_best_item_in_hindsight() -> None:
    rewards = torch.rand(30, 4, generator=stream(0)).double()
    run = simulate(Fixed(rewards), Uniform(), rounds=30, replications=5, metrics=["regret"])
    item = run.log.tensor("item").view(30, 5)
    earned = rewards.gather(1, item).sum(0)  # (5,)
    found = run.metrics.filter(round=29)["regret"].to_torch()
    assert torch.allclose(found, rewards.sum(0).max() - earned, atol=1e-12)
    two = simulate(Fixed(rewards), Uniform(), rounds=30, slate=2, metrics=["regret"]).truth
    best = rewards[:, rewards.sum(0).topk(2).indices].sum(1)
    assert two["best"].to_torch().view(30, 2)[:, 0].tolist() == pytest.approx(best.tolist())


def test_rewards_are_what_was_given_whatever_is_played() -> None:
    rewards = torch.rand(9, 3, generator=stream(1)).double()
    world = Fixed(rewards)
    before = world.rewards.clone()
    run = simulate(world, TsallisINF(), rounds=9, replications=4, refit=Refit(warmup=0))
    item = run.log.tensor("item").view(9, 4)
    seen = run.log.tensor("reward").view(9, 4)
    assert torch.equal(seen, rewards.gather(1, item).float())
    assert torch.equal(world.rewards, before)
    assert Budgeted(world, extra=3).world is world


def test_bernoulli_rewards_have_these_means() -> None:
    world = Phases([[0.2, 0.7], [0.9, 0.1]], [3, 2], horizon=10)
    state = world.start(stream(0), 40_000)
    for t in range(10):
        drawn = world.outcomes(state, stream(1, t)).double().mean(0)
        assert torch.equal(world.values(state)[0], world.rewards[t])
        assert float((drawn - world.rewards[t]).abs().max()) < 5 * 0.5 / 200
        state = world.step(state, None, {}, stream(2))  # type: ignore[arg-type]


def test_moving_means_fool_ucb_and_not_exponential_weights() -> None:
    """Stochastically constrained: the gap is .1 throughout, the means swing by .7."""
    world = Phases([[0.95, 0.85], [0.15, 0.05]], [10, 10], growth=1.6, horizon=4000)
    tsallis, exp3, ucb = (final(world, p, 4000) for p in (TsallisINF(), Exp3(), UCB1()))
    assert tsallis < exp3 < 150
    assert ucb > 1.5 * tsallis


def test_the_best_in_hindsight_depends_on_the_horizon() -> None:
    levels = [[0.9, 0.1], [0.2, 0.8]]
    assert Phases(levels, [5, 20], horizon=5).order.tolist() == [0, 1]
    assert Phases(levels, [5, 20], horizon=25).order.tolist() == [1, 0]


def test_impossible_tables_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"table of rounds and items.*shape \(2,\)"):
        Fixed([0.5, 0.5])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="in \\[0, 1\\]"):
        Fixed([[1.5]])
    with pytest.raises(ConfigError, match="rewards of 1 rounds, found rounds=2"):
        simulate(Fixed([[0.5, 0.1]]), Uniform(), rounds=2)
    with pytest.raises(ConfigError, match="2 rows, lengths=\\[1\\]"):
        Phases([[0.1], [0.2]], [1])
