"""3.5: groups of users, sources of items."""

from __future__ import annotations

import math

import polars as pl
import pytest
import torch

from recfb.data import Log
from recfb.errors import ConfigError
from recfb.metrics.groups import (
    by_group,
    gap,
    parity,
    preference_shift,
    source_by_position,
    source_lift,
    source_share,
    worst,
)
from recfb.metrics.loops import METRICS

NAN = math.nan


def played() -> tuple[Log, pl.DataFrame]:
    """Group 0 is user 0 in every round; group 1 is user 1 in rounds 0 and 1 of replication 0, and
    in round 2 of replication 1."""
    rows = [
        (0, 0, 0, 1), (0, 0, 1, 0), (0, 1, 0, 1), (0, 1, 1, 1), (0, 2, 0, 0),
        (1, 0, 0, 0), (1, 1, 0, 1), (1, 2, 0, 1), (1, 2, 1, 0),
    ]  # fmt: skip
    replication, time, user, reward = zip(*rows, strict=True)
    log = Log.of(
        {
            "user": user,
            "item": [0] * 9,
            "reward": reward,
            "time": time,
            "position": [1] * 9,
            "replication": replication,
        },
        n_users=2,
        n_items=1,
    )
    return log, pl.DataFrame({"group": user})


def test_a_metric_by_group() -> None:
    got = by_group(METRICS["clicks"], *played())  # (R, T, G)
    want = [[[1, 0], [1, 1], [0, NAN]], [[0, NAN], [1, NAN], [1, 0]]]
    assert torch.allclose(got, torch.tensor(want, dtype=torch.float64), equal_nan=True)


def test_a_group_of_one_replication() -> None:
    log, truth = played()
    rows = ((truth["group"] == 0) | (log.frame["replication"] == 1)).to_numpy()
    got = by_group(METRICS["clicks"], log.with_frame(log.frame.filter(rows)), truth.filter(rows))
    want = [[[1, NAN], [1, NAN], [0, NAN]], [[0, NAN], [1, NAN], [1, 0]]]
    assert torch.allclose(got, torch.tensor(want, dtype=torch.float64), equal_nan=True)


def test_groups_in_the_middle_keep_their_rounds() -> None:
    """Group 1 acts in round 1 of 3 only, group 2 never."""
    log = Log.of(
        {
            "user": [0, 1, 0],
            "item": [0] * 3,
            "reward": [1, 1, 0],
            "time": [7, 8, 9],
            "position": [1] * 3,
        },
        n_users=2,
        n_items=1,
    )
    got = by_group(METRICS["clicks"], log, pl.DataFrame({"group": [0, 1, 0]}))
    want = [[[1, NAN], [NAN, 1], [0, NAN]]]
    assert torch.allclose(got, torch.tensor(want, dtype=torch.float64), equal_nan=True)
    skipped = by_group(METRICS["clicks"], log, pl.DataFrame({"group": [0, 2, 0]}))
    assert skipped[..., 1].isnan().all()


def test_disparities() -> None:
    x = torch.tensor([[0.2, 0.5, 0.4], [0.3, NAN, 0.3], [NAN, NAN, NAN]])
    assert gap(x)[:2].tolist() == pytest.approx([0.3, 0.0])
    assert parity(x)[:2].tolist() == pytest.approx([0.4, 1.0])
    assert worst(x)[:2].tolist() == pytest.approx([0.2, 0.3])
    for statistic in (gap, parity, worst):
        assert statistic(x)[2].isnan()


def test_identical_groups_have_no_gap() -> None:
    """The null of minority_groups: the same rows in both groups."""
    log, _ = played()
    rows = log.frame.filter(user=0)
    twice = pl.concat([rows, rows.with_columns(user=pl.lit(1, pl.Int32))])
    truth = pl.DataFrame({"group": twice["user"], "relevance": [0.1 * k for k in range(6)] * 2})
    got = METRICS["group_gap"](log.with_frame(twice), truth)
    assert got.abs().max() < 1e-15


def test_preference_shift_by_hand() -> None:
    """Group 0 clicks topic 0 first and then topic 1; group 1 clicks from round 1, always both."""
    log = Log.of(
        {
            "user": [0, 1, 1, 0, 1, 1, 0, 1, 1],
            "item": [0, 0, 1, 1, 0, 1, 1, 0, 1],
            "reward": [1, 0, 0, 1, 1, 1, 1, 1, 1],
            "time": [0] * 3 + [1] * 3 + [2] * 3,
            "position": [1, 1, 2] * 3,
        },
        n_users=2,
        n_items=2,
    )
    truth = pl.DataFrame({"group": log.frame["user"], "topic": log.frame["item"]})
    got = preference_shift(log, truth)[0]  # (T, G)

    def kl(p: float, q: float) -> float:
        mixed = 0.99 * q + 0.01 * p
        return p * math.log(p / mixed) + (1 - p) * math.log((1 - p) / (1 - mixed))

    # group 0 has clicked topic 0 in 1 of 1, 1 of 2, 1 of 3
    assert got[:, 0].tolist() == pytest.approx([0.0, kl(0.5, 1.0), kl(1 / 3, 1.0)], abs=1e-12)
    assert got[:, 1].tolist() == pytest.approx([NAN, 0.0, 0.0], nan_ok=True, abs=1e-12)


def shelf() -> Log:
    """Slates (0, 3), (3, 1), then (3, 2), (3, 1); item 3 is generated."""
    return Log.of(
        {
            "user": [0, 0, 1, 1] * 2,
            "item": [0, 3, 3, 1, 3, 2, 3, 1],
            "reward": [0.0] * 8,
            "time": [0] * 4 + [1] * 4,
            "position": [1, 2] * 4,
            "slate": [k // 2 for k in range(8)],
        },
        n_users=2,
        n_items=4,
    )


def test_sources_by_hand() -> None:
    log, catalogue = shelf(), torch.tensor([0, 0, 0, 1])
    truth = pl.DataFrame({"source": catalogue.numpy()[log.frame["item"]]})
    assert source_share(log, truth).tolist() == [[0.5, 0.5]]
    assert source_share(log, truth, source=0).tolist() == [[0.5, 0.5]]
    assert source_by_position(log, truth).tolist() == [[[0.5, 0.5], [1.0, 0.0]]]
    # three of four items are human: .5 / .75 and .5 / .25
    assert source_lift(log, truth, catalogue)[0, 0].tolist() == pytest.approx([2 / 3, 2.0])
    with pytest.raises(ConfigError, match="each of the log's 4 items"):
        source_lift(log, truth, catalogue[:3])
    logged = log.with_frame(log.frame.with_columns(source=truth["source"].cast(pl.Int8)))
    assert source_share(logged, pl.DataFrame()).tolist() == [[0.5, 0.5]]
    with pytest.raises(ConfigError, match="'source' in the truth"):
        source_share(log, pl.DataFrame())


def test_the_catalogue_is_what_was_there() -> None:
    """Item 2 is gone in round 0: two of three items are human."""
    log = shelf()
    there = pl.Series([[0, 1, 3]] * 4 + [[0, 1, 2, 3]] * 4, dtype=pl.List(pl.Int32))
    log = log.with_frame(log.frame.with_columns(available=there))
    got = source_lift(log, pl.DataFrame(), torch.tensor([0, 0, 0, 1]))
    assert got[0, :, 0].tolist() == pytest.approx([0.75, 2 / 3])
