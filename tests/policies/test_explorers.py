"""Explorers over any model: greedy, epsilon, softmax, inverse-gap weighting, Thompson, votes."""

from __future__ import annotations

import polars as pl
import pytest
import torch
from scipy import stats
from torch import Tensor

from recfb.beliefs.bootstrap import Bootstrap
from recfb.beliefs.linear import Linear
from recfb.beliefs.logistic import Logistic
from recfb.contracts import Context, Feedback, Policy, Slate
from recfb.data import Log, Meta
from recfb.errors import ConfigError, LogError
from recfb.policies.bagging import Bagging
from recfb.policies.bootstrap_ucb import BootstrapUCB
from recfb.policies.epsilon_greedy import EpsilonGreedy
from recfb.policies.explore import enforce_min_prob
from recfb.policies.falcon import FALCON
from recfb.policies.greedy import Greedy
from recfb.policies.igw import IGW, igw
from recfb.policies.lints import LinTS
from recfb.policies.mixture import Mixture
from recfb.policies.regcb import RegCB
from recfb.policies.softmax import Softmax
from recfb.policies.squarecb import SquareCB
from recfb.policies.switch import Switch
from recfb.policies.thompson import Thompson
from recfb.policies.ucb import UCB
from recfb.policies.uniform import Uniform
from recfb.random import stream
from recfb.simulate import Refit, simulate
from recfb.testing import check
from recfb.worlds.arms import Arms
from recfb.worlds.contextual import Contextual


class Fixed:
    """A model with the same scores for every request."""

    vectorised = True

    def __init__(self, values: list[float]) -> None:
        self.values = torch.tensor(values, dtype=torch.float64)

    def bind(self, log: Log) -> Fixed:
        return self

    def scores(self, context: Context) -> Tensor:
        every = self.values.expand(len(context), -1)
        return every if context.candidates is None else every.gather(1, context.candidates)


def bound(policy: Policy, n_items: int) -> Policy:
    return policy.bind(Log.empty(1, n_items))


ONE = Context(torch.zeros(1, dtype=torch.int64))
EXPLORERS = [
    Greedy(Linear()),
    EpsilonGreedy(Linear(), 0.2),
    Softmax(Linear(), 0.3),
    IGW(Linear(), 30.0),
    IGW(Linear(), 30.0, cap=2.0),
    Thompson(Linear(scale=0.3)),
    Thompson(Logistic()),
    Thompson(Bootstrap(5)),
    UCB(Logistic(), 0.5),
    LinTS(0.2),
    SquareCB(),
    FALCON(Linear()),
    RegCB(Linear(), 0.3),
    Bagging(),
    Bagging(3, greedify=True),
    BootstrapUCB(5),
]


@pytest.mark.parametrize("policy", EXPLORERS, ids=repr)
def test_every_explorer_passes_the_checks(policy: Policy) -> None:
    check(policy)


# ---- inverse-gap weighting


def test_b_5_8_igw_properties() -> None:
    """5.2 on random scores, masks and gammas: support, p(b) >= 1/K, p(a) <= 1/K, sums to 1."""
    g = stream(0)
    f = torch.rand(500, 7, generator=g, dtype=torch.float64)
    live = torch.rand(500, 7, generator=g) < 0.5
    live[torch.arange(500), torch.randint(7, (500,), generator=g)] = True
    gamma = 10 ** (8 * torch.rand(500, 1, generator=g, dtype=torch.float64) - 1)
    best = f.masked_fill(~live, -1.0).argmax(1, keepdim=True)
    p = igw(f, gamma, best, live)
    count = live.sum(1, keepdim=True)
    assert bool((p[live] > 0).all()) and bool((p[~live] == 0).all())
    assert float((p.sum(1) - 1).abs().max()) < 1e-12
    assert bool((p.gather(1, best) >= 1 / count - 1e-15).all())
    assert bool((p.scatter(1, best, 0.0) <= 1 / count + 1e-15).all())
    for other in range(7):  # the formula, one by one
        gap = f.gather(1, best)[:, 0] - f[:, other]
        expected = 1 / (count[:, 0] + gamma[:, 0] * gap)
        rows = live[:, other] & (best[:, 0] != other)
        assert torch.allclose(p[rows, other], expected[rows], rtol=1e-14, atol=0)


