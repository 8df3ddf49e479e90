"""Closed-form relevance matrix factorisation; its optimality is tested beside the objective."""

from __future__ import annotations

import pytest
import torch

from recfb import fit
from recfb.data import Log
from recfb.exposures import Popularity
from recfb.random import stream
from recfb.solvers import RelMF
from recfb.testing import check


def test_keeps_the_contract(small_log: Log) -> None:
    check(RelMF(Popularity(), dim=3, l2=0.1), small_log)


def test_half_sweeps_by_hand(small_log: Log) -> None:
    model = RelMF(Popularity(power=1.0), dim=2, l2=0.5, clip=0.6, sweeps=1)
    model.bind(small_log).double()
    model.reset(stream(0))
    v = model.item.detach().clone()
    model.solve(small_log)
    # clicks: (0, 0), (1, 1), (1, 2), (2, 0); items 0, 1, 2 have 2, 1, 1 clicks: 1, 1/2, 1/2 -> 0.6
    w = torch.zeros(3, 5, dtype=torch.float64)
    w[0, 0] = w[2, 0] = 1.0
    w[1, 1] = w[1, 2] = 1 / 0.6
    eye = 0.5 * torch.eye(2, dtype=torch.float64)
    u = w @ v @ torch.linalg.inv(v.T @ v + eye)
    assert torch.allclose(model.user, u, atol=1e-6)  # the exposures are float32
    assert torch.allclose(model.item, w.T @ u @ torch.linalg.inv(u.T @ u + eye), atol=1e-6)


@pytest.mark.parametrize("power", [0.0, 0.5])
def test_it_completes_the_checkerboard(power: float, checkerboard: Log) -> None:
    model = fit(checkerboard, RelMF(Popularity(power=power), dim=4, l2=1.0))
    scores = model.all(torch.arange(24))
    same = (torch.arange(24)[:, None] % 2) == (torch.arange(24) % 2)
    assert float(scores[same].min()) > float(scores[~same].max())
