"""Worlds as Gymnasium environments."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from recfb.errors import ConfigError, SupportError
from recfb.interop.gymnasium import Platform, Platforms
from recfb.policies import Uniform
from recfb.simulate import Refit, simulate
from recfb.worlds import Arms, Contextual, Delayed, Payments, SwitchingCost, Tastes


@pytest.mark.parametrize(
    "env",
    [
        Platform(Arms([0.2, 0.8]), rounds=5),
        Platform(Arms([0.2, 0.8, 0.5]), rounds=5, slate=2),
        Platform(Contextual(4, 3, requests=6), rounds=5),
        Platform(Tastes(20, 12), rounds=5, slate=3),
        Platform(SwitchingCost(Arms([0.2, 0.8])), rounds=5),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # infinite bounds, no render mode
def test_w_t22_check_env_passes(env: Platform) -> None:
    check_env(env, skip_render_check=True)


@pytest.mark.parametrize("world", [Arms([0.3, 0.6]), Contextual(4, 3, requests=5), Tastes(20, 12)])
def test_it_draws_what_simulate_draws(world: object) -> None:
    run = simulate(world, Uniform(), rounds=4, seed=7, refit=Refit(warmup=0))  # type: ignore[arg-type]
    frame, env = run.log.frame, Platform(world, rounds=4)  # type: ignore[arg-type]
    observation, _ = env.reset(seed=7)
    for t in range(4):
        rows = frame.filter(time=t)
        assert observation["user"].tolist() == rows["user"].to_list()
        action = rows["item"].to_numpy().reshape(env.action_space.shape)
        observation, reward, terminated, truncated, info = env.step(action)
        assert reward == pytest.approx(rows["reward"].sum(), abs=1e-5)
        assert not terminated and truncated == (t == 3) and not info


def test_platforms_side_by_side_draw_what_simulate_draws() -> None:
    world = Contextual(4, 3, requests=5)
    run = simulate(world, Uniform(), rounds=3, replications=6, seed=2, refit=Refit(warmup=0))
    env = Platforms(world, rounds=3, num_envs=6)
    observation, _ = env.reset(seed=2)
    assert env.observation_space.contains(observation)
    for t in range(3):
        rows = run.log.frame.filter(time=t)
        action = rows["item"].to_numpy().reshape(6, 5, 1)
        assert env.action_space.contains(action.astype(np.int64))
        observation, reward, terminated, truncated, _ = env.step(action)
        expected = rows["reward"].to_numpy().reshape(6, 5).sum(1)
        assert np.allclose(reward, expected, atol=1e-5)
        assert not terminated.any() and truncated.all() == (t == 2)


def test_w_t22_nothing_is_reset_behind_the_agent() -> None:
    env = Platform(Contextual(4, 3, requests=2), rounds=2)
    first, _ = env.reset(seed=0)
    env.step(np.zeros((2, 1), dtype=int))
    last, _, _, truncated, _ = env.step(np.zeros((2, 1), dtype=int))
    assert truncated and not np.array_equal(last["features"], first["features"])
    with pytest.raises(ConfigError, match=r"2 rounds are over.*env\.reset"):
        env.step(np.zeros((2, 1), dtype=int))
    again, _ = env.reset(seed=0)
    assert np.array_equal(again["features"], first["features"])
    assert Platforms.metadata["autoreset_mode"] == AutoresetMode.DISABLED
    both = Platforms(Arms([0.5]), rounds=2)
    with pytest.raises(ConfigError, match="begin anew together"):
        both.reset(options={"reset_mask": np.array([True, False])})


def test_rewards_come_when_they_are_known_and_costs_are_taken_off() -> None:
    env = Platform(Delayed(Arms([1.0, 1.0]), rounds=2), rounds=4)
    env.reset(seed=0)
    assert [env.step(0)[1] for _ in range(4)] == [0.0, 0.0, 1.0, 1.0]
    costly = Platform(SwitchingCost(Arms([1.0, 1.0]), cost=0.25), rounds=3)
    costly.reset(seed=0)
    assert [costly.step(item)[1] for item in (0, 1, 1)] == [1.0, 0.75, 1.0]


def test_impossible_items_and_settings_are_refused() -> None:
    env = Platform(Arms([0.5, 0.5]), rounds=2)
    env.reset(seed=0)
    with pytest.raises(SupportError, match=r"item 2 was shown; items are 0\.\.1"):
        env.step(2)
    world = Payments(n_items=6, dim=2, requests=50, available=0.5)
    limited = Platform(world, rounds=2)
    seen, _ = limited.reset(seed=0)
    worst = torch.from_numpy(seen["available"]).to(torch.float64).argmin(1)
    with pytest.raises(SupportError, match="is not available"):
        limited.step(worst.numpy()[:, None])
    with pytest.raises(ConfigError, match="rounds is positive"):
        Platform(Arms([0.5]), rounds=2, slate=2)
    with pytest.raises(ConfigError, match="does not run replications side by side"):
        Platforms(Tastes(5, 4), rounds=2)
