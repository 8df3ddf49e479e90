"""The tail of the weights, and the gates G2 and G12."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import genpareto

from recfb import Log, evaluate
from recfb.evaluation.tail import TOP, merge, pareto_shape, tail_index
from recfb.policies import Uniform
from recfb.random import stream


@pytest.mark.parametrize("k", [-0.2, 0.1, 0.5, 0.9])
def test_o_12_2_the_shape_of_a_pareto_tail_is_found(k: float) -> None:
    u = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    excess = torch.tensor(genpareto.ppf(u.numpy(), k, scale=3.0))
    assert abs(pareto_shape(excess) - k) < 0.02
    assert pareto_shape(7 * excess[torch.randperm(2000, generator=stream(0))]) == pytest.approx(
        pareto_shape(excess), abs=1e-9
    )


def test_o_12_2_few_or_equal_weights_have_no_tail() -> None:
    assert math.isnan(tail_index(torch.arange(1.0, 100.0), 10_000))
    assert math.isnan(tail_index(torch.arange(1.0, 2000.0).floor_divide(40), 10_000))
    assert math.isfinite(tail_index(torch.arange(1.0, 2000.0), 10_000))


def test_parts_merge_to_the_largest_of_all() -> None:
    w = torch.randn(3, 5000, generator=stream(0)).exp()
    parts = [part.topk(TOP).values for part in w.split(2500, dim=1)]
    both = merge(*parts)
    assert torch.equal(both, w.topk(TOP).values) and torch.equal(both, merge(*parts[::-1]))


def logged(k: float, rows: int = 5000, unknown: int = 0) -> Log:
    """Two items; the weights of a uniform policy have a Pareto tail of shape k."""
    u = torch.rand(rows, generator=stream(0), dtype=torch.float64)
    reward: list[float | None] = (torch.rand(rows, generator=stream(1)) < 0.5).double().tolist()
    reward[:unknown] = [None] * unknown
    item = torch.arange(rows) % 2
    return Log.of({"item": item, "reward": reward, "propensity": u.clamp(min=1e-9) ** k})


def levels(log: Log, gate: str) -> dict[str, str]:
    names = ["ips", "snips", "cips"]
    report = evaluate(log, {"uniform": Uniform()}, estimators=names)
    return dict(report.gates.filter(gate=gate).select("estimator", "level").iter_rows())


@pytest.mark.filterwarnings("ignore::recfb.OverlapWarning")
@pytest.mark.parametrize(
    ("k", "found"),
    [
        (0.3, {}),
        (0.65, {"ips": "fail"}),
        (0.8, {"ips": "fail", "snips": "warn"}),
        (1.1, {"ips": "fail", "snips": "fail"}),
    ],
)
def test_g2_by_the_shape_of_the_tail(k: float, found: dict[str, str]) -> None:
    assert levels(logged(k), "G2") == found


@pytest.mark.parametrize(("unknown", "warns"), [(0, False), (5, False), (40, True)])
def test_g12_counts_rewards_that_are_not_known(unknown: int, warns: bool) -> None:
    found = levels(logged(0.1, unknown=unknown), "G12")
    assert set(found.values()) == ({"warn"} if warns else set())
