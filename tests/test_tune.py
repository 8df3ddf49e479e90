"""One budget for all methods."""

from __future__ import annotations

import json

import polars as pl
import pytest
import torch

from recfb import (
    ConfigError,
    Log,
    LogError,
    RecfbError,
    Recommender,
    Space,
    fit,
    objectives,
    optim,
    samplers,
    scorers,
    solvers,
    tune,
)
from recfb.contracts import alter
from recfb.measure import HeldOut
from recfb.random import stream
from recfb.solvers.popularity import Popularity


@pytest.fixture(scope="module")
def logs() -> tuple[Log, Log]:
    """Two groups of users with tastes of their own, and clicks held out."""
    user, item = torch.meshgrid(torch.arange(40), torch.arange(20), indexing="ij")
    chance = torch.where((user % 2) == (item % 2), 0.6, 0.05)
    clicked = torch.rand(chance.shape, generator=stream(0)) < chance
    log = Log.of(
        {"user": user[clicked], "item": item[clicked], "reward": torch.ones(int(clicked.sum()))},
        n_users=40,
        n_items=20,
    )
    return log.split_by_row(0.8, seed=1)


def bpr(lr: float = 0.1) -> Recommender:
    return Recommender(
        scorers.MF(dim=4), objectives.BPR(), samplers.Clicks(), optimizer=optim.Adagrad(lr=lr)
    )


def test_all_methods_have_one_budget_and_the_best_trial_is_kept(logs: tuple[Log, Log]) -> None:
    train, valid = logs
    spaces = {
        "bpr": Space(bpr(), {"optimizer.lr": [0.01, 0.1, 0.3], "scorer.l2": [0.0, 0.02]}),
        "als": Space(solvers.ALS(dim=4), {"l2": [1.0, 3.0, 10.0, 30.0, 100.0]}),
        "popularity": Space(Popularity()),
    }
    tuned = tune(train, spaces, valid=valid, budget=4, metric="ndcg@5", max_epochs=3)
    table = tuned.table
    assert table.group_by("method").len().sort("method").rows() == [
        ("als", 4),
        ("bpr", 4),
        ("popularity", 1),
    ]
    assert table.columns == ["method", "trial", "metric", "value", "epochs", "setting", "error"]
    for name in spaces:
        rows = table.filter(method=name)
        assert rows["setting"].n_unique() == len(rows)
        best = rows.sort("value")[-1]
        assert json.loads(best["setting"].item()) == tuned.settings[name]
        held_out = HeldOut.of(valid, tuned.models[name].history, "ndcg@5")
        assert held_out(tuned.models[name]) == pytest.approx(best["value"].item(), abs=1e-12)
    assert json.loads(table["setting"][0]) == {"optimizer.lr": 0.1, "scorer.l2": bpr().scorer.l2}
    assert set(table.filter(pl.col("epochs").is_null())["method"]) == {"als", "popularity"}
    assert tuned.epochs["als"] is None and 1 <= (tuned.epochs["bpr"] or 0) <= 3


def test_the_same_fit_outside_gives_the_same_model(logs: tuple[Log, Log]) -> None:
    train, valid = logs
    spaces = {"bpr": Space(bpr(), {"optimizer.lr": [0.01, 0.3]})}
    tuned = tune(train, spaces, valid=valid, budget=3, metric="ndcg@5", max_epochs=4, seed=3)
    again = alter(tuned.models["bpr"], {})
    fit(train, again, valid=valid, monitor="ndcg@5", max_epochs=4, seed=3)
    assert again.validation == tuned.models["bpr"].validation
    for mine, theirs in zip(again.parameters(), tuned.models["bpr"].parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_altering_shares_nothing_and_changes_what_it_names() -> None:
    old = bpr()
    new = alter(old, {"scorer.dim": 7, "optimizer": optim.SGD(lr=0.5)})
    assert (new.scorer.dim, new.optimizer.lr) == (7, 0.5)
    assert (old.scorer.dim, old.optimizer.lr) == (4, 0.1)
    assert new.sampler is not old.sampler and new.objective is not old.objective
    with pytest.raises(ConfigError, match=r"MF has no 'dims'; it has \['dim', .*mean 'dim'"):
        alter(old, {"scorer.dims": 7})


def test_a_trial_whose_loss_is_no_number_is_a_row(logs: tuple[Log, Log]) -> None:
    train, valid = logs
    space = Space(bpr(), {"optimizer": [optim.SGD(lr=1e30)]})
    tuned = tune(train, {"bpr": space}, valid=valid, budget=2, metric="ndcg@5", max_epochs=2)
    assert tuned.table["error"][0] is None
    assert "the loss is" in tuned.table["error"][1] and tuned.table["value"][1] is None
    hopeless = Space(alter(bpr(), {"optimizer": optim.SGD(lr=1e30)}))
    with pytest.raises(RecfbError, match="bpr: all 1 trials failed: the loss is"):
        tune(train, {"bpr": hopeless}, valid=valid, budget=2, max_epochs=2, metric="ndcg@5")


def test_the_commonest_mistakes(logs: tuple[Log, Log]) -> None:
    train, valid = logs
    with pytest.raises(ConfigError, match="budget is a number of trials, found 0"):
        tune(train, {"als": Space(solvers.ALS())}, valid=valid, budget=0)
    with pytest.raises(ConfigError, match="takes a Space for each method"):
        tune(train, {}, valid=valid)
    with pytest.raises(ConfigError, match=r"ALS has no 'l3'.*mean 'l2'"):
        tune(train, {"als": Space(solvers.ALS(), {"l3": [1.0]})}, valid=valid)
    with pytest.raises(ConfigError, match=r"als: l2 has no list of values to try, found \[\]"):
        tune(train, {"als": Space(solvers.ALS(), {"l2": []})}, valid=valid)
    grid = {"l2": [float(k) for k in range(400)], "alpha": [float(k) for k in range(400)]}
    with pytest.raises(ConfigError, match="the grid has 160,000 points"):
        tune(train, {"als": Space(solvers.ALS(), grid)}, valid=valid)
    with pytest.raises(LogError, match="nothing to validate on"):
        tune(train, {"als": Space(solvers.ALS())}, valid=train)
