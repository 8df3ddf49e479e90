"""All pairs, uniform and balanced."""

from __future__ import annotations

import pytest
import torch

from recfb.contracts import Step
from recfb.data import Log
from recfb.errors import ConfigError
from recfb.random import stream
from recfb.samplers import AllPairs
from recfb.testing import check


@pytest.mark.parametrize("draw", ["uniform", "balanced", "balanced_iw"])
def test_keeps_the_contract(draw: str, small_log: Log) -> None:
    check(AllPairs(draw=draw), small_log)


def test_balanced_slices_are_half_and_half(small_log: Log) -> None:
    sampler = AllPairs(draw="balanced").bind(small_log)
    rows = sampler.rows(stream(0))
    assert len(rows) == len(sampler) == 8  # 4 clicks
    batch = sampler(rows, None, Step())
    assert batch.reward.tolist() == [1.0, 0.0] * 4
    assert batch.weight is None
    assert rows[::2].sort().values.tolist() == small_log.clicks.key.tolist()


def test_weights_by_hand(small_log: Log) -> None:
    sampler = AllPairs(draw="balanced_iw").bind(small_log)
    batch = sampler(sampler.rows(stream(0)), None, Step())
    expected = torch.tensor([2 * 4 / 15, 2 * 11 / 15] * 4)  # 4 of 15 pairs are clicked
    assert torch.allclose(batch.weight, expected)
    assert float(batch.weight.mean()) == pytest.approx(1.0)


def test_uniform_meets_every_pair(small_log: Log) -> None:
    sampler = AllPairs(draw="uniform").bind(small_log)
    rows = torch.cat([sampler.rows(stream(seed)) for seed in range(1000)])
    count = torch.bincount(rows, minlength=15)  # 8000 draws
    assert bool(((count - 8000 / 15).abs() < 4 * (8000 / 15) ** 0.5).all())


def test_a_full_log_has_no_other_pairs() -> None:
    log = Log.of({"user": [0, 0], "item": [0, 1], "reward": [1, 1]})
    with pytest.raises(ConfigError, match="uniform"):
        AllPairs().bind(log)
    assert len(AllPairs(draw="uniform").bind(log)) == 4


def test_an_empty_log_binds() -> None:
    assert len(AllPairs().bind(Log.empty(2, 3)).rows(stream(0))) == 0
