"""Uniform: exact probabilities of items and slates."""

from __future__ import annotations

import torch

from recfb import Log
from recfb.contracts import Context
from recfb.policies import Uniform
from recfb.random import stream


def test_probabilities_by_hand() -> None:
    policy = Uniform().bind(Log.empty(1, 4))
    user = torch.zeros(2, dtype=torch.int64)
    assert policy.probs(Context(user)).tolist() == [[0.25] * 4] * 2
    mask = torch.tensor([[True, False, True, False], [False, False, False, True]])
    assert policy.probs(Context(user, available=mask)).tolist() == [[0.5, 0, 0.5, 0], [0, 0, 0, 1]]
    listed = torch.tensor([[1, 3], [1, 1]])
    assert policy.probs(Context(user, candidates=listed)).tolist() == [
        [0, 0.5, 0, 0.5],
        [0, 1, 0, 0],
    ]


def test_slates_by_hand_and_by_frequency() -> None:
    policy, n = Uniform().bind(Log.empty(1, 4)), 24_000
    slate = policy.act(Context(torch.zeros(n, dtype=torch.int64)), stream(0), k=2)
    assert bool((slate.propensity == 0.25).all()) and bool((slate.p_display == 0.5).all())
    assert torch.allclose(slate.p_prefix, torch.tensor([1 / 4, 1 / 12], dtype=torch.float64))
    pairs = torch.bincount(slate.item[:, 0] * 4 + slate.item[:, 1], minlength=16).view(4, 4) / n
    off = ~torch.eye(4, dtype=torch.bool)
    assert float((pairs[off] - 1 / 12).abs().max()) < 4 * (1 / 12 / n) ** 0.5
    assert not pairs.diagonal().any()
