"""Exposure by logistic regression."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from recfb import Log, Recommender, fit, load, save
from recfb.contracts import Batch
from recfb.errors import ConfigError
from recfb.exposures import Logistic
from recfb.exposures.logistic import logit_share, regress, sample, standardised
from recfb.objectives import RelMF
from recfb.random import stream
from recfb.samplers import AllPairs
from recfb.scorers import MF
from recfb.testing import check


def every_pair(log: Log) -> Batch:
    """All pairs, by user: (n_users, n_items)."""
    item = torch.arange(log.n_items).expand(log.n_users, -1)
    return Batch(torch.arange(log.n_users), item, torch.zeros(item.shape))


def world(m: int = 300, n: int = 200) -> tuple[Log, Tensor]:
    """A log whose P(shown) is logistic in age, price and two tags; and P(shown) itself."""
    generator = stream(0, "logistic")
    age = torch.randn(m, generator=generator, dtype=torch.float64) * 10 + 40
    price = torch.rand(n, generator=generator, dtype=torch.float64) * 1000
    tags = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    item = -0.002 * price + tags @ torch.tensor([0.5, -1.0], dtype=torch.float64)
    theta = torch.sigmoid(0.05 * (age[:, None] - 40) + item - 2)
    shown = torch.rand(m, n, generator=generator, dtype=torch.float64) < theta
    user, item = shown.nonzero(as_tuple=True)
    log = Log.of({"user": user, "item": item, "reward": 1}, n_users=m, n_items=n)
    users = pl.DataFrame({"id": np.arange(m), "age": age.numpy()})
    items = pl.DataFrame({"id": np.arange(n), "price": price.numpy()})
    items = items.with_columns(tags=pl.Series(tags.numpy()))
    return log.with_users(users).with_items(items), theta


LOG, THETA = world()
NAMES = {"users": ["age"], "items": ["price", "tags"]}


def test_keeps_the_contract() -> None:
    check(Logistic())


def test_it_finds_the_probabilities() -> None:
    found = Logistic(**NAMES, counts=False).bind(LOG)(every_pair(LOG)).double()
    assert found.shape == THETA.shape
    assert float((found - THETA).abs().mean()) < 0.01
    gap = torch.logit(found) - torch.logit(THETA)
    assert float(gap.abs().max()) < 0.4 and float(THETA.min()) < 0.005


@pytest.mark.parametrize(("negatives", "noise"), [(1, 0.05), (6, 0.02)])
def test_values_are_probabilities_and_not_ratios(negatives: int, noise: float) -> None:
    exposure = Logistic(**NAMES, negatives=negatives).bind(LOG)
    share = len(LOG.shown) / (LOG.n_users * LOG.n_items)
    assert 0.08 < share < 0.09
    assert abs(float(exposure(every_pair(LOG)).mean()) / share - 1) < noise
    user, item, weight = sample(LOG, negatives)
    theta = exposure(Batch(user, item, weight)).double()
    assert float(weight @ theta) == pytest.approx(len(LOG.shown), rel=1e-4)  # b is not penalised


def test_each_column_says_something() -> None:
    def error(**names: list[str]) -> float:
        found = Logistic(**names, counts=False).bind(LOG)(every_pair(LOG))
        return float((found - THETA).abs().mean())

    whole = error(**NAMES)
    for names in ({"users": ["age"]}, {"items": ["price", "tags"]}, {"items": ["tags"]}):
        assert error(**names) > 2 * whole


def test_counts_stand_in_for_features() -> None:
    found = Logistic().bind(LOG)(every_pair(LOG))
    constant = Logistic(counts=False).bind(LOG)(every_pair(LOG))
    assert float((found - THETA).abs().mean()) < 0.03
    share = len(LOG.shown) / THETA.numel()
    assert torch.allclose(constant, torch.tensor(share), rtol=1e-3)
    # by hand: 3 of 4 users is logit(3.5 / 1.5)
    by_hand = torch.tensor([3.5 / 1.5, 0.5 / 4.5], dtype=torch.float64).log()
    assert torch.allclose(logit_share(torch.tensor([3, 0]), 4), by_hand)


def test_l2_shrinks_towards_the_constant() -> None:
    spread = [
        float(Logistic(**NAMES, l2=l2).bind(LOG)(every_pair(LOG)).std())
        for l2 in (0.0, 1e3, 1e5, 1e8)
    ]
    assert spread == sorted(spread, reverse=True) and spread[-1] < 0.01 < spread[0]


def test_pairs_are_weighted_back_to_all() -> None:
    user, item, weight = sample(LOG, negatives=3)
    shown, cells = len(LOG.shown), LOG.n_users * LOG.n_items
    label = LOG.shown.label(user, item)
    assert label[:shown].min() == 1 and label[shown:].max() == 0
    assert len(weight) == 4 * shown
    assert float(weight[:shown].sum()) == shown
    assert float(weight[shown:].sum()) == pytest.approx(cells - shown)
    again = sample(LOG, negatives=3)
    assert torch.equal(item, again[1])


def test_regression_by_hand() -> None:
    # two groups, x = 0 and 1: rates 1/4 and 3/4, each with weight 4: b = -log 3, slope 2 log 3
    rows = torch.tensor([[0.0], [0.0], [1.0], [1.0]], dtype=torch.float64)
    label = torch.tensor([True, False, True, False])
    weight = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64)
    slope, intercept = regress(rows, label, weight, l2=0.0)
    log3 = float(np.log(3))
    assert slope.tolist() == pytest.approx([2 * log3], abs=1e-4)
    assert float(intercept) == pytest.approx(-log3, abs=1e-4)
    # with l2: the gradient of the log loss plus l2 times the slope is 0
    slope, intercept = regress(rows, label, weight, l2=0.5)
    p = torch.sigmoid(rows @ slope + intercept)
    assert float((weight * (p - label.double()) * rows[:, 0]).sum() + 0.5 * slope) == pytest.approx(
        0, abs=1e-4
    )


def test_standardised_columns() -> None:
    table = standardised(torch.tensor([[1.0, 7.0], [2.0, 7.0], [6.0, 7.0]], dtype=torch.float64))
    assert table.mean(0).tolist() == pytest.approx([0.0, 0.0])
    assert table.square().mean(0).tolist() == pytest.approx([1.0, 0.0])


def test_values_stay_in_the_open_interval() -> None:
    exposure = Logistic().bind(LOG)
    exposure.item[0], exposure.item[1] = -1e4, 1e4
    user = torch.tensor([0, 0])
    theta = exposure(Batch(user, torch.tensor([0, 1]), torch.zeros(2)))
    assert 0 < float(theta[0]) < 1e-30 and float(theta[1]) == 1.0


def test_a_log_without_rows_is_a_shape() -> None:
    exposure = Logistic(users=["age"]).bind(Log.empty(3, 4))  # and needs no features
    assert exposure(every_pair(Log.empty(3, 4))).unique().tolist() == [0.5]


def test_models_with_it_are_saved_and_loaded(tmp_path) -> None:
    model = fit(LOG, Recommender(MF(dim=2), RelMF(Logistic(**NAMES)), AllPairs()), max_epochs=1)
    again = load(save(model, tmp_path / "model"))
    pairs = every_pair(LOG)
    assert torch.equal(again.objective.exposure(pairs), model.objective.exposure(pairs))


# ---- bad input


def bound(frame: pl.DataFrame) -> None:
    log = Log.of({"user": [0, 1], "item": [0, 1], "reward": [1, 1]}, n_users=3)
    Logistic(users=["age"]).bind(log.with_users(frame))


def test_a_missing_column_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"log\.users has no column 'age'.*'ages'") as caught:
        bound(pl.DataFrame({"id": [0, 1, 2], "ages": [1, 2, 3]}))
    assert "Did you mean 'ages'?" in str(caught.value)
    assert "log.with_users(frame, id=" in str(caught.value)


def test_holes_are_refused() -> None:
    for age in ([1.0, None, 3.0], [1.0, float("nan"), 3.0]):
        with pytest.raises(ConfigError, match=r"'age' of log\.users.*first: 1.*fill_null\(0\)"):
            bound(pl.DataFrame({"id": [0, 1, 2], "age": age}))
    with pytest.raises(ConfigError, match=r"first: 2.*fill_null\(0\)"):  # a user without a row
        bound(pl.DataFrame({"id": [0, 1], "age": [1.0, 2.0]}))


def test_words_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"holds String, not numbers.*to_dummies\('age'\)"):
        bound(pl.DataFrame({"id": [0, 1, 2], "age": ["a", "b", "c"]}))


def test_a_log_of_all_pairs_is_refused() -> None:
    log = Log.of({"user": [0, 0], "item": [0, 1], "reward": [1, 0]})
    with pytest.raises(ConfigError, match=r"all 2 pairs.*exposures\.Given"):
        Logistic().bind(log)


def test_scikit_learn_is_imported_by_bind_only() -> None:
    code = "import sys, recfb.exposures; print('sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
