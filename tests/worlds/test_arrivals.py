"""Items that come and go, and are taken once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from recfb.contracts import Context, Policy, Slate, World
from recfb.errors import ConfigError
from recfb.policies import Mixture, Oracle, Ranked, Uniform
from recfb.random import stream
from recfb.simulate import Refit, simulate
from recfb.solvers import ALS
from recfb.worlds import PBM, Arms, Delayed, Matrix, Tastes
from recfb.worlds.arrivals import FOREVER, Arrivals, Once, aged, arrival_rounds, lifetimes
from recfb.worlds.choices import RankedChoice
from recfb.worlds.drift import Reinforcement
from recfb.worlds.populations import Dirichlet, Interests


def calendar(world: Arrivals, seed: int = 0) -> Any:
    return world.start(stream(seed, "start")).beside


def test_arrival_rounds_by_hand() -> None:
    got = arrival_rounds(8, 3, torch.tensor([1, 0, 2, 0]))
    assert got.tolist() == [0, 0, 0, 1, 3, 3, FOREVER, FOREVER]
    assert arrival_rounds(2, 5, torch.tensor([0])).tolist() == [0, 0]
    assert arrival_rounds(2, 0, torch.tensor([0, 1])).tolist() == [2, FOREVER]


def test_lifetimes_are_geometric() -> None:
    n = 100_000
    life = lifetimes(n, 0.2, stream(0)).double()
    assert float(life.min()) == 1
    assert float(life.mean()) == pytest.approx(5.0, abs=4 * (0.8**0.5 / 0.2) / n**0.5)
    share = float((life == 1).double().mean())
    assert share == pytest.approx(0.2, abs=4 * (0.16 / n) ** 0.5)


def test_items_come_in_equal_or_in_poisson_numbers() -> None:
    fixed = calendar(Arrivals(Tastes(2, 30), first=6, rate=2, every=5))
    assert fixed.arrives.tolist() == [0] * 6 + [5 * (1 + i // 2) for i in range(24)]
    assert (fixed.expires == FOREVER).all()
    drawn = calendar(Arrivals(Tastes(2, 8010), first=10, rate=4.0, draw="poisson")).arrives
    number = torch.bincount(drawn[drawn > 0])[1:-1].double()
    n = len(number)
    assert float(number.mean()) == pytest.approx(4.0, abs=4 * (4 / n) ** 0.5)
    assert float(number.var()) == pytest.approx(4.0, abs=4 * 4 * (2.25 / n) ** 0.5)
    assert (drawn.diff() >= 0).all()


def test_a_life_and_a_hazard_end_the_stay() -> None:
    both = calendar(Arrivals(Tastes(2, 5000), first=1000, rate=50, life=8, hazard=0.1))
    stay = both.expires - both.arrives
    assert int(stay.max()) == 8
    assert float((stay == 1).double().mean()) == pytest.approx(0.1, abs=4 * (0.09 / 5000) ** 0.5)
    only = calendar(Arrivals(Tastes(2, 500), first=100, rate=50, life=8))
    assert (only.expires - only.arrives == 8).all()


def test_w_t16_nothing_is_shown_before_it_arrives_or_after_it_expires() -> None:
    """1e6 rows; the same items are there whatever the policy does."""
    world = Arrivals(
        Tastes(500, 400), first=60, rate=9.0, draw="poisson", life=30, hazard=0.02, aging=0.1
    )
    state, rows, shown = world.start(stream(3)), 0, torch.zeros(2, 400, dtype=torch.bool)
    arrives, expires = state.beside.arrives, state.beside.expires
    states = [state, state]
    policies = [p.bind(world.opening(state, 1, 50)) for p in (Uniform(), Oracle())]
    for t in range(50):
        for i, policy in enumerate(policies):
            context = world.observe(states[i])
            policy.look(world.values(states[i]))
            slate = policy.act(context, stream(4, t), k=20)
            assert (arrives[slate.item] <= t).all()
            assert (t < expires[slate.item]).all()
            truth = world.respond(states[i], slate, stream(5, t))[1]
            assert torch.equal(truth["age"], t - arrives[slate.item])
            states[i] = world.step(states[i], slate, truth, stream(6, t))
            shown[i, slate.item] = True
            rows += slate.item.numel()
        assert torch.equal(states[0].beside.here, states[1].beside.here)
    assert rows == 1_000_000
    assert int(shown[0].sum()) > 350
    assert int(shown[0].sum()) > int(shown[1].sum())


def test_the_log_says_what_could_be_shown() -> None:
    world = Arrivals(Tastes(30, 12), first=4, rate=3, life=2)
    run = simulate(world, Uniform(), rounds=3, slate=2, seed=0)
    for t, items in enumerate(([0, 1, 2, 3], list(range(7)), list(range(4, 10)))):
        rows = run.log.frame.filter(run.log.frame["time"] == t)
        assert rows["available"].unique().to_list() == [items]
    assert run.truth["age"].unique().sort().to_list() == [0, 1]


def test_arrivals_change_no_draw_of_the_world_inside() -> None:
    """W-T24: the world inside starts and responds as it does alone."""
    alone, g, h = Tastes(20, 10), stream(0), stream(0)
    world = Arrivals(alone, first=4, draw="poisson", hazard=0.1)
    state, bare = world.start(g), alone.start(h)
    assert torch.equal(g.get_state(), h.get_state())
    assert torch.equal(state.world.taste, bare.taste)
    slate = Slate(torch.randint(4, (20, 3), generator=stream(1)))
    feedback = world.respond(state, slate, stream(2))[0]
    assert torch.equal(feedback.reward, alone.respond(bare, slate, stream(2))[0].reward)
    assert torch.equal(world.values(state), alone.values(bare))


def test_aging_by_hand() -> None:
    quality = aged(torch.tensor([1.0, 2.0]), torch.tensor([0, 3]), 0.5)
    assert quality.tolist() == pytest.approx([1.0, 2.0 - 0.5 * 1.3862944])


@pytest.mark.parametrize("wrap", [lambda x: x, Delayed, Once], ids=["bare", "delayed", "once"])
def test_old_items_lose_and_the_world_inside_keeps_its_qualities(wrap: Any) -> None:
    inside = Tastes(20, 10, offset=0.0)
    world = Arrivals(wrap(inside), first=5, rate=1, aging=2.0)
    state = world.start(stream(0))
    slate = Slate(torch.tensor([[0, 1]]).expand(20, -1).clone())
    young = world.values(state)
    for t in range(3):
        truth = world.respond(state, slate, stream(1, t))[1]
        assert torch.allclose(truth["relevance"], world.values(state)[:, :2])
        state = world.step(state, slate, truth, stream(2, t))
    old = world.values(state)
    lost = young[:, :5].logit() - old[:, :5].logit()
    assert torch.allclose(lost, torch.full_like(lost, 2 * 1.3862944), atol=1e-3)
    # item 5 arrived in round 1 and is 2 rounds old, item 9 has not arrived
    lost = young[:, 5].logit() - old[:, 5].logit()
    assert torch.allclose(lost, torch.full_like(lost, 2 * 1.0986123), atol=1e-3)
    assert torch.allclose(young[:, 9], old[:, 9])
    inner = state.world
    while not hasattr(inner, "quality"):
        inner = inner.world
    assert torch.equal(inner.quality, inside.start(stream(0)).quality)


def test_once_shows_no_click_again() -> None:
    world = Once(Tastes(30, 40, offset=1.0))
    run = simulate(world, Uniform(), rounds=6, slate=5, seed=0)
    clicked = run.log.frame.filter(run.log.frame["reward"] > 0)
    assert clicked.select("user", "item").is_duplicated().sum() == 0
    assert clicked.height > 200
    skipped = run.log.frame.filter(run.log.frame["reward"] == 0)
    assert skipped.select("user", "item").is_duplicated().any()
    with pytest.raises(ConfigError, match="a request has only"):
        simulate(world, Uniform(), rounds=40, slate=5, seed=0)


def test_masks_of_wrappers_are_joined() -> None:
    world = Once(Arrivals(Matrix(torch.ones(2, 4)), first=2, rate=1))
    state = world.start(stream(0))
    slate = Slate(torch.tensor([[0], [1]]))
    state = world.step(state, slate, world.respond(state, slate, stream(1))[1], stream(2))
    here = world.observe(state).available
    assert here is not None
    assert here.tolist() == [[False, True, True, False], [True, False, True, False]]
    other = Arrivals(Once(Matrix(torch.ones(2, 4))), first=2, rate=1)
    state = other.start(stream(0))
    state = other.step(state, slate, other.respond(state, slate, stream(1))[1], stream(2))
    assert torch.equal(other.observe(state).available, here)  # type: ignore[arg-type]


def test_users_of_chaney_take_one_new_item_a_round() -> None:
    inside = Tastes(20, 200, population=Dirichlet(), clicks=RankedChoice(), offset=0.0)
    world = Once(Arrivals(inside, first=40, rate=10))
    run = simulate(world, Oracle(), rounds=15, slate=20, seed=0, metrics=["clicks"])
    assert run.metrics["clicks"].to_list() == [1.0] * 15
    clicked = run.log.frame.filter(run.log.frame["reward"] > 0)
    assert clicked.select("user", "item").n_unique() == 20 * 15


class Slates(Mixture):
    """The oracle's slate, or with probability epsilon a uniform one."""

    def act(self, context: Context, generator: Generator, *, k: int = 1) -> Slate:
        best = self.policy.act(context, generator, k=k).item
        other = self.control.act(context, generator, k=k).item
        u = torch.rand(len(best), 1, generator=generator)
        return Slate(torch.where(u < self.control_share, other, best))


