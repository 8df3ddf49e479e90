"""Individual fairness with one-sided feedback: exponential weights, perturbed leaders, the LP."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest
import torch
from torch import Tensor

from recfb.beliefs.payoff import labels_of
from recfb.contracts import Context, Feedback, Slate
from recfb.data import Log, Meta
from recfb.errors import ConfigError
from recfb.policies.accept_reject import Fair, accept_estimate, two_sided
from recfb.policies.fair_exp import FairExp, fair_rate
from recfb.policies.fair_ftpl import FairFTPL, first_hits, laplace
from recfb.policies.fair_lp import fair_mixture
from recfb.policies.hypotheses import Thresholds, separators
from recfb.policies.omd import entropy_step
from recfb.random import stream
from recfb.simulate import Refit, simulate
from recfb.worlds.applicants import Applicants
from recfb.worlds.arms import Arms
from recfb.worlds.audited import Audited, violations
from recfb.worlds.contextual import with_features
from recfb.worlds.switching import Budgeted
from recfb.worlds.wrappers import OneSided

WEIGHTS = [0.3, 0.2, 0.1, 1.0]
NOW = Refit(warmup=0)


def rules(count: int = 16) -> Thresholds:
    return Thresholds(count, blind=[3], include=[[*WEIGHTS, 0.0]])


def opening(learners: int = 1, horizon: int = 100, width: int = 5) -> Log:
    meta = Meta(horizon=horizon, learners=learners)
    return with_features(Log.empty(1, 2, meta=meta), width)


def bound(policy: Fair, learners: int = 1, horizon: int = 100) -> Fair:
    policy.bind(opening(learners, horizon)).reset(stream(0, "reset"))
    return policy


def requests(rows: int, seed: int = 0) -> Context:
    x = torch.randn(rows, 5, generator=stream(seed, "x"))
    x[:, -1] = 1.0
    return Context(torch.zeros(rows, dtype=torch.int64), features=x)


# ---- losses


def test_f_4_9_1_mistakes_are_twice_the_loss_that_is_seen() -> None:
    g = stream(0)
    y = torch.rand(500, generator=g, dtype=torch.float64).round()
    a, b = torch.rand(2, 500, generator=g, dtype=torch.float64)

    def wrong(pi: Tensor) -> Tensor:
        return (pi * (1 - y) + (1 - pi) * y).sum()

    def ell(pi: Tensor) -> Tensor:
        return (pi * (1 - y) + (1 - pi) / 2).sum()

    assert float(wrong(a) - wrong(b)) == pytest.approx(2 * float(ell(a) - ell(b)), abs=1e-10)
    assert abs(float(wrong(a) - wrong(b))) > 1


def test_f_4_9_2_the_estimate_is_unbiased_by_enumeration() -> None:
    """sum over accept and reject of P(.) x estimate = 1 - y, for every pi and y."""
    for p in (0.05, 0.3, 1.0):
        for y in (0.0, 1.0):
            accept = torch.tensor([p, p], dtype=torch.float64)
            slate = Slate(torch.tensor([[1], [0]]))
            label = labels_of(slate, Feedback(torch.tensor([[y], [torch.nan]])))
            estimate = accept_estimate(label, accept)
            assert float(estimate[1]) == 0.0
            mean = p * estimate[0] + (1 - p) * estimate[1]
            assert float(mean) == pytest.approx(1 - y, abs=1e-12)


def test_f_4_9_2_whole_rounds_of_the_policy_are_unbiased() -> None:
    """The mean charge over 40,000 rounds of the policy's own draws, one rule deciding about three
    requests."""
    learners, k = 40_000, 3
    policy = bound(FairExp(rules(5), price=0.0, mixing=0.2), learners)
    policy.logw.copy_(torch.tensor([0.0, -1.0, -0.5, -0.2, -2.0]).expand(learners, -1))
    one = requests(k)
    context = one[torch.arange(k).repeat(learners)]
    slate = policy.act(context, stream(1, "act"))
    good = torch.tensor([1.0, -1.0, -1.0]).repeat(learners)[:, None]
    feedback = Feedback(good.where(slate.item == 1, torch.nan))
    before = policy.logw.clone()
    policy.update(context, slate, feedback, stream(0))
    moved = (before - policy.logw) / policy.rate(k)  # (G, H) loss up to a constant of each row
    answers = policy.hypotheses(one)  # (k, H)
    lost = torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64)
    exact = (answers * (lost - 0.5)[:, None]).sum(0)  # (H,)
    moved, exact = moved - moved[:, :1], exact - exact[0]
    error = moved.std(0) / learners**0.5
    assert bool(((moved.mean(0) - exact).abs() <= 5 * error + 1e-12).all())


def test_f_4_9_2_labels_of_the_rejected_are_never_read() -> None:
    """The same run, whether the world hides the rewards of the rejected or says something else."""

    class Babbling(Applicants):
        def respond(self, state, slate, generator):  # type: ignore[no-untyped-def]
            feedback, truth = super().respond(state, slate, generator)
            reward = feedback.reward.where(slate.item == 1, -7.0)
            return replace(feedback, reward=reward), truth

    for make in (lambda: FairExp(rules()), lambda: FairFTPL(rules(), shown=5)):
        shown = [
            simulate(Audited(world), make(), rounds=40, replications=2, refit=NOW)
            for world in (OneSided(Applicants(WEIGHTS)), Babbling(WEIGHTS))
        ]
        hidden, babbled = (run.log.frame for run in shown)
        assert hidden["item"].equals(babbled["item"])
        rejected = hidden.filter(pl.col("item") == 0)
        assert len(rejected) and rejected["reward"].null_count() == len(rejected)


def test_lost_labels_of_the_accepted_change_nothing() -> None:
    for policy in (FairExp(rules()), FairFTPL(rules())):
        bound(policy)
        context = requests(4)
        slate = Slate(torch.ones(4, 1, dtype=torch.int64), torch.full((4, 1), 0.5).double())
        before = {name: x.clone() for name, x in policy.state_dict().items()}
        policy.update(context, slate, Feedback(torch.full((4, 1), torch.nan)), stream(0))
        assert all(torch.equal(x, before[name]) for name, x in policy.state_dict().items())


# ---- exponential weights


def test_f_4_9_5_without_a_price_and_with_all_labels_it_is_hedge() -> None:
    world = Budgeted(Applicants(WEIGHTS))
    policy = FairExp(rules(), price=0.0, labels="all")
    run = simulate(world, policy, rounds=30, replications=2, refit=NOW)
    learned = run.state[0].policy
    frame = run.log.frame.with_columns(run.truth["label"])
    loss = torch.zeros(2, 16, dtype=torch.float64)
    for r in range(2):
        own = frame.filter(pl.col("replication") == r)
        x = own["features"].to_torch().double()
        y = own["label"].to_torch()[:, None]
        h = (x @ learned.hypotheses.weight.T + learned.hypotheses.offset > 0).double()
        loss[r] = (h * (1 - y) + (1 - h) / 2).sum(0)
    hedge = entropy_step(loss, fair_rate(16, 4, 30, 0.0))
    assert torch.allclose(learned.logw.softmax(1), hedge, atol=1e-12)
    assert float(hedge.amax()) > 0.1


def test_f_4_9_5_with_g_1_everybody_is_accepted() -> None:
    run = simulate(Applicants(WEIGHTS), FairExp(rules(), mixing=1.0), rounds=20, refit=NOW)
    assert run.log.frame["item"].unique().to_list() == [1]
    assert run.log.frame["propensity"].unique().to_list() == [1.0]


def test_the_lagrangian_by_hand() -> None:
    """Rules: nobody, everybody, x_1 > 0. Two requests x_1 = 1, -1 with g = .5, equal weights:
    pi = (5/6, 4/6). Both accepted, bad and good; the first was treated better, C = 2."""
    policy = FairExp(Thresholds(3, include=[[1.0, 0, 0, 0, 0]]), price=2.0, mixing=0.5)
    bound(policy)
    x = torch.tensor([[1.0, 0, 0, 0, 1], [-1.0, 0, 0, 0, 1]])
    context = Context(torch.zeros(2, dtype=torch.int64), features=x)
    assert policy.probs(context)[:, 1].tolist() == pytest.approx([5 / 6, 4 / 6])
    probs = policy.probs(context)
    slate = Slate(torch.tensor([[1], [1]]), propensity=probs[:, 1:], probs=probs)
    feedback = Feedback(torch.tensor([[-1.0], [1.0]]), complaint=torch.tensor([1, -1]))
    policy.update(context, slate, feedback, stream(0))
    first, second = 6 / 5 - 0.5 + 2, -0.5 - 2
    eta = fair_rate(3, 2, 100, 2.0)
    expected = torch.tensor([0.0, first + second, first], dtype=torch.float64) * -eta
    assert torch.allclose(policy.logw[0], expected - expected.max(), atol=1e-12)


def test_one_rule_decides_about_a_round_and_marginals_are_exact() -> None:
    learners, k = 20_000, 3
    policy = bound(FairExp(rules(), mixing=0.1), learners)
    one = requests(k, seed=3)
    slate = policy.act(one[torch.arange(k).repeat(learners)], stream(1))
    said = slate.item.view(learners, k)
    share = said.double().mean(0)
    pi = policy.probs(one[torch.arange(k).repeat(learners)])[:k, 1]
    assert bool(((share - pi).abs() <= 5 * (pi * (1 - pi) / learners).sqrt()).all())
    patterns = {tuple(row) for row in said.unique(dim=0).tolist()}
    allowed = {tuple(int(v) for v in row) for row in policy.hypotheses(one).T.tolist()} | {
        (1, 1, 1)
    }
    assert patterns <= allowed and len(patterns) > 2
    assert torch.allclose(slate.propensity, slate.probs.gather(1, slate.item))


def test_price_and_rate_rules() -> None:
    by = {
        p: bound(FairExp(rules(), price=p), horizon=10_000).charged() for p in ("paper", "direct")
    }
    assert by == pytest.approx({"paper": 10_000**0.2, "direct": 10.0})
    assert bound(FairFTPL(rules()), horizon=10_000).charged() == pytest.approx(10_000 ** (4 / 45))
    policy = bound(FairExp(rules(), price=0.0, scale=3.0), horizon=10_000)
    assert policy.share() == pytest.approx(0.1) and bound(FairExp(rules())).share() == 0.25
    ln16 = 2.772588722239781
    assert policy.rate(4) == pytest.approx(3 * (ln16 / (3 * 10_000 * 20)) ** 0.5)


# ---- rules


def test_rules_are_shared_half_are_blind_and_two_constant() -> None:
    policy = bound(FairExp(Thresholds(12, blind=[3], include=[[*WEIGHTS, 0.5]])))
    w = policy.hypotheses.weight
    assert int((w[3:, 3] == 0).sum()) == 5
    says = policy.hypotheses(requests(50))
    assert bool((says[:, 0] == 0).all()) and bool((says[:, 1] == 1).all())
    assert w[2].tolist() == pytest.approx([*WEIGHTS, 0.5])


def test_separators_tell_all_rules_apart() -> None:
    policy = bound(FairExp(Thresholds(40)))
    says = policy.hypotheses(requests(3000))
    kinds = len(says.T.unique(dim=0))
    chosen = separators(says)
    assert len(says[chosen].T.unique(dim=0)) == kinds > 35
    assert 6 <= len(chosen) <= 12
    assert len(separators(torch.ones(5, 3))) == 0


# ---- perturbed leaders


def test_f_4_9_4_geometric_resampling() -> None:
    M, n = 50, 100_000
    for p in (0.5, 0.1, 0.01):
        hits = torch.rand(n, M, generator=stream(0, int(p * 100))) < p
        J = first_hits(hits).double()
        exact = (1 - (1 - p) ** M) / p
        assert float(J.mean()) == pytest.approx(exact, abs=5 * float(J.std()) / n**0.5)


def test_laplace_has_mean_0_and_mean_size_1_over_the_rate() -> None:
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    z = laplace(u, 4.0)
    assert float(z.mean()) == pytest.approx(0.0, abs=1e-9)
    assert float(z.abs().mean()) == pytest.approx(0.25, rel=1e-4)
    assert float((z > 0).double().mean()) == 0.5


def test_f_4_9_8_a_very_large_rate_follows_the_leader() -> None:
    policy = bound(FairFTPL(rules(), scale=1e12), learners=3)
    policy.cost.copy_(torch.randn(3, 16, generator=stream(0), dtype=torch.float64))
    chosen = policy.leaders(4, 20, stream(1))
    assert torch.equal(chosen, policy.cost.argmin(1, keepdim=True).expand(-1, 20))


def test_f_4_9_8_a_very_small_rate_does_not_look_at_the_past() -> None:
    policy = bound(FairFTPL(rules(), scale=1e-9))
    blank = policy.leaders(4, 200, stream(1))
    policy.cost.copy_(torch.randn(1, 16, generator=stream(0), dtype=torch.float64) * 5)
    assert torch.equal(policy.leaders(4, 200, stream(1)), blank)
    assert len(blank.unique()) > 5


def test_ftpl_publishes_its_frequencies_and_no_false_propensity() -> None:
    policy = bound(FairFTPL(rules(), shown=4000))
    context = requests(3, seed=3)
    slate = policy.act(context, stream(1))
    assert slate.propensity is None
    share = policy.propensity_mc(context, torch.ones(3, dtype=torch.int64), stream(2), draws=400)
    assert torch.allclose(share, slate.probs[:, 1], atol=0.12)
    assert policy.propensities(context, slate.item).propensity is None
    with pytest.raises(ConfigError, match="propensity_mc"):
        policy.probs(context)


def test_the_charge_of_ftpl_by_hand() -> None:
    """One rule accepts everybody for sure: J = 1; the costs of the pair are +C and -C."""
    policy = bound(FairFTPL(Thresholds(2), price=3.0, scale=1e12))
    policy.cost.copy_(torch.tensor([[0.0, -1.0]]))
    slate = Slate(torch.ones(2, 1, dtype=torch.int64))
    feedback = Feedback(torch.tensor([[-1.0], [-1.0]]), complaint=torch.tensor([1, 0]))
    policy.update(requests(2), slate, feedback, stream(0))
    assert policy.cost.tolist() == [[0.0, -1.0 + (1 - 0.5 + 3) + (1 - 0.5)]]


# ---- the fair comparator, and the inequality


def audited_round(policy: Fair, world: Audited, seed: int):  # type: ignore[no-untyped-def]
    state = world.start(stream(seed, "start"), policy.learners)
    context = world.observe(state)
    slate = policy.act(context, stream(seed, "act"))
    return state, context, slate, *world.respond(state, slate, stream(seed, "respond"))


def test_f_4_9_3_the_lagrangian_inequality_holds_on_every_violation_round() -> None:
    """L(pi_t) - L(pi*) >= Err(pi_t) - Err(pi*) + C eps for a comparator fair at alpha - eps."""
    R, C, eps = 150, 5.0, 0.05
    world = Audited(Applicants(WEIGHTS), alpha=0.1, gamma=0.2)
    policy = bound(FairExp(rules(), mixing=0.05), R)
    policy.logw.copy_(2 * torch.randn(R, 16, generator=stream(9), dtype=torch.float64))
    state, context, slate, feedback, truth = audited_round(policy, world, 0)
    d = world.distances(state, stream(0))
    answers = policy.hypotheses(context).view(R, 4, 16)
    limit = d.amin(1) + 0.1 - eps
    w, mistakes = fair_mixture(answers, truth["label"].view(R, 4), limit)
    fair = answers @ w  # (R, k)
    assert not bool(violations(fair, d, 0.1 - eps + 1e-8).any())
    signs = feedback.complaint.view(R, 4)
    hit = signs.any(1)
    assert 20 < int(hit.sum()) < R
    mine = slate.probs[:, 1].view(R, 4)
    margin = C * ((mine - fair) * signs).sum(1)[hit] - C * eps
    assert float(margin.min()) > -1e-7
    assert mistakes < 2.2


def test_the_fair_mixture_beats_random_fair_ones_and_costs_more_than_unfair_ones() -> None:
    g = stream(2)
    answers = (torch.rand(60, 3, 6, generator=g) < 0.5).double()
    answers[..., 0], answers[..., 1] = 0.0, 1.0
    labels = answers[..., 2]
    limit = torch.full((60, 3, 3), 0.4, dtype=torch.float64)
    w, mistakes = fair_mixture(answers, labels, limit)
    pi = answers @ w
    assert float((pi[:, :, None] - pi[:, None]).amax()) <= 0.4 + 1e-8
    assert float(w.sum()) == pytest.approx(1.0) and float(w.min()) >= -1e-12
    cost = (answers != labels[..., None]).double().sum((0, 1)) / 60
    assert mistakes == pytest.approx(float(cost @ w)) and mistakes > 0.5
    free, none = fair_mixture(answers, labels, torch.ones(60, 3, 3))
    assert none == pytest.approx(0.0) and float(free[2]) == pytest.approx(1.0)
    other = torch.rand(4000, 6, generator=g, dtype=torch.float64) ** 4
    other = other / other.sum(1, keepdim=True)
    pis = torch.einsum("tkh,nh->ntk", answers, other)
    fair = (pis.amax(2) - pis.amin(2)).amax(1) <= 0.4
    assert int(fair.sum()) > 10 and bool(((other @ cost)[fair] >= mistakes - 1e-9).all())
    with pytest.raises(ConfigError, match="no mixture"):
        fair_mixture(answers, labels, torch.full((60, 3, 3), -0.5))


# ---- side by side, and refusals


def test_learners_side_by_side_do_not_mix() -> None:
    both = bound(FairExp(rules()), 2)
    context = requests(8)
    slate = Slate(torch.ones(8, 1, dtype=torch.int64), torch.full((8, 1), 0.5).double())
    reward = Feedback(torch.tensor([[-1.0], [1.0]] * 4), complaint=torch.tensor([1, -1] + [0] * 6))
    both.update(context, slate, reward, stream(0))
    alone = bound(FairExp(rules()))
    half = torch.arange(4)
    alone.update(context[half], slate[half], reward[half], stream(0))
    assert torch.allclose(both.logw[0], alone.logw[0], atol=1e-14)
    assert not torch.allclose(both.logw[0], both.logw[1])


def test_what_is_not_available_is_not_done() -> None:
    context = replace(requests(2), available=torch.tensor([[True, False], [False, True]]))
    for policy in (FairExp(rules(), mixing=1.0), FairFTPL(rules())):
        slate = bound(policy).act(context, stream(0))
        assert slate.item.tolist() == [[0], [1]]
        assert slate.probs.tolist() == [[1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Thresholds(2, include=[[1.0]]), "Try count=3"),
        (lambda: FairExp(rules(), price="free"), "price of a complaint"),
        (lambda: FairExp(rules(), price=-1.0), "price of a complaint"),
        (lambda: FairExp(rules(), scale=0.0), "scale is positive"),
        (lambda: FairExp(rules(), mixing=0.0), "mixing a share"),
        (lambda: FairExp(rules(), labels="some"), "accepted"),
        (lambda: FairFTPL(rules(), price="direct"), "price of a complaint"),
        (lambda: FairFTPL(rules(), shown=0), "shown and resamples"),
        (lambda: FairFTPL(rules(), resamples=0), "shown and resamples"),
        (lambda: bound(FairExp(Thresholds(8, blind=[7]))), "5 features"),
        (lambda: bound(FairExp(Thresholds(8, include=[[1.0]]))), "5 features"),
        (lambda: bound(FairExp(rules(), price=50.0, scale=20.0)), "Lower scale or price"),
        (lambda: FairExp(rules()).bind(Log.empty(1, 3)), "world of 3 items"),
        (lambda: FairExp(Thresholds()).bind(Log.empty(1, 2)), "horizon=1000"),
        (lambda: bound(FairExp(rules())).act(requests(2), stream(0), k=2), "slate=1"),
        (lambda: bound(FairFTPL(rules())).act(requests(2), stream(0), k=2), "slate=1"),
        (lambda: simulate(Arms([0.1, 0.9]), FairExp(Thresholds(3), labels="all"), rounds=2,
                          refit=NOW), "Budgeted"),
    ],
)  # fmt: skip
def test_refusals(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()  # type: ignore[operator]


def test_two_sided_keeps_certainty() -> None:
    assert two_sided(torch.tensor([1.0, 0.0]), requests(2)).tolist() == [[0.0, 1.0], [1.0, 0.0]]
