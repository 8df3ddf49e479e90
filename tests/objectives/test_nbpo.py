"""Point-wise learning with and without flipped labels."""

from __future__ import annotations

import warnings
from typing import get_args

import pytest
import torch
from torch import Tensor

from recfb import Recommender, fit, optim
from recfb.contracts import Batch, Step
from recfb.data import Log
from recfb.errors import RecfbWarning
from recfb.objectives import BPO, NBPO
from recfb.objectives.nbpo import Gradient, log_observed, nbpo
from recfb.random import stream
from recfb.samplers import Clicks
from recfb.scorers import MF
from recfb.testing import check

QUIET = {"enable_progress_bar": False, "enable_model_summary": False}
GRADIENTS = get_args(Gradient)


@pytest.mark.parametrize("objective", [BPO(), *(NBPO(dim=4, gradient=g) for g in GRADIENTS)])
def test_keeps_the_contract(objective: BPO | NBPO, small_log: Log) -> None:
    check(objective, small_log)


# ---- the gradients


def logits(n: int = 500) -> tuple[Tensor, Tensor]:
    """Scores and flip logits, float64."""
    draw = 3 * torch.randn(2, n, generator=stream(0), dtype=torch.float64)
    return draw[0].requires_grad_(), draw[1].requires_grad_()


def ascent(gradient: str, s: Tensor, g: Tensor) -> list[Tensor]:
    """The directions of the paper: d/ds and d/dg of a click, then of no click."""
    up, down, gamma = torch.sigmoid(s), torch.sigmoid(-s), torch.sigmoid(g)
    if gradient == "surrogate":
        return [
            (1 - gamma) * down,
            -gamma * up,
            gamma * down - up,
            (1 - gamma) * up,
        ]
    if gradient == "original":
        none = down + gamma * up
        return [
            down,
            -gamma,
            (gamma - 1) * up * down / none,
            gamma * (1 - gamma) * up / none,
        ]
    return [
        (1 - gamma) * up * down,
        -gamma * (1 - gamma) * up,
        (gamma - 1) * up * down,
        gamma * (1 - gamma) * up,
    ]


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_r_t3_1_autograd_is_the_table(gradient: Gradient) -> None:
    s, g = logits()
    found = []
    for k in (0, 1):  # a click, no click
        found += torch.autograd.grad(-nbpo(s, g, gradient)[k].sum(), (s, g))
    for have, want in zip(found, ascent(gradient, s.detach(), g.detach()), strict=True):
        assert float((have - want).abs().max()) < 1e-10


@pytest.mark.parametrize("gradient", ["original", "sum"])
def test_r_t3_1_autograd_is_the_finite_difference(gradient: Gradient) -> None:
    s, g = (x.detach() for x in logits())
    h = 1e-5
    for k in (0, 1):  # a click, no click
        by_s = nbpo(s - h, g, gradient)[k] - nbpo(s + h, g, gradient)[k]
        by_g = nbpo(s, g - h, gradient)[k] - nbpo(s, g + h, gradient)[k]
        want = ascent(gradient, s, g)[2 * k : 2 * k + 2]
        assert float((by_s / (2 * h) - want[0]).abs().max()) < 1e-6
        assert float((by_g / (2 * h) - want[1]).abs().max()) < 1e-6


def bound(log: Log, objective: BPO | NBPO, negatives: int = 3) -> Recommender:
    """A float64 recommender without penalty; equal seeds give equal vectors."""
    model = Recommender(MF(dim=3, l2=0.0, bias="none"), objective, Clicks(negatives=negatives))
    model.bind(log)
    model.reset(stream(0, "reset"))
    with torch.no_grad():
        model.scorer.user.normal_(generator=stream(1))
        model.scorer.item.normal_(generator=stream(2))
    return model.double()


def batch_of(model: Recommender) -> Batch:
    rows = model.sampler.rows(stream(0, "rows"))
    return model.sampler(rows, model.scorer, Step(generator=stream(0, "step")))


@pytest.mark.parametrize("gradient", ["surrogate", "original"])
def test_r_t3_2_without_flips_it_is_bpo(gradient: Gradient, checkerboard: Log) -> None:
    models = [bound(checkerboard, BPO()), bound(checkerboard, NBPO(dim=1, gradient=gradient))]
    with torch.no_grad():
        models[1].objective.flip.user.fill_(1.0)
        models[1].objective.flip.item.fill_(-40.0)
    found = []
    for model in models:
        model.loss(batch_of(model), Step()).backward()
        found.append([p.grad.to_dense() for p in (model.scorer.user, model.scorer.item)])
    for have, want in zip(*found, strict=True):
        assert float(want.abs().max()) > 0.1
        assert float((have - want).abs().max()) < 1e-12


def settled(gradient: Gradient, share: Tensor, gamma: Tensor) -> Tensor:
    """sigmoid(s) after gradient ascent on pairs that are seen as clicked this share of times."""
    s = torch.zeros_like(gamma, requires_grad=True)
    optimizer = torch.optim.SGD([s], lr=2.0)
    for _ in range(400):
        click, none = nbpo(s, torch.logit(gamma), gradient)
        optimizer.zero_grad()
        (share * click + (1 - share) * none).sum().backward()
        optimizer.step()
    return torch.sigmoid(s).detach()


def test_r_t3_3_fixed_points() -> None:
    gamma = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    alone = settled("surrogate", torch.zeros_like(gamma), gamma)
    assert alone.tolist() == pytest.approx([1 / 11, 1 / 3, 9 / 19], abs=1e-4)
    share, gamma = (torch.tensor([x], dtype=torch.float64) for x in (0.3, 0.2))
    assert float(settled("surrogate", share, gamma)) == pytest.approx(0.38 / 1.08, abs=1e-4)
    assert float(settled("original", share, gamma)) == pytest.approx(0.375, abs=1e-4)


