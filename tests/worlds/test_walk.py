"""Hard instances: the multi-scale walk and the grid of gaps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recfb.contracts import Slate
from recfb.errors import ConfigError
from recfb.policies import Uniform
from recfb.random import stream
from recfb.simulate import simulate
from recfb.worlds import walk as walk_module
from recfb.worlds.gaps import Gaps
from recfb.worlds.walk import MultiScaleWalk, canonical_gap, canonical_sigma, clipped_mean, parent


def path(world: MultiScaleWalk, rounds: int, rows: int) -> Tensor:
    """Expected rewards: (T, R, n_items)."""
    state, seen = world.start(stream(0, "start"), rows), []
    for t in range(rounds):
        seen.append(world.values(state))
        state = world.step(state, Slate(torch.zeros(rows, 1).long()), {}, stream(0, "step", t))
    return torch.stack(seen)


def test_b_3_7_depth_and_width_of_the_tree() -> None:
    """T = 2^14: the longest chain of parents has 14 steps, and at most 15 of them cross a round."""
    T = 2**14
    depth = [0] * (T + 1)
    crossing = [0] * (T + 2)
    for t in range(1, T + 1):
        depth[t] = depth[parent(t)] + 1
        crossing[parent(t)] += 1
        crossing[t] -= 1
    widths, total = [], 0
    for change in crossing:
        total += change
        widths.append(total)
    assert max(depth) == 14
    assert max(widths) == 15
    assert depth == [t.bit_count() for t in range(T + 1)]


@pytest.mark.parametrize("ahead", [2, 8, 256])
def test_the_walk_goes_on_from_its_parent(ahead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps W_t - W_parent(t) are independent N(0, sigma^2), for all t; and W_t is the same for
    all arms but for the gap."""
    monkeypatch.setattr(walk_module, "length_ahead", lambda numbers: ahead)
    T, R, sigma = 64, 2000, 0.01
    reward = path(MultiScaleWalk(3, T, gap=0.1, sigma=sigma), T, R)
    low = reward.amin(2)  # (T, R): 1/2 - W of the arms that are not best
    assert torch.allclose(reward.amax(2) - low, torch.full_like(low, 0.1), atol=1e-12)
    walk = torch.cat([torch.zeros(1, R).double(), 0.5 - low])  # (T + 1, R)
    steps = torch.stack([walk[t] - walk[parent(t)] for t in range(1, T + 1)])
    assert float((steps.std(1) / sigma - 1).abs().max()) < 5 / (2 * R) ** 0.5
    corr = torch.corrcoef(steps) - torch.eye(T).double()
    assert float(corr.abs().max()) < 5.5 / R**0.5
    best = reward[0].argmax(1)
    assert torch.equal(reward[-1].argmax(1), best)
    share = torch.bincount(best, minlength=3) / R
    assert float((share - 1 / 3).abs().max()) < 5 * 0.47 / R**0.5


def test_canonical_numbers_and_rare_clipping() -> None:
    T = 1024
    assert canonical_sigma(T) == pytest.approx(1 / 90)
    assert canonical_gap(T, 2) == pytest.approx((2 / T) ** (1 / 3) / 90)
    reward = path(MultiScaleWalk(2, T), T, 32)
    gaps = reward.amax(2) - reward.amin(2)
    assert torch.allclose(gaps, torch.full_like(gaps, canonical_gap(T, 2)), atol=1e-12)
    assert 0 < float(reward.min()) < float(reward.max()) < 1


def test_a_grid_of_instances_lies_on_the_rows() -> None:
    world = MultiScaleWalk(2, 64, gap=[0.1, 0.2], sigma=[0.0, 0.0, 0.01], noise=[0.0, 0.3])
    state = world.start(stream(0), 6)
    offset = state.instance.offset
    assert (offset.amax(1) - offset.amin(1)).tolist() == pytest.approx([0.1, 0.2] * 3)
    assert state.instance.sigma.tolist() == [0.0, 0.0, 0.01] * 2
    drawn = world.outcomes(state, stream(1))
    clear = state.instance.noise[:, 0] == 0
    assert torch.equal(drawn[clear], world.values(state)[clear].float())
    assert not torch.equal(drawn[~clear], world.values(state)[~clear].float())


def test_values_are_the_means_of_noisy_outcomes() -> None:
    """Also where clipping bites: 4e5 draws, 5 standard errors."""
    n = 400_000
    state = MultiScaleWalk(2, 8, gap=0.3, sigma=0.3, noise=0.4).start(stream(0), n)
    error = state.outcome.double() - state.means  # (n, 2)
    assert bool((error.mean(0).abs() < 5 * error.std(0) / n**0.5).all())
    assert float(((state.outcome == 0) | (state.outcome == 1)).double().mean()) > 0.2
    sharp = clipped_mean(torch.tensor([-0.5, 0.25, 1.5]), torch.zeros(3))
    assert sharp.tolist() == pytest.approx([0, 0.25, 1], abs=1e-12)


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_the_best_is_the_largest_value(noise: float) -> None:
    """And of slates, the sum of the two largest."""
    world = MultiScaleWalk(3, 64, gap=0.1, sigma=0.1, noise=noise)
    state, g = world.start(stream(0), 5), stream(1)
    for k in (1, 2):
        slate = Slate(torch.arange(k).expand(5, k))
        _, truth = world.respond(state, slate, g)
        expected = world.values(state).sort(1, descending=True).values[:, :k].sum(1)
        assert torch.allclose(truth["best"], expected, rtol=0, atol=1e-15)


def test_the_same_numbers_whatever_is_shown() -> None:
    world = MultiScaleWalk(3, 16, noise=0.2)
    state = world.start(stream(0), 5)
    outcome = world.outcomes(state, stream(1))
    for item in range(3):
        shown = Slate(torch.full((5, 1), item))
        feedback, _ = world.respond(state, shown, stream(1))
        assert torch.equal(feedback.reward[:, 0], outcome[:, item])


def test_a_walk_is_not_played_longer_than_it_is() -> None:
    with pytest.raises(ConfigError, match=r"MultiScaleWalk\(2, horizon=65\)"):
        simulate(MultiScaleWalk(2, 64), Uniform(), rounds=65)
    simulate(MultiScaleWalk(2, 64), Uniform(), rounds=64)
    for wrong in ({"n_items": 1}, {"horizon": 1}):
        with pytest.raises(ConfigError, match="two arms and two rounds"):
            MultiScaleWalk(**wrong)
    for name in ("gap", "sigma", "noise"):
        with pytest.raises(ConfigError, match=f"{name} is at least 0"):
            MultiScaleWalk(2, 8, **{name: [0.1, -0.1]})


def test_gaps_lie_on_the_rows_and_the_best_is_random() -> None:
    world = Gaps(4, gaps=[0.5, 0.25])
    means = world.start(stream(0), 4000).means
    assert (means.amax(1) - means.amin(1)).tolist() == pytest.approx([0.5, 0.25] * 2000)
    assert means.sum(1).tolist() == pytest.approx([1.5, 1.75] * 2000)
    share = torch.bincount(means.argmax(1), minlength=4) / 4000
    assert float((share - 0.25).abs().max()) < 5 * 0.433 / 4000**0.5
    for wrong in ({"n_items": 1}, {"gaps": []}, {"gaps": [1.5]}):
        with pytest.raises(ConfigError, match="grid of gaps"):
            Gaps(**wrong)
