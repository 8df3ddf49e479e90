"""Other libraries on the same rows: what must agree, to which digit, and where they differ by rule.

Each is optional: a test whose library is not installed is skipped.
"""

from __future__ import annotations

import functools
from typing import Any, Self

import numpy as np
import pytest
import torch
from interval_world import F64, estimates_of
from scipy import stats
from torch import Tensor, nn

from recfb import Log, Meta, evaluate
from recfb.contracts import Context, Policy
from recfb.estimate import ESTIMATORS, Estimator, Rows, average
from recfb.evaluation import intervals
from recfb.evaluation.tail import TOP, pareto_shape, tail_index
from recfb.interop import obp as arrays
from recfb.random import stream

Array = np.ndarray[Any, np.dtype[np.float64]]
pytestmark = pytest.mark.filterwarnings("ignore::recfb.errors.OverlapWarning")

# ---- the tail of the weights


def heavy(k: float, n: int = 10_000) -> Tensor:
    """Weights whose tail has shape k."""
    u = torch.rand(n, generator=stream(0, "heavy"), dtype=F64).clamp(min=1e-12)
    return u**-k


def without_prior(shape: float, n: int) -> float:
    """ArviZ pulls the shape towards 1/2 by ten pseudo-rows; this takes them out."""
    return ((n + 10) * shape - 10 * 0.5) / n


@pytest.mark.parametrize("k", [0.1, 0.4, 0.6, 0.7, 0.9, 1.3])
def test_o_12_2_pareto_shape_is_arvizs(k: float) -> None:
    base = pytest.importorskip("arviz_stats.base")
    w = heavy(k)
    khat = base.array_stats.pareto_khat(w.numpy()[None], r_eff=1.0, tail="right")
    theirs = without_prior(float(khat), 300)
    largest = w.topk(TOP).values
    assert pareto_shape(largest[:300] - largest[300]) == pytest.approx(theirs, abs=1e-12)
    assert tail_index(largest, len(w)) == pytest.approx(theirs, abs=1e-12)  # 300 = 3 sqrt(n)
    smoothed, again = base.array_stats.psislw(-w.log().numpy(), r_eff=1.0)
    assert without_prior(float(again), 300) == pytest.approx(theirs, abs=1e-12)
    assert smoothed.shape == w.shape


def test_o_12_2_pareto_shape_is_near_skdr_evals() -> None:
    """Its tail has at most 200 weights and its grid ten points fewer, which moves the shape of a
    light tail by 1e-8 at most."""
    diagnostics = pytest.importorskip("skdr_eval.diagnostics")
    for k in (0.2, 0.6, 1.1):
        largest = heavy(k).topk(201).values
        theirs = diagnostics.psis_pareto_k(heavy(k).numpy())
        assert pareto_shape(largest[:200] - largest[200]) == pytest.approx(theirs, abs=1e-6)


# ---- the bootstrap


def noise(draws: int) -> float:
    """The standard deviation, in standard errors, of a 2.5 % limit found with so many draws."""
    return float((0.025 * 0.975 / draws) ** 0.5 / stats.norm.pdf(stats.norm.ppf(0.025)))


def ratio(x: Array, y: Array, axis: int = -1) -> Array:
    out: Array = x.sum(axis) / y.sum(axis)
    return out


