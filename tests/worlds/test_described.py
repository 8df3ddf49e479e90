"""The platform's knowledge of contents: in the log's items, noisy, and nowhere else."""

from __future__ import annotations

import pytest
import torch

from recfb.contracts import World
from recfb.errors import ConfigError
from recfb.policies import Uniform
from recfb.random import stream
from recfb.simulate import simulate
from recfb.worlds import Arms, Arrivals, Described, Gaussian, Tastes

PLAIN = Tastes(30, 400, population=Gaussian(dim=8, topics=3))


def contents(noise: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """What is told, and the truth: (I, d) each."""
    world = Described(PLAIN, noise)
    state = world.start(stream(seed))
    told = world.opening(state, 1, 1).items["content"].to_torch()
    return told, state.world.content


def test_contents_are_told_with_noise() -> None:
    told, true = contents(0.0)
    assert torch.equal(told, true)
    told, true = contents(0.5)
    error = (told - true) / true.std()
    assert float(error.std()) == pytest.approx(0.5, rel=0.05)
    assert not torch.equal(error, (contents(0.5, 1)[0] - contents(0.5, 1)[1]) / true.std())


def test_topics_stay() -> None:
    world = Described(PLAIN)
    assert world.opening(world.start(stream(0)), 1, 1).items.columns == ["id", "topic", "content"]


def test_users_are_those_of_the_world_inside() -> None:
    options = {"rounds": 3, "slate": 2, "seed": 5}
    plain, told = (simulate(world, Uniform(), **options) for world in (PLAIN, Described(PLAIN)))
    assert plain.log.frame.equals(told.log.frame) and plain.truth.equals(told.truth)
    outside = simulate(Arrivals(Described(PLAIN), first=10), Uniform(), rounds=2, slate=2)
    assert "content" in outside.log.items.columns


@pytest.mark.parametrize("world", [Arms([0.1, 0.2]), Arrivals(PLAIN)])
def test_a_world_without_contents_is_refused(world: World) -> None:  # type: ignore[type-arg]
    with pytest.raises(ConfigError, match="has no contents to describe"):
        Described(world).start(stream(0))


def test_noise_is_not_negative() -> None:
    with pytest.raises(ConfigError, match="noise is at least 0, found -1"):
        Described(PLAIN, -1.0)
