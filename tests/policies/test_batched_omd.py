"""Batched mirror descent, its instances by name, and the lazy leader."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from recfb.contracts import Context, Feedback, Policy, Round, Slate
from recfb.data import Log, Meta
from recfb.errors import ConfigError
from recfb.policies import switching_bounds as bounds
from recfb.policies.auto_for_budget import auto_for_budget
from recfb.policies.batched_omd import BatchedOMD
from recfb.policies.exp3 import Exp3
from recfb.policies.feedback_budgets import (
    BlockedExp3,
    BlockedTsallis,
    BudgetedBandit,
    Constant,
    DartboardFlex,
    DartboardFull,
    LabelEfficient,
    LabelEfficientDartboard,
    ShrinkingDartboard,
)
from recfb.policies.lazy_leader import LazyLeader
from recfb.policies.omd import entropy_step
from recfb.policies.tsallis_inf import TsallisINF
from recfb.policies.tsallis_switch import TsallisSwitch
from recfb.random import stream
from recfb.simulate import Refit, Run, simulate
from recfb.worlds import Arms, Delayed
from recfb.worlds.arms import ArmsState
from recfb.worlds.gaps import Gaps
from recfb.worlds.switching import Budgeted, SwitchingCost

LN2 = 0.6931471805599453


def shape(n_items: int, horizon: int | None = None, learners: int = 1) -> Log:
    return Log.empty(1, n_items, meta=Meta(horizon=horizon, learners=learners))


def play(world: Any, policy: Policy, rounds: int, rows: int, **options: Any) -> Run:
    options.setdefault("refit", Refit(warmup=0))
    return simulate(world, policy, rounds=rounds, replications=rows, **options)


def items(run: Run) -> Tensor:
    return run.log.tensor("item")


def totals(run: Run, name: str, rows: int) -> Tensor:
    """Sums of a truth column over the rounds: (R,)."""
    return run.truth[name].to_torch().double().view(-1, rows).sum(0)


# ---- blocks


@pytest.mark.parametrize(("T", "N"), [(10, 4), (1000, 37), (7, 7), (4096, 1), (100, 99)])
def test_blocks_cover_the_rounds_and_differ_by_one(T: int, N: int) -> None:
    policy = BatchedOMD(blocks=N).bind(shape(2, T))
    spans = list(dict.fromkeys(policy.span(t) for t in range(T)))
    edges = [b * T // N for b in range(N + 1)]
    assert [(s.start, s.stop) for s in spans] == list(pairwise(edges))
    assert [s.number for s in spans] == list(range(N))
    assert {s.stop - s.start for s in spans} <= {T // N, -(-T // N)}


def test_the_item_is_kept_inside_a_block_and_its_propensity_is_1() -> None:
    run = play(Arms([0.4, 0.5, 0.6]), BatchedOMD(blocks=5), 23, 16)
    item, p = items(run).view(23, 16), run.log.tensor("propensity").view(23, 16)
    starts = {b * 23 // 5 for b in range(5)}
    for t in range(1, 23):
        if t not in starts:
            assert torch.equal(item[t], item[t - 1])
            assert (p[t] == 1).all()
    assert torch.allclose(p[0], torch.full((16,), 1 / 3).double())
    assert (p[4] < 1).all()


def test_learning_rates_and_block_counts() -> None:
    """By hand, K = 2, T = 2^12: BlockedTsallis has ceil(1024^(1/3)) = 11 rounds a block, 373
    blocks; BlockedExp3 ceil((4096 / ln 2)^(1/3)) = 19 rounds, 216 blocks."""
    log = shape(2, 4096)
    tsallis, exp3 = BlockedTsallis().bind(log), BlockedExp3().bind(log)
    full, flex = DartboardFull(1024).bind(log), DartboardFlex(1024).bind(log)
    assert (tsallis.count, exp3.count, full.count, flex.count) == (373, 216, 1024, 1024)
    assert tsallis.step == pytest.approx((8 / 373) ** 0.5)
    assert exp3.step == pytest.approx((LN2 / 216) ** 0.5)
    assert full.step == pytest.approx((LN2 / (1024 * (1 / 8 + 1 / 4))) ** 0.5)
    assert flex.step == pytest.approx((LN2 / (1024 * (2 / 2 + 1 / 4))) ** 0.5)
    assert BlockedTsallis(cost=8.0).bind(log).count == 100  # blocks of ceil(65536^(1/3)) = 41
    assert DartboardFull(total=1000).bind(shape(4, 4096)).count == 250
    assert DartboardFull(1000).bind(shape(4, 4096)).count == 333
    assert BudgetedBandit(4000).bind(shape(4, 4096)).count == bounds.bandit_cap(4096, 4) == 512
    assert BudgetedBandit(4000, capped=False).bind(shape(4, 4096)).count == 4000
    efficient = LabelEfficientDartboard(total=400).bind(shape(4, 1000))
    assert efficient.query == pytest.approx(0.1)
    assert efficient.step == pytest.approx((2 * 100 * 2 * LN2) ** 0.5 / 1000)


# ---- estimates, as the policy forms them


@pytest.mark.parametrize("mode", ["bandit_mean", "bandit_one", "full_one", "flex_one"])
def test_b_3_10_1_estimates_of_a_block_are_unbiased(mode: Any) -> None:
    """1e5 learners, one block of 5 rounds of fixed rewards: the mean estimate is the mean loss
    within 5 standard errors."""
    n, k, tau = 100_000, 3, 5
    rewards = torch.rand(tau, k, generator=stream(0, "rewards")).double()
    policy = BatchedOMD("entropy", mode, blocks=2).bind(shape(k, 2 * tau, n))
    policy.reset(stream(0, "reset"))
    estimates = []
    policy.coupled = lambda item, p_next, e: estimates.append(e) or p_next  # type: ignore
    for t in range(tau):
        context = Context(torch.zeros(n).long(), time=t)
        slate = policy.act(context, stream(1, t))
        outcome = rewards[t].expand(n, k)
        extra = None if slate.observe is None else outcome.where(slate.observe, torch.nan)
        policy.update(
            context, slate, Feedback(outcome.gather(1, slate.item), extra=extra), stream(2, t)
        )
    (found,) = estimates
    error = found.std(0) / n**0.5
    assert bool(((found.mean(0) - (1 - rewards.mean(0))).abs() < 5 * error).all())


def test_uneven_blocks_weigh_by_their_length() -> None:
    """T = 5 in 2 blocks: 2 and 3 rounds; rewards 0, so estimates are 2 / 2.5 and 3 / 2.5."""
    policy = BatchedOMD("entropy", "full_one", blocks=2).bind(shape(2, 5))
    policy.reset(stream(0))
    seen = []
    for t in range(5):
        context = Context(torch.zeros(1).long(), time=t)
        slate = policy.act(context, stream(1, t))
        extra = None if slate.observe is None else torch.zeros(1, 2)
        policy.update(context, slate, Feedback(torch.zeros(1, 1), extra=extra), stream(2, t))
        seen.append(policy.loss[0, 0].item())
    assert seen == pytest.approx([0, 0.8, 0.8, 0.8, 2.0])


# ---- couplings, as the policy plays them


@pytest.mark.parametrize("coupling", ["dartboard", "dartboard_shifted", "maximal"])
def test_b_3_10_2_items_have_the_law_of_hedge(coupling: Any) -> None:
    """K = 3, T = 30, eta = 1/2, 50,000 learners: shares within 5 standard errors, 0.0112."""
    n, k, T = 50_000, 3, 30
    reward = torch.rand(T, k, generator=stream(0, "rewards")).double()
    policy = BatchedOMD("entropy", "full_one", coupling=coupling, eta=0.5).bind(shape(k, T, n))
    policy.reset(stream(0, "reset"))
    total, moves, last = torch.zeros(1, k).double(), [], None
    for t in range(T):
        context = Context(torch.zeros(n).long(), time=t)
        slate = policy.act(context, stream(1, t))
        share = torch.bincount(slate.item[:, 0], minlength=k) / n
        assert float((share - entropy_step(total, 0.5)[0]).abs().max()) < 0.0112
        total = total + 1 - reward[t]
        outcome = reward[t].expand(n, k)
        feedback = Feedback(outcome.gather(1, slate.item), extra=outcome)
        policy.update(context, slate, feedback, stream(2, t))
        moves += [] if last is None else [float((slate.item != last).double().mean())]
        last = slate.item
    assert sum(moves) < 0.5 * float(total.amax()) / 2  # independent draws move 2 in 3 times


def test_b_3_10_2_gumbel_lazy_leader_has_the_law_of_hedge() -> None:
    """The same shares, from one Gumbel draw an item: 200,000 learners, within 0.006."""
    n, k, eta = 200_000, 3, 0.5
    leader = LazyLeader(eta, perturbation="gumbel").bind(shape(k, 30, n))
    leader.reset(stream(0, "reset"))
    context = Context(torch.zeros(n).long())
    for loss in torch.rand(30, k, generator=stream(0, "losses")).double():
        best = leader.index(context).argmax(1)
        share = torch.bincount(best, minlength=k) / n
        assert float((share - entropy_step(leader.loss[:1], eta)[0]).abs().max()) < 0.006
        leader.update(
            context, Slate(best[:, None]), Feedback(loss, extra=(1 - loss).expand(n, k)), stream(0)
        )


def test_lazy_leader_perturbations_have_their_means() -> None:
    """1 / eta for exponential ones, never negative; Euler's constant over eta for Gumbel."""
    n = 50_000
    for kind, mean, sd in (("exponential", 2.0, 2.0), ("gumbel", 2 * 0.5772157, 2 * 1.2825)):
        leader = LazyLeader(0.5, perturbation=kind).bind(shape(2, 10, n))  # type: ignore[arg-type]
        leader.reset(stream(0, "reset"))
        assert float(leader.bonus.mean()) == pytest.approx(mean, abs=5 * sd / (2 * n) ** 0.5)
        assert (float(leader.bonus.min()) >= 0) == (kind == "exponential")


