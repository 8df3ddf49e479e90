from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from polars.testing.parametric import dataframes

from recfb import Log, LogError, Meta
from recfb.data.vocabulary import Vocabulary


def test_dense_ids_are_sorted_whatever_the_order_of_the_rows() -> None:
    rows = pl.DataFrame({"user": ["c", "a", "b"], "item": [10**15, 5, 10**12], "reward": [1, 0, 1]})
    one, other = Log.of(rows), Log.of(rows.reverse())
    assert one.users["id"].to_list() == ["a", "b", "c"]
    assert one.items["id"].to_list() == [5, 10**12, 10**15]
    assert one.frame["item"].to_list() == [2, 0, 1]
    assert one.vocabulary.digest == other.vocabulary.digest


@pytest.mark.parametrize("ids", [["007", "7"], [2**63, 1], [-5, 3], [2**53, 2**53 + 1]])
def test_ids_are_never_merged_or_rounded(ids: list[object]) -> None:
    dtype = pl.UInt64 if ids == [2**63, 1] else None
    log = Log.of({"item": pl.Series(ids, dtype=dtype), "reward": [1, 0]})
    assert log.n_items == 2
    assert log.decode()["item"].to_list() == ids


def test_a_never_shown_item_keeps_its_place() -> None:
    log = Log.of({"item": [0, 4], "reward": [1, 1]}, n_items=6)
    assert log.n_items == 6
    assert log.shown.per_item.tolist() == [1, 0, 0, 0, 1, 0]


def test_pandas_arrow_dicts_and_tensors_give_one_log() -> None:
    table = {"user": [1, 2], "item": [3, 4], "reward": [0.0, 1.0]}
    logs = [
        Log.of(data)
        for data in (
            table,
            pd.DataFrame(table),
            pl.DataFrame(table).to_arrow(),
            {key: torch.tensor(value) for key, value in table.items()},
            {key: np.array(value) for key, value in table.items()},
        )
    ]
    assert all(log.frame.equals(logs[0].frame) for log in logs)


def test_mapping_takes_names_numbers_and_expressions() -> None:
    log = Log.of(
        {"who": [1, 2], "what": [3, 4], "rank": [0, 1]},
        user="who",
        item="what",
        reward=1,
        position=pl.col("rank") + 1,
    )
    assert log.frame["reward"].to_list() == [1.0, 1.0]
    assert log.frame["position"].to_list() == [1, 2]
    assert log.columns == ["user", "item", "reward", "position"]


def test_all_problems_come_in_one_error() -> None:
    with pytest.raises(LogError) as caught:
        Log.of(
            {
                "user": [1, None, 3],
                "item": [1.5, 2.0, 3.0],
                "reward": ["yes", "1", "2"],
                "propensity": [0.0, 1.5, float("nan")],
                "position": [0, 1, 2],
            }
        )
    text = str(caught.value)
    for line in (
        "user: 1 rows are null (first: row 1)",
        "item: 3 rows are Float64, not integers or strings",
        "reward: 3 rows hold String, not numbers, for example 'yes'",
        "propensity: 3 rows are outside (0, 1] (first: row 0)",
        "position: 1 rows are below 1 (first: row 0)",
    ):
        assert line in text


@pytest.mark.parametrize(
    ("column", "values", "says"),
    [
        ("reward", [1.0, float("nan")], "are NaN"),
        ("reward", [1.0, float("inf")], "32-bit"),
        ("reward", [1.0, 1e300], "32-bit"),
        ("propensity", [0.5, 0.0], "outside"),
        ("propensity", [0.5, -0.1], "outside"),
        ("propensity", [0.5, float("inf")], "outside"),
        ("time", [1, None], "null"),
        ("time", [1.0, 1.5], "do not fit"),
        ("position", [1, 40_000], "do not fit"),
        ("features", [[1.0, 2.0], [3.0]], "entries"),
        ("features", [[1.0], [float("nan")]], "NaN"),
        ("mu", [[0.5, 0.5], [0.5, 0.4]], "sum to 1"),
    ],
)
def test_a_bad_value_is_named(column: str, values: list[object], says: str) -> None:
    table = {"item": [0, 1], "reward": [1.0, 0.0], column: values}
    with pytest.raises(LogError, match=says) as caught:
        Log.of(table)
    assert column in str(caught.value)


