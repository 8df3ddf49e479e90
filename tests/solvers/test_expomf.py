"""Exposure matrix factorisation."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from recfb import Log, fit
from recfb.random import stream
from recfb.solvers import ALS, ExpoMF
from recfb.solvers import expomf as module
from recfb.solvers.expomf import posterior
from recfb.testing import check


def some_log() -> Log:
    """User 3 and item 8 have no click."""
    keep = torch.rand(12, 9, generator=stream(0)) < 0.4
    keep[3], keep[:, 8] = False, False
    user, item = keep.nonzero(as_tuple=True)
    rows = {"user": user, "item": item, "reward": torch.ones(len(user))}
    return Log.of(rows, n_users=12, n_items=9)


def ready(log: Log, **options: float) -> ExpoMF:
    model = ExpoMF(dim=3, **{"l2": 0.3, "precision": 2.0, "prior": 0.2, **options}).bind(log)
    model.double().reset(stream(1))
    return model


def likelihood(model: ExpoMF, log: Log) -> float:
    """log P(Y, U, V | mu) up to a constant: the lower bound where A is exact."""
    y = log.clicks.mask(torch.arange(log.n_users))
    s, mu = model.user @ model.item.T, model.seen.expand(y.shape)
    around = Normal(s, 1 / math.sqrt(model.precision))
    seen = torch.log(mu) + around.log_prob(y.double())
    both = torch.where(y, seen, torch.logaddexp(seen, torch.log1p(-mu)))
    lengths = model.user.square().sum() + model.item.square().sum()
    return float(both.sum() - 0.5 * model.l2 * lengths)


def test_keeps_the_contract(small_log: Log) -> None:
    check(ExpoMF(dim=3, sweeps=2), small_log)


def test_posterior_by_hand() -> None:
    s, mu = torch.tensor([0.0, 1.0, 30.0], dtype=torch.float64), torch.tensor(0.5)
    n = [math.sqrt(2 / (2 * math.pi)) * math.exp(-(x**2)) for x in (0.0, 1.0)]
    expected = [x / (x + 1) for x in n]
    found = posterior(s, mu, precision=2.0, constant="exact").tolist()
    assert found[:2] == pytest.approx(expected, abs=1e-7)
    assert found[2] == pytest.approx(0.0, abs=1e-12)
    n[0] *= math.pi
    found = posterior(s, mu, precision=2.0, constant="reference").tolist()
    assert found[0] == pytest.approx(n[0] / (n[0] + 1), abs=1e-7)


def test_r_7_4_probabilities_are_probabilities() -> None:
    model = ready(some_log(), sweeps=3).solve(some_log())
    score = torch.tensor([-1e9, -1.0, 0.0, 1e9], dtype=torch.float64)
    for mu in (0.0, 1e-12, 0.3, 1.0):
        a = posterior(score, torch.tensor(mu), precision=2.0, constant="exact")
        assert bool(((a >= 0) & (a <= 1)).all())
    click = torch.tensor([True, False, True, False])
    a = model.weights(score, torch.tensor(0.3), click)
    assert a[click].tolist() == [1.0, 1.0] and bool((a[~click] < 1).all())
    assert bool(((model.seen >= 0) & (model.seen <= 1)).all())


def test_r_7_4_where_all_is_seen_it_is_unweighted_factorisation() -> None:
    log = some_log()
    model = ready(log, prior=1.0, sweeps=4).solve(log)
    als = ALS(dim=3, alpha=0.0, l2=0.3 / 2.0, sweeps=4, ridge="absolute").bind(log).double()
    als.reset(stream(1))
    als.solve(log)
    assert model.seen.tolist() == [1.0] * 9
    assert torch.allclose(model.user @ model.item.T, als.user @ als.item.T, atol=1e-10)


def test_r_7_4_the_bound_never_decreases(monkeypatch: pytest.MonkeyPatch) -> None:
    log, bounds = some_log(), []
    model = ready(log, sweeps=6)
    for name in ("half_sweep", "expose"):
        inner = getattr(model, name)

        def watched(*arguments: Tensor, inner: object = inner) -> None:
            inner(*arguments)  # type: ignore[operator]
            bounds.append(likelihood(model, log))

        monkeypatch.setattr(model, name, watched)
    model.solve(log)
    assert len(bounds) == 18
    assert all(b >= a - 1e-9 for a, b in pairwise(bounds))
    assert bounds[-1] > bounds[0] + 0.1


def test_a_half_sweep_is_a_weighted_ridge_regression() -> None:
    log = some_log()
    model = ready(log, sweeps=1)
    v = model.item.detach().clone()
    model.sweeps = 0
    y = log.clicks.mask(torch.arange(12))
    a = model.weights(torch.zeros(12, 9, dtype=torch.float64), model.seen, y)  # U starts at 0
    model.half_sweep(model.user, model.item, log.clicks, model.seen[None, :])
    for u in range(12):
        system = v.T @ (a[u][:, None] * v) + 0.15 * torch.eye(3, dtype=torch.float64)
        expected = torch.linalg.solve(system, v.T @ (a[u] * y[u]))
        assert torch.allclose(model.user[u], expected, atol=1e-10)


def test_mu_is_the_mean_of_the_posterior() -> None:
    log = some_log()
    model = ready(log, sweeps=2).solve(log)
    before = model.seen.clone()
    y = log.clicks.mask(torch.arange(12))
    expected = model.weights(model.user @ model.item.T, before, y).mean(0)
    items = module.Pairs(log.clicks.item, log.clicks.user, n_users=9, n_items=12)
    model.expose(items)
    assert torch.allclose(model.seen, expected, atol=1e-12)
    assert model.seen[8] < before[8] < 0.2  # never clicked: more and more likely unseen


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ready(some_log()).solve(some_log())
    monkeypatch.setattr(module, "_ENTRIES", 40)
    parts = ready(some_log()).solve(some_log())
    assert torch.allclose(parts.user, whole.user, atol=1e-10)
    assert torch.allclose(parts.seen, whole.seen, atol=1e-12)


def test_rows_without_clicks_are_zero() -> None:
    model = ready(some_log()).solve(some_log())
    assert model.user[3].abs().sum() == 0 and model.item[8].abs().sum() == 0


def test_it_completes_the_checkerboard(checkerboard: Log) -> None:
    scores = fit(checkerboard, ExpoMF(dim=2)).all(torch.arange(24))
    same = (torch.arange(24)[:, None] % 2) == (torch.arange(24) % 2)
    assert float(scores[same].min()) > float(scores[~same].max())
