"""Payments, generations of policies trained on each other's logs, and their statistics."""

from __future__ import annotations

import polars as pl
import pytest
import torch
from scipy import stats
from sklearn.ensemble import HistGradientBoostingRegressor
from torch import Tensor

from recfb import evaluate
from recfb.contracts import Context, Policy
from recfb.data import Log
from recfb.errors import ConfigError
from recfb.interop.sklearn import Reward
from recfb.metrics.generations import by_generation, oscillation
from recfb.policies.epsilon_greedy import EpsilonGreedy
from recfb.policies.igw import IGW
from recfb.policies.mixture import Mixture
from recfb.policies.uniform import Uniform
from recfb.random import stream
from recfb.simulate import Refit, Run, simulate
from recfb.testing import check
from recfb.worlds.payments import Payments, valued

SMALL = Payments(requests=500)


def test_payments_pass_the_checks() -> None:
    check(Payments(requests=20))
    check(Payments(requests=20, slow=2, lost=0.1, drift=0.1))


def test_rates_by_hand() -> None:
    """d = 1, x = 1, u = .5, w = 2, b = -1, v = 3: .5 + 2 - 1 + 3 sin 2."""
    world = Payments(1, 1, requests=1)
    state = world.start(stream(0))
    for tensor, value in (
        (state.common, 0.5), (state.slope, 2.0), (state.offset, -1.0), (state.wave, 3.0),
        (state.x, 1.0),
    ):  # fmt: skip
        tensor.fill_(value)
    expected = torch.tensor(1.5 + 3 * 0.9092974268).sigmoid()
    assert float(world.values(state)) == pytest.approx(float(expected))


def test_base_rate_and_masks_are_those_of_the_page() -> None:
    """About .71 succeed under the uniform policy; .6 of the interventions are eligible."""
    values, shares = [], []
    for seed in range(10):
        world = Payments(requests=2000)
        state = world.start(stream(seed))
        context = world.observe(state)
        assert context.available is not None
        shares.append(context.available.double().mean())
        values.append(
            (Uniform().bind(Log.empty(1, 12)).probs(context) * world.values(state)).sum(1)
        )
    assert float(torch.cat(values).mean()) == pytest.approx(0.71, abs=0.04)
    assert float(torch.stack(shares).mean()) == pytest.approx(0.6, abs=0.01)


def test_b_5_8_exact_values_agree_with_a_million_draws() -> None:
    world = Payments(requests=250_000)
    state = world.start(stream(1))
    policy = Uniform().bind(world.opening(state, 1, 1))
    exact, total = world.test(state), []
    value = float((policy.probs(exact[0]) * exact[1]).sum(1).mean())
    for t in range(4):
        context = world.observe(state)
        slate = policy.act(context, stream(2, t))
        _, truth = world.respond(state, slate, stream(3, t))
        total.append(truth["reward"])
        state = world.step(state, slate, truth, stream(4, t))
    drawn = torch.cat(total).double()
    spread = float((exact[1] * policy.probs(exact[0])).sum(1).std()) / 4000**0.5
    assert abs(float(drawn.mean()) - value) < 4 * (spread**2 + 0.25 / 1e6) ** 0.5


def trees() -> Reward:
    """The boosted trees of 5.6, half as many."""
    return Reward(
        HistGradientBoostingRegressor(
            max_iter=30, max_leaf_nodes=15, min_samples_leaf=40, random_state=0
        )
    )


class Sentinel:
    """A model that keeps the log it was fitted to."""

    def bind(self, log: Log) -> Sentinel:
        self.n_items = log.n_items
        return self

    def reset(self, generator: torch.Generator) -> None: ...

    def eval(self) -> Sentinel:
        return self

    def solve(self, log: Log) -> Sentinel:
        self.log = log
        return self

    def scores(self, context: Context) -> Tensor:
        return torch.zeros(len(context), self.n_items, dtype=torch.float64)


