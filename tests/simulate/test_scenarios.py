"""The gates of the shipped scenarios that compare other settings than policies, on paired seeds."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
import torch
from torch import Tensor

import recfb
from recfb.contracts import Policy, Round, alter
from recfb.policies import Uniform
from recfb.policies.novelty import Novelty
from recfb.simulate import Refit, simulate
from recfb.worlds import Arrivals, Attraction, Shock, Tastes

CHECKPOINTS = (100, 500, 2000)


def new_share(seed: int) -> dict[str, float]:
    """The share of the second half of the catalogue in the displays from round 15 on."""
    loop = recfb.simulator("cold_start_arrivals")
    found = {}
    for name in ("als", "als_eps1", "als_eps3", "towers_eps1", "oracle"):
        rows = loop.run(name, seed=seed).log.frame.filter(pl.col("time") >= 15)
        found[name] = float((rows["item"] >= 150).mean())
    return found


def check_cold_start(seed: int) -> None:
    share = new_share(seed)
    assert share["als"] < 0.02
    assert share["als"] < share["als_eps1"] < share["als_eps3"]
    assert 0.4 < share["oracle"] < 0.6
    assert share["towers_eps1"] > 0.07  # who reads contents shows more than eps / 2 of them
    assert share["als_eps1"] == pytest.approx(0.05, abs=0.01)  # every new item is from eps / 2


def test_new_items_are_shown_by_uniform_slates_alone() -> None:
    check_cold_start(0)


@pytest.mark.claims
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_new_items_in_more_seeds(seed: int) -> None:
    check_cold_start(seed)


def moved(round_: Round) -> dict[str, Tensor]:
    """How far interests are from where they began, a mean over users."""
    state = getattr(round_.state, "world", round_.state)
    return {"moved": (state.taste - state.home).norm(dim=1).mean()}


def drift_of(policy: Policy, seed: int, *, grows: bool = False) -> list[float]:
    """Norm of the drift at the checkpoints; with a pool of all items or one that grows from 6."""
    world: Any = recfb.simulator("degenerate_interest").world
    if grows:
        world = Arrivals(world, first=6, rate=1, every=20)
    run = simulate(
        world, policy, rounds=2001, slate=5, refit=Refit(warmup=0), seed=seed, probes=[moved],
        keep="metrics",
    )  # fmt: skip
    return [float(run.probes["moved"][at]) for at in CHECKPOINTS]


@pytest.mark.claims
@pytest.mark.parametrize("seed", range(4))
def test_interests_degenerate(seed: int) -> None:
    """Reference at rounds 100, 500, 2000: oracle 1.88, 10.6, 44.1; half .96, 5.3, 22.8; random .31,
    1.22, 5.0; a growing pool .97, 7.8, 41.0."""
    policies = recfb.simulator("degenerate_interest").policies
    found = {name: drift_of(policy, seed) for name, policy in policies.items()}
    for best, half, random in zip(found["oracle"], found["half"], found["random"], strict=True):
        assert best > half > random
        assert best > 5 * random
    assert 3.5 < found["oracle"][2] / found["oracle"][1] < 4.6
    grown = drift_of(policies["oracle"], seed, grows=True)
    assert all(less < more for less, more in zip(grown, found["oracle"], strict=True))


def total_clicks(strength: float, weight: float, seed: int) -> float:
    """Clicks of a user over all rounds of boredom_novelty."""
    loop = recfb.simulator("boredom_novelty")
    world = alter(loop.world, {"boredom.strength": strength})
    people = simulate(world, Uniform(), rounds=1, seed=seed).state[0].world
    policy = Novelty(weight, topic=people.topic.tolist())
    run = simulate(
        world, policy, rounds=loop.rounds, slate=10, refit=loop.refit, seed=seed,
        metrics=["clicks"], keep="metrics",
    )  # fmt: skip
    return float(run.metrics["clicks"].sum())


@pytest.mark.parametrize("strength, sign", [(0.0, -1), (0.3, -1), (1.0, 1)])
def test_diversity_wins_where_users_tire(strength: float, sign: int) -> None:
    """Reference, greedy and diverse: 46.5, 42.9 at 0; 41.5, 40.4 at .3; 31.4, 34.5 at 1."""
    for seed in range(4):
        greedy, diverse = (total_clicks(strength, weight, seed) for weight in (0.0, 1.0))
        assert sign * (diverse - greedy) > 0


def relevance_from_5(window: int | None, seed: int) -> float:
    """Mean relevance from round 5 on."""
    loop = alter(recfb.simulator("delayed_retraining"), {"refit.window": window})
    return float(loop.run("als", seed=seed).metrics["relevance"][5:].mean())


def check_windows(seed: int) -> None:
    one, three, everything = (relevance_from_5(window, seed) for window in (1, 3, None))
    assert one < three and one < everything


def test_a_window_of_one_round_forgets() -> None:
    check_windows(0)


@pytest.mark.claims
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_windows_in_more_seeds(seed: int) -> None:
    """Reference: window 1 .176, window 3 .232, all .221."""
    check_windows(seed)


def relevance_around_a_shock(delay: int, seed: int) -> tuple[float, float]:
    """Mean relevance of the four rounds before all tastes change, and of the six after, with five
    uniform rounds whatever the delay is."""
    loop = recfb.simulator("delayed_retraining")
    assert isinstance(loop.world, Tastes)
    run = simulate(
        alter(loop.world, {"drift": Shock(at=[11], users=1.0)}), loop.policy("als"), rounds=18,
        slate=10, refit=Refit(every=1, window=3, delay=delay, warmup=5 - delay),
        metrics=["relevance"], seed=seed,
    )  # fmt: skip
    relevance = run.metrics["relevance"]
    return float(relevance[8:12].mean()), float(relevance[12:].mean())


def check_delay(seed: int) -> None:
    prompt, late = (relevance_around_a_shock(delay, seed) for delay in (0, 4))
    assert all(p > q for p, q in zip(prompt, late, strict=True))


def test_delay_costs_before_and_after_a_shock() -> None:
    check_delay(0)


@pytest.mark.claims
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_delay_in_more_seeds(seed: int) -> None:
    """Before the shock .238 against .207, after it .244 against .219, means of four seeds. A delay
    seems to help only where it makes the uniform warm-up longer."""
    check_delay(seed)


def gap(world: Tastes, policy: Policy, seed: int) -> tuple[float, float]:
    """Mean relevance of what the majority was shown less that of group 1, and its standard error,
    over users."""
    run = simulate(world, policy, rounds=20, slate=10, seed=seed)
    group = run.state[0].world.group
    rows = run.log.frame.select("user").with_columns(run.truth["relevance"])
    mean = rows.group_by("user").mean().sort("user")["relevance"].to_torch()
    parts = mean[group == 0], mean[group == 1]
    error = sum(float(part.var()) / len(part) for part in parts) ** 0.5
    return float(parts[0].mean() - parts[1].mean()), error


@pytest.mark.parametrize("name", ["random", "als"])
def test_the_gap_of_equal_groups_vanishes(name: str) -> None:
    """Null gate: identical tastes and sizes."""
    loop = recfb.simulator("minority_groups")
    same = {"population.shift": 0.0, "population.minority": 0.5}
    found, error = gap(alter(loop.world, same), loop.policy(name), 0)
    assert abs(found) < 4 * error


def test_drift_off_leaves_tastes_bit_by_bit() -> None:

    world = Tastes(50, 30, drift=Attraction(rate=0.0))
    state = simulate(world, Uniform(), rounds=5, slate=3).state[0].world
    assert torch.equal(state.taste, state.home)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
