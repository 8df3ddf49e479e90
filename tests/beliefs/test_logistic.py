"""Bayesian logistic regression by Laplace's approximation."""

from __future__ import annotations

import math
from itertools import pairwise

import polars as pl
import pytest
import torch
from scipy import optimize, stats
from torch import Tensor

from recfb.beliefs.gaussian import p_largest
from recfb.beliefs.logistic import Logistic
from recfb.contracts import Context, Feedback, Slate
from recfb.data import Log, Meta
from recfb.errors import ConfigError, LogError
from recfb.random import stream


def shape(n_items: int, width: int | None = None, learners: int = 1) -> Log:
    log = Log.empty(10, n_items, meta=Meta(learners=learners))
    if width is None:
        return log
    features = pl.Series("features", [], dtype=pl.Array(pl.Float32, width))
    return log.with_frame(log.frame.with_columns(features))


def rows(n: int, n_items: int, width: int, seed: int = 0) -> tuple[Context, Slate, Feedback]:
    g = stream(seed, "rows")
    x = torch.randn(n, width, generator=g)
    item = torch.randint(n_items, (n, 1), generator=g)
    reward = (torch.rand(n, 1, generator=g) < 0.4).float()
    return Context(torch.zeros(n, dtype=torch.int64), features=x), Slate(item), Feedback(reward)


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_one_batch_is_the_posterior_mode_and_its_curvature(covariance: str) -> None:
    belief = Logistic(l2=2.0, covariance=covariance, steps=20).bind(shape(2, 3))  # type: ignore[arg-type]
    context, slate, feedback = rows(40, 2, 3)
    belief.update(context, slate, feedback, stream(0))
    assert context.features is not None
    for item in range(2):
        here = slate.item[:, 0] == item
        x = context.features[here].double().numpy()
        y = feedback.reward[here, 0].double().numpy()

        def loss(w: object, x: object = x, y: object = y) -> float:
            z = x @ w  # type: ignore[operator]
            return float(w @ w + torch.nn.functional.softplus(torch.tensor(z)).sum() - y @ z)  # type: ignore[operator]

        mode = optimize.minimize(loss, [0.0] * 3, tol=1e-12).x
        assert torch.allclose(belief.mean[0, item], torch.tensor(mode), atol=1e-5)
        s = torch.tensor(x @ belief.mean[0, item].numpy()).sigmoid()
        curve = torch.tensor(x).T @ ((s * (1 - s))[:, None] * torch.tensor(x)) + 2 * torch.eye(3)
        if covariance == "diagonal":
            assert torch.allclose(belief.precision[0, item], curve.diagonal(), atol=1e-12)
        else:
            assert torch.allclose(belief.precision[0, item], curve, atol=1e-12)
            assert torch.allclose(belief.covariances[0, item] @ curve, torch.eye(3).double())


def test_b_6_3_intervals_cover_the_truth() -> None:
    """R = 500 learners side by side, ten batches of 500 rows, d = 5: 92 to 98 % of the true weights
    are inside the 95 % intervals (measured 94.6 %)."""
    R, d, batch = 500, 5, 500
    g = stream(0)
    belief = Logistic(l2=1.0).bind(shape(1, d, learners=R))
    w = torch.randn(R, d, generator=g).double()
    for _ in range(10):
        x = torch.randn(R * batch, d, generator=g)
        z = (x.double().view(R, batch, d) * w[:, None]).sum(2).view(-1, 1)
        reward = (torch.rand(R * batch, 1, generator=g) < z.sigmoid()).float()
        context = Context(torch.zeros(R * batch, dtype=torch.int64), features=x)
        belief.update(context, Slate(torch.zeros_like(reward).long()), Feedback(reward), g)
    sd = belief.covariances[:, 0].diagonal(dim1=1, dim2=2).sqrt()
    inside = ((belief.mean[:, 0] - w).abs() < 1.96 * sd).double().mean()
    assert 0.92 < float(inside) < 0.98


