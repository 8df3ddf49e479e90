"""How tastes move."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from recfb.errors import ConfigError
from recfb.policies import Uniform
from recfb.random import spawn, stream
from recfb.simulate import simulate
from recfb.worlds import Attraction, Tastes
from recfb.worlds.drift import (
    BiasedAssimilation,
    Drift,
    Drifts,
    RandomWalk,
    Reinforcement,
    Repulsion,
    Reversion,
    Shock,
    Visit,
)


def visit(
    shown: list[list[float]],
    reward: list[float],
    *,
    examined: list[bool] | None = None,
    time: int = 0,
    home: list[float] | None = None,
) -> Visit:
    """One user's round; everything is examined unless said."""
    seen = [True] * len(reward) if examined is None else examined
    start = [0.0] * len(shown[0]) if home is None else home
    return Visit(
        time,
        torch.tensor([shown]),
        torch.tensor([reward]),
        torch.tensor([seen]),
        torch.tensor([start]),
    )


def move(drift: Drift, taste: list[float], what: Visit) -> Tensor:
    return drift(torch.tensor([taste]), what, stream(0))[0]


def after(taste: list[float], item: list[float], rate: float = 0.1) -> Tensor:
    return move(Attraction(rate), taste, visit([item], [1.0]))


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
    shown = [[1.0, 0.0], [0.0, 1.0], [-9.0, -9.0]]
    got = move(Attraction(0.5), [2.0, 0.0], visit(shown, [1.0, 1.0, 0.0]))
    # mean direction (1, 1) / sqrt 2, length 2
    assert got.tolist() == pytest.approx([1 + 2**-0.5, 2**-0.5], rel=1e-6)


def test_repulsion_moves_away_from_what_was_looked_at_and_not_clicked() -> None:
    shown, reward = [[0.0, 1.0], [0.0, 3.0], [9.0, 9.0], [7.0, 0.0]], [0.0, 0.0, 1.0, 0.0]
    what = visit(shown, reward, examined=[True, True, True, False])
    got = move(Repulsion(0.5), [3.0, 4.0], what)
    # (3, 4) - 0.5 * (0, 2) = (3, 3), back to length 5
    assert got.tolist() == pytest.approx([5 * 2**-0.5] * 2)
    unseen = visit(shown, reward, examined=[False] * 4)
    assert move(Repulsion(0.5), [3.0, 4.0], unseen).tolist() == [3.0, 4.0]


def test_w_t10_biased_assimilation_pushes_away_what_disagrees() -> None:
    got = move(BiasedAssimilation(0.5), [1.0, 0.0], visit([[-0.6, 0.8]], [1.0]))
    # (1, 0) + 0.5 * -0.6 * (-0.6, 0.8) = (1.18, -0.24)
    length = math.hypot(1.18, 0.24)
    assert got.tolist() == pytest.approx([1.18 / length, -0.24 / length])
    towards = move(BiasedAssimilation(0.5), [1.0, 0.0], visit([[0.6, 0.8]], [1.0]))
    assert towards.tolist() == pytest.approx([1.18 / length, 0.24 / length])


def test_biased_assimilation_takes_the_mean_over_clicked_items_and_keeps_the_length() -> None:
    shown = [[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]]
    got = move(BiasedAssimilation(1.0), [3.0, 1.0], visit(shown, [1.0, 1.0, 0.0]))
    # pulls (3, 0) and (0, 1), mean (1.5, 0.5): the direction stays, and so does the length
    assert got.tolist() == pytest.approx([3.0, 1.0])
    still = visit(shown, [0.0, 0.0, 0.0])
    assert move(BiasedAssimilation(1.0), [3.0, 1.0], still).tolist() == [3.0, 1.0]


def test_reinforcement_adds_clicks_and_takes_away_skips() -> None:
    shown = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    what = visit(shown, [1.0, 0.0, 0.0], examined=[True, True, False])
    got = move(Reinforcement(0.25), [0.0, 0.0, 0.0], what)
    assert got.tolist() == [0.25, -0.25, 0.0]


def everyone(n: int, time: int = 0, home: Tensor | None = None) -> Visit:
    zero = torch.zeros(n, 1)
    home = torch.zeros(n, 2) if home is None else home
    return Visit(time, torch.zeros(n, 1, 2), zero, zero.bool(), home)


def test_random_walk_has_its_variance_and_each_user_its_own() -> None:
    n = 20_000
    got = RandomWalk(0.5)(torch.zeros(n, 2), everyone(n), stream(0))
    assert got.mean(0).tolist() == pytest.approx([0.0, 0.0], abs=4 * 0.5 / n**0.5)
    assert got.var(0).tolist() == pytest.approx([0.25, 0.25], abs=4 * 0.25 * (2 / n) ** 0.5)
    assert abs(float(torch.corrcoef(got.T)[0, 1])) < 4 / n**0.5
    assert len(got[:, 0].unique()) > n * 0.99


