"""Which rows the next generation is trained on, and what is kept of the last."""

from __future__ import annotations

import polars as pl
import pytest
import torch

import recfb
from recfb.beliefs.linear import Linear
from recfb.beliefs.retrained import Retrained, resampled, with_floor
from recfb.contracts import Context
from recfb.data import Log
from recfb.errors import ConfigError, UnboundError
from recfb.interop.sklearn import Reward
from recfb.policies.igw import IGW
from recfb.random import stream
from recfb.simulate import Refit, simulate
from recfb.solvers import Popularity
from recfb.worlds.payments import Payments

ONE = Context(torch.zeros(1, dtype=torch.int64))


def means() -> Reward:
    return Reward("linear", l2=1e-9)


def test_the_floor_takes_the_newest_older_rows() -> None:
    frame = pl.DataFrame({"time": [0, 1, 2, 3, 3, 3], "item": [1, 1, 1, 0, 0, 1]})
    assert with_floor(frame, 1, 0)["time"].to_list() == [3, 3, 3]
    assert with_floor(frame, 1, 2)["time"].to_list() == [2, 3, 3, 3]
    assert with_floor(frame, 1, 9)["time"].to_list() == [0, 1, 2, 3, 3, 3]
    assert with_floor(frame, None, 0).height == 6


def test_resampling_is_unbiased_and_within_one() -> None:
    weight = torch.tensor([0.25, 1.5, 3.0, 0.0])
    counts = torch.stack(
        [torch.bincount(resampled(weight, stream(0, i)), minlength=4) for i in range(4000)]
    ).double()
    assert torch.allclose(counts.mean(0), weight.double(), atol=0.03)
    assert bool(((counts - weight).abs() < 1).all())


def test_balanced_classes_are_put_back_to_the_true_rates() -> None:
    """Item 0 pays .9, item 1 .6; 1,500 ones and 500 zeros, so balancing divides odds by 3."""
    reward = [1.0] * 900 + [0.0] * 100 + [1.0] * 600 + [0.0] * 400
    log = Log.of({"item": [0] * 1000 + [1] * 1000, "reward": reward})
    plain = recfb.fit(log, Retrained(means()))
    balanced = recfb.fit(log, Retrained(means(), balance=True))
    inner = balanced._kept[0][0].scores(ONE)
    assert float(inner[0, 0]) == pytest.approx(3 / (3 + 1), abs=0.01)  # odds 9 times 500 / 1,500
    assert torch.allclose(balanced.scores(ONE), plain.scores(ONE), atol=0.01)
    same = Log.of({"item": [0, 1], "reward": [1.0, 1.0]})
    assert recfb.fit(same, Retrained(means(), balance=True)).scores(ONE).tolist() == [[1.0, 1.0]]


def test_the_last_trainings_are_averaged_and_a_fresh_fit_forgets() -> None:
    first = Log.of({"item": [0, 1], "reward": [1.0, 0.0]})
    second = Log.of({"item": [0, 1], "reward": [0.0, 0.0]})
    model = Retrained(means(), keep=2)
    recfb.fit(first, model)
    recfb.fit(second, model, warm=True)
    assert model.scores(ONE)[0].tolist() == pytest.approx([0.5, 0.0], abs=1e-6)
    assert model.score_of(ONE, torch.tensor([0])).tolist() == pytest.approx([0.5], abs=1e-6)
    recfb.fit(second, model, warm=True)
    assert model.scores(ONE)[0].tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    recfb.fit(first, model)
    assert model.scores(ONE)[0].tolist() == pytest.approx([1.0, 0.0], abs=1e-6)
    assert model.top(ONE, 1).tolist() == [[0]]


def test_under_a_policy() -> None:
    policy = IGW(Retrained(means(), window=1, floor=20, keep=2, balance=True), 100.0)
    run = simulate(Payments(requests=200), policy, rounds=4, refit=Refit(warm=True))
    assert len(run.state[0].policy.model._kept) == 2
    assert run.log.frame["propensity"].null_count() == 0


def test_retrained_refuses() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        Retrained(means(), window=0)
    with pytest.raises(ConfigError, match="has no `solve`"):
        Retrained(Linear())  # type: ignore[arg-type]
    with pytest.raises(UnboundError, match="not fitted"):
        Retrained(means()).scores(ONE)
    model = recfb.fit(Log.of({"item": [0], "reward": [1.0]}), Retrained(Popularity()))
    with pytest.raises(ConfigError, match="hide nothing"):
        model.top(ONE, 1, hide=Log.of({"item": [0], "reward": [1.0]}).clicks)