def test_b_6_3_draws_have_the_square_root_of_the_inverse_precision() -> None:
    """The slip to avoid is alpha / q in the place of alpha / sqrt(q)."""
    belief = Logistic(l2=4.0, covariance="diagonal", scale=0.5).bind(shape(1))
    many = Context(torch.zeros(40_000, dtype=torch.int64))
    draw = belief.sample(many, stream(0)).logit()
    assert float(draw.std()) == pytest.approx(0.25, rel=0.02)
    assert belief.width(many[:1]).tolist() == [[pytest.approx(0.25 * 0.25)]]  # s (1 - s) sd


def test_separable_rows_stay_finite() -> None:
    belief = Logistic(l2=1e-4).bind(shape(1, 1))
    x = torch.tensor([[-50.0], [50.0]]).repeat(20, 1)
    context = Context(torch.zeros(40, dtype=torch.int64), features=x)
    reward = (x > 0).float()
    for _ in range(5):
        belief.update(context, Slate(torch.zeros(40, 1).long()), Feedback(reward), stream(0))
    assert bool(belief.mean.isfinite().all()) and bool(belief.covariances.isfinite().all())
    assert float(belief.scores(context)[1, 0]) > 0.99


def test_steps_never_make_it_worse() -> None:
    """From w = 10, where sigmoid is flat, a whole Newton step goes to about -20,000."""
    x = torch.ones(7, 1)
    reward = torch.tensor([[0.0]] * 6 + [[1.0]])

    def after(steps: int) -> float:
        belief = Logistic(l2=1e-6, steps=steps).bind(shape(1, 1))
        belief.mean.fill_(10.0)
        context = Context(torch.zeros(7, dtype=torch.int64), features=x)
        belief.update(context, Slate(torch.zeros(7, 1).long()), Feedback(reward), stream(0))
        return float(belief.mean)

    def loss(w: float) -> float:
        return 5e-7 * (w - 10) ** 2 + 7 * float(torch.tensor(w).exp().log1p()) - w

    assert loss(after(1)) <= loss(10.0)
    assert after(30) == pytest.approx(-math.log(6), abs=1e-3)


def test_nan_rewards_are_skipped_and_weights_count() -> None:
    context, slate, feedback = rows(30, 2, 2)
    hidden = feedback.reward.clone()
    hidden[::3] = torch.nan
    keep = torch.arange(30) % 3 != 0
    some, weighed, masked = (Logistic().bind(shape(2, 2)) for _ in range(3))
    some.update(context[keep], slate[keep], feedback[keep], stream(0))
    masked.update(context, slate, Feedback(hidden), stream(0))
    weighed.update(context, slate, feedback, stream(0), weight=keep[:, None].double())
    for other in (masked, weighed):
        assert torch.allclose(other.mean, some.mean, atol=1e-12)
        assert torch.allclose(other.precision, some.precision, atol=1e-12)
    before = some.mean.clone()
    some.update(context, slate, Feedback(torch.full((30, 1), torch.nan)), stream(0))
    assert torch.equal(some.mean, before)


def test_per_item_features_read_their_own_item() -> None:
    g = stream(1)
    x = torch.randn(20, 3, 2, generator=g)
    item = torch.randint(3, (20, 1), generator=g)
    reward = (torch.rand(20, 1, generator=g) < 0.5).float()
    context = Context(torch.zeros(20, dtype=torch.int64), features=x)
    each, own = Logistic().bind(shape(3, 2)), Logistic().bind(shape(3, 2))
    each.update(context, Slate(item), Feedback(reward), g)
    shown = x[torch.arange(20), item[:, 0]]
    own.update(Context(context.user, features=shown), Slate(item), Feedback(reward), g)
    assert torch.equal(each.mean, own.mean)
    scores = each.scores(context)
    assert torch.allclose(scores[:, 1], (x[:, 1].double() @ each.mean[0, 1]).sigmoid())
    assert torch.allclose(each.score_of(context, item), scores.gather(1, item))
    listed = Context(context.user, features=x, candidates=item)
    assert torch.allclose(each.scores(listed), scores.gather(1, item))
    square = (x[:, 1].double() @ each.covariances[0, 1] * x[:, 1].double()).sum(1)
    s = scores[:, 1]
    assert torch.allclose(each.width(context)[:, 1], s * (1 - s) * square.sqrt())