def test_b_5_8_igw_of_gamma_0_is_uniform_and_of_a_large_one_greedy() -> None:
    f = torch.tensor([[0.1, 0.4, 0.3]])
    b = torch.tensor([[1]])
    assert igw(f, 0.0, b).tolist() == [[pytest.approx(1 / 3)] * 3]
    assert float(igw(f, 1e12, b)[0, 1]) > 1 - 1e-10


def test_b_9_9_a_rounded_rest_is_never_below_its_floor() -> None:
    f = torch.full((1, 999), 0.5, dtype=torch.float64)
    p = igw(f, 1e9, torch.tensor([[0]]))
    assert bool((p >= 1 / 999 - 1e-18).all())


def test_igw_by_hand_with_a_mask() -> None:
    """f = .5 .3 .9 without item 2: p(1) = 1 / (2 + 10 * .2) = 1/4."""
    context = Context(ONE.user, available=torch.tensor([[True, True, False]]))
    policy = bound(IGW(Fixed([0.5, 0.3, 0.9]), gamma=10.0), 3)
    assert policy.probs(context)[0].tolist() == pytest.approx([0.75, 0.25, 0.0])


def test_b_5_8_squarecb_begins_uniform_and_grows() -> None:
    policy = SquareCB(scale=10.0).bind(Log.empty(1, 4))
    assert policy.probs(ONE)[0].tolist() == [0.25] * 4
    policy.model.theta[0, 2] = 1.0
    at = [float(policy.probs(Context(ONE.user, time=t))[0, 2]) for t in (0, 1, 100)]
    assert at == pytest.approx([0.25, 1 - 3 / 14, 1 - 3 / 104])


def test_rounds_of_log_rows_are_looked_at_one_by_one() -> None:
    rows = Context(torch.zeros(3, dtype=torch.int64), time=torch.tensor([0, 1, 100]))
    policy = SquareCB().bind(Log.empty(1, 4))
    policy.model.theta[0, 2] = 1.0
    assert policy.probs(rows)[:, 2].tolist() == pytest.approx([0.25, 1 - 3 / 14, 1 - 3 / 104])


def test_b_5_8_gamma_0_logs_as_the_uniform_policy_does() -> None:
    """With the full set and with a mask, as `Uniform` has it."""
    g = stream(0)
    live = torch.rand(50, 5, generator=g) < 0.5
    live[:, 0] = True
    for available in (None, live):
        context = Context(torch.zeros(50, dtype=torch.int64), available=available)
        expected = bound(Uniform(), 5).probs(context)
        for policy in (IGW(Fixed([0.1, 0.9, 0.3, 0.2, 0.5]), 0.0), SquareCB()):
            assert torch.allclose(bound(policy, 5).probs(context), expected, atol=1e-15)


def capped(log: Log, learners: int = 1) -> IGW:
    """gamma 1000, at most 10 sqrt(K n), after a refit on the log."""
    policy = IGW(Fixed([0.5, 0.3]), 1000.0, cap=10.0)
    policy.bind(Log.empty(1, 2, meta=Meta(learners=learners)))
    policy.refit(log, lambda log, model: model)
    return policy


def test_b_5_7_gamma_is_capped_by_the_effective_size_of_the_log() -> None:
    """Weights .625 and 2.5: n = 3.125^2 / 6.640625 = 1.470588, gamma = 10 sqrt(2 n)."""
    rows = {"item": [0, 1, 1], "reward": [1.0, 0.0, None], "propensity": [0.8, 0.2, 0.2]}
    policy = capped(Log.of(rows))
    n = 3.125**2 / 6.640625
    assert float(policy.size) == pytest.approx(n)
    assert policy.probs(ONE)[0, 1] == pytest.approx(1 / (2 + 10 * (2 * n) ** 0.5 * 0.2))
    masked = {**rows, "available": [[0, 1], [1], [1]]}  # weights .625 and 5
    assert float(capped(Log.of(masked, n_items=2)).size) == pytest.approx(5.625**2 / 25.390625)
    many = {"item": [0, 1] * 10_000, "reward": [1.0] * 20_000, "propensity": [0.5] * 20_000}
    policy = capped(Log.of(many))
    assert float(policy.size) == pytest.approx(20_000)
    assert policy.probs(ONE)[0, 1] == pytest.approx(1 / (2 + 1000 * 0.2))  # gamma is less
    policy.reset(stream(0))
    assert policy.probs(ONE)[0].tolist() == [0.5, 0.5]  # uniform before a refit


