"""Ridge regression an item."""

from __future__ import annotations

import math

import polars as pl
import pytest
import torch
from torch import Tensor

from recfb.beliefs import Linear
from recfb.contracts import Context, Feedback, Slate
from recfb.data import Log, Meta
from recfb.errors import ConfigError, UnboundError
from recfb.random import stream


def shape(n_items: int, width: int | None = None, learners: int = 1) -> Log:
    log = Log.empty(10, n_items, meta=Meta(learners=learners))
    if width is None:
        return log
    features = pl.Series("features", [], dtype=pl.Array(pl.Float32, width))
    return log.with_frame(log.frame.with_columns(features))


def rows(
    n: int, n_items: int, width: int, seed: int = 0, per_item: bool = False
) -> tuple[Context, Slate, Feedback]:
    g = stream(seed, "rows")
    size = (n, n_items, width) if per_item else (n, width)
    x = torch.randn(size, generator=g)
    item = torch.randint(n_items, (n, 1), generator=g)
    reward = torch.randn(n, 1, generator=g)
    return Context(torch.zeros(n, dtype=torch.int64), features=x), Slate(item), Feedback(reward)


def learn(belief: Linear, data: tuple[Context, Slate, Feedback], take: Tensor) -> None:
    context, slate, feedback = data
    belief.update(context[take], slate[take], feedback[take], torch.Generator())


def test_fresh_belief_is_the_prior() -> None:
    belief = Linear(l2=4.0).bind(shape(3, 2, learners=2))
    eye = torch.eye(2, dtype=torch.float64).expand(2, 3, 2, 2)
    assert torch.equal(belief.A, 4 * eye)
    assert torch.equal(belief.inverse, eye / 4)
    x = torch.tensor([[3.0, 4.0]]).repeat(2, 1)
    context = Context(torch.zeros(2, dtype=torch.int64), features=x)
    assert torch.equal(belief.scores(context), torch.zeros(2, 3, dtype=torch.float64))
    assert belief.width(context)[0].tolist() == pytest.approx([2.5, 2.5, 2.5])  # 5 / sqrt(4)


@pytest.mark.parametrize("per_item", [False, True])
def test_equals_the_closed_form_in_any_order_and_batches(per_item: bool) -> None:
    n, n_items, width = 60, 3, 4
    data = rows(n, n_items, width, per_item=per_item)
    whole = Linear(l2=0.7).bind(shape(n_items, width))
    learn(whole, data, torch.arange(n))
    pieces = Linear(l2=0.7).bind(shape(n_items, width))
    for part in torch.randperm(n, generator=stream(1)).split(7):
        learn(pieces, data, part)
    context, slate, feedback = data
    for item in range(n_items):
        here = slate.item[:, 0] == item
        x = context.features
        assert x is not None
        x = (x[:, item] if per_item else x)[here].double()
        y = feedback.reward[here, 0].double()
        a = x.T @ x + 0.7 * torch.eye(width, dtype=torch.float64)
        theta = torch.linalg.solve(a, x.T @ y)
        for belief in (whole, pieces):
            assert torch.allclose(belief.theta[0, item], theta, atol=1e-8)
            assert torch.allclose(belief.inverse[0, item] @ a, torch.eye(width).double(), atol=1e-8)
    expected = (
        torch.einsum("bid,id->bi", context.features.double(), whole.theta[0])
        if per_item
        else context.features.double() @ whole.theta[0].T
    )
    assert torch.allclose(whole.scores(context), expected, atol=1e-12)
    item = torch.tensor([[2, 0]]).expand(n, 2)
    assert torch.allclose(whole.score_of(context, item), expected.gather(1, item), atol=1e-12)
    x = context.features if per_item else context.features[:, None].expand(-1, n_items, -1)
    square = torch.einsum("bid,ide,bie->bi", x.double(), whole.inverse[0], x.double())
    assert torch.allclose(whole.width(context), square.sqrt(), atol=1e-12)


def test_one_hot_contexts_are_independent_means() -> None:
    """Context c, item a: mean = sum / (n + l2), width = 1 / sqrt(n + l2)."""
    belief = Linear(l2=2.0).bind(shape(2, 2))
    x = torch.eye(2)[torch.tensor([0, 0, 0, 1])]
    context = Context(torch.zeros(4, dtype=torch.int64), features=x)
    item = torch.tensor([[0], [0], [1], [0]])
    reward = torch.tensor([[1.0], [3.0], [6.0], [9.0]])
    belief.update(context, Slate(item), Feedback(reward), torch.Generator())
    ask = Context(torch.zeros(2, dtype=torch.int64), features=torch.eye(2))
    assert belief.scores(ask).tolist() == [
        pytest.approx([4 / 4, 6 / 3]),
        pytest.approx([9 / 3, 0.0]),
    ]
    assert belief.width(ask).tolist() == [
        pytest.approx([1 / math.sqrt(4), 1 / math.sqrt(3)]),
        pytest.approx([1 / math.sqrt(3), 1 / math.sqrt(2)]),
    ]


