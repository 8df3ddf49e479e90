"""Intervals: closed forms, an independent optimiser, shifts, coverage, and the ends of ranges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ope_world import LOGGER, RATES, TARGET, VALUE, Fixed, draw
from scipy import optimize, stats
from torch import Tensor

from recfb import ConfigError, Evaluation, Log, Meta, estimate, evaluate
from recfb.estimate import Rows, average
from recfb.evaluation.intervals import cressie_read, method, t_quantile
from recfb.evaluation.shape import traits
from recfb.evaluation.terms import moments
from recfb.policies import Uniform
from recfb.random import stream

INF = float("inf")
pytestmark = pytest.mark.filterwarnings("ignore::recfb.errors.OverlapWarning")


def sums(w: list[float], r: list[float]) -> Tensor:
    one = torch.ones(1, dtype=torch.float64)
    rows = Rows(torch.tensor(r, dtype=torch.float64), one, torch.tensor([w], dtype=torch.float64))
    return moments(rows, lambda x: x.sum(-1).expand(1))


def bounds(w: list[float], r: list[float], top: float = INF, alpha: float = 0.05) -> list[float]:
    ends = cressie_read(sums(w, r), len(w), (0.0, 1.0), (0.0, top), alpha=alpha)
    return [float(end) for end in ends]


def test_o_one_row_says_nothing() -> None:
    assert bounds([10.0], [0.47]) == [0.0, 1.0]
    assert bounds([10.0], [0.47], top=100.0) == [0.0, 1.0]
    assert bounds([0.0], [1.0]) == [0.0, 1.0]


def test_o_without_a_solution_each_side_falls_back_to_its_own_end() -> None:
    # weights that can only be 1 leave the program without a variance
    ends = cressie_read(sums([1.0] * 5, [1.0, 0.0] * 2 + [1.0]), 5, (0.2, 0.7), (1, 1), alpha=0.05)
    assert [float(end) for end in ends] == pytest.approx([0.2, 0.7])


def by_optimiser(w: list[float], r: list[float], top: float, end: int) -> float:
    """The least (or largest) reweighted mean over the balls that a phantom row leaves."""
    n, sign, far = len(w), 1 - 2 * end, float(end)
    big_n = n + 1
    fake = top if sum(w) < n else 0.0
    a, b = (fake + sum(w)) / big_n, (fake**2 + sum(x * x for x in w)) / big_n
    radius = big_n * (a - 1) ** 2 / (b - a * a) + stats.f.isf(0.05, 1, n)  # N mean((N q - 1)^2)
    best = []
    for phantom in (0.0, top):
        wx = np.array([*w, phantom])
        y = sign * wx * np.array([*r, far])

        def inside(d: np.ndarray) -> float:
            return radius / big_n - (d**2).mean()

        found = optimize.minimize(
            lambda d, y=y: ((1 + d) * y).mean(),
            np.zeros(big_n),
            constraints=[
                {"type": "eq", "fun": lambda d: d.mean()},
                {"type": "eq", "fun": lambda d, wx=wx: ((1 + d) * wx).mean() - 1},
                {"type": "ineq", "fun": inside},
            ],
            method="SLSQP",
            options={"maxiter": 500, "ftol": 1e-14},
        )
        if found.success:
            best.append(found.fun)
    return float(np.clip(sign * min(best), 0, 1))


def test_o_likelihood_is_the_optimum_of_its_program() -> None:
    rng = np.random.default_rng(3)
    w = rng.choice([0.25, 2 / 3, 1.5, 4.0], 30, p=LOGGER).tolist()
    r = (rng.random(30) < 0.5).astype(float).tolist()
    lower, upper = bounds(w, r, top=8.0)
    assert 0 < lower < upper < 1
    assert lower == pytest.approx(by_optimiser(w, r, 8.0, 0), abs=1e-6)
    assert upper == pytest.approx(by_optimiser(w, r, 8.0, 1), abs=1e-6)


def test_o_unbounded_weights_are_the_limit_of_large_ones() -> None:
    w, r = [0.5, 2.0, 1.0, 0.25] * 20, [1.0, 0.0, 1.0, 0.0] * 20
    assert bounds(w, r) == pytest.approx(bounds(w, r, top=1e7), abs=1e-4)
    narrow = bounds(w, r, top=2.5)
    assert bounds(w, r)[0] <= narrow[0] + 1e-12 and narrow[1] < bounds(w, r)[1]


def test_o_likelihood_mirrors_with_the_reward() -> None:
    w, r = [0.5, 2.0, 1.5, 0.25] * 20, [1.0, 0.0, 1.0, 1.0] * 20
    lower, upper = bounds(w, r)
    assert bounds(w, [1 - x for x in r]) == pytest.approx([1 - upper, 1 - lower], abs=1e-12)


def test_o_likelihood_reads_the_largest_weight_in_double_precision() -> None:
    w, r = [0.5, 2.0, 1.0, 0.25] * 20, [1.0, 0.0, 1.0, 0.0] * 20  # which average below 1

    def slope(step: float) -> float:
        return (bounds(w, r, top=8.1 * (1 + step))[0] - bounds(w, r, top=8.1)[0]) / step

    assert slope(1e-8) == pytest.approx(slope(1e-5), rel=1e-3)  # 8.1 is no 32-bit float


def test_o_likelihood_of_tiny_rates_keeps_its_width() -> None:
    w, r = [1.0, 0.5, 1.5, 1.0] * 2500, ([1e-6] + [0.0] * 3) * 2500
    lower, upper = bounds(w, r, top=2.0)
    assert upper - lower > 1e-9


@pytest.mark.parametrize("interval", ["student", "bootstrap"])
@pytest.mark.parametrize("estimator", ["snips", "dr"])
def test_o_t5_adding_to_the_reward_shifts_the_interval(interval: str, estimator: str) -> None:
    base = draw(1000)
    frame = base.frame.with_columns(reward=base.frame["reward"] + 5)
    moved = base.with_frame(frame, Meta(reward_range=(5, 6), propensity="exact"))
    options = {"estimators": [estimator], "interval": interval}
    a = evaluate(base, {"t": Fixed(TARGET)}, **options).table.to_dicts()[0]
    b = evaluate(moved, {"t": Fixed(TARGET)}, **options).table.to_dicts()[0]
    tolerance = 1e-6 if estimator == "snips" else 0.02  # dr: shrinkage of its model is not shifted
    for column in ("value", "lower", "upper"):
        assert b[column] - a[column] == pytest.approx(5, abs=tolerance)
    assert b["upper"] - b["lower"] == pytest.approx(a["upper"] - a["lower"], rel=tolerance)


def test_o_a_frozen_denominator_would_fail_the_shift_test() -> None:
    # what the test above guards against: w r / mean(w) resampled with mean(w) held fixed
    g = stream(0, "weights")
    w = torch.rand(1000, generator=g, dtype=torch.float64) * 2
    r = 5 + torch.rand(1000, generator=g, dtype=torch.float64)
    frozen = float((w * r / w.mean()).std())
    assert frozen > 5 * float((w * (r - (w * r).mean() / w.mean()) / w.mean()).std())


def test_o_student_by_hand() -> None:
    log = Log.of({"item": [0, 0, 1, 1], "reward": [1, 0, 0, 0], "propensity": [0.5] * 4})
    row = evaluate(log, {"u": Uniform()}, estimators=["ips"], interval="student").table.to_dicts()
    se = 0.5 / 2  # of [1, 0, 0, 0]: sd 0.5, n = 4
    assert row[0]["se"] == pytest.approx(se)
    assert row[0]["upper"] == pytest.approx(0.25 + 3.182446 * se, abs=1e-5)
    assert row[0]["lower"] == pytest.approx(0.25 - 3.182446 * se, abs=1e-5)


def test_o_the_estimate_is_not_the_mean_of_resamples() -> None:
    log = draw(50)
    row = evaluate(log, {"t": Fixed(TARGET)}, estimators=["snips"]).table.to_dicts()[0]
    block = next(log.blocks())
    pe = torch.tensor(TARGET, dtype=torch.float64)[block.slate.item[:, 0]][None]
    rows = Rows(block.feedback.reward[:, 0].double(), block.slate.propensity[:, 0], pe)
    assert row["value"] == pytest.approx(float(estimate.snips(rows, average)), abs=1e-15)


def test_o_each_estimator_has_its_own_interval() -> None:
    own = {name: method(f, traits(f), None) for name, f in estimate.ESTIMATORS.items()}
    assert (
        own.items()
        >= {
            "ips": "likelihood",
            "cips": "student",
            "snips": "bootstrap",
            "el": "likelihood",
            "dm": "student",
            "dr": "student",
            "dros": "student",
            "switch": "student",
            "replay": "bootstrap",
        }.items()
    )
    asked = {name: method(f, traits(f), "likelihood") for name, f in estimate.ESTIMATORS.items()}
    assert [name for name, kind in asked.items() if kind == "likelihood"] == ["ips", "snips", "el"]


def test_o_an_interval_of_ones_own() -> None:
    def wide(estimates: object, alpha: float) -> tuple[Tensor, Tensor]:
        return torch.zeros(1), torch.ones(1)

    row = evaluate(draw(50), {"u": Uniform()}, interval=wide).table.to_dicts()[0]
    assert (row["lower"], row["upper"], row["method"]) == (0, 1, "wide")


def test_o_unknown_intervals_and_levels_are_refused() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'bootstrap'"):
        evaluate(draw(10), {"u": Uniform()}, interval="bootstrp")
    with pytest.raises(ConfigError, match=r"alpha is the error rate .* found 95"):
        evaluate(draw(10), {"u": Uniform()}, alpha=95)


def test_o_quantiles() -> None:
    assert t_quantile(5, 0.05) == pytest.approx(2.570582, abs=1e-6)
    assert t_quantile(0, 0.05) != t_quantile(0, 0.05)  # NaN


def test_o_t5_coverage_on_simulated_logs() -> None:
    logs, n = 400, 400
    plan = Evaluation({"t": Fixed(TARGET)}, estimators=["ips", "snips", "dr"], reward_range=(0, 1))
    p, pe = torch.tensor(LOGGER, dtype=torch.float64), torch.tensor(TARGET, dtype=torch.float64)
    missed = dict.fromkeys(("likelihood", "bootstrap", "student"), 0)
    for seed in range(logs):
        g = stream(seed, "coverage")
        item = torch.multinomial(p, n, replacement=True, generator=g)
        r = (torch.rand(n, generator=g) < torch.tensor(RATES)[item]).double()
        flat = torch.full((n,), 0.5, dtype=torch.float64)
        rows = Rows(r, p[item], pe[item][None], flat[None], flat)
        report = plan.report(plan.scan_rows(rows, torch.arange(n), f"log {seed}"))
        for row in report.table.to_dicts():
            missed[row["method"]] += not row["lower"] <= VALUE <= row["upper"]
    for kind, count in missed.items():
        assert 0.015 * logs <= count <= (0.05 + 3 * (0.05 * 0.95 / logs) ** 0.5) * logs, kind