def test_learners_side_by_side_equal_learners_alone() -> None:
    data = [rows(12, 2, 2, seed=r) for r in range(3)]
    both = Logistic().bind(shape(2, 2, learners=3))
    x = torch.cat([d[0].features for d in data if d[0].features is not None])
    item, reward = torch.cat([d[1].item for d in data]), torch.cat([d[2].reward for d in data])
    context = Context(torch.zeros(36, dtype=torch.int64), features=x)
    both.update(context, Slate(item), Feedback(reward), stream(0))
    for r, (own, slate, feedback) in enumerate(data):
        alone = Logistic().bind(shape(2, 2))
        alone.update(own, slate, feedback, stream(0))
        assert torch.allclose(both.mean[r], alone.mean[0], atol=1e-12)
        assert torch.allclose(both.scores(context)[12 * r : 12 * r + 12], alone.scores(own))


def test_reset_forgets() -> None:
    for covariance in ("full", "diagonal"):
        belief, fresh = (Logistic(3.0, covariance=covariance).bind(shape(2, 2)) for _ in "ab")  # type: ignore[arg-type]
        belief.update(*rows(20, 2, 2), stream(0))
        belief.reset(stream(0))
        for a, b in zip(belief.buffers(), fresh.buffers(), strict=True):
            assert torch.equal(a, b)


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="l2 is positive"):
        Logistic(l2=0.0)
    with pytest.raises(ConfigError, match='covariance is "full"'):
        Logistic(covariance="low")  # type: ignore[arg-type]
    belief = Logistic().bind(shape(1))
    one = Context(torch.zeros(1, dtype=torch.int64))
    with pytest.raises(LogError, match=r"rewards in \[0, 1\], found 2 to 2"):
        belief.update(
            one, Slate(torch.zeros(1, 1).long()), Feedback(2 * torch.ones(1, 1)), stream(0)
        )


# ---- which Gaussian draw is the largest


def exact(mean: Tensor, width: Tensor, item: int) -> float:
    """By quadrature between cuts at every item's own scale."""
    import numpy as np

    m, w = mean.numpy(), width.numpy()
    low, high = m[item] - 9 * w[item], m[item] + 9 * w[item]
    cuts = [m[j] + c * w[j] for j in range(len(m)) for c in (-8, -4, -2, 0, 2, 4, 8)]
    grid = np.unique(np.clip([low, high, *cuts], low, high))
    x, weight = np.polynomial.legendre.leggauss(20)
    total = 0.0
    for a, b in pairwise(grid):
        y = (a + b) / 2 + (b - a) / 2 * x
        value = stats.norm.pdf(y, m[item], w[item])
        for j in range(len(m)):
            value = value * (stats.norm.cdf(y, m[j], w[j]) if j != item else 1.0)
        total += (value * weight).sum() * (b - a) / 2
    return total


def test_the_largest_of_gaussians_equals_quadrature() -> None:
    """Widths over three orders of magnitude."""
    g = stream(0)
    mean = torch.randn(25, 5, generator=g, dtype=torch.float64)
    width = 0.1 * torch.exp(1.5 * torch.randn(25, 5, generator=g, dtype=torch.float64))
    p = p_largest(mean, width)
    for row in range(25):
        for item in range(5):
            assert float(p[row, item]) == pytest.approx(
                exact(mean[row], width[row], item), abs=1e-9
            )


def test_the_largest_of_gaussians_respects_masks_and_sure_rows() -> None:
    mean = torch.tensor([[3.0, 0.0, 0.0], [1.0, 2.0, 2.0], [0.0, 1.0, 0.0]])
    width = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [0.5, 0.0, 0.5]])
    live = torch.tensor([[False, True, True], [True, True, True], [True, True, False]])
    p = p_largest(mean, width, live)
    assert p[0].tolist() == pytest.approx([0, 0.5, 0.5])
    assert p[1].tolist() == [0, 0.5, 0.5]
    assert p[2].tolist() == pytest.approx(
        [1 - stats.norm.cdf(2.0), stats.norm.cdf(2.0), 0], abs=1e-6
    )
