"""Basic and studentised bootstraps against the same resamples row by row, and against scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from interval_world import F64, estimates_of, rows_of
from ope_world import TARGET, Fixed, draw
from scipy import stats
from torch import Tensor

from recfb import Meta, evaluate
from recfb.evaluation.estimates import poisson_counts
from recfb.evaluation.intervals import basic, bootstrap, studentised
from recfb.random import stream

pytestmark = pytest.mark.filterwarnings("ignore::recfb.errors.OverlapWarning")


def skewed(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Weights with a tail, and clicks that go with them."""
    g = stream(seed, "skewed")
    w = torch.empty(n, dtype=F64).log_normal_(-0.5, 1.0, generator=g)
    return w, (torch.rand(n, generator=g) < 0.2 + 0.3 * (w > 2)).to(F64)


@pytest.mark.parametrize("estimator", ["ips", "snips"])
def test_o_t4_pivots_are_those_of_the_resampled_rows(estimator: str) -> None:
    w, r = skewed(60)
    estimates = estimates_of(rows_of(w, r), estimator)
    count = poisson_counts(8, 60, 0).to(F64)  # (8, n) how often each row is drawn
    n = count.sum(1)
    value = (count * w * r).sum(1) / (n if estimator == "ips" else (count * w).sum(1))  # (8,)
    part = (w * r - value[:, None]) / n[:, None]
    if estimator == "snips":
        part = w * (r - value[:, None]) / (count * w).sum(1)[:, None]
    se = ((count * part**2).sum(1) * (1 + 1 / 59)).sqrt()
    pivots = estimates.pivots(8)[:, 0]
    assert torch.allclose(pivots, (value - estimates.value) / se, rtol=1e-9)
    assert torch.allclose(estimates.replicates(8)[:, 0], value, rtol=1e-12)


def test_o_t4_pivots_resample_whole_units() -> None:
    w, r = skewed(60)
    unit = torch.arange(60) // 3
    estimates = estimates_of(rows_of(w, r), "ips", unit=unit)
    count = poisson_counts(8, 20, 0).to(F64)  # (8, units)
    total = torch.zeros(20, dtype=F64).index_add_(0, unit, w * r)
    value = (count * total).sum(1) / (3 * count.sum(1))
    part = (total - 3 * value[:, None]) / (3 * count.sum(1)[:, None])
    se = ((count * part**2).sum(1) * (1 + 1 / 19)).sqrt()
    pivots = estimates.pivots(8)[:, 0]
    assert torch.allclose(pivots, (value - estimates.value) / se, rtol=1e-9)


def test_o_t4_basic_mirrors_the_percentiles() -> None:
    estimates = estimates_of(rows_of(*skewed(100)), "snips")
    (a, b), (c, d) = bootstrap(estimates, 0.1), basic(estimates, 0.1)
    value = estimates.value
    assert torch.allclose(c, 2 * value - b) and torch.allclose(d, 2 * value - a)
    assert not torch.allclose(a, c, rtol=1e-3)


def test_o_t4_basic_is_near_scipys() -> None:
    w, r = skewed(400)
    x = (w * r).numpy()
    theirs = stats.bootstrap(
        (x,), np.mean, n_resamples=4000, method="basic", rng=np.random.default_rng(0)
    ).confidence_interval
    lower, upper = basic(estimates_of(rows_of(w, r)), 0.05)
    width = theirs.high - theirs.low
    assert float(lower) == pytest.approx(theirs.low, abs=0.08 * width)
    assert float(upper) == pytest.approx(theirs.high, abs=0.08 * width)


def test_o_studentised_follows_the_skewness() -> None:
    estimates = estimates_of(rows_of(*skewed(400)), "ips")
    (a, b), value = studentised(estimates, 0.05), estimates.value
    assert (b - value) > 1.1 * (value - a) > 0  # a tail to the right
    _, d = bootstrap(estimates, 0.05)
    assert b > d


@pytest.mark.parametrize("kind", ["bootstrap", "basic", "studentised"])
@pytest.mark.parametrize("estimator", ["snips", "dr", "replay"])
def test_o_t5_adding_to_the_reward_shifts_every_bootstrap(kind: str, estimator: str) -> None:
    base = draw(1000)
    moved = base.with_frame(
        base.frame.with_columns(reward=base.frame["reward"] + 5), Meta(reward_range=(5, 6))
    )
    policy = Fixed([0, 0, 1, 0]) if estimator == "replay" else Fixed(TARGET)
    a, b = (
        evaluate(x, {"t": policy}, estimators=[estimator], interval=kind).table.to_dicts()[0]
        for x in (base, moved)
    )
    tolerance = 0.02 if estimator == "dr" else 1e-6
    assert b["upper"] - b["lower"] == pytest.approx(a["upper"] - a["lower"], rel=tolerance)
    assert b["lower"] - a["lower"] == pytest.approx(5, abs=tolerance)
    assert a["method"] == kind


def test_o_t8_degenerate_bootstraps() -> None:
    for kind in ("bootstrap", "basic", "studentised"):

        def row(n: int, kind: str = kind, **more: object) -> dict[str, float]:
            log = draw(n, **more)  # type: ignore[arg-type]
            return evaluate(
                log, {"t": Fixed(TARGET)}, estimators=["snips"], interval=kind
            ).table.to_dicts()[0]

        assert row(0)["lower"] is None
        one = row(1)
        assert one["value"] is not None and one["lower"] is None
        assert "no interval: fewer than two units" in str(one["reasons"])
        away = row(100, logger=[0.5, 0.5, 0.0, 0.0])
        assert away["value"] is not None
        sure = row(300, rates=[1.0] * 4)
        for end in ("lower", "upper"):
            assert sure[end] == pytest.approx(1, abs=1e-9)


def test_o_studentised_without_variance_in_the_resamples_is_null_with_a_reason() -> None:
    log = draw(200, rates=[0.0] * 4, reward=[1.0] + [0.0] * 199)  # one click: many without any
    table = evaluate(log, {"t": Fixed(TARGET)}, estimators=["ips"], interval="studentised").table
    row = table.to_dicts()[0]
    assert row["value"] > 0 and row["lower"] is None and row["upper"] is None
    assert "no interval: too few units carry the number" in row["reasons"]
