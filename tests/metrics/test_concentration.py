"""3.1: concentration of clicks and displays, popularity, arrivals and expiry."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
import torch
from scipy import stats

from recfb.data import Log
from recfb.metrics import cells
from recfb.metrics.concentration import (
    arp,
    concentration,
    covered,
    distinct,
    effective,
    evenness,
    long_tail,
    popularity_lift,
    spread,
    top_share,
)

EMPTY = pl.DataFrame()


def test_w_t12_gini() -> None:
    assert float(concentration(torch.tensor([0, 0, 0, 10]))) == 0.75
    assert float(concentration(torch.tensor([3, 3, 3, 3, 3]))) == pytest.approx(0, abs=1e-15)
    # zeros dropped would give 0
    assert float(concentration(torch.tensor([0, 2, 2, 0]))) == 0.5
    assert math.isnan(float(concentration(torch.zeros(4))))
    shared = torch.zeros(300)
    shared[:10] = 500
    assert float(concentration(shared)) == pytest.approx(1 - 10 / 300, abs=1e-12)


def test_gini_is_the_mean_difference() -> None:
    """G = sum_ij |n_i - n_j| / (2 I N)."""
    n = torch.randint(20, (3, 7), generator=torch.Generator().manual_seed(0)).double()
    gaps = (n[:, :, None] - n[:, None, :]).abs().sum((1, 2))
    assert torch.allclose(concentration(n), gaps / (2 * 7 * n.sum(1)))


@pytest.mark.parametrize("statistic", [concentration, evenness, effective, covered, distinct])
def test_what_is_not_available_is_no_zero(statistic) -> None:  # type: ignore[no-untyped-def]
    """The same as if the catalogue had the available items only."""
    counts = torch.tensor([[0.0, 4, 0, 1, 0, 3]])
    there = torch.tensor([[True, True, False, True, False, True]])
    want = statistic(counts[there][None])
    assert torch.allclose(statistic(counts, there), want)
    if statistic in (concentration, evenness, covered):
        assert not torch.allclose(statistic(counts), want)


def test_entropy_agrees_with_scipy() -> None:
    n = np.array([5.0, 1, 0, 2, 2])
    got = float(evenness(torch.tensor(n)))
    assert got == pytest.approx(stats.entropy(n) / math.log(5))
    assert float(effective(torch.tensor(n))) == pytest.approx(math.exp(stats.entropy(n)))
    assert math.isnan(float(evenness(torch.zeros(3))))


def test_top_share_takes_whole_items() -> None:
    n = torch.tensor([1, 9, 3, 3, 2, 2])  # of 20
    assert float(top_share(n, share=0.01)) == 9 / 20
    assert float(top_share(n, share=1 / 6)) == 9 / 20
    assert float(top_share(n, share=1 / 3)) == 12 / 20
    there = torch.tensor([True, True, True, True, False, False])
    n = torch.tensor([1, 9, 3, 3, 0, 0])
    assert float(top_share(n, there, share=0.5)) == 12 / 16  # two of four


def stocked() -> Log:
    """Item 2 arrives in round 1, item 0 is gone by then; users differ in what they may be shown."""
    return Log.of(
        {
            "user": [0, 1, 0, 1],
            "item": [0, 1, 2, 2],
            "reward": [1, 0, 1, 1],
            "time": [0, 0, 1, 1],
            "position": [1, 1, 1, 1],
            "slate": [0, 1, 2, 3],
            "available": [[0, 1], [1], [1, 2], [2]],
        },
        n_users=2,
        n_items=4,
    )


def test_arrivals_and_expiry() -> None:
    """In a round its own items, so far all that were there at some time; item 3 never was."""
    log = stocked()
    assert spread(log, EMPTY, covered).tolist() == [[1.0, 0.5]]
    assert spread(log, EMPTY, covered, so_far=True).tolist() == [[1.0, 1.0]]
    clicks = spread(log, EMPTY, concentration, of="clicks", so_far=True)
    assert clicks.tolist() == [[0.5, pytest.approx(float(concentration(torch.tensor([1, 0, 2]))))]]


def test_lists_are_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    log = stocked()
    whole = spread(log, EMPTY, concentration, of="clicks", so_far=True)
    monkeypatch.setattr(cells, "BLOCK_CELLS", 1)
    assert torch.equal(spread(log, EMPTY, concentration, of="clicks", so_far=True), whole)


def test_the_shared_slate_and_the_uniform_one() -> None:
    shared = torch.arange(3).repeat(50)
    apart = torch.arange(150) % 30
    for item, want in ((shared, 1 - 3 / 30), (apart, 0.0)):
        log = Log.of(
            {
                "user": torch.arange(50).repeat_interleave(3),
                "item": item,
                "reward": torch.zeros(150),
                "time": torch.zeros(150, dtype=torch.int64),
                "position": torch.arange(3).repeat(50) + 1,
            },
            n_users=50,
            n_items=30,
        )
        assert float(spread(log, EMPTY, concentration)) == pytest.approx(want, abs=1e-12)


def test_popularity_is_frozen() -> None:
    """Clicks after the first rounds do not count; `before` says how many rounds those are."""
    rows = {
        "user": [0, 1, 0, 1, 0, 1],
        "item": [0, 0, 1, 1, 1, 2],
        "reward": [1, 1, 1, 0, 1, 1],
        "time": [0, 0, 1, 1, 2, 2],
        "position": [1] * 6,
    }
    log = Log.of(rows, n_users=2, n_items=3)
    assert arp(log, EMPTY).tolist() == [[pytest.approx(math.nan, nan_ok=True), 0.0, 0.0]]
    assert arp(log, EMPTY, before=2)[0, 2] == 0.5  # counts (2, 1, 0): items 1 and 2
    # profiles of user 0: items 0 and 1, 1.5; of user 1: item 0, 2
    lift = popularity_lift(log, EMPTY, before=2)[0]
    assert lift[:2].isnan().all()
    assert lift[2] == pytest.approx(((1 - 1.5) / 1.5 + (0 - 2) / 2) / 2)
    assert long_tail(log, EMPTY, before=2, head=0.5)[0, 2] == 1.0
    assert long_tail(log, EMPTY, before=2, head=0.9)[0, 2] == 0.5


def test_lift_is_by_user_then_mean() -> None:
    """A user with more requests in the round counts once."""
    rows = {
        "user": [0, 1, 0, 0, 0, 1],
        "item": [0, 1, 0, 0, 0, 0],
        "reward": [1, 1, 0, 0, 0, 0],
        "time": [0, 0, 1, 1, 1, 1],
        "position": [1] * 6,
    }
    log = Log.of({**rows, "item": [0, 1, 1, 1, 1, 2]}, n_users=2, n_items=3)
    # clicks (1, 1, 0): user 0 is shown 1, user 1 is shown 0
    assert popularity_lift(log, EMPTY)[0, 1] == pytest.approx((0 - 1) / 2)


def test_the_head_is_the_fewest_items() -> None:
    """4 of 5 clicks are 80 %: item 0 alone is the head."""
    rows = {"user": [0] * 7, "item": [0, 0, 0, 0, 1, 0, 1], "reward": [1] * 5 + [0] * 2}
    log = Log.of(
        {**rows, "time": [0] * 5 + [1] * 2, "position": [1, 2, 3, 4, 5, 1, 2]},
        n_users=1,
        n_items=3,
    )
    assert long_tail(log, EMPTY)[0, 1] == 0.5
    assert long_tail(log, EMPTY, head=0.81)[0, 1] == 0.0
