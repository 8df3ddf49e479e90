from __future__ import annotations

import pytest
import torch

from recfb import ConfigError
from recfb.data import Pairs
from recfb.random import stream


@pytest.fixture(params=["searched", "indexed"])
def pairs(request: pytest.FixtureRequest) -> Pairs:
    user, item = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1]), torch.tensor([0, 1, 2, 0, 1, 2, 4, 5])
    made = Pairs(user, item, n_users=3, n_items=6)
    return made.index() if request.param == "indexed" else made


def test_has_and_label(pairs: Pairs) -> None:
    everything = torch.arange(18)
    expected = torch.zeros(18, dtype=torch.bool)
    expected[[0, 1, 2, 6, 7, 8, 10, 11]] = True
    assert torch.equal(pairs.has(everything), expected)
    assert pairs.label(torch.tensor([0, 1]), torch.tensor([[2, 3], [4, 3]])).tolist() == [
        [1, 0],
        [1, 0],
    ]


def test_nth_free_lists_the_complement(pairs: Pairs) -> None:
    assert pairs.nth_free(torch.arange(10)).tolist() == [3, 4, 5, 9, 12, 13, 14, 15, 16, 17]


def test_negatives_are_uniform_over_the_complement(pairs: Pairs) -> None:
    user = torch.tensor([0, 1, 2]).repeat(20_000)
    drawn = pairs.negatives(user, 2, stream(0)).view(20_000, 3, 2)
    for u, free in ((0, [3, 4, 5]), (1, [3]), (2, [0, 1, 2, 3, 4, 5])):
        share = torch.bincount(drawn[:, u].flatten(), minlength=6) / 40_000
        expected = torch.zeros(6)
        expected[free] = 1 / len(free)
        assert float((share - expected).abs().max()) < 4 * (0.25 / 40_000) ** 0.5
        assert float(share[expected == 0].sum()) == 0


def test_pool_is_without_replacement_where_there_are_enough(pairs: Pairs) -> None:
    user = torch.tensor([0, 1]).repeat(20_000)
    drawn = pairs.pool(user, 4, stream(1)).view(20_000, 2, 4)
    distinct = drawn[:, 1].sort(1).values.diff(dim=1).ne(0).all(1)
    assert bool(distinct.all())
    share = torch.bincount(drawn[:, 1].flatten(), minlength=6) / 80_000
    assert float((share[[0, 1, 2, 4, 5]] - 0.2).abs().max()) < 0.006
    assert set(drawn[:, 0].unique().tolist()) == {0, 1, 2}


def test_pool_of_one_is_uniform(pairs: Pairs) -> None:
    drawn = pairs.pool(torch.ones(30_000, dtype=torch.int64), 1, stream(2))
    share = torch.bincount(drawn.flatten(), minlength=6)[[0, 1, 2, 4, 5]] / 30_000
    assert float((share - 0.2).abs().max()) < 4 * (0.16 / 30_000) ** 0.5


def test_free_keys_are_uniform(pairs: Pairs) -> None:
    drawn = torch.bincount(pairs.free(50_000, stream(3)), minlength=18)
    free = drawn[~pairs.has(torch.arange(18))]
    assert int(free.sum()) == 50_000
    assert float((free / 50_000 - 0.1).abs().max()) < 4 * (0.09 / 50_000) ** 0.5


def test_a_user_who_has_everything_is_refused() -> None:
    pairs = Pairs(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0]), n_users=2, n_items=2)
    with pytest.raises(ConfigError, match=r"1 users \(first: 0\) have clicked all 2 items"):
        pairs.require_free()


def test_pairs_leave_no_trace_in_a_state_dict(pairs: Pairs) -> None:
    assert pairs.state_dict() == {}