def test_lazy_leader_pays_its_bound_and_logs_no_propensity() -> None:
    T, R = 512, 64
    world = SwitchingCost(Budgeted(Gaps(4, gaps=[0.1, 0.3])))
    run = play(world, LazyLeader(), T, R)
    assert run.log.frame["propensity"].null_count() == T * R
    regret = totals(run, "best", R) - totals(run, "value", R)
    assert 0 < float(regret.mean()) < bounds.lazy_leader(T, 4)


# ---- the validity rule


@pytest.mark.parametrize("mode", ["bandit_mean", "bandit_one"])
@pytest.mark.parametrize("coupling", ["dartboard", "dartboard_shifted", "maximal"])
def test_b_3_10_8_lazy_couplings_with_bandit_feedback_are_refused(mode: Any, coupling: Any) -> None:
    with pytest.raises(ConfigError, match="do not depend on the item played"):
        BatchedOMD("entropy", mode, coupling=coupling)


def test_b_3_10_8_without_the_guard_estimates_are_wrong() -> None:
    """Losses 0.45 and 0.55, T = 1000: drawn anew, estimates are right within 5 standard errors;
    with the dartboard they are far off, and regret is larger by half."""
    R, T, eta = 1500, 1000, (0.6931 / 1000) ** 0.5
    found = {}
    for coupling in ("independent", "dartboard"):
        policy = BatchedOMD("entropy", "bandit_mean", eta=eta)
        policy.coupling = coupling  # type: ignore[assignment]
        run = play(Arms([0.55, 0.45]), policy, T, R)
        loss = run.state[0].policy.loss / T  # type: ignore[attr-defined]
        regret = float((totals(run, "best", R) - totals(run, "value", R)).mean())
        found[coupling] = loss, regret
    loss, regret = found["independent"]
    error = 5 * loss.std(0) / R**0.5
    true = torch.tensor([0.45, 0.55]).double()
    assert bool(((loss.mean(0) - true).abs() < error).all())
    loss, worse = found["dartboard"]
    assert float((loss.mean(0)[0] - 0.45).abs()) > 0.02
    assert worse > 1.5 * regret


