"""Exp3 in its forms, and Tsallis-INF."""

from __future__ import annotations

from collections.abc import Callable
from math import e, log, sqrt

import pytest
import torch
from torch import Tensor

from recfb.contracts import Context, Feedback, Policy, Slate
from recfb.data import Log, Meta
from recfb.errors import ConfigError
from recfb.policies.exp3 import Exp3, Exp3IX, Exp3Mixed
from recfb.policies.feedback_budgets import BlockedTsallis
from recfb.policies.omd import entropy_step, tsallis_solve
from recfb.policies.tsallis_inf import TsallisINF
from recfb.random import stream
from recfb.simulate import Refit, simulate
from recfb.worlds import Arms, Delayed


def shape(n_items: int, horizon: int | None = None, learners: int = 1) -> Log:
    return Log.empty(1, n_items, meta=Meta(horizon=horizon, learners=learners))


def shown(item: int, reward: float, p: float, rows: int = 1) -> tuple[Slate, Feedback]:
    items = torch.full((rows, 1), item)
    slate = Slate(items, propensity=torch.full((rows, 1), p, dtype=torch.float64))
    return slate, Feedback(torch.full((rows, 1), reward))


def learn(policy: Policy, *seen: tuple[Slate, Feedback]) -> Tensor:
    """The law after these rounds."""
    for t, (slate, feedback) in enumerate(seen):
        context = Context(torch.zeros(len(slate)).long(), time=t)
        policy.update(context, slate, feedback, stream(0))
    law: Tensor = policy.law  # type: ignore[assignment]
    return law


def test_exp3_by_hand() -> None:
    """Losses 0.75 / 0.5 = 1.5 on item 0 and 0.5 / 0.25 = 2 on item 2; eta = 0.2."""
    policy = Exp3(eta=0.2).bind(shape(3))
    law = learn(policy, shown(0, 0.25, 0.5), shown(2, 0.5, 0.25))
    assert torch.allclose(law, entropy_step(torch.tensor([[1.5, 0.0, 2.0]]).double(), 0.2))


def test_exp3_learning_rates() -> None:
    assert Exp3().bind(shape(4, 100)).rate(7) == pytest.approx(sqrt(2 * log(4) / 400))
    assert Exp3(horizon=50).bind(shape(4, 100)).rate(7) == pytest.approx(sqrt(2 * log(4) / 200))
    assert Exp3().bind(shape(4)).rate(7) == pytest.approx(sqrt(log(4) / 32))
    assert Exp3(0.3).bind(shape(4, 100)).rate(7) == 0.3
    mixed = Exp3Mixed().bind(shape(4, 100))
    assert mixed.share() == pytest.approx(sqrt(4 * log(4) / ((e - 1) * 100)))
    assert Exp3Mixed().bind(shape(4, 2)).share() == 1.0
    assert TsallisINF().bind(shape(4)).rate(3) == 1.0
    assert TsallisINF("rv").bind(shape(4)).rate(3) == 2.0


def test_exp3_ix_adds_half_the_rate() -> None:
    """Loss 1 at p = 1/2 and eta = 1: 1 / (1/2 + 1/2) = 1."""
    law = learn(Exp3IX(eta=1.0).bind(shape(2)), shown(0, 0.0, 0.5))
    assert torch.allclose(law, entropy_step(torch.tensor([[1.0, 0.0]]).double(), 1.0))


def test_exp3_mixed_by_hand() -> None:
    """Reward 1 at p = 1/2, gamma = 1/2, K = 2: weights exp(1/4 x 2) : 1, half mixed in."""
    law = learn(Exp3Mixed(gamma=0.5).bind(shape(2)), shown(0, 1.0, 0.5))
    first = e**0.5 / (e**0.5 + 1)
    assert law[0].tolist() == pytest.approx([0.5 * first + 0.25, 0.5 * (1 - first) + 0.25])


def test_tsallis_inf_by_hand() -> None:
    """Round t = 1: eta is 2 (iw) and 4 (rv), so nobody has p >= eta^2 and b is 0; t = 2 with
    p = 1/4: eta^2 = 8 again none; from t = 65 eta_rv^2 = 16/65 < 1/4."""
    law = learn(TsallisINF().bind(shape(2)), shown(0, 0.0, 0.5))
    assert torch.allclose(law, tsallis_solve(torch.tensor([[2.0, 0.0]]).double(), 2 / sqrt(2)))
    policy = TsallisINF("rv").bind(shape(4))
    late = Context(torch.zeros(1).long(), time=64)
    policy.update(late, *shown(1, 0.25, 0.25), stream(0))
    expected = torch.tensor([[0.5, (0.75 - 0.5) / 0.25 + 0.5, 0.5, 0.5]]).double()
    assert torch.allclose(policy.loss, expected)
    assert torch.allclose(policy.law, tsallis_solve(expected, 4 / sqrt(66)))
    policy.update(late, *shown(1, torch.nan, 0.25), stream(0))
    assert torch.allclose(policy.loss, expected)


