"""Alternating least squares for implicit feedback."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from recfb import fit
from recfb.data import Log
from recfb.random import stream
from recfb.solvers import ALS
from recfb.solvers import als as module
from recfb.testing import check


def dense_log(n_users: int = 12, n_items: int = 9) -> Log:
    """Short and long rows; user 3 and item 8 have no click; some pairs occur twice."""
    generator = stream(0)
    user, item = torch.meshgrid(torch.arange(n_users), torch.arange(n_items), indexing="ij")
    keep = torch.rand(n_users, n_items, generator=generator) < (user + 1) / n_users
    keep[3], keep[:, 8] = False, False
    u, i = user[keep], item[keep]
    rows = {"user": torch.cat([u, u[:5]]), "item": torch.cat([i, i[:5]])}
    reward = torch.cat([torch.full((len(u),), 0.5), torch.ones(5)])
    return Log.of({**rows, "reward": reward}, n_users=n_users, n_items=n_items)


def matrices(log: Log, alpha: float) -> tuple[Tensor, Tensor]:
    """Y and C as dense float64."""
    y = torch.zeros(log.n_users, log.n_items, dtype=torch.float64)
    c = torch.ones_like(y)
    for u, i, r in log.frame.select("user", "item", "reward").iter_rows():
        y[u, i] = 1.0
        c[u, i] += alpha * r
    return y, c


def loss(log: Log, model: ALS) -> float:
    y, c = matrices(log, model.alpha)
    u, v = model.user.detach().double(), model.item.detach().double()
    return float((c * (y - u @ v.T) ** 2).sum() + model.l2 * (u.square().sum() + v.square().sum()))


def ready(log: Log, **options: float) -> ALS:
    model = ALS(dim=4, ridge="absolute", **{"l2": 0.5, **options}).bind(log).double()
    model.reset(stream(1))
    return model


def test_keeps_the_contract(small_log: Log) -> None:
    check(ALS(dim=3), small_log)


@pytest.mark.parametrize("dim", [2, 4, 24])  # 24: rows are short; 2: they are long
def test_r_7_3_agrees_with_dense_weighted_least_squares(dim: int) -> None:
    log = dense_log()
    model = ALS(dim=dim, alpha=3.0, l2=0.7, sweeps=1, ridge="absolute").bind(log).double()
    model.reset(stream(1))
    v = model.item.detach().clone()
    y, c = matrices(log, 3.0)
    model.solve(log)
    eye = 0.7 * torch.eye(dim, dtype=torch.float64)
    for row in range(log.n_users):  # the first half sweep
        weight = c[row][:, None]
        expected = torch.linalg.solve(v.T @ (weight * v) + eye, v.T @ (c[row] * y[row]))
        assert torch.allclose(model.user[row], expected, atol=1e-5)
    u = model.user.detach()
    for column in range(log.n_items):  # the second
        weight = c[:, column][:, None]
        expected = torch.linalg.solve(u.T @ (weight * u) + eye, u.T @ (c[:, column] * y[:, column]))
        assert torch.allclose(model.item[column], expected, atol=1e-5)


def test_a_relative_ridge_is_the_absolute_one_times_the_confidence_of_the_row() -> None:
    log = dense_log()
    model = ALS(dim=4, alpha=3.0, l2=0.02, sweeps=1).bind(log).double()
    model.reset(stream(1))
    v = model.item.detach().clone()
    y, c = matrices(log, 3.0)
    model.solve(log)
    for row in range(log.n_users):
        weight, eye = c[row][:, None], torch.eye(4, dtype=torch.float64)
        system = v.T @ (weight * v) + 0.02 * c[row].sum() * eye
        expected = torch.linalg.solve(system, v.T @ (c[row] * y[row]))
        assert torch.allclose(model.user[row], expected, atol=1e-5)


def test_the_default_serves_small_logs(small_log: Log) -> None:
    assert float(fit(small_log, ALS(dim=2)).user.detach().abs().max()) > 0.1


def test_r_7_3_loss_never_increases_between_half_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    log, losses = dense_log(), []
    model = ready(log, alpha=5.0, l2=0.5, sweeps=8)
    inner = module.half_sweep

    def watched(*arguments: object) -> None:
        inner(*arguments)  # type: ignore[arg-type]
        losses.append(loss(log, model))

    monkeypatch.setattr(module, "half_sweep", watched)
    model.solve(log)
    assert len(losses) == 16
    assert all(b <= a + 1e-9 for a, b in pairwise(losses))
    assert losses[-1] < losses[0] - 1e-3


def test_r_7_3_without_confidence_it_is_the_truncated_svd() -> None:
    log = dense_log()
    model = ready(log, alpha=0.0, l2=1e-9, sweeps=300).solve(log)
    y, _ = matrices(log, 0.0)
    u, s, vt = torch.linalg.svd(y)
    best = u[:, :4] * s[:4] @ vt[:4]
    assert torch.allclose(model.user @ model.item.T, best, atol=1e-4)


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    log = dense_log()
    whole = ready(log).solve(log)
    monkeypatch.setattr(module, "_ENTRIES", 4)
    assert torch.allclose(ready(log).solve(log).user, whole.user, atol=1e-10)


def test_rows_without_clicks_are_zero() -> None:
    log = dense_log()
    model = ready(log).solve(log)
    assert model.user[3].abs().sum() == 0 and model.item[8].abs().sum() == 0


def test_it_completes_the_checkerboard(checkerboard: Log) -> None:
    model = fit(checkerboard, ALS(dim=2))
    scores = model.all(torch.arange(24))
    same = (torch.arange(24)[:, None] % 2) == (torch.arange(24) % 2)
    assert float(scores[same].min()) > float(scores[~same].max())
