"""Neural-linear: a network trained by `fit`, and exact Bayesian regression on its features."""

from __future__ import annotations

import polars as pl
import pytest
import torch
from torch import Tensor

from recfb import Recommender, objectives, optim, samplers, scorers
from recfb.beliefs.neural_linear import FeatureNet, NeuralLinear
from recfb.contracts import Context, Feedback, Round, Slate
from recfb.errors import ConfigError
from recfb.policies.igw import IGW
from recfb.policies.neural_linear import NeuralLinearTS
from recfb.random import stream
from recfb.simulate import Refit, simulate
from recfb.testing import check
from recfb.worlds.contextual import Contextual


def net(*hidden: int) -> Recommender:
    return Recommender(
        FeatureNet(hidden or (16, 16)), objectives.MSE(), samplers.Logged(),
        optimizer=optim.Adam(lr=0.01),
    )  # fmt: skip


WORLD = Contextual(3, 2, link="nonlinear", requests=20)


def test_feature_net_passes_the_checks() -> None:
    check(FeatureNet((4,)))
    with pytest.raises(ConfigError, match="hidden are widths"):
        FeatureNet(())


def test_b_6_4_statistics_are_of_the_current_features() -> None:
    """The classic bug is to keep Z'Z of features that the network no longer makes."""
    policy = NeuralLinearTS(net())
    run = simulate(WORLD, policy, rounds=12, refit=Refit(every=4, warmup=2))
    belief: NeuralLinear = run.state[0].policy.model
    log = run.log
    x, item, reward = log.tensor("features"), log.tensor("item"), log.tensor("reward").double()
    with torch.no_grad():
        z = belief._z(x)  # (n, W + 1)
    early = log.tensor("time") < 10  # the last refit was before round 10
    raw = belief.net.scorer.embed(x).detach().double()[early]
    assert torch.allclose(belief.centre, raw.mean(0))
    for i in range(3):
        rows = item == i
        gram = z[rows].T @ z[rows] + 0.25 * torch.eye(z.shape[1], dtype=torch.float64)
        assert torch.allclose(belief.P[i], gram, atol=1e-8)
        mu = torch.linalg.solve(gram, z[rows].T @ reward[rows])
        assert torch.allclose(belief.mu[i], mu, atol=1e-8)
        a, b = belief.noise()
        assert float(a[i]) == 6 + int(rows.sum()) / 2
        square = reward[rows].square().sum()
        assert float(b[i]) == pytest.approx(float(6 + (square - mu @ gram @ mu) / 2))


def test_draws_are_the_normal_inverse_gamma() -> None:
    """Mean z mu; variance z'P^-1z b / (a - 1)."""
    belief = NeuralLinear(net(4)).bind(WORLD.opening(WORLD.start(stream(0)), 1, 1))
    belief.reset(stream(0))
    g = stream(1)
    x = torch.randn(60, 2, generator=g)
    context = Context(torch.zeros(60, dtype=torch.int64), features=x)
    item = torch.arange(60)[:, None] % 3
    belief.update(context, Slate(item), Feedback(torch.randn(60, 1, generator=g)), g)
    one = context[:1]
    draw = belief.sample(context[torch.zeros(40_000, dtype=torch.int64)], g)
    width = belief.width(one)[0]
    assert torch.allclose(draw.mean(0), belief.scores(one)[0], atol=float(4 * width.max() / 200))
    assert torch.allclose(draw.std(0), width, rtol=0.03)
    assert torch.allclose(belief.score_of(context, item), belief.scores(context).gather(1, item))
    each = Context(context.user, features=x[:, None].expand(-1, 3, -1))
    assert torch.allclose(belief.scores(each), belief.scores(context))
    assert torch.allclose(belief.width(each), belief.width(context))
    assert belief.top(context, 2).shape == (60, 2)


def test_nan_rewards_are_skipped() -> None:
    belief = NeuralLinear(net(4)).bind(WORLD.opening(WORLD.start(stream(0)), 1, 1))
    belief.reset(stream(0))
    context = Context(torch.zeros(2, dtype=torch.int64), features=torch.ones(2, 2))
    reward = Feedback(torch.tensor([[torch.nan], [1.0]]))
    belief.update(context, Slate(torch.tensor([[0], [1]])), reward, stream(0))
    assert belief.n.tolist() == [0, 1, 0]


def test_propensities_are_none_never_a_fake_one() -> None:
    run = simulate(WORLD, NeuralLinearTS(net()), rounds=3, refit=Refit(every=10, warmup=1))
    frame = run.log.frame
    assert frame.filter(time=0)["propensity"].null_count() == 0
    assert frame.filter(time=2)["propensity"].null_count() == 20


def test_any_explorer_trains_the_network_at_refits() -> None:
    run = simulate(WORLD, IGW(NeuralLinear(net())), rounds=8, refit=Refit(every=4, warmup=2))
    model = run.state[0].policy.model
    assert run.state[0].generation == 2 and float(model.spread.min()) > 0
    assert not torch.equal(model.centre, torch.zeros_like(model.centre))


def test_b_5_6_igw_over_a_network_learns_at_refits() -> None:
    """The network's weights change at a refit and at no other time, and what is shown improves."""
    world = Contextual(4, 2, link="nonlinear", requests=50)
    weights: list[Tensor] = []

    def watch(done: Round) -> dict[str, Tensor]:
        weights.append(done.policy.model.net.scorer.net.weights[0].detach().clone())  # type: ignore[attr-defined]
        return {}

    run = simulate(
        world, IGW(NeuralLinear(net(32, 32)), 300.0), rounds=40, probes=[watch],
        refit=Refit(every=10, warmup=10),
    )  # fmt: skip
    moved = [t for t in range(1, 40) if not torch.equal(weights[t], weights[t - 1])]
    assert moved == [10, 20, 30]
    value = run.truth.with_columns(time=run.log.frame["time"]).group_by("time").agg(
        pl.col("value").mean(), pl.col("best").mean()
    ).sort("time")  # fmt: skip
    gap = (value["best"] - value["value"]).to_torch().view(4, 10).mean(1)  # before, after refits
    assert float(gap[1:].max()) < 0.2 * float(gap[0])  # .02 against .33


def test_it_learns_what_a_linear_belief_cannot() -> None:
    from recfb.policies.lints import LinTS

    def regret(policy: object, refit: Refit) -> float:
        run = simulate(
            Contextual(4, 2, link="nonlinear", requests=20), policy, rounds=120, refit=refit,  # type: ignore[arg-type]
            metrics=["regret"], keep="metrics",
        )  # fmt: skip
        return float(run.metrics["regret"][-1])

    neural = regret(NeuralLinearTS(net(32, 32)), Refit(every=20, warm=True, warmup=5))
    linear = regret(LinTS(0.3), Refit(warmup=0))
    assert neural < 0.75 * linear


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="l2, shape and scale are positive"):
        NeuralLinear(net(), l2=0.0)
    with pytest.raises(ConfigError, match="whose scorer is a FeatureNet"):
        NeuralLinear(Recommender(scorers.MF(), objectives.MSE(), samplers.Logged()))


def test_network_weights_come_from_the_seed() -> None:
    def first(seed: int) -> Tensor:
        belief = NeuralLinear(net(4)).bind(WORLD.opening(WORLD.start(stream(0)), 1, 1))
        belief.reset(stream(seed))
        return belief.net.scorer.net.weights[0].detach().clone()

    assert torch.equal(first(1), first(1)) and not torch.equal(first(1), first(2))
