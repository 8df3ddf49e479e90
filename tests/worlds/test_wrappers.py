"""What is hidden, and from whom."""

from __future__ import annotations

import math

import pytest
import torch

from recfb.contracts import Slate
from recfb.errors import ConfigError
from recfb.random import stream
from recfb.worlds import Arms, Delayed, OneSided, Tastes


def test_one_sided_hides_from_the_platform_only() -> None:
    inner = Arms([0.5, 0.5, 0.5])
    world = OneSided(inner, revealing=[0, 2])
    state = world.start(stream(0), 6)
    shown = Slate(torch.tensor([[0], [1], [2], [0], [1], [2]]))
    feedback, truth = world.respond(state, shown, stream(1))
    assert feedback.reward.isnan()[:, 0].tolist() == [False, True, False, False, True, False]
    alone, bare = inner.respond(state, shown, stream(1))
    assert torch.equal(truth["reward"], bare["reward"])
    assert torch.equal(truth["reward"], alone.reward)
    with pytest.raises(ConfigError, match="revealing items"):
        OneSided(inner, revealing=[3])


def test_delays_are_exponential_above_their_least() -> None:
    """floor(Exp(5)) is geometric with mean 1 / (e^(1/5) - 1) = 4.517; share 0 is 1 - e^(-1/5)."""
    world = Delayed(Arms([0.5]), rounds=2, mean=5.0, lost=0.25)
    n = 40_000
    state, shown = world.start(stream(0), n), Slate(torch.zeros(n, 1, dtype=torch.int64))
    feedback, truth = world.respond(state, shown, stream(1))
    assert feedback.delay is not None
    waited = (feedback.delay - 2).double()
    assert int(waited.min()) == 0
    mean = 1 / (math.exp(0.2) - 1)
    assert float(waited.mean()) == pytest.approx(mean, abs=4 * math.sqrt(mean * (mean + 1) / n))
    assert float((waited == 0).double().mean()) == pytest.approx(
        1 - math.exp(-0.2), abs=4 * 0.5 / 200
    )
    lost = feedback.reward.isnan().double().mean()
    assert float(lost) == pytest.approx(0.25, abs=4 * 0.44 / 200)
    assert not truth["reward"].isnan().any()


def test_wrappers_do_not_change_what_the_world_inside_draws() -> None:
    inner = Tastes(40, 12)
    state = inner.start(stream(0))
    shown = Slate(torch.arange(12)[:3].expand(40, -1))
    bare, under = stream(1), stream(1)
    _, alone = inner.respond(state, shown, bare)
    wrapped = OneSided(Delayed(inner, rounds=1, mean=2.0, lost=0.1), revealing=range(6))
    _, truth = wrapped.respond(wrapped.start(stream(0)), shown, under)
    assert torch.equal(bare.get_state(), under.get_state())
    for name, value in alone.items():
        assert torch.equal(truth[name], value), name


def test_delays_add_up() -> None:
    world = Delayed(Delayed(Arms([0.5]), rounds=2), rounds=3)
    feedback, _ = world.respond(world.start(stream(0)), Slate(torch.zeros(1, 1).long()), stream(0))
    assert feedback.delay is not None
    assert feedback.delay.tolist() == [[5]]


def test_vectorised_as_the_world_inside() -> None:
    assert OneSided(Arms([0.5, 0.5])).vectorised
    assert not OneSided(Tastes(3, 3)).vectorised


def test_refuses_impossible_delays() -> None:
    for wrong in ({"rounds": -1}, {"mean": -0.5}, {"lost": 1.5}):
        with pytest.raises(ConfigError, match="delay"):
            Delayed(Arms([0.5]), **wrong)
