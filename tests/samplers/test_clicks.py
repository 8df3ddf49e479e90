"""Clicks with negatives."""

from __future__ import annotations

import pytest
import torch

from recfb.contracts import Step
from recfb.data import Log
from recfb.errors import ConfigError
from recfb.random import stream
from recfb.samplers import Clicks
from recfb.testing import check


def skewed() -> Log:
    """User 0 has all items but item 5, user 1 one click, user 2 none."""
    user, item = [0] * 5 + [1], [0, 1, 2, 3, 4, 2]
    return Log.of({"user": user, "item": item, "reward": [1] * 6}, n_users=3, n_items=6)


@pytest.mark.parametrize("by", ["click", "user"])
def test_keeps_the_contract(by: str, small_log: Log) -> None:
    check(Clicks(by=by), small_log)


def test_an_epoch_by_click_is_every_click_once() -> None:
    log = skewed()
    sampler = Clicks().bind(log)
    batch = sampler(sampler.rows(stream(0)), None, Step(generator=stream(1)))
    key = batch.user * 6 + batch.item[:, 0]
    assert key.sort().values.tolist() == log.clicks.key.tolist()


def test_by_user_is_uniform_over_users_with_a_click() -> None:
    sampler = Clicks(by="user").bind(skewed())
    rows = torch.cat([sampler.rows(stream(seed)) for seed in range(500)])  # 3000 draws
    count = torch.bincount(rows, minlength=3)
    assert count[2] == 0
    assert abs(int(count[0]) - 1500) < 4 * (3000 / 4) ** 0.5
    batch = sampler(rows, None, Step(generator=stream(1)))
    assert torch.equal(batch.user, rows)
    own = torch.bincount(batch.item[batch.user == 0, 0], minlength=6)
    assert own[5] == 0
    assert bool(((own[:5] - own.sum() / 5).abs() < 4 * (own.sum() * 0.16) ** 0.5).all())


def test_negatives_are_uniform_over_what_the_user_does_not_have() -> None:
    sampler = Clicks(negatives=3).bind(skewed())
    rows = torch.arange(6).repeat(1000)
    batch = sampler(rows, None, Step(generator=stream(1)))
    assert batch.item.shape == (6000, 4)
    assert batch.reward.sum(0).tolist() == [6000.0, 0.0, 0.0, 0.0]
    assert bool((batch.item[batch.user == 0, 1:] == 5).all())
    other = torch.bincount(batch.item[batch.user == 1, 1:].reshape(-1), minlength=6)
    assert other[2] == 0
    free = other[[0, 1, 3, 4, 5]]
    assert bool(((free - 600).abs() < 4 * (3000 * 0.16) ** 0.5).all())


def test_a_user_who_has_everything_is_refused() -> None:
    log = Log.of({"user": [0, 0, 1], "item": [0, 1, 0], "reward": [1, 1, 1]})
    with pytest.raises(ConfigError, match=r"1 users \(first: 0\) have clicked all 2 items"):
        Clicks().bind(log)


def test_an_empty_log_binds() -> None:
    assert len(Clicks().bind(Log.empty(2, 3))) == 0
    assert len(Clicks(by="user").bind(Log.empty(2, 3)).rows(stream(0))) == 0


def test_the_sampler_draws_any_other_item(small_log: Log) -> None:
    check(Clicks(negatives=3, among="any"), small_log)
    sampler = Clicks(negatives=3, among="any").bind(small_log)
    rows = torch.arange(4).repeat(1000)
    batch = sampler(rows, None, Step(generator=stream(1)))
    item, other = batch.item[:, :1], batch.item[:, 1:]
    assert bool((item != other).all())
    assert torch.equal(batch.reward, small_log.clicks.label(batch.user, batch.item))
    assert bool((batch.reward[:, 1:] == 1).any())  # user 1 has two clicks
    for i in range(3):
        count = torch.bincount(other[item[:, 0] == i].reshape(-1), minlength=5)
        n = int(count.sum())
        rest = [k for k in range(5) if k != i]
        assert bool(((count[rest] - n / 4).abs() < 4 * (n * 3 / 16) ** 0.5).all())


def test_any_other_item_needs_two_items_but_no_free_one() -> None:
    full = Log.of({"user": [0, 0], "item": [0, 1], "reward": [1, 1]})
    batch = Clicks(among="any").bind(full)(torch.tensor([0, 1]), None, Step(generator=stream(0)))
    assert batch.item.tolist() == [[0, 1], [1, 0]] and batch.reward.tolist() == [[1, 1], [1, 1]]
    one = Log.of({"user": [0], "item": [0], "reward": [1]})
    with pytest.raises(ConfigError, match="a single item"):
        Clicks(among="any").bind(one)
