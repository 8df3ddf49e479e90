"""3.6: trends, differences from a reference run, closed less open loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from recfb.errors import ConfigError
from recfb.metrics.loop_strength import against, kendall, slope
from recfb.metrics.loops import METRICS
from recfb.policies import OpenLoop, Oracle, Ranked, Uniform
from recfb.simulate import Run, simulate
from recfb.solvers import ALS
from recfb.worlds import Tastes


def test_slope_agrees_with_least_squares() -> None:
    y = torch.randn(3, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y[1, [0, 4]] = torch.nan
    y[2] = torch.nan
    for row, got in zip(y[:2].numpy(), slope(y).tolist(), strict=False):
        t = np.arange(9)[np.isfinite(row)]
        assert got == pytest.approx(np.polyfit(t, row[t], 1)[0])
    assert slope(y)[2].isnan()
    assert slope(y[:, :1]).isnan().all()  # one value has no trend


def test_kendall_agrees_with_scipy() -> None:
    y = torch.randint(5, (4, 12), generator=torch.Generator().manual_seed(0)).double()  # with ties
    y[1, 3] = torch.nan
    for row, got in zip(y.numpy(), kendall(y).tolist(), strict=True):
        t = np.arange(12)[np.isfinite(row)]
        assert got == pytest.approx(stats.kendalltau(t, row[t]).statistic)
    assert kendall(torch.arange(5)) == 1
    assert kendall(-torch.arange(5)) == -1
    assert kendall(torch.ones(5)).isnan()


@pytest.fixture(scope="module")
def runs() -> dict[str, Run]:
    """Greedy ALS in a small world: trained on its own log, trained on uniform displays; oracle."""
    world, options = Tastes(100, 60, offset=-1.5), {"rounds": 8, "slate": 5, "seed": 3}
    uniform = simulate(world, Uniform(), **options)
    policy = Ranked(ALS(8, alpha=5.0, l2=5.0, sweeps=4, ridge="absolute"))
    return {
        "closed": simulate(world, policy, **options),
        "open": simulate(world, OpenLoop(policy, uniform.log), **options),
        "oracle": simulate(world, Oracle(), **options),
    }


def test_the_feedback_effect(runs: dict[str, Run]) -> None:
    """Closed less open loop: the runs begin alike, with the same uniform round and the same model
    after it; then the model that sees its own displays shows fewer items."""
    closed, opened = ((runs[name].log, runs[name].truth) for name in ("closed", "open"))
    assert len(closed[0]) == len(opened[0])
    effect = against(METRICS["gini_shown"], closed, opened)[0]
    assert effect[:2].tolist() == [0.0, 0.0]
    assert effect[2:].min() > 0.05
    assert slope(METRICS["gini"](*closed))[0] > 0


def test_amplification_and_homogenisation(runs: dict[str, Run]) -> None:
    """Against the oracle on the same random numbers, who is concentrated as well."""
    closed, oracle = ((runs[name].log, runs[name].truth) for name in ("closed", "oracle"))
    for name in ("gini_shown", "jaccard"):
        change = against(METRICS[name], closed, oracle)
        assert torch.equal(change, METRICS[name](*closed) - METRICS[name](*oracle))
        assert against(METRICS[name], closed, closed).abs().max() == 0
    shorter = simulate(Tastes(100, 60), Uniform(), rounds=3, slate=5)
    with pytest.raises(ConfigError, match=r"\(1, 8\) and \(1, 3\)"):
        against(METRICS["clicks"], closed, (shorter.log, shorter.truth))


def test_trends_of_nothing() -> None:
    assert math.isnan(float(slope(torch.full((4,), torch.nan))))
    assert math.isnan(float(kendall(torch.full((4,), torch.nan))))