def test_b_5_7_the_cap_is_that_of_each_learner_and_of_each_round() -> None:
    rows = {"item": [0, 1, 0], "reward": [1.0] * 3, "propensity": [0.5] * 3}
    policy = capped(Log.of({**rows, "replication": [0, 0, 1]}), learners=2)
    assert policy.size.tolist() == [2.0, 1.0]
    two = Context(torch.zeros(2, dtype=torch.int64))
    expected = [1 / (2 + 10 * (2 * n) ** 0.5 * 0.2) for n in (2, 1)]
    assert policy.probs(two)[:, 1].tolist() == pytest.approx(expected)
    growing = IGW(Fixed([0.5, 0.3]), 1.0, power=0.5, cap=10.0).bind(Log.empty(1, 2))
    growing.refit(Log.of(rows), lambda log, model: model)
    late = Context(torch.zeros(3, dtype=torch.int64), time=torch.tensor([0, 4, 10**6]))
    most = 10 * 6**0.5  # three rows
    found = growing.probs(late)[:, 1].tolist()
    assert found == pytest.approx([1 / (2 + gamma * 0.2) for gamma in (0, 2, most)])


def test_a_cap_is_read_at_refits_also_over_a_belief_that_learns_by_itself() -> None:
    plain, tied = IGW(Linear(), 100.0), IGW(Linear(), 100.0, cap=1.0)
    assert not plain.retrained and tied.retrained and IGW(Fixed([1.0])).retrained
    run = simulate(Arms([0.2, 0.8]), tied, rounds=9, refit=Refit(every=4, warmup=1))
    policy = run.state[0].policy
    frame = run.log.frame.filter(pl.col("time") < 5)
    w = 1 / (2 * frame["propensity"])
    assert float(policy.size) == pytest.approx(w.sum() ** 2 / (w**2).sum())
    with pytest.raises(LogError, match="propensity"):
        tied.bind(Log.empty(1, 2)).refit(Log.of({"item": [0], "reward": [1.0]}), print)


# ---- epsilon, softmax, greedy


def test_epsilon_includes_the_greedy_item_and_falls() -> None:
    policy = bound(EpsilonGreedy(Fixed([0.0, 1.0]), 2.0, decay=0.5), 2)
    at = [float(policy.probs(Context(ONE.user, time=t))[0, 0]) for t in (0, 4, 16)]
    assert at == [0.5, 0.5, 0.25]
    row = Context(ONE.user.repeat(2), time=torch.tensor([0, 16]))
    assert policy.probs(row)[:, 0].tolist() == [0.5, 0.25]


def test_b_6_5_softmax_is_the_softmax() -> None:
    """Also by frequencies: the largest of a Dirichlet draw is another distribution (9.19)."""
    f = [0.2, 0.5, 0.1]
    policy = bound(Softmax(Fixed(f), temperature=0.5), 3)
    expected = torch.softmax(torch.tensor(f, dtype=torch.float64) / 0.5, 0)
    assert torch.allclose(policy.probs(ONE)[0], expected)
    many = Context(torch.zeros(20_000, dtype=torch.int64))
    counts = torch.bincount(policy.act(many, stream(0)).item[:, 0], minlength=3)
    assert stats.chisquare(counts.numpy(), (expected * 20_000).numpy()).pvalue > 1e-4


