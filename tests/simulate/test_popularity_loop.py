"""The popularity loop and its gates, on paired seeds."""

from __future__ import annotations

import polars as pl
import pytest

import recfb
from recfb.policies import Ranked
from recfb.simulate import Refit, Simulator, simulate
from recfb.solvers import ALS


@pytest.fixture(scope="module")
def loop() -> Simulator:
    return recfb.simulator("popularity_loop")


def rises(loop: Simulator, seed: int) -> float:
    """How far the concentration of clicks under greedy ALS grows from round 1 to the last."""
    gini = loop.run("als", seed=seed).metrics["gini"]
    return float(gini[-1] - gini[1])


def test_gates_of_two_seeds(loop: Simulator) -> None:
    table = loop.check(seeds=2)
    assert table["holds"].all(), table
    assert rises(loop, 0) > 0.06


def test_the_reference_values_of_what_does_not_learn(loop: Simulator) -> None:
    """Uniform and oracle in the last round: gini .24 and .79, gini of displays .14 and .71,
    coverage 1 and .67, clicks .48 and 1.98, jaccard .019 and .059, relevance .166 and .619."""
    names = ["gini", "gini_shown", "coverage", "clicks", "jaccard", "relevance"]
    expected = {
        "random": [0.24, 0.14, 1.0, 0.48, 0.019, 0.166],
        "oracle": [0.79, 0.71, 0.67, 1.98, 0.059, 0.619],
    }
    for policy, want in expected.items():
        last = pl.concat([loop.run(policy, seed=s).metrics.tail(1) for s in range(3)])
        assert last.select(names).mean().row(0) == pytest.approx(want, rel=0.12)


@pytest.mark.claims
def test_gini_rises_in_eight_seeds(loop: Simulator) -> None:
    assert min(rises(loop, seed) for seed in range(8)) > 0.06


@pytest.mark.claims
def test_a_model_that_is_trained_once_earns_less(loop: Simulator) -> None:
    """Clicks a request: .55 trained once, .83 trained every round."""
    options = {"rounds": 20, "slate": 10, "metrics": ["clicks"]}
    policy = Ranked(ALS(16, alpha=5.0, l2=5.0, sweeps=4, ridge="absolute"))
    for seed in range(4):
        once = simulate(loop.world, policy, refit=Refit(every=100), seed=seed, **options)
        always = simulate(loop.world, policy, seed=seed, **options)
        assert once.log.frame["generation"].max() == 1
        assert always.metrics["clicks"][-1] - once.metrics["clicks"][-1] > 0.1