@pytest.mark.parametrize("kind", ["percentile", "basic"])
@pytest.mark.parametrize("name", ["ips", "snips", "dr"])
def test_o_t4_limits_are_scipys(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """scipy draws n rows, we draw each Poisson(1) times: to first order the same distribution, so
    limits differ by the noise of both, four standard deviations of it at most."""
    draws = 20_000
    monkeypatch.setattr(intervals, "DRAWS", draws)
    g = stream(1, "bootstrap")
    w = torch.empty(500, dtype=F64).log_normal_(-0.3, 0.8, generator=g)
    r = (torch.rand(500, generator=g, dtype=F64) < 0.2 + 0.3 * (w > 1)).to(F64)
    v, q = torch.rand(2, 500, generator=g, dtype=F64)
    rows = Rows(r, torch.ones_like(r), w[None], v[None], q)
    top = {"ips": w * r, "snips": w * r, "dr": v + w * (r - q)}[name].numpy()
    low = w.numpy() if name == "snips" else np.ones(500)
    theirs = stats.bootstrap(
        (top, low), ratio, paired=True, vectorized=True, method=kind, n_resamples=draws,
        batch=2000, rng=np.random.default_rng(0),
    )  # fmt: skip
    estimates = estimates_of(rows, name)
    ours = {"percentile": intervals.bootstrap, "basic": intervals.basic}[kind](estimates, 0.05)
    tolerance = 4 * 2**0.5 * noise(draws) * theirs.standard_error
    assert tolerance < 0.04 * (theirs.confidence_interval.high - theirs.confidence_interval.low)
    for mine, other in zip(ours, theirs.confidence_interval, strict=True):
        assert float(mine) == pytest.approx(other, abs=tolerance)
    assert float(estimates.se()) == pytest.approx(theirs.standard_error, rel=0.03)


# ---- estimators: one log in, arrays out


class Linear(Policy):
    """A softmax over scores that are linear in the request's features."""

    def __init__(self, turn: float) -> None:
        super().__init__()
        self.turn = turn

    def probs(self, context: Context) -> Tensor:
        assert context.features is not None
        angle = self.turn + torch.arange(self.n_items, dtype=F64)
        return (context.features.to(F64) @ torch.stack([angle.sin(), angle.cos()])).softmax(1)


class Best(Linear):
    """Always the likeliest item."""

    def probs(self, context: Context) -> Tensor:
        found = super().probs(context)
        return nn.functional.one_hot(found.argmax(1), self.n_items).to(F64)


class Guess(nn.Module):
    """A wrong reward model: of every item its own, or of all the same."""

    def __init__(self, same: bool) -> None:
        super().__init__()
        self.same = same
        self.fitted_on = "nothing"

    def bind(self, log: Log) -> Self:
        self.n_items = log.n_items
        return self

    def scores(self, context: Context) -> Tensor:
        assert context.features is not None
        item = torch.arange(self.n_items, dtype=F64) * (not self.same)
        return torch.sigmoid(context.features[:, :1].to(F64) + item / 3)


N = 600
LAM = 1.3


def with_lam(name: str) -> Estimator:
    shrunk = name in ("cips", "cdr", "dros", "switch")
    return functools.partial(ESTIMATORS[name], lam=LAM) if shrunk else ESTIMATORS[name]


@functools.cache
def shared() -> tuple[Log, Array]:
    """600 clicks of a context-dependent logger over four items, and its whole distribution."""
    g = stream(4, "shared")
    features = torch.randn(N, 2, generator=g)
    logger = Linear(0.0).bind(Log.empty(1, 4))
    mu = logger.probs(Context(torch.zeros(N, dtype=torch.int64), features=features))  # (n, 4)
    item = (torch.rand(N, 1, generator=g, dtype=F64) > mu.cumsum(1)).sum(1).clamp(max=3)
    columns = {
        "item": item,
        "reward": (torch.rand(N, generator=g) < 0.2 + 0.15 * item).float(),
        "propensity": mu.gather(1, item[:, None])[:, 0],
        "features": features,
        "unit": torch.arange(N),
    }
    log = Log.of(columns, n_items=4, meta=Meta(reward_range=(0, 1), propensity="exact"))
    return log, mu.numpy()


def ours(names: list[str], policy: Policy, model: Guess, **options: Any) -> dict[str, Any]:
    estimators = {name: with_lam(name) for name in names}
    table = evaluate(
        shared()[0], {"t": policy}, estimators=estimators, reward_model=model, **options
    ).table
    return {row["estimator"]: row for row in table.to_dicts()}


def arrays_of(policy: Policy, model: Guess) -> dict[str, Any]:
    log, _ = shared()
    feedback = arrays.from_log(log)
    return {
        "action": feedback["action"],
        "reward": feedback["reward"],
        "pscore": feedback["pscore"],
        "pi": arrays.action_dist(log, policy.bind(log))[:, :, 0],
        "q": arrays.predicted(log, model.bind(log))[:, :, 0],
    }


def test_o_t2_pybandits_estimators() -> None:
    """Its residuals are r - v, where DR has r - q(x, a): the same where the model says the same of
    all items. Its Switch keeps the weights from the threshold up, so it is what ours leaves out.
    Its sub-Gaussian forms pass their weights on unchanged and are left out."""
    theirs = pytest.importorskip("pybandits.offline_policy_estimator")
    target, flat = Linear(0.7), Guess(same=True)
    x = arrays_of(target, flat)
    data = {
        "action": x["action"], "reward": x["reward"].astype(int), "propensity_score": x["pscore"],
        "estimated_policy": x["pi"], "expected_reward": x["q"],
        "expected_importance_weight": x["pi"][np.arange(N), x["action"]] / x["pscore"],
    }  # fmt: skip
    pairs = {
        "ips": theirs.InverseProbabilityWeighting(),
        "snips": theirs.SelfNormalizedInverseProbabilityWeighting(),
        "dm": theirs.DirectMethod(),
        "dr": theirs.DoublyRobust(),
        "sndr": theirs.SelfNormalizedDoublyRobust(),
        "dros": theirs.DoublyRobustWithOptimisticShrinkage(shrinkage_factor=LAM),
        "cdr": theirs.DoublyRobustWithPessimisticShrinkage(shrinkage_factor=LAM),
    }
    found = ours([*pairs, "switch"], target, flat)
    for name, estimator in pairs.items():
        value = estimator.estimate_sample_rewards(**data).mean()
        assert found[name]["value"] == pytest.approx(value, abs=1e-12), name
    balanced = theirs.BalancedInverseProbabilityWeighting().estimate_sample_rewards(**data).mean()
    assert found["ips"]["value"] == pytest.approx(balanced, abs=1e-12)
    kept = theirs.SwitchDoublyRobust(switch_threshold=LAM).estimate_sample_rewards(**data).mean()
    left = found["dr"]["value"] - found["switch"]["value"] + found["dm"]["value"]
    assert left == pytest.approx(kept, abs=1e-12)
    best = {**data, "estimated_policy": arrays_of(Best(0.7), flat)["pi"]}
    matched = theirs.ReplayMethod().estimate_sample_rewards(**best).mean()
    assert ours(["replay"], Best(0.7), flat)["replay"]["value"] == pytest.approx(matched, abs=1e-12)


def test_o_t2_pybandits_residual_is_not_that_of_dr() -> None:
    theirs = pytest.importorskip("pybandits.offline_policy_estimator")
    target, model = Linear(0.7), Guess(same=False)
    x = arrays_of(target, model)
    value = theirs.DoublyRobust().estimate_sample_rewards(
        action=x["action"], reward=x["reward"].astype(int), propensity_score=x["pscore"],
        estimated_policy=x["pi"], expected_reward=x["q"],
    ).mean()  # fmt: skip
    v = torch.tensor((x["pi"] * x["q"]).sum(1))
    at = torch.tensor(x["pi"][np.arange(N), x["action"]])
    r, p = torch.tensor(x["reward"]), torch.tensor(x["pscore"])
    as_theirs = float(ESTIMATORS["dr"](Rows(r, p, at, v, v), average))
    assert as_theirs == pytest.approx(value, abs=1e-12)
    assert abs(ours(["dr"], target, model)["dr"]["value"] - value) > 1e-4


def strategies() -> dict[str, Any]:
    """Of every name how skdr-eval weighs, and whether it divides by the mean weight."""
    transforms = pytest.importorskip("skdr_eval.estimators.weight_transforms")
    return {
        "dr": (transforms.IdentityTransform(), False),
        "sndr": (transforms.IdentityTransform(), True),
        "cdr": (transforms.ClipTransform(clip=LAM), False),
        "switch": (transforms.SwitchTauTransform(tau=LAM), False),
        "dros": (transforms.DRosShrinkTransform(lam=LAM), False),
    }


def test_o_t2_skdr_evals_estimators() -> None:
    """It fits propensities and outcomes itself; given ours, its formulas are ours. Without a model
    DR is IPS, and SNDR is SNIPS."""
    names, estimators = strategies(), pytest.importorskip("skdr_eval.estimators")
    _, mu = shared()
    target, model = Linear(0.7), Guess(same=False)
    x = arrays_of(target, model)
    given = {
        "propensities": mu, "policy_probs": x["pi"], "Y": x["reward"], "A": x["action"],
        "elig": np.ones((N, 4)),
    }  # fmt: skip

    def theirs(name: str, q: Array) -> Any:
        weigh, normalised = names[name]
        strategy = estimators.EstimatorStrategy(
            name=name, weight_transform=weigh, self_normalised=normalised,
            outcome_loss=estimators.MSEOutcomeLoss(),
        )  # fmt: skip
        return estimators.dr_value_with_strategy(**given, q_hat=q, strategy=strategy)

    found = ours([*names, "ips", "snips", "cips"], target, model, buckets=1 << 15)
    for name in names:
        other = theirs(name, x["q"])
        assert found[name]["value"] == pytest.approx(other.V_hat, abs=1e-12), name
        if name in ("dr", "cdr", "switch", "dros"):  # se of a mean; rows seldom share a bucket
            assert found[name]["se"] == pytest.approx(other.SE_if, rel=0.03), name
    for name, plain in {"dr": "ips", "sndr": "snips", "cdr": "cips"}.items():
        value = theirs(name, np.zeros((N, 4))).V_hat
        assert found[plain]["value"] == pytest.approx(value, abs=1e-12), plain
    assert found["ips"]["ess"] == pytest.approx(theirs("dr", x["q"]).ESS, rel=1e-12)


def test_o_t2_skdr_evals_grid_of_clips() -> None:
    core = pytest.importorskip("skdr_eval.core")
    _, mu = shared()
    target, flat = Linear(0.7), Guess(same=True)  # a prediction a row is all that it takes here
    x = arrays_of(target, flat)
    grid = core.dr_value_with_clip(
        mu, x["pi"], x["reward"], x["q"][:, 0], x["action"], np.ones((N, 4)), (LAM, float("inf"))
    )["DR"].grid
    found = ours(["cdr", "dr", "sndr"], target, flat)
    assert found["cdr"]["value"] == pytest.approx(grid["V_DR"][0], abs=1e-12)
    assert found["dr"]["value"] == pytest.approx(grid["V_DR"][1], abs=1e-12)
    assert found["sndr"]["value"] == pytest.approx(grid["V_SNDR"][1], abs=1e-12)
    assert found["dr"]["ess"] == pytest.approx(grid["ESS"][1], rel=1e-12)
    assert float((shared()[0].tensor("propensity") < 0.2).double().mean()) > 0.1  # some are clipped
