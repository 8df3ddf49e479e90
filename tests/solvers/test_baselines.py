"""The two baselines of every table."""

from __future__ import annotations

import torch

from recfb import fit
from recfb.contracts import Context
from recfb.data import Log
from recfb.solvers import Popularity, Random
from recfb.testing import check


def test_they_keep_the_contract(small_log: Log) -> None:
    check(Popularity(), small_log)
    check(Random(), small_log)


def test_popularity_counts_users(small_log: Log) -> None:
    twice = small_log.extend(small_log)
    model = fit(twice, Popularity())
    assert model.all(torch.tensor([0, 1])).tolist() == [[2.0, 1.0, 1.0, 0.0, 0.0]] * 2
    assert model(torch.tensor([0]), torch.tensor([[3, 0]])).tolist() == [[0.0, 2.0]]


def test_random_lists_are_uniform_and_differ_by_user() -> None:
    model = fit(Log.empty(4000, 8), Random())
    top = model.top(Context(torch.arange(4000)), 2)
    count = torch.bincount(top[:, 0], minlength=8)
    assert bool(((count - 500).abs() < 4 * (500 * 7 / 8) ** 0.5).all())
    assert torch.equal(top, model.top(Context(torch.arange(4000)), 2))
