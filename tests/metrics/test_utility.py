"""3.4: utility, welfare, the ideal, calibration."""

from __future__ import annotations

import math

import polars as pl
import pytest
import torch

from recfb.data import Log
from recfb.errors import ConfigError
from recfb.metrics import utility
from recfb.metrics.utility import (
    calibration_error,
    consumed,
    ideal,
    log_welfare,
    shown,
    welfare,
)


def played() -> tuple[Log, pl.DataFrame]:
    """Two users, two rounds; the platform does not see the click of row 1."""
    log = Log.of(
        {
            "user": [0, 1, 0, 1],
            "item": [0, 1, 1, 0],
            "reward": [1.0, None, 0.0, 1.0],
            "time": [0, 0, 1, 1],
            "position": [1] * 4,
        },
        n_users=2,
        n_items=2,
    )
    return log, pl.DataFrame({"reward": [1.0, 1, 0, 1], "relevance": [0.5, 0.2, 0.9, 0.4]})


def test_consumption_is_what_really_happened() -> None:
    """Hidden clicks are clicks."""
    log, truth = played()
    assert consumed(log, truth, "relevance")[0].tolist() == pytest.approx([0.35, 0.4])
    assert consumed(log, truth, "relevance", so_far=True)[0, 1] == pytest.approx(1.1 / 3)
    assert shown(log, truth, "relevance")[0].tolist() == pytest.approx([0.35, 0.65])
    nothing = truth.with_columns(reward=pl.lit(0.0))
    assert consumed(log, nothing, "relevance").isnan().all()
    with pytest.raises(ConfigError, match="'home_relevance' in the truth"):
        shown(log, truth, "home_relevance")


def test_welfare_by_hand() -> None:
    log, truth = played()
    assert welfare(log, truth)[0].tolist() == pytest.approx([0.7, 0.4])
    assert welfare(log, truth, so_far=True)[0].tolist() == pytest.approx([0.7, 1.1])
    want = [math.log(1.5) + math.log(1.2), math.log(1.5) + math.log(1.6)]
    assert log_welfare(log, truth)[0].tolist() == pytest.approx(want)
    # of two equal sums the equal shares are better
    uneven = truth.with_columns(relevance=pl.Series([0.7, 0.0, 0.0, 0.0]))
    even = truth.with_columns(relevance=pl.Series([0.35, 0.35, 0.0, 0.0]))
    assert log_welfare(log, even)[0, 0] > log_welfare(log, uneven)[0, 0]
    harm = truth.with_columns(relevance=pl.Series([-1.0, 0.0, 0.0, 0.0]))
    with pytest.raises(ConfigError, match="not negative"):
        log_welfare(log, harm)


def test_the_ideal_is_chunked(monkeypatch: pytest.MonkeyPatch) -> None:
    g = torch.Generator().manual_seed(0)
    values = torch.rand(20, 7, generator=g)
    there = torch.rand(20, 7, generator=g) < 0.6
    there[0], there[1] = False, torch.arange(7) == 3
    whole = ideal(values, 3, there)
    assert whole[0].isnan()
    assert whole[1] == values[1, 3]  # one item instead of three
    for row in range(2, 20):
        best = values[row][there[row]].sort(descending=True).values[:3].double()
        assert float(whole[row]) == pytest.approx(float(best.mean()))
    monkeypatch.setattr(utility, "IDEAL_CELLS", 14)
    assert torch.equal(ideal(values, 3, there).nan_to_num(), whole.nan_to_num())
    assert torch.equal(ideal(values, 3, there[2:3]), ideal(values, 3, there[2:3].expand(20, -1)))


def test_calibration_error_by_hand() -> None:
    p = torch.tensor([0.05, 0.05, 0.15, 0.95, 1.0])
    y = torch.tensor([0.0, 0.1, 0.5, 0.9, 0.9])
    # bins of .1: 0, .35, and .075 in the last with two members
    assert float(calibration_error(p, y)) == pytest.approx((0 + 0.35 + 2 * 0.075) / 5)
    # one bin: the means, .44 and .48
    assert float(calibration_error(p, y, bins=1)) == pytest.approx(0.04)
    weight = torch.tensor([1.0, 1, 0, 1, 1])
    assert float(calibration_error(p, y, weight)) == pytest.approx(2 * 0.075 / 4)
    assert float(calibration_error(p.view(1, -1), p.view(1, -1))) == 0
    with pytest.raises(ConfigError, match="sigmoid"):
        calibration_error(torch.tensor([1.5]), torch.tensor([1.0]))