def drifted(policy: Policy, world: World[Any], rounds: tuple[int, ...]) -> list[float]:
    """The mean length of the move of interests at the end of each of these rounds."""
    state, last, found = None, 0, []
    for end in rounds:
        run = simulate(
            world, policy, rounds=end - last, slate=5, refit=Refit(warmup=0), state=state, seed=0
        )
        state, last, inner = run.state, end, run.state[0].world
        while hasattr(inner, "world"):
            inner = inner.world
        found.append(float((inner.taste - inner.home).norm(dim=1).mean()))
    return found


def interests() -> Tastes:
    return Tastes(
        20, 100, population=Interests(), clicks=PBM(0.0), drift=Reinforcement(0.01), offset=0.0
    )


def test_degenerate_interests() -> None:
    """Section 8.5 at rounds 100 and 500; each number is a mean of 20 users."""
    rounds = (100, 500)
    oracle = drifted(Oracle(), interests(), rounds)
    half = drifted(Slates(Oracle(), 0.5), interests(), rounds)
    random = drifted(Uniform(), interests(), rounds)
    growing = drifted(Oracle(), Arrivals(interests(), first=6, rate=1, every=20), rounds)
    for got, want in (
        (oracle, [1.88, 10.6]),
        (half, [0.96, 5.3]),
        (random, [0.31, 1.22]),
        (growing, [0.97, 7.8]),
    ):
        assert got == pytest.approx(want, rel=0.08)
    for a, b, c, d in zip(oracle, half, random, growing, strict=True):
        assert a > b > c
        assert a > d
        assert a > 5 * c


