"""Rows as they were logged, and pairs with what was logged of them."""

from __future__ import annotations

import math

import pytest
import torch

from recfb import Log, Recommender, fit
from recfb.contracts import Batch, Step
from recfb.errors import ConfigError
from recfb.exposures import Position
from recfb.objectives import RelMF
from recfb.random import stream
from recfb.samplers import AllPairs, Logged
from recfb.scorers import MF
from recfb.testing import check

ROWS = {
    "user": [1, 0, 1, 0, 1],
    "item": [2, 0, 0, 1, 2],
    "reward": [1.0, 0.0, 1.0, None, 0.0],
    "propensity": [0.5, 0.25, 0.125, 0.75, 1.0],
    "time": [5, 6, 7, 8, 9],
    "position": [1, 2, 3, 4, 5],
}
LOG = Log.of(ROWS, n_users=3, n_items=4)


def pairs(sampler: AllPairs, *keys: int) -> Batch:
    """These pairs, user * 4 + item, as the sampler gives them."""
    return sampler(torch.tensor(keys), None, Step(generator=stream(0)))


# ---- samplers.Logged


def test_logged_keeps_the_contract(small_log: Log) -> None:
    check(Logged(), small_log)
    check(Logged())


def test_rows_come_as_they_are_without_the_unknown() -> None:
    sampler = Logged().bind(LOG)
    assert len(sampler) == 4 and sampler.gives == "rows"
    batch = sampler(torch.tensor([3, 0, 1, 2]), None, Step())
    assert batch.user.tolist() == [1, 1, 0, 1]
    assert batch.item.tolist() == [2, 2, 0, 0]
    assert batch.reward.tolist() == [0.0, 1.0, 0.0, 1.0]
    assert batch.propensity is not None and batch.time is not None and batch.position is not None
    assert batch.propensity.tolist() == [1.0, 0.5, 0.25, 0.125]
    assert batch.time.tolist() == [9, 5, 6, 7]
    assert batch.position.tolist() == [5, 1, 2, 3]
    assert batch.weight is None and batch.features is None


def test_an_epoch_is_every_row_once_in_a_random_order() -> None:
    log = Log.of({"item": torch.arange(50), "reward": torch.arange(50) % 2})
    sampler = Logged().bind(log)
    rows = sampler.rows(stream(0))
    assert rows.sort().values.tolist() == list(range(50)) and rows.tolist() != list(range(50))


def test_features_are_those_of_the_row() -> None:
    rows = {
        "item": [0, 1, 2],
        "reward": [1, None, 0],
        "features": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]],
    }
    batch = Logged().bind(Log.of(rows))(torch.tensor([1]), None, Step())
    assert batch.features is not None and batch.features.tolist() == [[5.0, 6.0]]
    assert batch.user.tolist() == [0] and batch.propensity is None


def test_logged_binds_a_log_without_rows() -> None:
    assert len(Logged().bind(Log.empty(2, 3)).rows(stream(0))) == 0


def test_ratings_stay_ratings() -> None:
    log = Log.of({"item": [0, 1], "reward": [-2.0, 4.5]})
    assert Logged().bind(log)(torch.tensor([0, 1]), None, Step()).reward.tolist() == [-2.0, 4.5]


def test_a_model_learns_from_rows() -> None:
    model = Recommender(MF(dim=2), RelMF(Position("slots")), Logged())
    assert bool(torch.isfinite(fit(LOG, model, max_epochs=2).scorer.all(torch.arange(3))).all())


# ---- samplers.AllPairs


@pytest.mark.parametrize("draw", ["uniform", "balanced", "balanced_iw"])
def test_shown_pairs_keep_the_contract(draw: str, small_log: Log) -> None:
    check(AllPairs(draw=draw, labels="shown"), small_log)
    check(AllPairs(draw=draw, labels="shown"))


def test_shown_pairs_have_their_first_rewards_and_others_none() -> None:
    sampler = AllPairs(labels="shown").bind(LOG)
    assert sampler.gives == "shown_pairs" and AllPairs().gives == "pairs"
    assert len(sampler) == 8  # 4 distinct pairs, and as many others
    reward = pairs(sampler, 0, 4, 6, 2, 11).reward.tolist()
    assert reward[:3] == [0.0, 1.0, 1.0]  # of (1, 2) the first row, not the second
    assert all(map(math.isnan, reward[3:]))
    assert math.isnan(float(pairs(sampler, 1).reward))  # shown, but never revealed


def test_weights_of_shown_pairs_by_hand() -> None:
    weight = pairs(AllPairs(labels="shown").bind(LOG), 0, 11).weight
    assert weight is not None
    assert weight.tolist() == pytest.approx([2 * 4 / 12, 2 * 8 / 12])  # 4 of 12 pairs


def test_balanced_slices_of_shown_pairs_are_half_and_half() -> None:
    sampler = AllPairs(draw="balanced", labels="shown").bind(LOG)
    rows = sampler.rows(stream(0))
    assert rows[::2].sort().values.tolist() == LOG.shown.key.tolist() == [0, 1, 4, 6]
    assert not bool(LOG.shown.has(rows[1::2]).any())


def test_logged_columns_come_with_clicked_pairs() -> None:
    sampler = AllPairs().bind(LOG)
    batch = pairs(sampler, 4, 6, 0, 11)  # (1, 0) and (1, 2) were clicked, (0, 0) was shown only
    assert batch.reward.tolist() == [1.0, 1.0, 0.0, 0.0]
    assert batch.propensity is not None and batch.time is not None and batch.position is not None
    assert batch.propensity[:2].tolist() == [0.125, 0.5]
    assert bool(batch.propensity[2:].isnan().all())
    assert batch.position.tolist() == [3, 1, 0, 0]
    assert batch.time.tolist() == [7, 5, 0, 0]


def test_logged_columns_come_with_shown_pairs() -> None:
    batch = pairs(AllPairs(labels="shown").bind(LOG), 0, 1, 4, 6, 11)
    assert batch.position is not None and batch.propensity is not None
    assert batch.position.tolist() == [2, 4, 3, 1, 0]
    assert batch.propensity[:4].tolist() == [0.25, 0.75, 0.125, 0.5]
    assert math.isnan(float(batch.propensity[4]))


def test_without_such_columns_there_are_none() -> None:
    log = Log.of({"user": [0, 1], "item": [1, 1], "reward": [1, 0]}, n_users=2, n_items=2)
    for labels in ("clicks", "shown"):
        batch = AllPairs(labels=labels).bind(log)(torch.tensor([1]), None, Step())
        assert batch.propensity is None and batch.position is None and batch.time is None


def test_a_full_log_has_no_other_pairs_to_show() -> None:
    log = Log.of({"user": [0, 0], "item": [0, 1], "reward": [1, 0]})
    with pytest.raises(ConfigError, match=r"all 2 pairs of this log are shown"):
        AllPairs(labels="shown").bind(log)
    assert len(AllPairs().bind(log)) == 2  # one click


def test_shown_pairs_of_a_log_without_rows() -> None:
    assert len(AllPairs(labels="shown").bind(Log.empty(2, 3)).rows(stream(0))) == 0
