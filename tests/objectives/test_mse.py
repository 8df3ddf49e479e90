"""Squared error of rewards."""

from __future__ import annotations

import pytest
import torch

from recfb import ConfigError, Log, Recommender
from recfb.contracts import Batch
from recfb.objectives import MSE
from recfb.samplers import AllPairs, Clicks, Logged
from recfb.scorers import MF
from recfb.testing import check


def test_keeps_the_contract(small_log: Log) -> None:
    check(MSE(), small_log)


def test_by_hand_in_rows_and_in_candidates() -> None:
    score = torch.tensor([[1.0, 4.0, -2.0]], dtype=torch.float64, requires_grad=True)
    batch = Batch(torch.tensor([0]), torch.tensor([[0, 1, 2]]), torch.tensor([[3.0, 4.0, 1.0]]))
    losses = MSE()(lambda u, i: score, batch)
    assert losses.tolist() == [[4.0, 0.0, 9.0]]
    losses.sum().backward()
    assert score.grad.tolist() == [[-4.0, 0.0, -6.0]]
    row = MSE()(lambda u, i: score[0, :1], Batch(batch.user, batch.item[:, 0], batch.reward[:, 0]))
    assert row.tolist() == [4.0]


def test_it_takes_rows_and_clicks_but_no_pairs_without_a_reward() -> None:
    for sampler in (Logged(), AllPairs(), Clicks()):
        Recommender(MF(dim=2), MSE(), sampler)
    with pytest.raises(ConfigError, match=r"samplers\.Logged\(\)"):
        Recommender(MF(dim=2), MSE(), AllPairs(labels="shown"))