# ---- switches and budgets


@pytest.mark.parametrize(
    "policy", [BlockedTsallis(), BlockedExp3(), BudgetedBandit(20)], ids=lambda p: repr(p)
)
def test_b_3_10_4_switches_are_fewer_than_blocks(policy: BatchedOMD) -> None:
    T, R = 256, 40
    run = play(SwitchingCost(Budgeted(Arms([0.5, 0.5, 0.5]))), policy, T, R)
    switches = totals(run, "switch", R)
    assert int(switches.max()) <= run.state[0].policy.count - 1  # type: ignore[attr-defined]
    assert int(switches.max()) > 5


@pytest.mark.parametrize(
    ("policy", "budget"),
    [
        (BudgetedBandit(30), {"total": 30}),
        (DartboardFull(30), {"extra": 30}),
        (DartboardFull(total=30), {"total": 30}),
        (DartboardFlex(30), {"total": 30}),
        (LabelEfficient(30), {"total": 30}),
        (LabelEfficientDartboard(30), {"total": 30}),
        (ShrinkingDartboard(), {"extra": 2 * 128}),
    ],
    ids=lambda x: repr(x),
)
def test_b_3_10_4_no_budget_is_exceeded(policy: Policy, budget: dict[str, int]) -> None:
    """A strict world raises as soon as a request is larger than what is left; and nearly all of
    the budget is used, at most one look less."""
    T, R = 128, 32
    world = Budgeted(Arms([0.4, 0.5, 0.6]), **budget, strict=True)
    used = totals(play(world, policy, T, R), "used", R)
    (limit,) = budget.values()
    assert int(used.max()) <= limit
    if not isinstance(policy, LabelEfficient):
        assert int(used.min()) >= limit - 2