@pytest.mark.parametrize(
    "policy",
    [EpsilonGreedy(Fixed([0.3, 0.1, 0.2]), 0.3), Softmax(Fixed([0.3, 0.1, 0.2]), 0.1),
     IGW(Fixed([0.3, 0.1, 0.2]), 9.0), Thompson(Linear()), Bagging()],
    ids=lambda p: type(p).__name__,
)  # fmt: skip
def test_b_6_5_masked_items_are_never_chosen(policy: Policy) -> None:
    policy = bound(policy, 3)
    policy.reset(stream(3))
    mask = torch.tensor([[False, True, True]])
    many = Context(torch.zeros(100_000, dtype=torch.int64), available=mask)
    assert not bool((policy.act(many, stream(0)).item == 0).any())
    assert float(policy.probs(Context(ONE.user, available=mask))[0, 0]) == 0.0


def test_candidates_are_the_items_to_choose_from() -> None:
    context = Context(ONE.user, candidates=torch.tensor([[2, 0, 2]]))
    policy = bound(IGW(Fixed([0.5, 0.9, 0.3]), gamma=10.0), 3)
    assert policy.probs(context)[0].tolist() == pytest.approx([0.75, 0.0, 0.25])
    for other in (Thompson(Linear()), RegCB(Linear())):
        assert float(bound(other, 3).probs(context)[0, 1]) == 0.0


def test_greedy_shows_the_best_slate_and_ties_are_shared_out() -> None:
    policy = bound(Greedy(Fixed([0.2, 0.9, 0.5])), 3)
    assert policy.act(ONE, stream(0), k=2).item.tolist() == [[1, 2]]
    users = Context(torch.arange(400))
    tied = bound(EpsilonGreedy(Fixed([0.5, 0.5]), 0.0), 2).probs(users).mean(0)
    assert 0.4 < float(tied[0]) < 0.6


# ---- Thompson


def test_thompson_probabilities_are_its_frequencies() -> None:
    """Arms with different widths: the integral, and 40,000 draws."""
    belief = Linear(l2=1.0, scale=0.5)
    policy = Thompson(belief).bind(Log.empty(1, 3))
    item = torch.tensor([0] * 50 + [1] * 5 + [2])[:, None]
    context = Context(torch.zeros(56, dtype=torch.int64))
    reward = torch.tensor([0.4] * 50 + [0.3] * 5 + [0.1])[:, None]
    policy.update(context, Slate(item), Feedback(reward), stream(0))
    probs = policy.probs(ONE)[0]
    many = Context(torch.zeros(40_000, dtype=torch.int64))
    slate = policy.act(many, stream(1))
    counts = torch.bincount(slate.item[:, 0], minlength=3).numpy()
    assert stats.chisquare(counts, (probs * 40_000).numpy()).pvalue > 1e-4
    assert torch.allclose(slate.propensity, probs[slate.item])


def test_b_6_5_lints_of_v_0_is_greedy() -> None:
    log = Log.empty(1, 4)
    data = Context(torch.zeros(20, dtype=torch.int64))
    item, reward = torch.arange(20)[:, None] % 4, torch.rand(20, 1, generator=stream(0))
    certain, greedy = LinTS(v=0.0).bind(log), Greedy(Linear()).bind(log)
    for policy in (certain, greedy):
        policy.update(data, Slate(item), Feedback(reward), stream(0))
    shown = certain.act(data, stream(1))
    assert torch.equal(shown.item, greedy.act(data, stream(2)).item)
    assert bool((shown.propensity == 1).all())


def test_without_a_closed_form_the_propensity_is_none_and_can_be_estimated() -> None:
    """One theta for all items: draws depend on each other."""
    log = Log.empty(1, 2)
    features = pl.Series("features", [], dtype=pl.Array(pl.Float32, 2))
    log = log.with_frame(log.frame.with_columns(features))
    policy = Thompson(Linear(joint=True)).bind(log)
    x = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]).repeat(50, 1, 1)
    context = Context(torch.zeros(50, dtype=torch.int64), features=x)
    slate = policy.act(context, stream(0))
    assert slate.propensity is None and slate.p_prefix is None
    with pytest.raises(ConfigError, match="propensity_mc"):
        policy.probs(context)
    share = policy.propensity_mc(context, slate.item[:, 0], stream(1), draws=400)
    assert torch.allclose(share, torch.tensor(0.5, dtype=torch.float64), atol=0.13)


