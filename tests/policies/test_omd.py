"""The maths of mirror descent, loss estimates and couplings."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recfb.policies.omd import (
    asked,
    couple_dartboard,
    couple_maximal,
    entropy_step,
    importance,
    stability,
    tsallis_solve,
)
from recfb.random import stream


def losses(rows: int, k: int, scale: float = 10.0) -> Tensor:
    return scale * torch.rand(rows, k, generator=stream(0, "losses", k), dtype=torch.float64)


@pytest.mark.parametrize("k", [2, 10, 1000])
@pytest.mark.parametrize("eta", [1e-3, 0.1, 1.0])
def test_b_3_10_5_tsallis_solver(k: int, eta: float) -> None:
    """Sums to 1, is flat where losses are, does not see a constant, and falls with the loss; and
    it is the stated minimum: 2 / (eta sqrt(p_i)) + loss_i is one number."""
    loss = losses(50, k) / eta
    p = tsallis_solve(loss, eta)
    assert float((p.sum(1) - 1).abs().max()) < 1e-12
    assert torch.allclose(tsallis_solve(torch.full_like(loss, 7.0), eta), torch.full_like(p, 1 / k))
    assert torch.allclose(tsallis_solve(loss + 123.0 / eta, eta), p, rtol=1e-9)
    order = loss.argsort(1)
    assert bool((p.gather(1, order).diff(dim=1) < 0).all())
    level = loss - 2 / (eta * p.sqrt())
    assert float((level - level[:, :1]).abs().max()) < 1e-9 / eta


def test_b_3_10_5_tsallis_solver_by_hand() -> None:
    """p = (u + eta loss / 2)^-2, and u = 3/2 makes 4/9, 4/9, (3/2 + 3/2)^-2 = 1/9 sum to 1."""
    p = tsallis_solve(torch.tensor([[0.0, 0.0, 6.0]]).double(), 0.5)[0]
    assert p.tolist() == pytest.approx([4 / 9, 4 / 9, 1 / 9], abs=1e-14)


@pytest.mark.parametrize("solve", [tsallis_solve, entropy_step])
def test_extreme_losses_stay_finite(solve: object) -> None:
    loss = torch.tensor([[0.0, 1e12, 1e12], [1e12, 1e12, 1e12], [5e3, 0.0, 1e-9]]).double()
    p = solve(loss, 0.5)  # type: ignore[operator]
    assert bool(p.isfinite().all())
    assert float((p.sum(1) - 1).abs().max()) < 1e-12
    assert bool((p > 0).all())


def test_entropy_is_exponential_weights() -> None:
    loss = losses(20, 4)
    w = (-0.3 * loss).exp()
    assert torch.allclose(entropy_step(loss, 0.3), w / w.sum(1, keepdim=True), rtol=1e-12)


def test_b_3_10_1_estimates_are_unbiased() -> None:
    """By enumeration over the item played, and over the item looked at: the mean is the loss."""
    loss = losses(1, 4, 1.0)[0]
    p = torch.tensor([0.1, 0.2, 0.3, 0.4]).double()
    mean, flex = torch.zeros(4).double(), torch.zeros(4).double()
    for a in range(4):
        item = torch.tensor([[a]])
        mean += p[a] * importance(loss[item], item, p[item], 4)[0]
        seen = torch.full((1, 4), torch.nan).double()
        seen[0, a] = 1 - loss[a]
        flex += asked(seen, weight=4.0)[0] / 4
    assert torch.allclose(mean, loss, atol=1e-12)
    assert torch.allclose(flex, loss, atol=1e-12)
    q = 0.2
    full = q * asked(1 - loss[None], 1 / q)[0]
    nothing = asked(torch.full((1, 4), torch.nan), 1 / q)[0]
    assert torch.equal(nothing, torch.zeros(4).double())
    assert torch.allclose(full, loss, atol=1e-12)


def test_second_moments_pay_for_the_learning_rate() -> None:
    """E <p, estimate^2> of losses 1 is K for one item and 1 / q for a chance q; half of it a
    block."""
    p = torch.tensor([0.1, 0.2, 0.3, 0.4]).double()
    one = torch.ones(1, 1).double()
    played = sum(
        p[a] * (p * importance(one, torch.tensor([[a]]), p[a].view(1, 1), 4)[0] ** 2).sum()
        for a in range(4)
    )
    assert float(played) == pytest.approx(2 * stability("bandit_mean", 4))
    q = 0.2
    full = q * (p * asked(torch.zeros(1, 4), 1 / q)[0] ** 2).sum()
    assert float(full) == pytest.approx(2 * stability("bernoulli_full", 4, q))
    assert stability("full_one", 4) == 0.125


def chain(p: Tensor, law: Tensor) -> Tensor:
    """The law of the next item: sum over this one. (K,), (K, K) -> (K,)."""
    return p @ law


@pytest.mark.parametrize("shifted", [False, True])
def test_b_3_10_2_dartboard_marginal(shifted: bool) -> None:
    """Sum_a p(a) law(a, .) is p_next, exactly, over 30 rounds of random losses."""
    k, eta = 3, 0.5
    total, p = torch.zeros(1, k).double(), torch.full((k,), 1 / k).double()
    for estimate in losses(30, k, 1.0):
        shown = estimate - estimate.min() if shifted else estimate
        total = total + estimate
        p_next = entropy_step(total, eta)
        rows = p_next.expand(k, k)
        law = couple_dartboard(rows, torch.arange(k)[:, None], shown.expand(k, k), eta)
        assert torch.allclose(chain(p, law), p_next[0], atol=1e-12)
        assert bool((law >= 0).all())
        p = p_next[0]


@pytest.mark.parametrize("solve", [tsallis_solve, entropy_step])
def test_b_3_10_2_and_3_maximal_coupling(solve: object) -> None:
    """The marginal is p_next and a move has the total variation distance, exactly; also where the
    law stays as it was."""
    for before, after in ((losses(1, 4), losses(2, 4)[1:]), (losses(1, 4), losses(1, 4))):
        p, p_next = (solve(x, 0.4)[0] for x in (before, after))  # type: ignore[operator]
        law = couple_maximal(p.expand(4, 4), p_next.expand(4, 4), torch.arange(4)[:, None])
        assert torch.allclose(chain(p, law), p_next, atol=1e-12)
        moves = (p * (1 - law.diagonal())).sum()
        assert float(moves) == pytest.approx(float((p - p_next).abs().sum()) / 2, abs=1e-12)


def test_b_3_10_3_switches_of_the_dartboard_are_bounded() -> None:
    """E switches <= eta sum <p_t, loss_t>, and no less than the total variation; K = 3, T = 30."""
    k, eta = 3, 0.5
    total, p = torch.zeros(1, k).double(), torch.full((k,), 1 / k).double()
    switches = bound = least = 0.0
    for loss in losses(30, k, 1.0):
        total = total + loss
        p_next = entropy_step(total, eta)
        law = couple_dartboard(
            p_next.expand(k, k), torch.arange(k)[:, None], loss.expand(k, k), eta
        )
        switches += float((p * (1 - law.diagonal())).sum())
        bound += eta * float((p * loss).sum())
        least += float((p - p_next[0]).abs().sum()) / 2
        p = p_next[0]
    assert least < switches < bound