def test_the_label_efficient_pair_differs_in_switches_only() -> None:
    world = SwitchingCost(Budgeted(Arms([0.4, 0.5, 0.6]), total=600))
    lazy, fresh = (
        play(world, kind(600), 512, 48) for kind in (LabelEfficientDartboard, LabelEfficient)
    )
    assert float(totals(lazy, "switch", 48).mean()) < 0.1 * float(
        totals(fresh, "switch", 48).mean()
    )
    assert torch.equal(totals(lazy, "used", 48), totals(fresh, "used", 48))


def test_constant_never_switches() -> None:
    run = play(SwitchingCost(Arms([0.2, 0.4, 0.8])), Constant(), 50, 300)
    assert int(totals(run, "switch", 300).max()) == 0
    assert len(items(run).unique()) == 3


# ---- no leak


class Doctored(Arms):
    """Fixed rewards, of which those that nobody saw in an earlier run are turned round."""

    def __init__(self, rewards: Tensor, seen: Tensor) -> None:
        super().__init__([0.5] * rewards.shape[2])
        self.rewards = rewards.where(seen, 1 - rewards)

    def outcomes(self, state: ArmsState, generator: Generator) -> Tensor:
        return self.rewards[state.time]


@pytest.mark.parametrize(
    ("policy", "budget"),
    [
        (BlockedTsallis(), {}),
        (BlockedExp3(), {}),
        (TsallisSwitch(), {}),
        (TsallisINF(), {}),
        (Exp3(), {}),
        (BudgetedBandit(30), {"total": 30}),
        (DartboardFull(60), {"extra": 60}),
        (DartboardFlex(40), {"total": 40}),
        (LabelEfficientDartboard(90), {"total": 90}),
    ],
    ids=lambda x: type(x).__name__,
)
def test_b_3_10_10_what_was_not_observed_changes_nothing(
    policy: Policy, budget: dict[str, int]
) -> None:
    T, R, K = 64, 24, 3
    rewards = (torch.rand(T, R, K, generator=stream(0, "rewards")) < 0.5).float()
    seen = torch.zeros(T, R, K, dtype=torch.bool)

    def watch(round: Round) -> dict[str, Tensor]:
        known = ~round.feedback.reward.isnan()
        seen[round.time].scatter_(1, round.slate.item, known)
        if round.feedback.extra is not None:
            seen[round.time] |= ~round.feedback.extra.isnan()
        return {}

    everything = torch.ones_like(seen)
    first = play(Budgeted(Doctored(rewards, everything), **budget), policy, T, R, probes=[watch])
    assert 0 < float(seen.double().mean()) < 0.9
    again = play(Budgeted(Doctored(rewards, seen), **budget), policy, T, R)
    assert torch.equal(items(first), items(again))
    nothing = torch.zeros_like(seen)
    other = play(Budgeted(Doctored(rewards, nothing), **budget), policy, T, R)
    assert not torch.equal(items(first), items(other))


# ---- limits


class FixedRate(TsallisINF):
    """Tsallis-INF with another schedule of learning rates."""

    def __init__(self, eta: list[float]) -> None:
        super().__init__()
        self.eta = eta

    def rate(self, time: int) -> float:
        return self.eta[time]


