"""Exact Thompson probabilities against closed forms, scipy's quadrature and draws; learning."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from recfb import ConfigError, Log, Meta
from recfb.contracts import Context, Feedback, Slate
from recfb.policies import BetaThompson
from recfb.policies.beta_thompson import log_gamma_draw, rank_probabilities
from recfb.random import stream

F = torch.float64
CLICKS = [1.0 + 3 * 1.06**k for k in range(80)]  # priors as a shop has them: few clicks, many views
VIEWS = [1000.0 + 900 * ((37 * k) % 80) for k in range(80)]


def ranks(a: list[float], b: list[float], r: int) -> Tensor:
    a_, b_ = torch.tensor([a], dtype=F), torch.tensor([b], dtype=F)
    return rank_probabilities(a_, b_, torch.ones_like(a_, dtype=torch.bool), r)[0]  # (r, K)


def two(a: int, b: int, c: int, d: int) -> float:
    """P(Beta(a, b) > Beta(c, d)) by scipy."""
    f, larger = stats.beta(a, b).pdf, stats.beta(c, d).cdf
    return float(integrate.quad(lambda x: f(x) * larger(x), 0, 1, epsabs=1e-13)[0])


@pytest.mark.parametrize("case", [(2, 1, 1, 1), (3, 5, 4, 4), (1, 9, 2, 30), (40, 60, 12, 30)])
def test_two_items_by_quadrature_of_scipy(case: tuple[int, int, int, int]) -> None:
    a, b, c, d = case
    p = ranks([a, c], [b, d], 2)
    assert float(p[0, 0]) == pytest.approx(two(*case), abs=1e-8)
    assert torch.allclose(p[0], p[1].flip(0), atol=1e-12, rtol=0)  # the loser is second


def test_three_items_by_hand() -> None:
    # of X with density 2x and two uniforms: P(X largest) = int 2x x^2 = 1/2,
    # P(X smallest) = int 2x (1 - x)^2 = 1/6, so P(X second) = 1/3
    p = ranks([2.0, 1.0, 1.0], [1.0, 1.0, 1.0], 3)
    assert p[:, 0].tolist() == pytest.approx([1 / 2, 1 / 3, 1 / 6], abs=1e-8)
    assert p[:, 1].tolist() == pytest.approx([1 / 4, 1 / 3, 5 / 12], abs=1e-8)


@pytest.mark.parametrize("a, b", [(0.3, 0.4), (0.05, 2.0), (1e3, 1.0)])
def test_extreme_shapes_sum_to_one(a: float, b: float) -> None:
    p = ranks([a, 1.0, 5.0], [b, 1.0, 2000.0], 2)
    assert p.sum(1).tolist() == pytest.approx([1, 1], abs=1e-8)
    exact = integrate.quad(
        lambda x: stats.beta.pdf(x, 1, 1) * stats.beta.cdf(x, a, b) * stats.beta.cdf(x, 5, 2000),
        0, 1, epsabs=1e-12, limit=500, points=[a / (a + b), 0.005],
    )[0]  # fmt: skip
    assert float(p[0, 1]) == pytest.approx(exact, abs=1e-7)


def test_an_item_known_to_a_hair_is_not_missed_by_the_grid() -> None:
    p = ranks([1e6, 1.0, 5.0], [1e8, 1.0, 2000.0], 2)
    assert p.sum(1).tolist() == pytest.approx([1, 1], abs=1e-8)
    assert float(p[0, 1]) == pytest.approx(1 - 1 / 101, abs=1e-7)  # 1 - the known item's mean


def test_eighty_items_sum_to_one_and_agree_with_a_million_draws() -> None:
    p = ranks(CLICKS, VIEWS, 3)
    assert float((p.sum(1) - 1).abs().max()) <= 1e-8
    rng, hits, n = np.random.default_rng(0), np.zeros((3, 80)), 1_000_000
    for _ in range(20):
        draws = rng.beta(CLICKS, VIEWS, size=(n // 20, 80))
        best = np.argpartition(-draws, 3, axis=1)[:, :3]
        order = np.take_along_axis(
            best, np.argsort(-np.take_along_axis(draws, best, 1), axis=1), 1
        )  # (n / 20, 3)
        for r in range(3):
            hits[r] += np.bincount(order[:, r], minlength=80)
    expected = p.numpy()
    error = np.abs(hits / n - expected)
    assert bool((error <= 4 * np.sqrt(expected * (1 - expected) / n) + 1e-6).all())


def policy(n_items: int = 3, learners: int = 1, **prior: object) -> BetaThompson:
    log = Log.empty(1, n_items, meta=Meta(learners=learners))
    return BetaThompson(**prior).bind(log)  # type: ignore[arg-type]


def ask(rows: int = 1, **more: object) -> Context:
    return Context(torch.zeros(rows, dtype=torch.int64), **more)  # type: ignore[arg-type]


def test_binding_gives_the_prior_and_reset_restores_it() -> None:
    p = policy(alpha=[2.0, 1.0, 1.0])
    prior = p.probs(ask())
    p.update(ask(), Slate(torch.tensor([[1]])), Feedback(torch.tensor([[1.0]])), stream(0))
    assert not torch.equal(p.probs(ask()), prior)
    p.reset(stream(0))
    assert torch.equal(p.probs(ask()), prior)


def test_update_counts_each_learner_and_skips_unknown_rewards() -> None:
    p = policy(n_items=2, learners=2)
    slate = Slate(torch.tensor([[0], [0], [1], [1]]))  # rows 0, 1 are learner 0
    reward = torch.tensor([[1.0], [0.25], [float("nan")], [0.0]])
    p.update(ask(4), slate, Feedback(reward), stream(0))
    assert p.successes[:, 0].tolist() == [[2.25, 1.0], [1.0, 1.0]]
    assert p.failures[:, 0].tolist() == [[1.75, 1.0], [1.0, 2.0]]
    both = p.probs(ask(2))
    assert both[0, 0] > 0.5 and both[1, 0] > 0.5
    ragged = p.probs(ask(1, learner=torch.tensor([1])))
    assert torch.equal(ragged[0], both[1])


def test_positions_of_one_prior_are_ranks() -> None:
    p = policy(alpha=[2.0, 1.0, 1.0])
    rows = p.probs(ask(3, position=torch.tensor([1, 2, 3])))
    assert rows[:, 0].tolist() == pytest.approx([1 / 2, 1 / 3, 1 / 6], abs=1e-8)
    assert torch.equal(p.probs(ask())[0], rows[0])


def test_positions_with_their_own_prior_are_their_own_bandits() -> None:
    p = policy(n_items=2, alpha=[[2.0, 1.0], [1.0, 2.0]])
    rows = p.probs(ask(2, position=torch.tensor([1, 2])))
    assert rows[:, 0].tolist() == pytest.approx([2 / 3, 1 / 3], abs=1e-8)
    context = ask(1, position=torch.tensor([2]))
    p.update(context, Slate(torch.tensor([[0]])), Feedback(torch.tensor([[1.0]])), stream(0))
    assert p.successes[0].tolist() == [[2.0, 1.0], [2.0, 2.0]]
    with pytest.raises(ConfigError, match="a bandit of its own"):
        p.act(ask(), stream(0), k=2)


def test_slates_are_shown_as_often_as_they_say() -> None:
    p, n = policy(n_items=4, alpha=[3.0, 2.0, 1.0, 1.0], beta=[2.0, 2.0, 2.0, 1.0]), 40_000
    slate = p.act(ask(n), stream(1), k=2)
    table = p._ranks(2)[0]  # (2, 4)
    for r in range(2):
        share = torch.bincount(slate.item[:, r], minlength=4) / n
        assert float((share - table[r]).abs().max()) < 4 * 0.5 / n**0.5
    assert slate.p_prefix is None and slate.p_display is not None
    assert torch.equal(slate.propensity, table[torch.arange(2), slate.item])
    assert torch.equal(slate.p_display, table.sum(0)[slate.item])
    assert bool((slate.item[:, 0] != slate.item[:, 1]).all())
    again = p.propensities(ask(n), slate.item)
    assert torch.equal(again.propensity, slate.propensity)


def test_one_item_is_drawn_from_the_probabilities() -> None:
    p, n = policy(alpha=[3.0, 2.0, 1.0]), 40_000
    slate = p.act(ask(n), stream(2))
    share = torch.bincount(slate.item[:, 0], minlength=3) / n
    assert float((share - p.probs(ask())[0]).abs().max()) < 4 * 0.5 / n**0.5
    assert torch.equal(slate.propensity[:, 0], p.probs(ask())[0][slate.item[:, 0]])
    assert torch.equal(slate.propensity, slate.p_prefix)


def test_one_item_at_a_later_position_has_the_probability_of_that_position() -> None:
    context = ask(position=torch.tensor([2]))
    bandit = policy(alpha=[4.0, 1.0, 1.0])
    slate = bandit.act(context, stream(0))
    assert slate.propensity is not None
    assert torch.equal(slate.propensity, bandit.probs(context).gather(1, slate.item))
    assert not torch.equal(bandit.probs(context), bandit.probs(ask()))


def test_one_item_at_a_later_position_is_drawn_as_often_as_it_says() -> None:
    """By rank under one prior an item, and by its own prior where every position has one; a draw
    of small shapes is no NaN."""
    n = 40_000
    for bandit in (
        policy(alpha=[4.0, 1.0, 1.0], beta=[1.0, 1.0, 2.0]),
        policy(alpha=[[2.0, 1.0, 1.0], [1.0, 1.0, 5.0]]),
        policy(alpha=[1e-3, 2e-3, 1e-3], beta=[1e-3, 1e-3, 1e-3]),
    ):
        context = ask(n, position=torch.tensor([1, 2]).repeat(n // 2))
        item = bandit.draw(context, stream(7)).item
        for k in (0, 1):
            share = torch.bincount(item[k::2, 0], minlength=3) / (n // 2)
            assert float((share - bandit.probs(context[:2])[k]).abs().max()) < 2.0 / (n // 2) ** 0.5


def test_a_slate_begins_at_the_first_position_whatever_the_request_says() -> None:
    bandit = policy(n_items=4, alpha=[3.0, 2.0, 1.0, 1.0])
    plain, placed = (
        bandit.act(context, stream(3), k=2)
        for context in (ask(2), ask(2, position=torch.tensor([1, 3])))
    )
    assert torch.equal(plain.item, placed.item) and placed.item.shape == (2, 2)


def test_a_gamma_draw_keeps_its_law_where_it_is_no_double_any_more() -> None:
    """ln Gamma(a): of 1 and 5 as scipy has it; a ln Gamma(a) tends to -Exp(1) as a falls to 0."""
    n = 50_000
    for a in (0.5, 1.0, 5.0):
        draw = log_gamma_draw(torch.full((n,), a).double(), stream(3))
        assert stats.kstest(draw.exp().numpy(), "gamma", (a,)).pvalue > 1e-3
    tiny = 1e-6 * log_gamma_draw(torch.full((n,), 1e-6).double(), stream(4))
    assert stats.kstest(-tiny.numpy(), "expon").pvalue > 1e-3


def test_unavailable_items_do_not_compete() -> None:
    p = policy(alpha=[9.0, 2.0, 1.0])
    mask = torch.tensor([[False, True, True], [True, True, True]])
    rows = p.probs(ask(2, available=mask))
    assert rows[0].tolist() == pytest.approx([0, 2 / 3, 1 / 3], abs=1e-8)
    assert float(rows[0, 0]) == 0
    assert torch.allclose(rows[1], p.probs(ask())[0], atol=1e-12)
    listed = p.probs(ask(1, candidates=torch.tensor([[2, 1]])))
    assert torch.allclose(listed[0], rows[0], atol=1e-12)
    slate = p.act(ask(100, available=mask[:1]), stream(0), k=2)
    assert 0 not in slate.item
    with pytest.raises(ConfigError, match="only 2 items"):
        p.act(ask(1, available=mask[:1]), stream(0), k=3)


def test_a_copy_with_other_counts_does_not_use_the_old_table() -> None:
    p = policy(n_items=2)
    p.probs(ask())
    other = copy.deepcopy(p)
    other.load_state_dict(policy(n_items=2, alpha=[2.0, 1.0]).state_dict())
    assert other.probs(ask())[0].tolist() == pytest.approx([2 / 3, 1 / 3], abs=1e-8)
    assert p.probs(ask())[0].tolist() == pytest.approx([0.5, 0.5], abs=1e-12)


def test_bad_priors_are_refused() -> None:
    with pytest.raises(ConfigError, match="alpha is a positive number"):
        BetaThompson(alpha=[1.0, 0.0])
    with pytest.raises(ConfigError, match="do not fit the log's 3 items"):
        policy(alpha=[1.0, 2.0])
    with pytest.raises(ConfigError, match="do not fit the log's 1 items"):
        policy(n_items=1, beta=[1.0, 2.0])


@pytest.mark.parametrize("items", [2, 9, 80, 200])
@pytest.mark.parametrize("prior", [(1.0, 1.0), (1.5, 2.0), (0.5, 0.5)])
def test_equal_priors_keep_their_mass(items: int, prior: tuple[float, float]) -> None:
    """Equal items share one set of cuts, the hardest case for the quadrature."""
    alpha, beta = (torch.full((1, items), x, dtype=torch.float64) for x in prior)
    p = rank_probabilities(alpha, beta, alpha > 0, ranks=min(3, items))
    torch.testing.assert_close(p, torch.full_like(p, 1 / items), rtol=0, atol=1e-9)
