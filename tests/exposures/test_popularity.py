"""Exposure by popularity."""

from __future__ import annotations

import pytest
import torch

from recfb.contracts import Batch
from recfb.data import Log
from recfb.exposures import Popularity
from recfb.testing import check


def test_keeps_the_contract(small_log: Log) -> None:
    check(Popularity(power=0.5), small_log)


def test_values_by_hand() -> None:
    item = [0] * 4 + [1] * 1 + [3] * 2
    log = Log.of({"user": range(7), "item": item, "reward": [1] * 6 + [0]}, n_items=5)
    theta = Popularity(power=0.5).bind(log).theta  # item 3 has one click, items 2 and 4 none
    assert theta.tolist() == pytest.approx([1.0, 0.5, 0.5, 0.5, 0.5])
    assert Popularity(power=0.0).bind(log).theta.tolist() == [1.0] * 5
    assert Popularity(power=1.0).bind(log).theta.tolist() == pytest.approx(
        [1, 0.25, 0.25, 0.25, 0.25]
    )


def test_it_reads_items_of_any_shape(small_log: Log) -> None:
    exposure = Popularity().bind(small_log)
    item = torch.tensor([[0, 3], [1, 1]])
    batch = Batch(torch.tensor([0, 1]), item, torch.ones(2, 2))
    assert torch.equal(exposure(batch), exposure.theta[item])


def test_without_clicks_all_are_alike() -> None:
    assert Popularity().bind(Log.empty(2, 3)).theta.tolist() == [1.0, 1.0, 1.0]
    assert Popularity().bind(Log.empty(0, 0)).theta.tolist() == []


def test_shown_is_a_share_of_all_users() -> None:
    # item 0 was shown to users 0, 1, 2 (twice), item 1 to user 0, items 2 and 3 to nobody
    user, item = [0, 1, 2, 2, 0], [0, 0, 0, 0, 1]
    log = Log.of({"user": user, "item": item, "reward": [0, 0, 0, 1, 0]}, n_users=4, n_items=4)
    share = Popularity(power=1.0, of="shown").bind(log)
    assert share.theta.tolist() == [0.75, 0.25, 0.25, 0.25]
    root = Popularity(power=0.5, of="shown").bind(log)
    assert root.theta.tolist() == pytest.approx([0.75**0.5, 0.5, 0.5, 0.5])
    assert Popularity(power=1.0).bind(log).theta.tolist() == [1.0] * 4  # one click in the log


def test_shown_keeps_the_contract(small_log: Log) -> None:
    check(Popularity(power=1.0, of="shown"), small_log)
    assert Popularity(1.0, of="shown").bind(Log.empty(2, 3)).theta.tolist() == [0.5] * 3
    assert Popularity(of="shown").bind(Log.empty(0, 0)).theta.tolist() == []