class Watching(Uniform):
    """A uniform policy whose refits are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[pl.DataFrame] = []

    def refit(self, log: Log, fit: object) -> None:
        self.seen.append(log.frame)


def test_b_5_8_a_generation_is_trained_on_matured_rows_only() -> None:
    """Failures become known two rounds later: a training sees the successes of the last rounds,
    and not one failure."""
    run = simulate(Payments(requests=200, slow=2), Watching(), rounds=6, refit=Refit())
    for refit, frame in enumerate(run.state[0].policy.seen, start=1):
        late = frame.filter(pl.col("time") > refit - 3)
        assert late["reward"].drop_nulls().to_list() == [1.0] * late["reward"].drop_nulls().len()
        early = frame.filter(pl.col("time") <= refit - 3)
        assert early["reward"].null_count() == 0
    assert refit == 5


def test_b_5_8_a_sentinel_in_unmatured_rows_has_no_influence() -> None:
    """Rewards of 1e9 that become known too late leave the trained model as it is; known in time,
    they do not."""
    log = simulate(Payments(requests=200, slow=2), Uniform(), rounds=4).log
    late = (pl.col("known") >= 4).fill_null(True)
    assert 0 < log.frame.select(late.sum()).item() < len(log)
    context = next(log.blocks(50)).context

    def trained(rows: pl.Expr) -> Tensor:
        planted = pl.when(rows).then(1e9).otherwise(pl.col("reward")).cast(pl.Float32)
        frame = log.frame.with_columns(reward=planted)
        model = Reward("linear").bind(log).solve(log.with_frame(Refit().view(frame, 4)))
        return model.scores(context)

    plain = trained(pl.lit(False))
    assert torch.equal(trained(late), plain)
    assert not torch.equal(trained(late | (pl.col("time") == 0)), plain)


def test_windows_and_delays_of_trainings() -> None:
    run = simulate(Payments(requests=10), Watching(), rounds=8, refit=Refit(window=2, delay=1))
    times = [sorted(set(frame["time"])) for frame in run.state[0].policy.seen]
    assert times == [[0], [0, 1], [1, 2], [2, 3], [3, 4], [4, 5]]


def test_b_5_8_propensities_reproduce_the_frequencies() -> None:
    """Chi-square of shown against expected items, over a generation of one frozen policy."""
    run = simulate(SMALL, IGW(trees(), 30.0), rounds=3)
    policy, log = run.state[0].policy, run.log.frame.filter(pl.col("time") == 2)
    block = next(iter(run.log.with_frame(log).blocks(500)))
    probs = policy.probs(block.context)
    expected = probs.sum(0).numpy()
    counts = torch.bincount(block.slate.item[:, 0], minlength=12).numpy()
    assert stats.chisquare(counts, expected).pvalue > 1e-3
    logged = block.slate.propensity
    assert logged is not None
    assert torch.allclose(probs.gather(1, block.slate.item), logged, atol=1e-12)


def test_b_5_8_the_next_policy_is_estimated_from_the_log_of_the_last() -> None:
    """IPS and DR of generation g from log g - 1 within 4 s.e. of the exact value, gamma small."""
    world = Payments(requests=4000)
    run = simulate(world, IGW(trees(), 20.0), rounds=3, probes=[valued])
    policy = run.state[0].policy  # of generation 2
    log = run.log.filter(pl.col("time") == 1)
    report = evaluate(log, {"next": policy}, estimators=["ips", "dr"], unit="slate")
    exact = run.probes["value"][2]
    for row in report.table.iter_rows(named=True):
        assert abs(row["value"] - exact) < 4 * (row["se"] ** 2 + 0.15**2 / 4000) ** 0.5


def test_valued_by_hand() -> None:
    """A model that knows the truth has no error, and its best items are worth `best`."""

    class Truth(Sentinel):
        def scores(self, context: Context) -> Tensor:
            return world.rates(state[0], context.features)  # type: ignore[arg-type]

        def score_of(self, context: Context, item: Tensor) -> Tensor:
            return self.scores(context).gather(1, item)

    world, state = SMALL, [SMALL.start(stream(0, "start"))]

    def follow(done: object) -> dict[str, Tensor]:
        state[0] = done.state  # type: ignore[attr-defined]
        return {}

    for policy in (IGW(Truth(), 1e9), Mixture(IGW(Truth(), 1e9), 0.0)):  # type: ignore[arg-type]
        run = simulate(world, policy, rounds=2, probes=[follow, valued], refit=Refit(every=9))
        row = run.probes.row(1, named=True)
        context, rates = world.test(state[0])
        best = rates.masked_fill(~context.available, -1.0).amax(1).mean()  # type: ignore[operator]
        assert row["rmse"] == pytest.approx(0, abs=1e-12)
        assert row["rmse_logged"] == pytest.approx(0, abs=1e-12)
        assert row["greedy"] == pytest.approx(float(best))
        assert row["value"] == pytest.approx(float(best), abs=1e-5)


def test_valued_is_nan_before_training_and_without_a_model() -> None:
    run = simulate(SMALL, IGW(Reward("linear"), 30.0), rounds=2, probes=[valued])
    assert run.probes["value"].is_nan().to_list() == [True, False]
    run = simulate(SMALL, Uniform(), rounds=1, probes=[valued])
    assert not run.probes["value"].is_nan().any() and run.probes["greedy"].is_nan().all()


def test_drift_keeps_the_spread_and_lost_rewards_are_lost() -> None:
    world = Payments(200, 3, requests=5, drift=0.5)
    state = world.start(stream(0))
    before = state.slope
    for t in range(20):
        state = world.step(state, None, {}, stream(1, t))  # type: ignore[arg-type]
    assert float(state.slope.std() / before.std()) == pytest.approx(1, abs=0.15)
    assert float((state.slope - before).abs().mean()) > 0.3
    run = simulate(Payments(requests=4000, lost=0.3), Uniform(), rounds=1)
    assert run.log.frame["reward"].null_count() / 4000 == pytest.approx(0.3, abs=0.03)


def test_payments_refuse() -> None:
    for options, message in (
        ({"requests": 0}, "payments have items"),
        ({"available": 0.0}, "available is in"),
        ({"slow": -1}, "a number of rounds"),
    ):
        with pytest.raises(ConfigError, match=message):
            Payments(**options)  # type: ignore[arg-type]


# ---- statistics of generations


def test_by_generation_by_hand() -> None:
    log = Log.of(
        {
            "item": [0, 1, 1, 1], "reward": [1.0, 0.0, 1.0, 1.0], "generation": [0, 0, 1, 1],
            "propensity": [0.5, 0.5, 0.8, 0.8], "available": [[0, 1]] * 4,
        },
        n_items=2,
    )  # fmt: skip
    truth = pl.DataFrame({"value": [0.5, 0.3, 0.6, 0.8], "reward": [1.0, 0.0, 1.0, 1.0]})
    first, second = by_generation(log, truth).iter_rows(named=True)
    assert first["value"] == pytest.approx(0.4) and second["value"] == pytest.approx(0.7)
    assert (first["balance"], second["balance"]) == (0.5, 0.0)
    assert (first["least"], second["least"]) == (1, 0)  # item 0 was not shown any more
    assert second["entropy"] == pytest.approx(-torch.tensor(0.8).log().item())
    assert first["ess"] == 1.0 and second["sure"] == pytest.approx(0.8)
    with pytest.raises(ConfigError, match=r"missing: \['generation'\]"):
        by_generation(Log.of({"item": [0], "reward": [1.0], "propensity": [1.0]}), truth)


def test_effective_sample_size_by_hand() -> None:
    """Weights 1/(2 .8) and 1/(2 .2): (.625 + 2.5)^2 / (.390625 + 6.25) / 2."""
    log = Log.of(
        {"item": [0, 1], "reward": [1.0, 0.0], "generation": [0, 0], "propensity": [0.8, 0.2]}
    )
    truth = pl.DataFrame({"value": [0.5, 0.3], "reward": [1.0, 0.0]})
    assert by_generation(log, truth)["ess"][0] == pytest.approx(3.125**2 / 6.640625 / 2)
    uniform = {"propensity": [0.5, 1.0], "available": [[0, 1], [1]]}  # as what may be shown
    log = Log.of({"item": [0, 1], "reward": [1.0, 0.0], "generation": [0, 0], **uniform}, n_items=2)
    assert by_generation(log, truth)["ess"][0] == pytest.approx(1.0)


def test_oscillation_by_hand() -> None:
    """Differences -.1, .1, -.1, .1, -.1 have mean -.02."""
    found = oscillation(torch.tensor([0.9, 0.8, 0.9, 0.8, 0.9, 0.8], dtype=torch.float64))
    assert found.drop == pytest.approx(-0.1) and found.step == pytest.approx(0.1)
    c = torch.tensor([-0.08, 0.12, -0.08, 0.12, -0.08])
    assert found.turning == pytest.approx(float((c[1:] * c[:-1]).sum() / c.square().sum()))
    assert found.period == 2.0
    slow = torch.tensor([0.0, 1, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1])
    assert oscillation(torch.stack([slow, slow])).period == 4.0
    g = stream(0)
    levels = oscillation(torch.randn(300, 200, generator=g))
    assert levels.turning == pytest.approx(-0.5, abs=0.02)
    with pytest.raises(ConfigError, match="at least 4 generations"):
        oscillation(torch.zeros(3))


def test_b_g_e1_small_a_greedy_log_makes_the_next_model_worse() -> None:
    """Trees, three generations: the error over all items grows where the log is nearly greedy, and
    hardly where it is mild."""

    def errors(policy: Policy) -> list[float]:
        run: Run = simulate(Payments(requests=3000), policy, rounds=3, probes=[valued], seed=3,
                            refit=Refit(window=1))  # fmt: skip
        return run.probes["rmse"].to_list()[1:]

    first, second = errors(EpsilonGreedy(trees(), 0.02))
    calm = errors(IGW(trees(), 30.0))
    assert second > 1.3 * first and calm[1] < 1.15 * calm[0]