def test_a_misspelt_column_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(LogError, match=r"no column 'reward'.*Did you mean 'rewrd'\?.*Map yours"):
        Log.of({"item": [1], "rewrd": [1]})
    with pytest.raises(LogError, match=r"'usr' is no canonical column.*Did you mean 'user'"):
        Log.of({"item": [1], "reward": [1]}, usr="item")
    with pytest.raises(LogError, match="given for both"):
        Log.of({"x": [1], "reward": [1]}, user="x", item="x")


def test_like_keeps_a_vocabulary_and_refuses_strangers() -> None:
    known = Log.of({"user": ["a", "b"], "item": [1, 2], "reward": [1, 1]})
    log = Log.of({"user": ["b"], "item": [2], "reward": [0]}, like=known)
    assert log.frame.row(0) == (1, 1, 0.0)
    with pytest.raises(LogError, match="outside the vocabulary"):
        Log.of({"user": ["z"], "item": [2], "reward": [0]}, like=known)
    with pytest.raises(LogError, match="Cast them"):
        Log.of({"user": [1], "item": [2], "reward": [0]}, like=known)
    stranger = Log.of({"user": ["b", "z"], "item": [2, 2], "reward": [0, 1]})
    assert len(stranger.recode(known.vocabulary)) == 1


def test_extend_keeps_old_numbers() -> None:
    old = Log.of({"user": ["b"], "item": [7], "reward": [1]})
    both = old.extend(Log.of({"user": ["a"], "item": [3], "reward": [0]}))
    assert both.users["id"].to_list() == ["b", "a"]
    assert both.frame["item"].to_list() == [0, 1]
    assert both.decode()["item"].to_list() == [7, 3]


def test_binarise_keeps_null() -> None:
    log = Log.of({"item": [0, 1, 2], "reward": [3.0, 8.0, None]}).binarise(at=7)
    assert log.frame["reward"].to_list() == [0.0, 1.0, None]
    assert log.meta.reward_range == (0.0, 1.0)


def test_clicks_are_distinct_and_sorted(small_log: Log) -> None:
    twice = small_log.extend(small_log)
    assert twice.clicks.key.tolist() == [0, 6, 7, 10]
    assert twice.clicks.per_user.tolist() == [1, 2, 1]
    assert twice.shown.per_item.tolist() == [2, 2, 2, 0, 2]


def test_splits_are_disjoint_and_whole(small_log: Log) -> None:
    train, test = small_log.split_by_time(0.5)
    assert len(train) + len(test) == len(small_log)
    assert train.frame["time"].max() < test.frame["time"].min()
    left, last = small_log.leave_last(1)
    assert last.frame.sort("user")["time"].to_list() == [2, 3, 4]
    assert len(left) == 5
    one, other = small_log.split_by_user(0.5, seed=1)
    assert not set(one.frame["user"]) & set(other.frame["user"])
    assert len(one) + len(other) == len(small_log)
    one, other = small_log.split_by_row(0.5, seed=1)
    assert not set(one.shown.key.tolist()) & set(other.shown.key.tolist())
    assert len(one) + len(other) == len(small_log) and one.n_items == other.n_items


def test_splits_by_hash_hit_the_share() -> None:
    log = Log.of({"user": range(20_000), "item": [0] * 20_000, "reward": [1] * 20_000})
    for split in (log.split_by_user, log.split_by_row):
        assert abs(len(split(0.8, seed=3)[0]) / 20_000 - 0.8) < 4 * (0.16 / 20_000) ** 0.5


def test_split_randomised_names_the_loggers() -> None:
    log = Log.of({"item": [0, 1, 2], "reward": [1, 0, 1], "logger": [0, 0, 1]})
    biased, uniform = log.split_randomised(logger=1)
    assert (len(biased), len(uniform)) == (2, 1)
    with pytest.raises(LogError, match=r"no row has logger 5; the log has \[0, 1\]"):
        log.split_randomised(logger=5)


