"""Exposures that are given."""

from __future__ import annotations

import pytest
import torch
import yaml

from recfb import Log, fit
from recfb.config import build
from recfb.contracts import Batch, Exposure, describe
from recfb.errors import ConfigError
from recfb.exposures import Given
from recfb.solvers import RelMF
from recfb.testing import check

PAIRS = [[0.1, 0.2, 0.3, 0.4, 0.5], [0.6, 0.7, 0.8, 0.9, 1.0], [0.15, 0.25, 0.35, 0.45, 0.55]]


@pytest.mark.parametrize("theta", [PAIRS[0], PAIRS], ids=["items", "pairs"])
def test_keeps_the_contract(theta: list[float], small_log: Log) -> None:
    check(Given(theta), small_log)


def test_items_and_pairs_of_any_shape(small_log: Log) -> None:
    user, item = torch.tensor([2, 1]), torch.tensor([[0, 3], [1, 1]])
    items, pairs = Given(PAIRS[0]).bind(small_log), Given(torch.tensor(PAIRS)).bind(small_log)
    wide, narrow = Batch(user, item, item), Batch(user, item[:, 1], item[:, 1])
    assert torch.equal(items(wide), torch.tensor([[0.1, 0.4], [0.2, 0.2]]))
    assert torch.equal(items(narrow), torch.tensor([0.4, 0.2]))
    assert torch.equal(pairs(wide), torch.tensor([[0.15, 0.45], [0.7, 0.7]]))
    assert torch.equal(pairs(narrow), torch.tensor([0.45, 0.7]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_survives_yaml(dtype: torch.dtype) -> None:
    first = Given(torch.tensor(PAIRS, dtype=dtype) / 3)
    page = yaml.safe_load(yaml.safe_dump(describe(first)))
    again = build(Exposure, page)
    assert isinstance(again, Given) and torch.equal(again.theta, first.theta)
    assert describe(again) == describe(first)


def test_it_is_configuration_and_no_weight(small_log: Log) -> None:
    exposure = Given(torch.full((5,), 0.5, requires_grad=True)).bind(small_log)
    assert exposure.state_dict() == {} and not exposure.theta.requires_grad
    assert repr(exposure) == "Given(theta=Tensor(5,))"


def test_a_solver_divides_clicks_by_it(small_log: Log) -> None:
    quarter, whole = (
        fit(small_log, RelMF(Given([theta] * 5), dim=2, l2=1e-6, clip=0.0)) for theta in (0.25, 1.0)
    )
    user = torch.arange(3)
    assert torch.allclose(quarter.all(user), 4 * whole.all(user), atol=1e-2)


def test_values_outside_are_counted_and_placed() -> None:
    table = torch.full((2, 3), 0.5)
    table[0, 2], table[1, 0], table[1, 1] = 0.0, 1.5, -0.1
    with pytest.raises(
        ConfigError, match=r"3 values outside, the first 0\.0 at \(0, 2\)"
    ) as caught:
        Given(table)
    assert "Given(theta.clamp(0.01, 1))" in str(caught.value)


def test_nan_is_outside_and_has_to_be_filled_first() -> None:
    with pytest.raises(ConfigError, match=r"1 values outside, the first nan at \(1,\)") as caught:
        Given([0.5, float("nan"), 1.0])
    assert "Given(theta.nan_to_num(1.0).clamp(0.01, 1))" in str(caught.value)


def test_no_table_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no table of numbers.*equal lengths"):
        Given([[0.5, 0.5], [0.5]])
    for theta in (torch.tensor(0.5), torch.full((1, 1, 1), 0.5)):
        with pytest.raises(ConfigError, match=r"\(n_items,\) or \(n_users, n_items\), found"):
            Given(theta)


def test_another_size_is_refused(small_log: Log) -> None:
    with pytest.raises(ConfigError, match=r"given for \(4,\).*expected \(5,\)"):
        Given([0.5] * 4).bind(small_log)
    with pytest.raises(ConfigError, match=r"given for \(5, 3\).*expected \(3, 5\)"):
        Given(torch.full((5, 3), 0.5)).bind(small_log)
    with pytest.raises(ConfigError, match=r"expected \(6,\)"):
        Given([0.5] * 5).bind(Log.empty(3, 6))
