"""Shallow linear autoencoders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import recfb
from recfb import Log, fit
from recfb.random import stream
from recfb.solvers import EASE
from recfb.solvers import ease as module
from recfb.testing import check


def some_log() -> Log:
    """User 3 and item 8 have no click."""
    keep = torch.rand(12, 9, generator=stream(0)) < 0.4
    keep[3], keep[:, 8] = False, False
    user, item = keep.nonzero(as_tuple=True)
    rows = {"user": user, "item": item, "reward": torch.ones(len(user))}
    return Log.of(rows, n_users=12, n_items=9)


def matrix(log: Log) -> Tensor:
    return log.clicks.mask(torch.arange(log.n_users)).double()


def solved(log: Log, l2: float = 2.0) -> EASE:
    return EASE(l2=l2).bind(log).double().solve(log)


def test_keeps_the_contract(small_log: Log) -> None:
    check(EASE(l2=3.0), small_log)


@pytest.mark.parametrize("l2", [0.5, 250.0])
def test_r_7_8_the_gradient_is_zero_off_the_diagonal(l2: float) -> None:
    log = some_log()
    x, b = matrix(log), solved(log, l2).coefficient
    assert float(b.diagonal().abs().max()) == 0.0
    gradient = x.T @ (x - x @ b) - l2 * b
    off = ~torch.eye(9, dtype=torch.bool)
    assert float(gradient[off].abs().max()) < 1e-8
    assert float(b[:8, :8].abs().max()) > 1e-4


def test_r_7_8_columns_are_ridge_regressions_on_the_other_items() -> None:
    log = some_log()
    x, b = matrix(log), solved(log).coefficient
    for j in range(9):
        rest = [i for i in range(9) if i != j]
        a = x[:, rest]
        eye = 2.0 * torch.eye(8, dtype=torch.float64)
        expected = torch.linalg.solve(a.T @ a + eye, a.T @ x[:, j])
        assert torch.allclose(b[rest, j], expected, atol=1e-10)


def test_scores_are_sums_over_the_users_clicks() -> None:
    log = some_log()
    model = solved(log)
    expected = matrix(log) @ model.coefficient
    user = torch.tensor([5, 3, 0, 5])
    assert torch.allclose(model.all(user), expected[user], atol=1e-12)
    item = torch.tensor([[0, 8], [1, 2], [7, 7], [3, 0]])
    assert torch.allclose(model(user, item), expected[user[:, None], item], atol=1e-12)
    assert model.all(torch.tensor([3])).abs().sum() == 0  # no click, no score


def test_blocks_of_users_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = solved(some_log()).coefficient
    monkeypatch.setattr(module, "_CELLS", 30)
    assert torch.equal(solved(some_log()).coefficient, whole)


def test_a_loaded_one_still_has_the_clicks(tmp_path: Path) -> None:
    model = fit(some_log(), EASE())
    recfb.save(model, tmp_path / "model")
    again = recfb.load(tmp_path / "model")
    user = torch.arange(12)
    assert float(model.all(user).abs().max()) > 0
    assert torch.equal(again.all(user), model.all(user))


def test_it_completes_the_checkerboard(checkerboard: Log) -> None:
    scores = fit(checkerboard, EASE(l2=10.0)).all(torch.arange(24))
    same = (torch.arange(24)[:, None] % 2) == (torch.arange(24) % 2)
    assert float(scores[same].min()) > float(scores[~same].max())
