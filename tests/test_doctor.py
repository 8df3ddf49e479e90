from __future__ import annotations

from pathlib import Path

import polars as pl

from recfb import Log
from recfb.doctor import describe_log, examine, suggest


def test_suggest_knows_what_people_call_things() -> None:
    names = ["ts", "member", "sku", "clicked", "pscore", "price"]
    assert suggest(names) == {
        "user": "member",
        "item": "sku",
        "reward": "clicked",
        "propensity": "pscore",
        "time": "ts",
    }


def test_a_given_name_wins_and_is_not_used_twice() -> None:
    assert suggest(["item_id", "click", "sku"], {"item": "sku"}) == {
        "item": "sku",
        "reward": "click",
    }


def test_a_file_is_examined(tmp_path: Path) -> None:
    rows = {
        "member": ["a", "b"],
        "sku": [1, 2],
        "clicked": [1, 0],
        "prob": [0.5, 0.25],
        "x": [0, 0],
    }
    pl.DataFrame(rows).write_parquet(tmp_path / "log.parquet")
    text = str(examine(tmp_path / "log.parquet", {}))
    for line in (
        "users         2",
        "items         2 (2 shown)",
        "50.000% of user-item pairs",
        "0: 50.0%, 1: 50.0%",
        "0.25 to 0.5, largest weight 4",
        "user='member', item='sku', reward='clicked', propensity='prob'",
        "--user member --item sku",
        "Not used: x",
    ):
        assert line in text


def test_a_file_without_a_reward_says_how_to_name_one(tmp_path: Path) -> None:
    pl.DataFrame({"member": ["a"], "sku": [1], "hit": [1]}).write_parquet(tmp_path / "log.parquet")
    text = str(examine(tmp_path / "log.parquet", {}))
    assert "No column looks like 'reward'" in text
    assert "--reward 1" in text
    assert "hit (Int64)" in text


def test_the_sheet_of_a_log_without_rows() -> None:
    assert "no rows" in str(describe_log(Log.empty(2, 3)))


def test_times_are_read_as_dates() -> None:
    for scale in (1, 10**6):
        log = Log.of({"item": [0, 1], "reward": [1, 0], "time": [1_700_000_000 * scale] * 2})
        assert "2023-11-14 to 2023-11-14" in str(describe_log(log))
    log = Log.of({"item": [0, 1], "reward": [1, None], "time": [0, 7]})
    assert "0 to 7" in str(describe_log(log))
    assert "1 never revealed" in str(describe_log(log))