def test_slates_of_thompson_are_joint_draws_without_a_propensity() -> None:
    slate = bound(Thompson(Linear()), 4).act(ONE, stream(0), k=3)
    assert len(set(slate.item[0].tolist())) == 3
    assert slate.propensity is None
    with pytest.raises(ConfigError, match="slate=4 or fewer"):
        bound(Thompson(Linear()), 4).act(ONE, stream(0), k=5)


def test_bagging_votes_are_exact() -> None:
    policy = Bagging(heads=4).bind(Log.empty(1, 2))
    policy.model.each.theta.view(4, 2).copy_(torch.tensor([[1, 0], [1, 0], [0, 1], [1, 0]]))
    assert policy.probs(ONE)[0].tolist() == [0.75, 0.25]
    many = Context(torch.zeros(10_000, dtype=torch.int64))
    assert abs(float((policy.act(many, stream(0)).item == 0).double().mean()) - 0.75) < 0.02


def test_heads_that_agree_at_the_start_never_explore() -> None:
    many = Context(torch.zeros(2000, dtype=torch.int64))
    for prior, fewest, most in ((0.0, 1, 1), (1.0, 3, 4)):
        policy = Bagging(heads=50, prior=prior).bind(Log.empty(1, 4))
        policy.reset(stream(0))
        shown = policy.act(many, stream(1)).item.unique()
        assert fewest <= len(shown) <= most


# ---- elimination, floors, combinations


def test_greedify_makes_head_0_the_plain_ridge() -> None:
    log = Log.empty(1, 3, meta=Meta(learners=2))
    policy = Bagging(4, 2.0, greedify=True, weights="gamma").bind(log)
    policy.reset(stream(0))
    alone = Linear(2.0).bind(log)
    both = Context(torch.zeros(6, dtype=torch.int64))
    slate = Slate(torch.tensor([[0], [1], [1], [2], [2], [0]]))
    reward = Feedback(torch.rand(6, 1, generator=stream(1)))
    policy.update(both, slate, reward, stream(2))
    alone.update(both, slate, reward, stream(2))
    votes = policy.model.votes(both)  # (6, M, 3)
    assert torch.allclose(votes[:, 0], alone.scores(both), atol=1e-12)
    assert float((votes[:, 1:] - votes[:, :1]).abs().amax((0, 2)).min()) > 0.01


def test_bootstrapped_ucb_is_the_quantile_of_its_heads() -> None:
    """Five heads: the 80th percentile of 0 1 2 3 10 is 3 + .2 * 7."""
    policy = BootstrapUCB(5).bind(Log.empty(1, 2))
    theta = torch.tensor([[0.0, 4.0], [10.0, 4.0], [1.0, 4.0], [3.0, 4.0], [2.0, 4.0]])
    policy.model.each.theta.view(5, 2).copy_(theta)
    assert policy.index(ONE)[0].tolist() == pytest.approx([4.4, 4.0])
    assert policy.probs(ONE).tolist() == [[1.0, 0.0]]
    median = BootstrapUCB(5, level=0.5).bind(Log.empty(1, 2))
    median.model.each.theta.view(5, 2).copy_(theta)
    assert median.probs(ONE).tolist() == [[0.0, 1.0]]
    run = simulate(Arms([0.2, 0.8]), BootstrapUCB(), rounds=300, replications=20,
                   refit=Refit(warmup=0), metrics=["regret"])  # fmt: skip
    late = run.metrics.filter(round=299)["regret"].mean()
    assert late < 0.25 * 0.3 * 300  # a quarter of that of uniform play


