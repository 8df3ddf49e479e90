"""Metrics of closed loops against numbers by hand."""

from __future__ import annotations

import math

import polars as pl
import pytest
import torch

from recfb.data import Log
from recfb.errors import ConfigError
from recfb.metrics import loops
from recfb.metrics.loops import METRICS, concentration, overlap


def test_w_t12_gini() -> None:
    assert float(concentration(torch.tensor([0, 0, 0, 10]))) == 0.75
    assert float(concentration(torch.tensor([3, 3, 3, 3, 3]))) == pytest.approx(0, abs=1e-15)
    # zeros dropped would give 0
    assert float(concentration(torch.tensor([0, 2, 2, 0]))) == 0.5
    assert math.isnan(float(concentration(torch.zeros(4))))
    shared = torch.zeros(300)
    shared[:10] = 500
    assert float(concentration(shared)) == pytest.approx(1 - 10 / 300, abs=1e-12)


def test_w_t13_jaccard() -> None:
    a = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]).bool()
    b = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]]).bool()
    same, apart, none = overlap(a, b).tolist()
    assert (same, apart) == (1.0, 0.0)
    assert math.isnan(none)


def run() -> tuple[Log, pl.DataFrame]:
    """Two users, three items, slates of two, two rounds, and a second replication of the first
    round's displays without clicks."""
    log = Log.of(
        {
            "user": [0, 0, 1, 1] * 2 + [0, 0, 1, 1] * 2,
            "item": [0, 1, 0, 1, 0, 2, 0, 1] + [0, 1, 0, 1] * 2,
            "reward": [1, 0, 1, 1, 1, 0, 0, 1] + [0] * 8,
            "time": [5, 5, 5, 5, 6, 6, 6, 6] * 2,
            "position": [1, 2] * 8,
            "slate": [k // 2 for k in range(16)],
            "replication": [0] * 8 + [1] * 8,
        },
        n_users=2,
        n_items=3,
    )
    truth = pl.DataFrame(
        {
            "reward": [1.0, 0, 1, 1, 1, 0, 0, 1] + [1.0] * 8,
            "relevance": [0.5, 0.1, 0.4, 0.2, 0.5, 0.3, 0.4, 0.2] + [0.25] * 8,
            "value": [0.5, 0.1, 0.4, 0.2, 0.5, 0.3, 0.4, 0.2] + [0.25] * 8,
            "best": [1.0] * 16,
            "switch": [1.0, 1, 0, 0, 1, 1, 1, 1] + [0.0] * 8,
            "used": [2.0, 2, 0, 0, 4, 4, 0, 0] + [1.0] * 8,
            "mistake": [0.0, 0, 1, 1, 0, 0, 0, 0] + [1.0] * 8,
            "violation": [1.0, 1, 1, 1, 0, 0, 0, 0] + [0.0] * 8,
        }
    )
    return log, truth


EXPECTED = {
    # clicks of items 0, 1, 2: (2, 1, 0), then (3, 2, 0)
    "gini": [[2 * (2 + 3 * 2) / 9 - 4 / 3, 2 * (2 * 2 + 3 * 3) / 15 - 4 / 3], [math.nan] * 2],
    # displays: (2, 2, 0), then (2, 1, 1); the second run (2, 2, 0) twice
    "gini_shown": [[1 / 3, 2 * (1 + 2 + 3 * 2) / 12 - 4 / 3], [1 / 3, 1 / 3]],
    "coverage": [[2 / 3, 1.0], [2 / 3, 2 / 3]],
    "clicks": [[1.5, 1.0], [0.0, 0.0]],
    "reward": [[1.5, 1.0], [2.0, 2.0]],
    "relevance": [[0.3, 0.35], [0.25, 0.25]],
    # a request: 1 - .6 and 1 - .6; then 1 - .8 and 1 - .6
    "regret": [[0.4, 0.7], [0.5, 1.0]],
    # once a request, whatever its positions
    "switches": [[0.5, 1.5], [0.0, 0.0]],
    "observations": [[1.0, 3.0], [1.0, 2.0]],
    "mistakes": [[0.5, 0.5], [1.0, 2.0]],
    "violations": [[1.0, 1.0], [0.0, 0.0]],
    # sets {0} and {0, 1}; unchanged in the second round
    "jaccard": [[0.5, 0.5], [math.nan] * 2],
}


@pytest.mark.parametrize("name", METRICS)
def test_metrics_by_hand(name: str) -> None:
    got = METRICS[name](*run())
    assert got.shape == (2, 2)
    for row, want in zip(got.tolist(), EXPECTED[name], strict=True):
        assert row == pytest.approx(want, nan_ok=True)


def test_blocks_of_rounds_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {name: METRICS[name](*run()) for name in ("gini", "gini_shown", "coverage")}
    monkeypatch.setattr(loops, "BLOCK_CELLS", 6)
    for name, value in whole.items():
        assert torch.allclose(METRICS[name](*run()), value, equal_nan=True, atol=0)


def test_sampled_pairs_estimate_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    n_users, n_items = 300, 20
    g = torch.Generator().manual_seed(0)
    user = torch.arange(n_users).repeat_interleave(6)
    rows = {
        "user": user,
        "item": torch.randint(n_items, (len(user),), generator=g),
        "reward": torch.ones(len(user)),
        "time": torch.zeros(len(user), dtype=torch.int64),
    }
    log = Log.of(rows, n_users=n_users, n_items=n_items)
    exact = float(METRICS["jaccard"](log, pl.DataFrame()))
    monkeypatch.setattr(loops, "EXACT_PAIRS", 0)
    sampled = float(METRICS["jaccard"](log, pl.DataFrame()))
    assert sampled != exact
    assert sampled == pytest.approx(exact, abs=4 * 0.12 / math.sqrt(20_000))
    first, second = loops._pairs(n_users)
    assert not (first == second).any()
    assert len(torch.unique(first)) == n_users


def test_a_missing_truth_is_named() -> None:
    with pytest.raises(ConfigError, match="'best'"):
        METRICS["regret"](run()[0], pl.DataFrame({"value": [0.0] * 16}))
    with pytest.raises(ConfigError, match="with rows"):
        METRICS["clicks"](Log.empty(2, 2), pl.DataFrame())
