"""Closed-form relevance matrix factorisation; its optimality is tested beside the objective."""

from __future__ import annotations

import pytest
import torch

from recfb import fit
from recfb.data import Log
from recfb.exposures import Logged, Popularity
from recfb.random import stream
from recfb.solvers import RelMF
from recfb.solvers.relmf import clicked
from recfb.testing import check


def test_keeps_the_contract(small_log: Log) -> None:
    check(RelMF(Popularity(), dim=3), small_log)


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
    eye = 0.5 * torch.eye(2, dtype=torch.float64)  # for each of 5 items, and of 3 users
    u = w @ v @ torch.linalg.inv(v.T @ v + 5 * eye)
    assert torch.allclose(model.user, u, atol=1e-6)  # the exposures are float32
    assert torch.allclose(model.item, w.T @ u @ torch.linalg.inv(u.T @ u + 3 * eye), atol=1e-6)


@pytest.mark.parametrize("power", [0.0, 0.5])
def test_it_completes_the_checkerboard(power: float, checkerboard: Log) -> None:
    model = fit(checkerboard, RelMF(Popularity(power=power), dim=4))
    scores = model.all(torch.arange(24))
    same = (torch.arange(24)[:, None] % 2) == (torch.arange(24) % 2)
    assert float(scores[same].min()) > float(scores[~same].max())


def test_logged_exposures_come_with_the_first_row_of_a_click() -> None:
    rows = {"user": [1, 0, 1], "item": [0, 2, 0], "reward": [1, 1, 1]}
    log = Log.of({**rows, "propensity": [0.25, 0.5, 0.125]})
    batch = clicked(log)
    assert (batch.user * log.n_items + batch.item).tolist() == log.clicks.key.tolist()
    assert batch.propensity is not None
    assert batch.propensity.tolist() == [0.5, 0.25]
    assert bool(torch.isfinite(fit(log, RelMF(Logged(), dim=2)).item).all())