def test_regcb_by_hand() -> None:
    """Means 0, .5, 1 with widths 1, .5, .1 and alpha .5: lower bounds -.5 .25 .95, upper .5 .75
    1.05."""

    class Wide(Fixed):
        def width(self, context: Context) -> Tensor:
            return torch.tensor([[1.0, 0.5, 0.1]], dtype=torch.float64).expand(len(context), -1)

    def probs(alpha: float) -> list[float]:
        policy: Policy = RegCB(Wide([0.0, 0.5, 1.0]), alpha)  # type: ignore[arg-type]
        return bound(policy, 3).probs(ONE)[0].tolist()

    assert probs(0.5) == [0, 0, 1]
    assert probs(1.0) == [1 / 3, 1 / 3, 1 / 3]  # 1, 1, 1.1 against .9
    assert probs(0.9) == [0, 0.5, 0.5]  # .9, .95, 1.09 against .91


def test_enforce_min_prob_is_the_projection() -> None:
    """Every floor is met, rows sum to 1, and no other point of 20,000 is nearer."""
    g = stream(0)
    p = torch.rand(6, 4, generator=g, dtype=torch.float64) ** 6
    p /= p.sum(1, keepdim=True)
    live = torch.ones(6, 4, dtype=torch.bool)
    live[3:, 0] = False
    p = torch.where(live, p, 0.0)
    p /= p.sum(1, keepdim=True)
    q = enforce_min_prob(p, 0.4, live)
    floor = 0.4 / live.sum(1, keepdim=True).double()
    assert bool((q >= floor * live - 1e-15).all()) and bool((q[~live] == 0).all())
    assert float((q.sum(1) - 1).abs().max()) < 1e-14
    share = torch.rand(20_000, 6, 4, generator=g, dtype=torch.float64).masked_fill(~live, 0.0)
    other = 0.6 * share / share.sum(2, keepdim=True) + floor * live
    nearest = (other - p).square().sum(2).amin(0)
    assert bool(((q - p).square().sum(1) <= nearest + 1e-12).all())
    assert torch.allclose(enforce_min_prob(p, 0.0, live), p, atol=1e-15)
    with pytest.raises(ConfigError, match="epsilon is a probability"):
        enforce_min_prob(p, 1.5)


def test_a_mixture_logs_what_it_drew_from() -> None:
    policy = Mixture(Greedy(Linear()), control_share=0.2)
    log = simulate(Arms([0.2, 0.8]), policy, rounds=300, refit=Refit(warmup=0)).log.frame
    assert set(log["propensity"].round(9).unique()) == {0.1, 0.9}
    share = (log["propensity"] < 0.5).mean()
    assert abs(share - 0.1) < 4 * (0.09 / 300) ** 0.5
    learned = bound(policy, 2)
    learned.update(ONE, Slate(torch.tensor([[1]])), Feedback(torch.ones(1, 1)), stream(0))
    assert learned.probs(ONE)[0].tolist() == pytest.approx([0.1, 0.9])
    assert learned.prob_of(ONE, torch.tensor([1])).tolist() == pytest.approx([0.9])


def test_mixture_and_switch_show_the_truth_to_who_may_see_it() -> None:
    from recfb.policies.oracle import Oracle

    for policy in (Mixture(Oracle(), 0.0), Switch(0, Uniform(), Oracle())):
        run = simulate(Arms([0.2, 0.8]), policy, rounds=5, refit=Refit(warmup=0))
        assert run.log.frame["item"].to_list() == [1] * 5


def test_switch_changes_at_its_round_also_for_rows_of_a_log() -> None:
    policy = bound(Switch(2, Uniform(), Greedy(Fixed([0.1, 0.9]))), 2)
    rows = Context(torch.zeros(3, dtype=torch.int64), time=torch.tensor([1, 2, 3]))
    expected = [[0.5, 0.5], [0.0, 1.0], [0.0, 1.0]]
    assert policy.probs(rows).tolist() == expected
    item = torch.tensor([0, 1, 0])
    assert policy.prob_of(rows, item).tolist() == [0.5, 1.0, 0.0]
    assert policy.propensities(rows, item[:, None]).propensity.tolist() == [[0.5], [1.0], [0.0]]
    for t in range(3):
        here = Context(rows.user, time=t)
        assert policy.act(here, stream(0)).propensity[0, 0] == (0.5 if t < 2 else 1.0)
        assert policy.prob_of(here, item).tolist()[0] == (0.5 if t < 2 else 0.0)


