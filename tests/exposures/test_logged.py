"""Logged propensities."""

from __future__ import annotations

import pytest
import torch

from recfb.contracts import Batch
from recfb.data import Log
from recfb.errors import ConfigError, LogError
from recfb.exposures import Logged


def test_it_is_the_column() -> None:
    row = torch.tensor([0, 1])
    batch = Batch(row, row, torch.ones(2), propensity=torch.tensor([0.5, 0.25]))
    assert Logged()(batch).tolist() == [0.5, 0.25]


def test_a_log_without_propensities_is_refused() -> None:
    log = Log.of({"user": [0], "item": [0], "reward": [1]})
    with pytest.raises(LogError, match="propensity"):
        Logged().bind(log)
    Logged().bind(Log.empty(1, 1))


def test_a_sampler_without_propensities_is_refused() -> None:
    row = torch.tensor([0])
    with pytest.raises(ConfigError, match="Popularity"):
        Logged()(Batch(row, row, torch.ones(1)))
