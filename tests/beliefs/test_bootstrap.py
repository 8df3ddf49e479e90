"""Bootstrap heads, and one ridge regression for all items."""

from __future__ import annotations

import polars as pl
import pytest
import torch

from recfb.beliefs import linear
from recfb.beliefs.bootstrap import Bootstrap
from recfb.beliefs.linear import Linear
from recfb.beliefs.rows import learn
from recfb.contracts import Context, Feedback, Slate
from recfb.data import Log, Meta
from recfb.errors import ConfigError
from recfb.random import stream


def shape(n_items: int, width: int | None = None, learners: int = 1) -> Log:
    log = Log.empty(10, n_items, meta=Meta(learners=learners))
    if width is None:
        return log
    features = pl.Series("features", [], dtype=pl.Array(pl.Float32, width))
    return log.with_frame(log.frame.with_columns(features))


def rows(
    n: int, n_items: int, width: int, per_item: bool = False
) -> tuple[Context, Slate, Feedback]:
    g = stream(0, "rows")
    x = torch.randn((n, n_items, width) if per_item else (n, width), generator=g)
    item = torch.randint(n_items, (n, 1), generator=g)
    context = Context(torch.zeros(n, dtype=torch.int64), features=x)
    return context, Slate(item), Feedback(torch.randn(n, 1, generator=g))


@pytest.mark.parametrize("weights", ["poisson", "gamma"])
def test_weights_have_mean_and_variance_one(weights: str) -> None:
    """A has l2 + sum w; over 4,000 heads and 50 rows, mean 50 and variance 50."""
    belief = Bootstrap(4000, 1.0, weights=weights).bind(shape(1))  # type: ignore[arg-type]
    belief.reset(stream(0))
    context = Context(torch.zeros(50, dtype=torch.int64))
    belief.update(context, Slate(torch.zeros(50, 1).long()), Feedback(torch.ones(50, 1)), stream(1))
    total = belief.each.A.flatten() - 1
    assert float(total.mean()) == pytest.approx(50, abs=4 * (50 / 4000) ** 0.5)
    assert float(total.var()) == pytest.approx(50, rel=0.15)


def test_each_head_is_the_weighted_ridge_with_its_prior() -> None:
    """One pseudo-row: b begins as l2 theta_0."""
    belief = Bootstrap(3, 2.0, prior=0.7).bind(shape(2, 2))
    belief.reset(stream(0))
    first = belief.each.theta.clone()
    data = rows(30, 2, 2)
    belief.update(*data, stream(1))
    assert torch.allclose(
        belief.each.theta, torch.linalg.solve(belief.each.A, belief.each.b[..., None])[..., 0]
    )
    before = Bootstrap(3, 2.0, prior=0.7).bind(shape(2, 2))
    before.reset(stream(0))
    gained = belief.each.b - 2.0 * first
    assert torch.allclose(before.each.b, 2.0 * first)
    again = Bootstrap(3, 2.0, prior=0.0).bind(shape(2, 2))
    again.reset(stream(0))
    again.update(*data, stream(1))
    assert torch.allclose(again.each.b, gained, atol=1e-10)


def test_learners_and_heads_do_not_mix() -> None:
    belief = Bootstrap(2, prior=0.0).bind(shape(1, learners=2))
    belief.reset(stream(0))
    both = Context(torch.zeros(2, dtype=torch.int64))
    reward = Feedback(torch.tensor([[1.0], [torch.nan]]))
    for _ in range(10):
        belief.update(both, Slate(torch.zeros(2, 1).long()), reward, stream(2))
    assert bool((belief.scores(both)[0] > 0).all()) and float(belief.scores(both)[1]) == 0.0


def test_mean_width_and_votes_by_hand() -> None:
    belief = Bootstrap(2).bind(shape(2))
    belief.each.theta.view(2, 2).copy_(torch.tensor([[1.0, 0.0], [3.0, 4.0]]))
    one = Context(torch.zeros(1, dtype=torch.int64))
    assert belief.scores(one).tolist() == [[2.0, 2.0]]
    assert belief.width(one).tolist() == [[1.0, 2.0]]
    assert belief.p_best(one).tolist() == [[0.5, 0.5]]
    assert belief.p_best(one, torch.tensor([[False, True]])).tolist() == [[0.0, 1.0]]
    assert belief.score_of(one, torch.tensor([1])).tolist() == [2.0]
    listed = Context(one.user, candidates=torch.tensor([[1, 0, 1]]))
    assert belief.width(listed).tolist() == [[2.0, 1.0, 2.0]]
    assert belief.sample(listed, stream(0)).shape == (1, 3)
    assert belief.top(one, 2).shape == (1, 2)


def test_bootstrap_refuses() -> None:
    with pytest.raises(ConfigError, match="at least one head"):
        Bootstrap(0)
    with pytest.raises(ConfigError, match='weights are "poisson"'):
        Bootstrap(weights="normal")  # type: ignore[arg-type]


# ---- Linear: one theta for all items, rank-one steps, logs


