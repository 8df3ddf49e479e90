"""How tastes move."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recfb.errors import ConfigError
from recfb.policies import Uniform
from recfb.random import stream
from recfb.simulate import simulate
from recfb.worlds import Attraction, Tastes


def after(taste: list[float], item: list[float], rate: float = 0.1) -> Tensor:
    shown = torch.tensor([[item]])
    return Attraction(rate)(torch.tensor([taste]), shown, torch.ones(1, 1), stream(0))[0]


def test_w_t9_one_click_moves_the_taste_along_the_item_only() -> None:
    taste, first, second = [3.0, 0.0, 4.0], [0.0, 2.0, 0.0], [1.0, 0.0, 0.0]
    moved = after(taste, first)
    # 0.9 taste + 0.1 * |taste| = 5 along the item
    assert moved.tolist() == pytest.approx([2.7, 0.5, 3.6])
    start = torch.tensor(taste)
    step = moved - 0.9 * start
    assert torch.allclose(step / step.norm(), torch.tensor([0.0, 1.0, 0.0]))

    def cosine(x: Tensor) -> float:
        return float(torch.cosine_similarity(x, torch.tensor(first), dim=0))

    assert cosine(moved) > cosine(start)
    assert not torch.allclose(moved, after(taste, second))


def test_several_clicks_move_towards_their_mean_and_skips_do_not_count() -> None:
    shown = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [-9.0, -9.0]]])
    got = Attraction(0.5)(
        torch.tensor([[2.0, 0.0]]), shown, torch.tensor([[1.0, 1.0, 0.0]]), stream(0)
    )
    # mean direction (1, 1) / sqrt 2, length 2
    assert got[0].tolist() == pytest.approx([1 + 2**-0.5, 2**-0.5], rel=1e-6)


def test_without_clicks_the_taste_stays_bit_by_bit() -> None:
    taste = torch.randn(20, 4, generator=stream(0))
    shown = torch.randn(20, 3, 4, generator=stream(1))
    got = Attraction(0.3)(taste, shown, torch.zeros(20, 3), stream(2))
    assert torch.equal(got, taste)


def test_drift_off_leaves_the_world_as_it_is() -> None:
    still = simulate(Tastes(20, 10), Uniform(), rounds=5, slate=3, seed=1)
    off = simulate(Tastes(20, 10, drift=Attraction(0.0)), Uniform(), rounds=5, slate=3, seed=1)
    assert torch.equal(still.state[0].world.taste, off.state[0].world.taste)
    assert still.log.frame.equals(off.log.frame)
    on = simulate(Tastes(20, 10, drift=Attraction(0.2)), Uniform(), rounds=5, slate=3, seed=1)
    assert not torch.equal(still.state[0].world.taste, on.state[0].world.taste)


def test_refuses_a_rate_outside_0_1() -> None:
    with pytest.raises(ConfigError, match="rate of drift"):
        Attraction(1.5)
