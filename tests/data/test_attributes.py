"""Columns of users and items as numbers."""

from __future__ import annotations

import polars as pl
import pytest
import torch

from recfb import Log
from recfb.data.attributes import attributes
from recfb.errors import ConfigError

FRAME = pl.DataFrame(
    {
        "id": ["a", "b"],
        "year": [1990, 2001],
        "new": [False, True],
        "text": pl.Series([[0.5, 1.0], [2.0, 3.0]], dtype=pl.Array(pl.Float64, 2)),
        "name": ["x", "y"],
        "tags": [["p"], []],
    }
)


def test_columns_stand_side_by_side_in_the_order_asked_for() -> None:
    found = attributes(FRAME, ["text", "year", "new"], "items")
    assert found.dtype == torch.float32
    assert found.tolist() == [[0.5, 1.0, 1990.0, 0.0], [2.0, 3.0, 2001.0, 1.0]]


def test_no_columns_and_no_rows_are_shapes() -> None:
    assert attributes(FRAME, [], "items").shape == (2, 0)
    assert attributes(FRAME.clear(), ["text", "year"], "items").shape == (0, 3)


def test_a_missing_column_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"log.users has no column 'yaer'; it has \['year', 'ne"):
        attributes(FRAME, ["yaer"], "users")
    with pytest.raises(ConfigError, match=r"Did you mean 'year'.*with_users\(frame, id="):
        attributes(FRAME, ["yaer"], "users")
    with pytest.raises(ConfigError, match="no column 'id'"):
        attributes(FRAME, ["id"], "items")


@pytest.mark.parametrize("name", ["name", "tags"])
def test_words_and_lists_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"'{name}' of log.items holds .*to_dummies"):
        attributes(FRAME, [name], "items")


@pytest.mark.parametrize(
    "column",
    [
        pl.Series([1, None, None]),
        pl.Series([0.5, float("nan"), float("inf")]),
        pl.Series([0.5, 1e300, None]),
        pl.Series([[1.0, 2.0], None, [None, 3.0]], dtype=pl.Array(pl.Float32, 2)),
    ],
)
def test_what_is_unknown_is_refused_with_its_column_count_and_first_id(column: pl.Series) -> None:
    frame = pl.DataFrame({"id": ["a", "b", "c"], "x": column})
    message = r"'x' of log.items is null, NaN or infinite for 2 of 3 items \(first: 'b'\)"
    with pytest.raises(ConfigError, match=message + r".*before log.with_items"):
        attributes(frame, ["x"], "items")


def test_an_id_without_a_row_in_the_frame_is_unknown() -> None:
    log = Log.of({"item": ["a", "b"], "reward": [1, 0]}).with_items({"id": ["b"], "x": [1.0]})
    with pytest.raises(ConfigError, match=r"for 1 of 2 items.*first: 'a'.*Give every id a row"):
        attributes(log.items, ["x"], "items")