@pytest.mark.parametrize("policy", [Exp3(eta=0.1), TsallisINF(), TsallisINF("rv")], ids=repr)
def test_b_2_e_the_estimator_is_unbiased(policy: Policy) -> None:
    """By enumeration of the item drawn from the law of a policy that has learned: 1e-12."""
    policy.bind(shape(4))
    learn(policy, shown(0, 0.2, 0.25), shown(1, 0.7, 0.3))
    law = policy.law.clone()  # type: ignore[union-attr, operator]
    loss = torch.tensor([0.1, 0.4, 0.6, 0.9]).double()
    mean = torch.zeros(4).double()
    for a in range(4):
        item, p = torch.tensor([[a]]), law[:, a : a + 1]
        mean += law[0, a] * policy.estimate(loss[item], item, p, law, 40)[0]  # type: ignore
    assert torch.allclose(mean, loss, atol=1e-12)


def test_learners_learn_alone_and_rows_of_one_add_up() -> None:
    two = Exp3(eta=0.1).bind(shape(2, learners=2))
    slate = Slate(torch.tensor([[0], [1]]), propensity=torch.tensor([[0.5], [0.25]]).double())
    law = learn(two, (slate, Feedback(torch.tensor([[0.0], [torch.nan]]))))
    assert two.loss.tolist() == [[2.0, 0.0], [0.0, 0.0]]
    assert law[1].tolist() == [0.5, 0.5]
    one = Exp3(eta=0.1).bind(shape(2))
    learn(one, shown(0, 0.0, 0.5, rows=3))
    assert one.loss.tolist() == [[6.0, 0.0]]


def test_the_logged_propensity_is_what_counts() -> None:
    """Warm-up rounds are uniform whatever the law; without one, the law's is taken."""
    policy = Exp3(eta=0.5).bind(shape(2))
    learn(policy, shown(0, 0.0, 0.5), shown(1, 0.0, 0.5))
    assert policy.loss.tolist() == [[2.0, 2.0]]
    none = Slate(torch.tensor([[1]])), Feedback(torch.tensor([[0.0]]))
    learn(policy, none)
    assert policy.loss.tolist() == [[2.0, 4.0]]


@pytest.mark.parametrize("policy", [Exp3(eta=1.0), BlockedTsallis(horizon=4)], ids=repr)
def test_what_was_published_is_not_written_to(policy: Policy) -> None:
    policy.bind(shape(2))
    policy.reset(stream(0))
    slate = policy.act(Context(torch.zeros(1).long()), stream(0))
    learn(policy, (slate, Feedback(torch.zeros(1, 1))))
    assert slate.probs is not None
    assert slate.probs.tolist() == [[0.5, 0.5]]


def test_unavailable_items_leave_the_rest_of_the_law() -> None:
    policy = Exp3(eta=1.0).bind(shape(3))
    law = learn(policy, shown(0, 0.0, 1.0))[0]
    context = Context(torch.zeros(1).long(), available=torch.tensor([[True, False, True]]))
    expected = law[[0, 2]] / law[[0, 2]].sum()
    assert torch.allclose(policy.probs(context)[0, [0, 2]], expected)
    listed = Context(torch.zeros(1).long(), candidates=torch.tensor([[2, 0]]))
    assert torch.equal(policy.probs(listed), policy.probs(context))
    policy.law.copy_(torch.tensor([[0.0, 1.0, 0.0]]))
    assert policy.probs(context).tolist() == [[0.5, 0.0, 0.5]]


@pytest.mark.parametrize(
    "policy", [Exp3(), Exp3IX(), Exp3Mixed(), TsallisINF(), TsallisINF("rv")], ids=repr
)
def test_two_far_apart_arms_are_told_apart(policy: Policy) -> None:
    """Pseudo-regret is below a third of chance's, and below the bound of the paper."""
    T, R = 1000, 64
    run = simulate(
        Arms([0.2, 0.8]),
        policy,
        rounds=T,
        replications=R,
        refit=Refit(warmup=0),
        metrics=["regret"],
    )
    regret = run.metrics.filter(run.metrics["round"] == T - 1)["regret"].mean()
    assert regret < 0.33 * 0.3 * T  # type: ignore[operator]
    assert run.log.meta.propensity == "exact"
    assert run.log.frame["propensity"].null_count() == 0


def test_late_feedback_is_learnt_from() -> None:
    world = Delayed(Arms([0.1, 0.9]), rounds=5, mean=3.0, lost=0.1)
    for policy in (Exp3(), TsallisINF("rv")):
        run = simulate(world, policy, rounds=600, replications=16, refit=Refit(warmup=0))
        late = run.log.tensor("item").view(600, 16)[500:]
        assert float((late == 1).double().mean()) > 0.8


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Exp3(eta=0.0), "positive learning rate"),
        (lambda: Exp3Mixed(gamma=0.0), "gamma is a share"),
        (lambda: Exp3Mixed().bind(shape(2)), r"Exp3Mixed\(horizon=1000\)"),
    ],
)
def test_refusals(make: Callable[[], object], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        make()


def test_slates_of_several_items_are_refused() -> None:
    with pytest.raises(ConfigError, match="Play it with slate=1"):
        simulate(Arms([0.4, 0.5, 0.6]), Exp3(), rounds=3, slate=2)
