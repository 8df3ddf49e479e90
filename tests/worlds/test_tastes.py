"""The reference world of closed loops."""

from __future__ import annotations

import math

import pytest
import torch

from recfb.contracts import Slate
from recfb.errors import ConfigError
from recfb.random import stream
from recfb.worlds import PBM, Gaussian, Tastes
from recfb.worlds.tastes import TastesState


def by_hand() -> TastesState:
    return TastesState(
        time=3,
        taste=torch.tensor([[1.0, 0.0], [0.0, 2.0]]),
        content=torch.tensor([[1.0, 1.0], [0.5, -1.0], [0.0, 0.0]]),
        quality=torch.tensor([0.0, 0.5, 1.0]),
        offset=torch.tensor(-2.0),
        group=torch.tensor([0, 0]),
        topic=torch.tensor([0, 1, 1]),
        home=torch.zeros(2, 2),
    )


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_relevance_by_hand() -> None:
    world, state = Tastes(2, 3), by_hand()
    expected = [
        [sigmoid(1 - 2), sigmoid(0.5 + 0.5 - 2), sigmoid(1 - 2)],
        [sigmoid(2 - 2), sigmoid(-2 + 0.5 - 2), sigmoid(1 - 2)],
    ]
    for row, want in zip(world.relevance(state), expected, strict=True):
        assert row.tolist() == pytest.approx(want)
    shown = Slate(torch.tensor([[2, 0], [1, 0]]))
    feedback, truth = world.respond(state, shown, stream(0))
    want = [[expected[0][2], expected[0][0]], [expected[1][1], expected[1][0]]]
    for row, value, line in zip(truth["relevance"], truth["value"], want, strict=True):
        assert row.tolist() == pytest.approx(line)
        assert value.tolist() == pytest.approx([line[0], line[1] / 2])
    assert feedback.reward is truth["reward"]
    assert torch.equal(world.values(state), world.relevance(state))


def test_the_population_has_its_moments_and_groups() -> None:
    people = Gaussian(8, 0.5, minority=0.2, shift=2.0).draw(20_000, 20_000, stream(0))
    assert people.group[:4000].all()
    assert not people.group[4000:].any()
    minority, others = people.taste[:4000], people.taste[4000:]
    assert float(minority[:, 0].mean()) == pytest.approx(2.0, abs=4 / 63)
    assert float(others[:, 0].mean()) == pytest.approx(-0.5, abs=4 / 126)
    assert float(people.taste[:, 1:].std()) == pytest.approx(1.0, abs=0.02)
    assert float(people.content.std()) == pytest.approx(8**-0.5, abs=0.01)
    assert float(people.quality.std()) == pytest.approx(0.5, abs=0.01)


def test_w_t15_base_rate_is_solved() -> None:
    for rate in (0.05, 0.17, 0.6):
        world = Tastes(400, 300, base_rate=rate)
        state = world.start(stream(1))
        sampled = world._solved(state, rate, stream(5)) - state.offset
        assert abs(float(sampled)) < 0.05
        assert float(world.relevance(state).mean()) == pytest.approx(rate, abs=2e-3)


def test_clicks_are_drawn_alike_whatever_is_shown() -> None:
    world = Tastes(30, 9, clicks=PBM(0.0))
    state = world.start(stream(0))
    worst, best = world.values(state).topk(9, dim=1).indices.split([6, 3], dim=1)
    few = world.respond(state, Slate(best), stream(3))[1]
    many = world.respond(state, Slate(worst[:, :3]), stream(3))[1]
    assert torch.equal(few["examined"], many["examined"])
    assert (few["reward"] <= many["reward"]).all()


def test_refuses_empty_worlds_and_impossible_rates() -> None:
    with pytest.raises(ConfigError, match="users and items"):
        Tastes(0, 5)
    with pytest.raises(ConfigError, match="base rate"):
        Tastes(5, 5, base_rate=1.0)
    with pytest.raises(ConfigError, match="minority share"):
        Gaussian(minority=1.0)