def test_r_t3_4_probabilities_sum_to_one() -> None:
    s, g = (10 * x.detach() for x in logits())
    click, none = log_observed(s, g)
    assert float((click.exp() + none.exp() - 1).abs().max()) < 1e-14
    assert bool(torch.isfinite(click).all()) and bool(torch.isfinite(none).all())


# ---- a step


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_r_t3_5_one_step_is_the_loop_over_clicks_and_negatives(
    gradient: Gradient, checkerboard: Log
) -> None:
    eta, decay, flip_decay = 0.05, 0.5, 0.7
    model = bound(checkerboard, NBPO(dim=2, l2=flip_decay, gradient=gradient))
    tables = [*model.scorer.parameters(), *model.objective.parameters()]
    before = [table.detach().clone() for table in tables]
    batch = batch_of(model)

    total = [torch.zeros_like(table) for table in before]
    u, v, p, q = before
    for user, items in zip(batch.user.tolist(), batch.item.tolist(), strict=True):
        for other in items[1:]:  # the click counts once for each negative
            for item, clicked in ((items[0], True), (other, False)):
                s, g = u[user] @ v[item], p[user] @ q[item]
                ds, dg = ascent(gradient, s, g)[:2] if clicked else ascent(gradient, s, g)[2:]
                total[0][user] += ds * v[item]
                total[1][item] += ds * u[user]
                total[2][user] += dg * q[item]
                total[3][item] += dg * p[user]
    shrink = [decay, decay, flip_decay, flip_decay]
    want = [x + eta * (dx - k * x) for x, dx, k in zip(before, total, shrink, strict=True)]

    groups = list(model.groups())
    groups[0]["weight_decay"] = decay
    optimizer = optim.SGD(lr=eta).build(groups)
    model.loss(batch, Step()).backward()
    for table in tables:
        table.grad = table.grad.to_dense()
    optimizer.step()
    for have, expected, old in zip(tables, want, before, strict=True):
        assert float((have.detach() - expected).abs().max()) < 1e-8
        assert float((expected - old).abs().max()) > 1e-3


def test_the_flip_model_starts_near_no_flips_and_has_a_decay_of_its_own(checkerboard: Log) -> None:
    objective = NBPO(l2=0.3).bind(checkerboard)
    objective.reset(stream(0))
    [group] = objective.groups()
    assert group["weight_decay"] == 0.3
    assert [tuple(p.shape) for p in group["params"]] == [(24, 50), (24, 50)]
    g = objective.flip(torch.arange(24), torch.arange(24).expand(24, -1))
    assert abs(float(g.detach().mean()) + 6.25) < 0.5  # -25 / 4
    flat = objective.flip(torch.arange(24), torch.arange(24))
    assert torch.allclose(flat, g.diagonal())


def test_flip_rows_that_are_never_drawn_decay_too(small_log: Log) -> None:
    wide = Log.of(small_log.frame, n_users=5, n_items=5)  # users 3 and 4 are never drawn
    model = Recommender(MF(dim=2), NBPO(dim=2, l2=0.5), Clicks(), optimizer=optim.SGD(lr=0.1))
    model.bind(wide)
    model.reset(stream(0, "reset"))
    start = model.objective.flip.user.detach().clone()
    fit(wide, model, max_epochs=3, batch_size=100, **QUIET)
    assert torch.allclose(model.objective.flip.user[3:], start[3:] * 0.95**3)


# ---- what it learns


def test_flip_rates_warn_where_they_are_a_constant(checkerboard: Log) -> None:
    objective = NBPO(dim=1, l2=5.0).bind(checkerboard)
    user, item = torch.arange(24), torch.arange(24).expand(24, -1)
    with torch.no_grad():
        objective.flip.user.fill_(1.0)
        objective.flip.item.fill_(0.001)
    with pytest.warns(RecfbWarning, match=r"around 0\.5: NBPO weighs all pairs alike.*than 5\.0"):
        objective.flip_rates(user, item)
    with torch.no_grad():
        objective.flip.item[:, 0] = torch.linspace(-2, 2, 24)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rates = objective.flip_rates(user, item)
    assert rates.shape == (24, 24) and not rates.requires_grad
    assert torch.allclose(rates[5], torch.sigmoid(torch.linspace(-2, 2, 24)))


@pytest.mark.parametrize("objective", [BPO(), NBPO(dim=8)], ids=["bpo", "nbpo"])
def test_it_completes_the_checkerboard(objective: BPO | NBPO, checkerboard: Log) -> None:
    sgd = optim.SGD(lr=0.05, decay=0.99)
    model = Recommender(MF(dim=4, l2=0.2), objective, Clicks(negatives=3), optimizer=sgd)
    fit(checkerboard, model, max_epochs=60, batch_size=64, **QUIET)
    with torch.no_grad():
        scores = model.scorer.all(torch.arange(24))
    same = (torch.arange(24)[:, None] % 2) == (torch.arange(24) % 2)
    best = torch.where(same, scores, torch.inf).amin(1)
    assert bool((best > torch.where(same, -torch.inf, scores).amax(1)).all())
    if isinstance(objective, NBPO):  # clicks were seen, so they cannot have been flipped
        rates = objective.flip_rates(torch.arange(24), torch.arange(24).expand(24, -1))
        clicked = checkerboard.clicks.mask(torch.arange(24))
        assert float(rates[clicked].mean()) < 0.3 < 0.7 < float(rates[~same].mean())