def als(epsilon: float) -> Policy:
    model = ALS(dim=16, l2=5.0, alpha=5.0, sweeps=4, ridge="absolute")
    return Ranked(model, epsilon=epsilon)


def share_of_new(policy: Policy) -> float:
    """Of the displays from round 15, when the second half has come in round 10."""
    world = Arrivals(Tastes(500, 300), first=150, rate=150, every=10)
    frame = simulate(world, policy, rounds=25, slate=10, seed=0).log.frame
    assert frame.filter(frame["time"] < 10)["item"].max() == 149
    late: Any = frame.filter(frame["time"] >= 15)["item"] >= 150
    return float(late.mean())


def test_cold_start_of_half_the_catalogue() -> None:
    """Section 8.6: every display of a new item comes from exploration, epsilon / 2."""
    assert share_of_new(als(0.0)) < 0.02
    assert share_of_new(als(0.1)) == pytest.approx(0.05, abs=0.01)
    assert 0.4 < share_of_new(Oracle()) < 0.6


def test_replications_of_a_bandit_share_the_calendar() -> None:
    world = Arrivals(Arms([0.1, 0.5, 0.9]), first=2, rate=1, every=2)
    state = world.start(stream(0), 3)
    available: Tensor | None = world.observe(state).available
    assert available is not None
    assert available.tolist() == [[True, True, False]]
    run = simulate(world, Uniform(), rounds=40, replications=3, seed=0)
    first = run.log.frame.filter(run.log.frame["item"] == 2)["time"].min()
    assert first == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first": -1}, "found first=-1"),
        ({"rate": -1.0}, "found first=10, rate=-1.0"),
        ({"rate": 0.5}, "whole where it is fixed"),
        ({"every": 0}, "every=0"),
        ({"life": 0}, "life=0"),
        ({"hazard": 1.5}, "hazard=1.5"),
    ],
)
def test_refuses_impossible_arrivals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Arrivals(Tastes(5, 20), **options)


def test_only_worlds_with_log_odds_of_quality_age() -> None:
    for world in (Arms([0.5]), Tastes(5, 5, population=Dirichlet(), offset=0.0)):
        with pytest.raises(ConfigError, match=r"aging=0\.0"):
            Arrivals(world, aging=0.1)
