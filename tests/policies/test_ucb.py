"""Optimism, LinUCB and the oracle."""

from __future__ import annotations

import polars as pl
import pytest
import torch

from recfb.beliefs import Linear
from recfb.contracts import Context, Feedback, Slate
from recfb.data import Log, Meta
from recfb.errors import ConfigError
from recfb.policies import UCB, LinUCB, Oracle, Ranked
from recfb.random import stream
from recfb.simulate import Refit, simulate
from recfb.worlds import Arms


def shape(n_items: int, width: int) -> Log:
    log = Log.empty(4, n_items)
    features = pl.Series("features", [], dtype=pl.Array(pl.Float32, width))
    return log.with_frame(log.frame.with_columns(features))


def data(n: int) -> tuple[Context, Slate, Feedback]:
    g = stream(0, "data")
    context = Context(torch.zeros(n).long(), features=torch.randn(n, 3, generator=g))
    item = torch.randint(4, (n, 1), generator=g)
    return context, Slate(item), Feedback(torch.randn(n, 1, generator=g))


def test_linucb_is_ucb_over_linear() -> None:
    """x . theta + alpha sqrt(x' A^-1 x), from the closed form of one item."""
    named = LinUCB(alpha=0.7, l2=2.0).bind(shape(4, 3))
    composed = UCB(Linear(2.0), 0.7).bind(shape(4, 3))
    for policy in (named, composed):
        policy.update(*data(50), stream(0))
    context, slate, feedback = data(50)
    assert torch.equal(named.index(context), composed.index(context))
    here = slate.item[:, 0] == 2
    assert context.features is not None
    x = context.features[here].double()
    a = x.T @ x + 2 * torch.eye(3).double()
    theta = torch.linalg.solve(a, x.T @ feedback.reward[here, 0].double())
    ask = context.features[:5].double()
    width = (ask @ torch.linalg.inv(a) * ask).sum(1).sqrt()
    assert torch.allclose(named.index(context)[:5, 2], ask @ theta + 0.7 * width, atol=1e-10)


def test_alpha_0_is_greedy() -> None:
    ucb, greedy = LinUCB(alpha=0.0).bind(shape(4, 3)), Ranked(Linear()).bind(shape(4, 3))
    for policy in (ucb, greedy):
        policy.update(*data(50), stream(0))
    context = data(80)[0]
    for k in (1, 3):
        assert torch.equal(
            ucb.act(context, stream(0), k=k).item, greedy.act(context, stream(1), k=k).item
        )


def test_probabilities_are_certain() -> None:
    policy = LinUCB().bind(shape(4, 3))
    policy.update(*data(50), stream(0))
    context = data(10)[0]
    slate = policy.act(context, stream(0), k=2)
    again = policy.propensities(context, slate.item)
    swapped = policy.propensities(context, slate.item.flip(1))
    for name, flipped in (("propensity", 0), ("p_prefix", 0), ("p_display", 1)):
        assert (getattr(slate, name) == 1).all()
        assert torch.equal(getattr(slate, name), getattr(again, name))
        assert (getattr(swapped, name) == flipped).all()
    probs = policy.probs(context)
    assert torch.equal(probs.sum(1), torch.ones(10).double())
    assert torch.equal(probs.argmax(1), slate.item[:, 0])
    assert torch.equal(policy.prob_of(context, slate.item[:, 0]), torch.ones(10).double())
    assert torch.equal(policy.prob_of(context, slate.item), slate.propensity * torch.tensor([1, 0]))


def test_unavailable_items_are_never_shown() -> None:
    policy = LinUCB().bind(Log.empty(1, 3))
    available = torch.tensor([[False, True, True]])
    context = Context(torch.zeros(100).long(), available=available)
    assert not (policy.act(context, stream(0), k=2).item == 0).any()
    with pytest.raises(ConfigError, match="slate=2 or fewer"):
        policy.act(context, stream(0), k=3)


@pytest.mark.parametrize("policy", [LinUCB(alpha=0.5), Ranked(Linear(), 0.1)], ids=repr)
def test_two_far_apart_arms_are_told_apart(policy: LinUCB) -> None:
    run = simulate(Arms([0.1, 0.9]), policy, rounds=200, replications=32)
    late = run.log.frame.filter(pl.col("time") >= 100)
    share = late.group_by("replication").agg((pl.col("item") == 1).mean().alias("best"))
    assert share.height == 32
    assert share["best"].min() > 0.8


def test_the_oracle_shows_the_best_slate() -> None:
    run = simulate(
        Arms([0.3, 0.9, 0.5]), Oracle(), rounds=4, slate=2, replications=2, refit=Refit(warmup=0)
    )
    assert run.log.frame["item"].to_list() == [1, 2] * 8


def test_learners_of_one_policy_learn_alone() -> None:
    log = Log.empty(1, 2, meta=Meta(learners=2))
    policy = LinUCB().bind(log)
    context = Context(torch.zeros(2).long())
    reward = Feedback(torch.tensor([[1.0], [torch.nan]]))
    policy.update(context, Slate(torch.tensor([[0], [0]])), reward, stream(0))
    assert policy.index(context)[0, 0] == pytest.approx(0.5 + 0.5**0.5)
    assert policy.index(context)[1, 0] == 1.0


def test_refuses_a_negative_alpha() -> None:
    with pytest.raises(ConfigError, match="alpha is not negative"):
        LinUCB(alpha=-1.0)