@pytest.mark.parametrize(
    ("batched", "plain"),
    [
        (BatchedOMD("entropy", eta=0.1), Exp3(eta=0.1)),
        (BatchedOMD("tsallis", eta=0.3), FixedRate([0.3] * 201)),
        (TsallisSwitch(cost=0.0), FixedRate([2 * (2 / n) ** 0.5 for n in range(1, 202)])),
        (DartboardFull(2 * 200), ShrinkingDartboard()),
        (DartboardFull(total=3 * 200), BatchedOMD("entropy", "full_one", coupling="dartboard")),
    ],
    ids=["exp3", "tsallis", "tsallis_switch", "full", "full_total"],
)
def test_b_3_10_11_limits_are_equal_action_by_action(batched: Policy, plain: Policy) -> None:
    world = Budgeted(Arms([0.4, 0.5, 0.6]))
    one, other = (play(world, policy, 200, 16) for policy in (batched, plain))
    assert torch.equal(items(one), items(other))
    assert torch.allclose(one.log.tensor("propensity"), other.log.tensor("propensity"), atol=1e-9)


# ---- bounds and the selector


@pytest.mark.parametrize(
    ("policy", "budget", "bound"),
    [
        (BlockedTsallis(), {}, bounds.blocked_tsallis(1024, 4)),
        (BlockedExp3(), {}, bounds.blocked_exp3(1024, 4)),
        (BudgetedBandit(64), {"total": 64}, bounds.budgeted_bandit(1024, 4, 64)),
        (DartboardFull(384), {"extra": 384}, bounds.dartboard_full(1024, 4, 128)),
        (DartboardFull(total=512), {"total": 512}, bounds.dartboard_full(1024, 4, 128)),
        (DartboardFlex(512), {"total": 512}, bounds.dartboard_flex(1024, 4, 512)),
        (
            LabelEfficientDartboard(512),
            {"total": 512},
            bounds.label_efficient(1024, 4, 128),
        ),
        (ShrinkingDartboard(), {}, bounds.dartboard_full(1024, 4, 1024)),
        (TsallisSwitch(), {}, 5.25 * 4 ** (1 / 3) * 1024 ** (2 / 3) + 6.4 * 4096**0.5 + 20),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, Policy) else "",
)
def test_b_3_10_9_regret_is_below_the_bound(
    policy: Policy, budget: dict[str, int], bound: float
) -> None:
    """K = 4, T = 1024, every gap of the grid, 8 replications each."""
    R = 56
    run = play(SwitchingCost(Budgeted(Gaps(4), **budget)), policy, 1024, R)
    regret = (totals(run, "best", R) - totals(run, "value", R)).view(8, 7).mean(0)
    assert float(regret.max()) < bound
    assert float(regret.max()) > 10


def test_the_selector_takes_the_least_bound() -> None:
    T, K = 2**16, 4
    assert isinstance(auto_for_budget(T, K, extra=2), BlockedTsallis)
    assert isinstance(auto_for_budget(T, K, extra=64), BlockedTsallis)
    assert isinstance(auto_for_budget(T, K, extra=2**13), DartboardFull)
    assert isinstance(auto_for_budget(T, K, total=3), DartboardFlex)
    assert isinstance(auto_for_budget(T, K, total=2**14), DartboardFull)
    assert isinstance(auto_for_budget(T, 10**6, total=2**14), BudgetedBandit)
    for wrong in ({}, {"extra": 1, "total": 1}):
        with pytest.raises(ConfigError, match="extra or total"):
            auto_for_budget(T, K, **wrong)


# ---- errors


def test_a_world_that_does_not_answer_is_named() -> None:
    for policy in (DartboardFull(100), LazyLeader()):
        with pytest.raises(ConfigError, match=r"does not answer. Wrap it: Budgeted"):
            play(Arms([0.4, 0.6]), policy, 100, 4)


def test_delays_are_refused() -> None:
    with pytest.raises(ConfigError, match="Play it without delays"):
        play(Delayed(Arms([0.4, 0.6]), rounds=2), BlockedTsallis(), 20, 4)