def test_combinations_pass_refits_on() -> None:
    seen = []

    def fit(log: Log, model: object) -> object:
        seen.append(model)
        return model

    log = Log.of({"item": [0], "reward": [1.0]})
    Mixture(Greedy(Fixed([1.0])), 0.1).refit(log, fit)
    Switch(1, Uniform(), Greedy(Fixed([1.0]))).refit(log, fit)
    assert len(seen) == 2


# ---- FALCON


def test_falcon_learns_at_doublings_only_and_gamma_follows_the_rows() -> None:
    """gamma = scale sqrt(K n / d); the model is the ridge of the log so far."""
    run = simulate(
        Contextual(3, 2), FALCON(Linear(), 2.0, complexity=2.0), rounds=20, replications=4,
        refit=Refit(every="doubling", warmup=1),
    )  # fmt: skip
    policy = run.state[0].policy
    assert float(policy.rows) == 16
    frame = run.log.frame.filter(pl.col("time") < 16, pl.col("replication") == 2)
    alone = Linear().bind(run.log)
    x = frame["features"].to_torch().double()
    for item in range(3):
        rows = (frame["item"] == item).to_torch()
        a = x[rows].T @ x[rows] + torch.eye(2, dtype=torch.float64)
        theta = torch.linalg.solve(a, x[rows].T @ frame["reward"].to_torch()[rows].double())
        assert torch.allclose(policy.model.theta[2, item], theta, atol=1e-10)
    assert alone.learners == 4
    assert run.log.frame["generation"].max() == 5  # refits at 1, 2, 4, 8, 16


def test_falcon_over_a_model_of_scikit_learn() -> None:
    from recfb.interop.sklearn import Reward

    policy = FALCON(Reward("linear"), 1.0)
    run = simulate(Contextual(3, 2, requests=50), policy, rounds=5, refit=Refit(every="doubling"))
    assert float(run.state[0].policy.rows) == 200  # at round 4


# ---- refusals


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EpsilonGreedy(Linear(), 1.5), "epsilon is a probability"),
        (lambda: EpsilonGreedy(Linear(), -0.1), "epsilon is a probability"),
        (lambda: Softmax(Linear(), 0.0), "a temperature is positive"),
        (lambda: IGW(Linear(), -1.0), "gamma and its power are not negative"),
        (lambda: IGW(Linear(), cap=0.0), "cap is positive, found gamma=100.0, power=0.0, cap=0.0"),
        (lambda: BootstrapUCB(level=1.5), "level is in"),
        (lambda: FALCON(Linear(), 0.0), "scale and complexity are positive"),
        (lambda: RegCB(Linear(), -1.0), "alpha is not negative"),
        (lambda: Mixture(Uniform(), 1.5), "control_share is in"),
        (lambda: Switch(-1, Uniform(), Uniform()), "at is a round"),
        (lambda: LinTS(v=-1.0), "scale is not negative"),
    ],
)
def test_refusals(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()  # type: ignore[operator]


def test_learners_side_by_side() -> None:
    """R replications in one run are R runs: learners do not mix, in probabilities and updates."""
    log = Log.empty(1, 3, meta=Meta(learners=2))
    policy = IGW(Linear(), 10.0).bind(log)
    both = Context(torch.zeros(2, dtype=torch.int64))
    reward = Feedback(torch.tensor([[1.0], [0.0]]))
    policy.update(both, Slate(torch.tensor([[0], [1]])), reward, stream(0))
    alone = IGW(Linear(), 10.0).bind(Log.empty(1, 3))
    alone.update(ONE, Slate(torch.tensor([[0]])), Feedback(torch.ones(1, 1)), stream(0))
    assert torch.allclose(policy.probs(both)[0], alone.probs(ONE)[0])
    assert sorted(policy.probs(both)[1].tolist()) == pytest.approx([1 / 3] * 3)
