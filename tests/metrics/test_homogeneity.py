"""3.2: overlaps of users, T13."""

from __future__ import annotations

import math
from itertools import combinations

import polars as pl
import pytest
import torch
import torch.nn.functional as F

from recfb.data import Log
from recfb.errors import ConfigError
from recfb.metrics import homogeneity
from recfb.metrics.homogeneity import (
    jaccard,
    jaccard_equal,
    jaccard_nearest,
    list_overlap,
    mean_cosine,
    mean_overlap,
    nearest,
    overlap,
    sampled_pairs,
    smallest,
)

EMPTY = pl.DataFrame()


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_w_t13_jaccard() -> None:
    a = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]).bool()
    b = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]]).bool()
    same, apart, none = overlap(a, b).tolist()
    assert (same, apart) == (1.0, 0.0)
    assert math.isnan(none)


def test_mean_overlap_is_over_pairs_of_different_users() -> None:
    owned = torch.rand(12, 9, generator=generator()) < 0.2
    owned[:2] = False  # two empty sets are no pair
    pairs = [overlap(owned[u], owned[v]) for u, v in combinations(range(12), 2)]
    want = torch.stack(pairs).nanmean()
    assert float(mean_overlap(owned)) == pytest.approx(float(want))
    assert math.isnan(float(mean_overlap(torch.zeros(3, 4).bool())))


def clicked_once(n_users: int, n_items: int, each: int) -> Log:
    user = torch.arange(n_users).repeat_interleave(each)
    rows = {
        "user": user,
        "item": torch.randint(n_items, (len(user),), generator=generator()),
        "reward": torch.ones(len(user)),
        "time": torch.zeros(len(user), dtype=torch.int64),
        "position": torch.arange(each).repeat(n_users) + 1,
    }
    return Log.of(rows, n_users=n_users, n_items=n_items)


def test_sampled_pairs_estimate_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    n_users = 300
    log = clicked_once(n_users, 20, 6)
    exact = float(jaccard(log, EMPTY))
    monkeypatch.setattr(homogeneity, "EXACT_PAIRS", 0)
    sampled = float(jaccard(log, EMPTY))
    assert sampled != exact
    assert sampled == pytest.approx(exact, abs=4 * 0.12 / math.sqrt(20_000))
    pairs = sampled_pairs(n_users)
    assert pairs is not None
    assert not (pairs[0] == pairs[1]).any()
    assert len(torch.unique(pairs[0])) == n_users


def test_mean_cosine_is_that_of_all_pairs() -> None:
    rows = torch.randn(7, 5, generator=generator(), dtype=torch.float64)
    pairs = [F.cosine_similarity(rows[u], rows[v], dim=0) for u, v in combinations(range(7), 2)]
    with_nobody = torch.cat([rows, torch.zeros(2, 5, dtype=torch.float64)])
    assert mean_cosine(rows[:1]).isnan()
    assert float(mean_cosine(with_nobody)) == pytest.approx(float(torch.stack(pairs).mean()))


def test_list_overlap_is_that_of_all_pairs_of_slates() -> None:
    slates = torch.rand(9, 12, generator=generator()).topk(4, dim=1).indices  # (B, K)
    log = Log.of(
        {
            "user": torch.arange(9).repeat_interleave(4),
            "item": slates.reshape(-1),
            "reward": torch.zeros(36),
            "time": torch.zeros(36, dtype=torch.int64),
            "position": torch.arange(4).repeat(9) + 1,
        },
        n_users=9,
        n_items=12,
    )
    sets = [set(row.tolist()) for row in slates]
    want = [len(a & b) / 4 for a, b in combinations(sets, 2)]
    assert float(list_overlap(log, EMPTY)) == pytest.approx(sum(want) / len(want))


def test_sets_are_cut_to_one_size() -> None:
    owned = torch.rand(40, 30, generator=generator()) < 0.5
    owned[0], owned[1, 3:] = False, False
    cut = smallest(owned, size=4)
    assert set(cut.sum(1).tolist()) == {0, 4}
    assert not (cut & ~owned).any()
    assert cut[:2].sum() == 0  # too few
    # an item keeps its rank, so more items of the same user move few
    more = owned.clone()
    more[5] = True
    assert (smallest(more, size=4)[6:] == cut[6:]).all()
    # no item is preferred: 38 users keep 4 of about 15 each
    assert 0 < cut.sum(0).max() <= 16


def test_equal_profiles_take_the_size_out() -> None:
    """Users click at random: the more clicks, the more overlap, unless profiles are cut."""
    few, many = clicked_once(200, 50, 5), clicked_once(200, 50, 20)
    assert float(jaccard(many, EMPTY)) > 2 * float(jaccard(few, EMPTY))
    few_cut, many_cut = (float(jaccard_equal(log, EMPTY, size=4)) for log in (few, many))
    assert many_cut == pytest.approx(few_cut, abs=0.005)
    own = float(jaccard_equal(few, EMPTY))  # the smallest profile has at most 5
    assert own < float(jaccard(few, EMPTY))


def test_equal_profiles_by_hand() -> None:
    """Users click {0, 1} and {0, 1}, one item is kept of each; then nobody has a click."""
    rows = {"user": [0, 0, 1, 1], "item": [0, 1, 0, 1], "time": [0] * 4, "position": [1, 2] * 2}
    log = Log.of({**rows, "reward": [1.0] * 4}, n_users=2, n_items=2)
    kept = smallest(torch.ones(2, 2).bool(), 1)
    assert float(jaccard_equal(log, EMPTY, size=1)) == float(overlap(kept[0], kept[1]))
    assert float(jaccard_equal(log, EMPTY, size=2)) == 1.0
    assert jaccard_equal(log, EMPTY, size=3).isnan().all()
    with pytest.raises(ConfigError, match="at least one item"):
        jaccard_equal(log, EMPTY, size=0)
    silent = Log.of({**rows, "reward": [0.0] * 4}, n_users=2, n_items=2)
    assert jaccard_equal(silent, EMPTY).isnan().all()


def test_the_nearest_is_somebody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    taste = torch.randn(50, 3, generator=generator())
    taste[7] = torch.nan
    found = nearest(taste)
    assert found[7] == -1
    assert (found != 7).all()
    unit = F.normalize(taste.double(), dim=1)
    for u in (0, 23, 49):
        cosine = [-2.0 if v in (u, 7) else float(unit[u] @ unit[v]) for v in range(50)]
        assert int(found[u]) == max(range(50), key=cosine.__getitem__)
    monkeypatch.setattr(homogeneity, "NEAREST_ROWS", 8)
    assert (nearest(taste) == found).all()
    assert nearest(torch.ones(1, 2)).tolist() == [-1]


def test_nearest_neighbours_by_hand() -> None:
    """Tastes (1, 0), (1, .1), (0, 1): the third is nearest to the second. Tastes of later rounds
    do not count."""
    rows = {
        "user": [0, 1, 2] * 2,
        "item": [0, 0, 1, 2, 2, 2],
        "reward": [1.0] * 6,
        "time": [0, 0, 0, 1, 1, 1],
        "position": [1] * 6,
    }
    log = Log.of(rows, n_users=3, n_items=3)
    start, later = [[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]
    truth = pl.DataFrame({"taste": pl.Series(start + later, dtype=pl.Array(pl.Float64, 2))})
    # 0 and 1: 1 and 1; 2 with 1: 0; then {0, 2}, {0, 2}, {1, 2}: 1, 1, 1/3
    assert jaccard_nearest(log, truth)[0].tolist() == pytest.approx([2 / 3, (2 + 1 / 3) / 3])