def test_warm_up_is_learnt_from() -> None:
    run = play(Arms([0.1, 0.9]), BlockedTsallis(), 400, 32, refit=Refit(warmup=3))
    late = items(run).view(400, 32)[300:]
    assert float((late == 1).double().mean()) > 0.8


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: BatchedOMD(eta=0.0), "positive learning rate"),
        (lambda: BatchedOMD(blocks=0), "blocks is at least 1"),
        (lambda: BatchedOMD(query=0.0), "query in"),
        (lambda: BlockedTsallis(cost=-1.0), "cost at least 0"),
        (lambda: BatchedOMD("entropy", "bernoulli_full", blocks=3), "leave out blocks"),
        (lambda: BlockedTsallis().bind(shape(2)), r"BlockedTsallis\(horizon=1000\)"),
        (lambda: LazyLeader().bind(shape(2)), r"LazyLeader\(horizon=1000\)"),
        (lambda: LazyLeader(eta=-1.0), "positive learning rate"),
        (lambda: DartboardFull(10, total=10), "extra or total"),
        (lambda: DartboardFull(2).bind(shape(4, 10)), "does not pay for one look"),
        (lambda: BudgetedBandit(0), "does not pay for one look"),
        (lambda: DartboardFlex(0), "does not pay for one look"),
        (lambda: LabelEfficient(3).bind(shape(4, 10)), "does not pay for one look"),
        (lambda: TsallisSwitch(cost=-1.0), "at least 0"),
    ],
)
def test_refusals(make: Callable[[], object], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        make()


def test_slates_of_several_items_are_refused() -> None:
    with pytest.raises(ConfigError, match="Play it with slate=1"):
        play(Arms([0.4, 0.5, 0.6]), BatchedOMD("tsallis"), 5, 2, slate=2)


# ---- rounds without a look


def played(policy: Policy, rounds: int, learners: int) -> list[tuple[Tensor, ...]]:
    """The law before each round, what was shown, and who asked for all rewards, which are fixed."""
    seen, n = [], policy.n_items
    for t in range(rounds):
        law = policy.law.clone()
        context = Context(torch.zeros(learners).long(), time=t)
        slate = policy.act(context, stream(1, t))
        wish = torch.zeros(learners, n) > 0 if slate.observe is None else slate.observe
        reward = torch.rand(n, generator=stream(2, t)).expand(learners, n)
        extra = None if slate.observe is None else reward.where(wish, torch.nan)
        feedback = Feedback(reward.gather(1, slate.item), extra=extra)
        policy.update(context, slate, feedback, stream(3, t))
        seen.append((law, slate.item, wish.all(1)))
    return seen


def test_every_round_is_looked_at_with_the_probability_that_was_given() -> None:
    """0.3, whatever was looked at before: 50,000 learners, 5 standard errors; 1 is always."""
    n = 50_000
    policy = BatchedOMD("entropy", "bernoulli_full", query=0.3).bind(shape(2, 100, n))
    policy.reset(stream(0))
    looks = torch.stack([asks for _, _, asks in played(policy, 6, n)]).double()  # (6, n)
    assert float((looks.mean(1) - 0.3).abs().max()) < 5 * (0.3 * 0.7 / n) ** 0.5
    both = (looks[1:] * looks[:-1]).mean(1)
    assert float((both - 0.09).abs().max()) < 5 * (0.09 * 0.91 / n) ** 0.5
    always = BatchedOMD("entropy", "bernoulli_full").bind(shape(2, 100, 3))
    always.reset(stream(0))
    assert all(bool(asks.all()) for _, _, asks in played(always, 6, 3))


@pytest.mark.parametrize("coupling", ["independent", "dartboard", "maximal"])
def test_a_round_that_nobody_looks_at_is_one_without_a_loss(coupling: Any) -> None:
    """Skipped or worked out, the laws and the items are the same."""
    seen = []
    for skips in (True, False):
        policy = BatchedOMD("entropy", "bernoulli_full", coupling=coupling, query=0.02)
        policy = policy.bind(shape(3, 400, 4))
        policy.reset(stream(0))
        if not skips:
            policy._silent = lambda time: False  # type: ignore[method-assign]
        seen.append(played(policy, 400, 4))
    silent = sum(not bool(asks.any()) for _, _, asks in seen[0])
    assert 300 < silent < 400
    for one, other in zip(*seen, strict=True):
        assert torch.allclose(one[0], other[0], rtol=0, atol=1e-12)
        assert torch.equal(one[1], other[1]) and torch.equal(one[2], other[2])
    moves = sum(bool((a[1] != b[1]).any()) for a, b in pairwise(seen[0]))
    assert moves > 300 if coupling == "independent" else moves < 60


def test_a_policy_that_is_reset_looks_as_a_new_one() -> None:
    new, old = (LabelEfficientDartboard(300, horizon=400).bind(shape(3, 400, 4)) for _ in "ab")
    old.reset(stream(9))
    played(old, 150, 4)
    for policy in (new, old):
        policy.reset(stream(0))
    first, second = (played(policy, 100, 4) for policy in (new, old))
    for one, other in zip(first, second, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