def test_with_items_joins_on_original_ids() -> None:
    log = Log.of({"item": ["b", "a"], "reward": [1, 0]})
    named = log.with_items({"sku": ["a", "b", "c"], "price": [1.0, 2.0, 3.0]}, id="sku")
    assert named.items.rows() == [("a", 1.0), ("b", 2.0)]
    with pytest.raises(LogError, match="twice"):
        log.with_items({"id": ["a", "a"]})


def test_blocks_never_straddle_a_part_and_carry_units() -> None:
    n = (1 << 18) + 10
    log = Log.of({"user": np.arange(n) % 7, "item": np.zeros(n, int), "reward": np.zeros(n)})
    blocks = list(log.blocks(100_000))
    assert [len(block) for block in blocks] == [100_000, 100_000, 62_144, 10]
    assert len({block.part for block in blocks}) == 2
    assert torch.equal(torch.cat([block.unit for block in blocks]), log.tensor("user"))


def test_unit_is_as_asked_then_unit_then_user_then_slate_then_the_row() -> None:
    table = {"item": [0, 0], "reward": [0, 0], "slate": [8, 9]}
    assert next(Log.of(table).blocks()).unit.tolist() == [8, 9]
    table["user"] = [4, 5]
    assert next(Log.of(table).blocks()).unit.tolist() == [0, 1]
    table["unit"] = [77, 78]
    assert next(Log.of(table).blocks()).unit.tolist() == [77, 78]
    assert next(Log.of(table).blocks(unit="slate")).unit.tolist() == [8, 9]
    rows = next(Log.of({"item": [0, 0], "reward": [0, 0]}).blocks()).unit
    assert rows[0] != rows[1]


def test_by_gives_codes_and_labels() -> None:
    log = Log.of(
        {"item": [0, 1, 2], "reward": [1, 0, 1], "day": ["tue", "mon", "tue"]}, keep=["day"]
    )
    block = next(log.blocks(by="day"))
    assert block.labels == ("mon", "tue")
    assert block.by is not None
    assert block.by.tolist() == [1, 0, 1]


def test_available_becomes_a_mask() -> None:
    log = Log.of({"item": [0, 2], "reward": [1, 0], "available": [[0, 1], [2]]}, n_items=3)
    available = next(log.blocks()).context.available
    assert available is not None
    assert available.tolist() == [[True, True, False], [False, False, True]]


def test_an_empty_log_is_a_shape() -> None:
    log = Log.empty(3, 4, meta=Meta(horizon=9))
    assert (len(log), log.n_users, log.n_items, log.meta.horizon) == (0, 3, 4, 9)
    assert log.clicks.per_item.tolist() == [0, 0, 0, 0]
    assert list(log.blocks()) == []


def test_require_says_what_the_column_means() -> None:
    log = Log.of({"item": [0], "reward": [1]})
    with pytest.raises(LogError, match=r"needs the column 'propensity' \(P\(this item.*Map yours"):
        log.tensor("propensity")


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(frame=dataframes(cols=3, max_size=8))
def test_any_frame_is_a_legal_log_or_a_log_error(frame: pl.DataFrame) -> None:
    frame.columns = ["user", "item", "reward"]
    try:
        log = Log.of(frame)
    except LogError:
        return
    assert isinstance(log.vocabulary, Vocabulary)
    assert len(log) == frame.height
    if len(log):
        assert int(log.tensor("item").min()) >= 0
        assert int(log.tensor("item").max()) < log.n_items
        finite = log.frame["reward"].drop_nulls()
        assert finite.is_finite().all()


@pytest.mark.parametrize("value", [{"a": None}, {"a": 1.0}, [1.0]])
def test_a_reward_is_a_number_and_nothing_with_parts(value: object) -> None:
    frame = pl.DataFrame({"item": [0, 1], "reward": [value, value]})
    with pytest.raises(LogError, match=r"reward: 2 rows hold (Struct|List)\(.*\), not numbers"):
        Log.of(frame)


def test_write_and_read_give_the_same_log(small_log: Log, tmp_path: Path) -> None:
    small_log.write(tmp_path / "log")
    for again in (Log.read(tmp_path / "log"), Log.scan(tmp_path / "log")):
        assert again.frame.equals(small_log.frame)
        assert again.vocabulary.digest == small_log.vocabulary.digest
        assert again.meta == small_log.meta