def test_reversion_and_a_walk_have_the_stationary_variance() -> None:
    """x <- (1 - r)(x - h) + h + e: variance sd^2 / (1 - (1 - r)^2) around home."""
    n, rate, sd = 20_000, 0.5, 0.3
    both = Drifts([Reversion(rate), RandomWalk(sd)])
    home = torch.full((n, 2), 2.0)
    taste = torch.zeros(n, 2)
    for t in range(30):
        taste = both(taste, everyone(n, t, home), stream(0, t))
    want = sd**2 / (1 - (1 - rate) ** 2)
    assert taste.mean(0).tolist() == pytest.approx([2.0, 2.0], abs=4 * (want / n) ** 0.5)
    assert taste.var(0).tolist() == pytest.approx([want, want], abs=4 * want * (2 / n) ** 0.5)
    one = move(Reversion(0.25), [0.0, 8.0], visit([[0.0, 0.0]], [1.0], home=[4.0, 0.0]))
    assert one.tolist() == [1.0, 6.0]


def test_a_shock_gives_a_share_of_users_the_first_taste_of_another() -> None:
    n = 10_000
    home = torch.stack([torch.arange(n), -torch.arange(n)], 1).float()
    taste = home + 0.5
    drift = Shock(at=[3, 7], users=0.3)
    for time in (2, 4, 6):
        assert torch.equal(drift(taste, everyone(n, time, home), stream(1)), taste)
    got = drift(taste, everyone(n, 7, home), stream(1))
    hit = (got != taste).all(1)
    assert float(hit.float().mean()) == pytest.approx(0.3, abs=4 * (0.21 / n) ** 0.5)
    assert torch.equal(got[hit][:, 0], -got[hit][:, 1])
    # 3,000 draws out of 10,000 tastes: about 2,592 different ones, hardly any of them one's own
    assert 2400 < len(got[hit].unique(dim=0)) < 2800
    assert int((got[hit] == home[hit]).all(1).sum()) < 8
    other = drift(taste, everyone(n, 3, home), stream(2))
    assert not torch.equal(got, other)


def test_several_drifts_follow_one_another_with_numbers_of_their_own() -> None:
    taste, what = torch.ones(50, 2), everyone(50)
    got = Drifts([RandomWalk(0.1), Reversion(0.5)])(taste, what, stream(3))
    walked = RandomWalk(0.1)(taste, what, spawn(stream(3), "RandomWalk"))
    assert torch.equal(got, Reversion(0.5)(walked, what, stream(9)))
    more = Drifts([Shock(at=[5]), RandomWalk(0.1), Reversion(0.5)])
    assert torch.equal(more(taste, what, stream(3)), got)


@pytest.mark.parametrize(
    "drift",
    [Attraction(0.3), Repulsion(0.3), BiasedAssimilation(0.3), Reinforcement(0.3)],
    ids=repr,
)
def test_without_feedback_the_taste_stays_bit_by_bit(drift: Drift) -> None:
    taste = torch.randn(20, 4, generator=stream(0))
    shown = torch.randn(20, 3, 4, generator=stream(1))
    nothing = torch.zeros(20, 3)
    got = drift(taste, Visit(0, shown, nothing, nothing.bool(), taste), stream(2))
    assert torch.equal(got, taste)


def test_drift_off_leaves_the_world_as_it_is() -> None:
    still = simulate(Tastes(20, 10), Uniform(), rounds=5, slate=3, seed=1)
    off = simulate(Tastes(20, 10, drift=Attraction(0.0)), Uniform(), rounds=5, slate=3, seed=1)
    assert torch.equal(still.state[0].world.taste, off.state[0].world.taste)
    assert still.log.frame.equals(off.log.frame)
    on = simulate(Tastes(20, 10, drift=Attraction(0.2)), Uniform(), rounds=5, slate=3, seed=1)
    assert not torch.equal(still.state[0].world.taste, on.state[0].world.taste)


def test_a_world_hands_its_drift_the_round_it_has_played() -> None:
    """Reversion pulls to the tastes of the start, a shock waits for its round."""
    drift = Drifts([RandomWalk(0.3), Shock(at=[1], users=1.0)])
    run = simulate(Tastes(30, 10, drift=drift), Uniform(), rounds=2, slate=3, seed=1)
    state = run.state[0].world
    rows = (state.taste[:, None] == state.home[None]).all(2).sum(1)
    assert (rows == 1).all()
    later = simulate(Tastes(30, 10, drift=drift), Uniform(), rounds=3, slate=3, seed=1)
    assert not (later.state[0].world.taste[:, None] == state.home[None]).all(2).any()
    assert torch.equal(later.state[0].world.home, state.home)
    back = simulate(Tastes(30, 10, drift=Reversion(1.0)), Uniform(), rounds=2, slate=3, seed=1)
    assert torch.equal(back.state[0].world.taste, state.home)


def test_repulsion_in_a_world_reads_what_was_examined() -> None:
    """With clicks on everything that is examined nothing is skipped, and nothing moves."""
    world = Tastes(30, 10, drift=Repulsion(0.5), offset=50.0)
    run = simulate(world, Uniform(), rounds=3, slate=3, seed=1)
    assert torch.equal(run.state[0].world.taste, run.state[0].world.home)


@pytest.mark.parametrize("kind", [Attraction, Repulsion, BiasedAssimilation, Reversion])
def test_refuses_a_rate_outside_0_1(kind: type) -> None:
    with pytest.raises(ConfigError, match=r"rate is in \[0, 1\]"):
        kind(1.5)


def test_refuses_a_negative_walk_and_more_than_all_users() -> None:
    with pytest.raises(ConfigError, match="sd is not negative"):
        RandomWalk(-0.1)
    with pytest.raises(ConfigError, match=r"users is in \[0, 1\]"):
        Shock(users=1.1)