def test_joint_is_one_ridge_over_the_shown_features() -> None:
    context, slate, feedback = rows(40, 3, 2, per_item=True)
    belief = Linear(0.5, joint=True).bind(shape(3, 2))
    belief.update(context, slate, feedback, stream(0))
    assert context.features is not None
    x = context.features[torch.arange(40), slate.item[:, 0]].double()
    a = x.T @ x + 0.5 * torch.eye(2, dtype=torch.float64)
    theta = torch.linalg.solve(a, x.T @ feedback.reward[:, 0].double())
    every = context.features.double()
    assert torch.allclose(belief.scores(context), every @ theta, atol=1e-10)
    square = torch.einsum("bnd,de,bne->bn", every, torch.linalg.inv(a), every)
    assert torch.allclose(belief.width(context), square.sqrt(), atol=1e-10)
    assert torch.allclose(
        belief.score_of(context, slate.item), belief.scores(context).gather(1, slate.item)
    )
    assert belief.p_best(context) is None


def test_b_6_5_joint_draws_have_the_covariance_of_theta() -> None:
    """v^2 x' A^-1 y between two items."""
    context, slate, feedback = rows(30, 2, 3, per_item=True)
    belief = Linear(1.0, scale=0.3, joint=True).bind(shape(2, 3))
    belief.update(context, slate, feedback, stream(0))
    many = context[torch.zeros(40_000, dtype=torch.int64)]
    draw = belief.sample(many, stream(1))
    assert context.features is not None
    x = context.features[0].double()
    expected = 0.09 * x @ torch.linalg.inv(belief.A[0, 0]) @ x.T
    found = torch.cov(draw.T)
    assert torch.allclose(found, expected, rtol=0.05, atol=0.03 * float(expected.abs().max()))
    assert torch.allclose(draw.mean(0), belief.scores(context)[0], atol=0.02)


def test_b_6_5_lints_draws_have_covariance_v2_inverse_a() -> None:
    """With one-hot requests a score is a coordinate of theta."""
    belief = Linear(1.0, scale=0.5).bind(shape(1, 2))
    belief.update(*rows(20, 1, 2), stream(0))
    x = torch.eye(2).repeat(20_000, 1)
    draw = belief.sample(Context(torch.zeros(40_000, dtype=torch.int64), features=x), stream(1))
    found = draw.view(-1, 2).var(0)
    expected = 0.25 * torch.linalg.inv(belief.A[0, 0]).diagonal()
    assert torch.allclose(found, expected, rtol=0.05)


def test_b_6_5_rank_one_steps_equal_the_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """One row at a time, with an exact renewal every 7 steps, against all rows at once: 1e-8."""
    monkeypatch.setattr(linear, "REFRESH", 7)
    data = rows(200, 2, 4)
    whole, single = Linear(0.3).bind(shape(2, 4)), Linear(0.3).bind(shape(2, 4))
    whole.update(*data, stream(0))
    for row in torch.arange(200).split(1):
        single.update(*(part[row] for part in data), stream(0))
    assert torch.allclose(single.inverse, whole.inverse, atol=1e-8)
    assert torch.allclose(single.theta, whole.theta, atol=1e-8)
    assert int(single.steps) == 200 % 7


def test_rank_one_steps_stay_exact_for_long() -> None:
    data = rows(3000, 1, 3)
    belief = Linear(1e-3).bind(shape(1, 3))
    for row in torch.arange(3000).split(1):
        belief.update(*(part[row] for part in data), stream(0))
    eye = belief.A[0, 0] @ belief.inverse[0, 0]
    assert torch.allclose(eye, torch.eye(3, dtype=torch.float64), atol=1e-8)


def test_weights_of_linear_count_rows() -> None:
    context, slate, feedback = rows(30, 2, 2)
    twice, weighed = Linear().bind(shape(2, 2)), Linear().bind(shape(2, 2))
    twice.update(context, slate, feedback, stream(0))
    twice.update(context, slate, feedback, stream(0))
    two = torch.full((30, 1), 2.0)
    weighed.update(context, slate, feedback, stream(0), weight=two)
    assert torch.allclose(twice.theta, weighed.theta, atol=1e-10)


def test_scale_multiplies_widths_only() -> None:
    one, half = Linear().bind(shape(2, 2)), Linear(scale=0.5).bind(shape(2, 2))
    data = rows(10, 2, 2)
    for belief in (one, half):
        belief.update(*data, stream(0))
    assert torch.equal(one.theta, half.theta)
    assert torch.allclose(0.5 * one.width(data[0]), half.width(data[0]))
    with pytest.raises(ConfigError, match="scale is not negative"):
        Linear(scale=-1.0)


def test_a_log_of_replications_is_learned_by_learners() -> None:
    frame = {"item": [0, 0, 0], "reward": [1.0, 0.0, 4.0], "replication": [0, 0, 1]}
    log = Log.of(frame, n_items=1, meta=Meta(learners=2))
    belief = Linear(1.0).bind(log)
    learn(belief, log, stream(0))
    learn(belief, log, stream(0))  # forgets first
    assert belief.theta.flatten().tolist() == pytest.approx([1 / 3, 2.0])