def test_nan_rewards_are_skipped_everywhere() -> None:
    data = rows(20, 2, 3)
    context, slate, feedback = data
    hidden = feedback.reward.clone()
    hidden[::2] = torch.nan
    seen, some = Linear().bind(shape(2, 3)), Linear().bind(shape(2, 3))
    seen.update(context, slate, Feedback(hidden), torch.Generator())
    learn(some, data, torch.arange(1, 20, 2))
    for name in ("A", "b", "inverse", "theta"):
        assert torch.equal(getattr(seen, name), getattr(some, name))
    before = seen.theta.clone()
    seen.update(context, slate, Feedback(torch.full_like(hidden, torch.nan)), torch.Generator())
    assert torch.equal(seen.theta, before)


def test_learners_side_by_side_equal_learners_alone() -> None:
    """Learner-major rows, and ragged rows with `learner`."""
    data = [rows(8, 3, 2, seed=r) for r in range(3)]
    together = Linear().bind(shape(3, 2, learners=3))
    stacked = Context(
        torch.zeros(24, dtype=torch.int64), features=torch.cat([d[0].features for d in data])
    )
    item = torch.cat([d[1].item for d in data])
    reward = torch.cat([d[2].reward for d in data])
    together.update(stacked, Slate(item), Feedback(reward), torch.Generator())
    for r, d in enumerate(data):
        alone = Linear().bind(shape(3, 2))
        learn(alone, d, torch.arange(8))
        assert torch.allclose(together.theta[r], alone.theta[0], atol=1e-12)
        assert torch.allclose(together.scores(stacked)[8 * r : 8 * r + 8], alone.scores(d[0]))
    ragged = Linear().bind(shape(3, 2, learners=3))
    learner = torch.arange(3).repeat_interleave(8)
    mixed = torch.randperm(24, generator=stream(4))
    context = Context(stacked.user, features=stacked.features, learner=learner)[mixed]
    ragged.update(context, Slate(item[mixed]), Feedback(reward[mixed]), torch.Generator())
    assert torch.allclose(ragged.theta, together.theta, atol=1e-12)
    assert torch.allclose(ragged.scores(context), together.scores(stacked)[mixed], atol=1e-12)
    assert torch.allclose(ragged.width(context), together.width(stacked)[mixed], atol=1e-12)


def test_samples_have_mean_and_width() -> None:
    data = rows(30, 2, 3)
    belief = Linear().bind(shape(2, 3))
    learn(belief, data, torch.arange(30))
    x = data[0].features
    assert x is not None
    one = Context(torch.zeros(1, dtype=torch.int64), features=x[:1])
    many = Context(torch.zeros(40_000, dtype=torch.int64), features=x[:1].expand(40_000, -1))
    draw = belief.sample(many, stream(0))
    mean, width = belief.scores(one)[0], belief.width(one)[0]
    assert ((draw.mean(0) - mean).abs() < 4 * width / 200).all()
    assert ((draw.std(0) - width).abs() < 4 * width / math.sqrt(2 * 40_000)).all()
    assert abs(float(torch.corrcoef(draw.T)[0, 1])) < 4 / 200


def test_without_features_it_is_a_shrunken_mean() -> None:
    belief = Linear(l2=1.0).bind(shape(2))
    context = Context(torch.zeros(3, dtype=torch.int64))
    item, reward = torch.tensor([[0], [0], [1]]), torch.tensor([[1.0], [0.0], [1.0]])
    belief.update(context, Slate(item), Feedback(reward), torch.Generator())
    assert belief.scores(context)[0].tolist() == pytest.approx([1 / 3, 1 / 2])


def test_top_respects_availability_and_candidates() -> None:
    belief = Linear().bind(shape(4))
    available = torch.tensor([[False, True, False, True]])
    context = Context(torch.zeros(50, dtype=torch.int64), available=available.expand(50, -1))
    assert set(belief.top(context, 2).flatten().tolist()) == {1, 3}
    listed = Context(torch.zeros(1, dtype=torch.int64), candidates=torch.tensor([[3, 2]]))
    belief.b[0, 2] = 1.0
    belief.theta[0, 2] = 1.0
    assert belief.top(listed, 1).tolist() == [[2]]
    assert belief.scores(listed).tolist() == [[0.0, 1.0]]
    assert belief.width(listed).shape == (1, 2)


def test_ties_differ_between_learners() -> None:
    belief = Linear().bind(shape(2, learners=64))
    first = belief.top(Context(torch.zeros(64, dtype=torch.int64)), 1)
    assert 16 < int(first.sum()) < 48


def test_width_in_blocks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    data = rows(20, 3, 2)
    belief = Linear().bind(shape(3, 2))
    learn(belief, data, torch.arange(20))
    whole = belief.width(data[0])
    monkeypatch.setattr("recfb.beliefs.linear.MOST_CELLS", 36)
    assert torch.equal(belief.width(data[0]), whole)


def test_state_survives_saving() -> None:
    belief = Linear().bind(shape(2, 3))
    learn(belief, rows(20, 2, 3), torch.arange(20))
    other = Linear().bind(shape(2, 3))
    other.load_state_dict(belief.state_dict())
    context = rows(5, 2, 3, seed=9)[0]
    assert torch.equal(other.scores(context), belief.scores(context))
    assert torch.equal(other.width(context), belief.width(context))


def test_refuses_no_ridge_and_unbound_use() -> None:
    with pytest.raises(ConfigError, match="l2 is positive"):
        Linear(l2=0.0)
    with pytest.raises(UnboundError, match="bind"):
        Linear().scores(Context(torch.zeros(1, dtype=torch.int64)))
