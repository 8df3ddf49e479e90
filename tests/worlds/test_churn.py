"""Users who come, leave and return."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from recfb.contracts import Slate
from recfb.errors import ConfigError
from recfb.policies import LinUCB, Oracle, Ranked, Uniform
from recfb.random import stream
from recfb.simulate import Refit, simulate
from recfb.solvers import Popularity
from recfb.worlds import Arms, Attraction, Delayed, Matrix, Tastes
from recfb.worlds.arrivals import Arrivals, Once
from recfb.worlds.churn import Churn, churn_hazard, transitions
from recfb.worlds.clicks import PBM


def test_w_t21_rows_of_transitions_sum_to_one_and_are_those_of_their_own_state() -> None:
    hazard = churn_hazard(torch.tensor([0.0, 1.0, 3.0]), -1.0, 0.5)
    assert hazard.tolist() == pytest.approx([0.2689414, 0.1824255, 0.0758582])
    got = transitions(hazard, 0.4)
    assert torch.allclose(got.sum(2), torch.ones(3, 2))
    for h, rows in zip(hazard.tolist(), got, strict=True):
        assert rows[0].tolist() == pytest.approx([0.6, 0.4])
        assert rows[1].tolist() == pytest.approx([h, 1 - h])


def one_round(world: Churn, state: Any, t: int) -> Any:
    rows = len(world.observe(state))
    slate = Slate(torch.zeros(rows, 1, dtype=torch.int64))
    truth = world.respond(state, slate, stream(1, t))[1]
    return world.step(state, slate, truth, stream(2, t))


def test_w_t21_shares_of_leaving_and_returning() -> None:
    """Half the users click always, the others never; moods of decay 0 are the last clicks."""
    n = 20_000
    reward = (torch.arange(n) % 2 == 0).float()[:, None]
    world = Churn(Matrix(reward), base=0.0, slope=2.0, decay=0.0, mood=0.0, back=0.3)
    first = world.start(stream(0))
    assert first.beside.here.all()
    second = one_round(world, first, 0)
    third = one_round(world, second, 1)
    for clicks, leave in ((0, 0.5), (1, 1 / (1 + torch.tensor(2.0).exp().item()))):
        mine = reward[:, 0] == clicks
        left = 1 - second.beside.here[mine].double().mean()
        error = 4 * (leave * (1 - leave) / (n / 2)) ** 0.5
        assert float(left) == pytest.approx(leave, abs=error)
        away = mine & ~second.beside.here
        back = third.beside.here[away].double().mean()
        assert float(back) == pytest.approx(0.3, abs=4 * (0.21 / int(away.sum())) ** 0.5)
        left = 1 - third.beside.here[mine & second.beside.here].double().mean()
        assert float(left) == pytest.approx(leave, abs=2 * error)


def test_moods_move_for_those_who_asked_only() -> None:
    reward = torch.tensor([[1.0], [0.0], [1.0]])
    world = Churn(Matrix(reward), base=-50.0, decay=0.75, mood=0.4, first=2, rate=1)
    state = one_round(world, world.start(stream(0)), 0)
    assert state.beside.mood.tolist() == pytest.approx([0.55, 0.3, 0.4])
    assert state.beside.here.tolist() == [True, True, True]


def test_users_come_in_the_order_of_their_ids_and_never_before() -> None:
    world = Churn(Tastes(20, 8), base=-50.0, back=1.0, first=3, rate=2)
    run = simulate(world, Uniform(), rounds=12, slate=2, seed=0)
    for t in range(12):
        users = run.log.frame.filter(run.log.frame["time"] == t)["user"].unique().sort()
        assert users.to_list() == list(range(min(20, 3 + 2 * t)))
    gone = Churn(Tastes(20, 8), base=50.0, first=3, rate=2)
    run = simulate(gone, Uniform(), rounds=5, slate=2, seed=0)
    users = [run.log.frame.filter(run.log.frame["time"] == t)["user"].unique() for t in range(5)]
    assert [sorted(x) for x in users] == [[0, 1, 2], [3, 4], [5, 6], [7, 8], [9, 10]]


def test_w_t24_who_is_there_changes_nobody_elses_numbers() -> None:
    """All users clicked alike with and without the others, and tastes of the absent stay."""
    inside = Tastes(40, 12, drift=Attraction(0.2), offset=1.0)
    world = Churn(inside, base=-50.0, first=15)
    state, bare = world.start(stream(0)), inside.start(stream(0))
    slate = Slate(torch.randint(12, (40, 3), generator=stream(1)))
    few = Slate(slate.item[:15])
    part, truth = world.respond(state, few, stream(2))
    whole, other = inside.respond(bare, slate, stream(2))
    assert torch.equal(part.reward, whole.reward[:15])
    assert {name: len(x) for name, x in truth.items()} == dict.fromkeys(other, 15)
    assert torch.equal(world.values(state), inside.values(bare)[:15])
    after = world.step(state, few, truth, stream(3)).world
    full = inside.step(bare, slate, other, stream(3))
    assert torch.equal(after.taste[:15], full.taste[:15])
    assert torch.equal(after.taste[15:], bare.taste[15:])


def test_better_slates_keep_more_users() -> None:
    world = Churn(Tastes(2000, 60), base=0.0, slope=2.0)
    left = [
        int(simulate(world, policy, rounds=8, slate=5, seed=0).state[0].world.beside.here.sum())
        for policy in (Uniform(), Oracle())
    ]
    assert left[1] > left[0] + 4 * 2000**0.5


def test_policies_and_wrappers_live_with_changing_numbers_of_requests() -> None:
    inside = Arrivals(Tastes(60, 40, offset=0.0), first=20, rate=2, life=15)
    world = Delayed(Once(Churn(inside, base=-1.0, back=0.2, first=30, rate=3)), rounds=1)
    for policy in (Ranked(Popularity(), epsilon=0.2), LinUCB(), Oracle()):
        run = simulate(world, policy, rounds=10, slate=4, seed=1, metrics=["clicks", "gini"])
        clicked = run.log.frame.filter(run.log.frame["reward"] > 0)
        assert clicked.select("user", "item").is_duplicated().sum() == 0
        sizes = run.log.frame.group_by("time").len()["len"]
        assert sizes.n_unique() > 3
        assert run.log.frame.height == run.truth.height


def test_a_world_may_be_empty_for_a_while() -> None:
    world = Churn(Tastes(4, 6, clicks=PBM(0.0)), base=50.0, slope=0.0, first=1, rate=0, back=0.3)
    run = simulate(world, Uniform(), rounds=12, slate=2, seed=0, refit=Refit(warmup=0))
    times = run.log.frame["time"].unique().to_list()
    assert 0 in times
    assert 1 not in times
    assert len(times) > 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Churn(Arms([0.5])), "every row is a user"),
        (lambda: Churn(Tastes(5, 5), decay=1.0), "decay is in"),
        (lambda: Churn(Tastes(5, 5), back=1.1), "back in"),
        (lambda: Churn(Tastes(5, 5), first=6), "between 1 and 5"),
        (lambda: Churn(Tastes(5, 5), first=0), "between 1 and 5"),
        (lambda: Churn(Tastes(5, 5), rate=-1), "rate of at least 0"),
    ],
)
def test_refuses_impossible_churn(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
