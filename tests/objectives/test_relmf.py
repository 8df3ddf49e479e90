"""Relevance matrix factorisation: unbiased by enumeration, biased where clipped, and its limits."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from recfb.contracts import Batch, Step
from recfb.data import Log
from recfb.estimate import average
from recfb.exposures import Popularity
from recfb.fit import fit
from recfb.objectives.bce import bce
from recfb.objectives.relmf import (
    Bound,
    Link,
    RelMF,
    inverse_exposure,
    local_losses,
    nnpu,
    relmf,
    weighted,
)
from recfb.random import stream
from recfb.recommender import Recommender
from recfb.samplers import AllPairs
from recfb.scorers import MF
from recfb.solvers import RelMF as Solver
from recfb.testing import check

LINKS = get_args(Link)
M = 0.3
SHORT = {"max_epochs": 10, "batch_size": 4, "enable_progress_bar": False}


def test_keeps_the_contract(small_log: Log) -> None:
    check(RelMF(Popularity()), small_log)


# ---- by enumeration: 3 users, 4 items, all 2^12 patterns of clicks


def small_world() -> tuple[Tensor, Tensor, Tensor]:
    """Relevance, exposure and scores of 12 pairs, float64."""
    gamma = torch.linspace(0.1, 0.9, 12, dtype=torch.float64)
    theta = torch.tensor([0.1, 0.25, 0.6, 1.0], dtype=torch.float64).repeat(3)
    score = torch.linspace(-2, 3, 12, dtype=torch.float64).flip(0)
    return gamma, theta, score


def ideal(gamma: Tensor, score: Tensor, link: Link) -> Tensor:
    d1, d0 = local_losses(score, link)
    return (gamma * d1 + (1 - gamma) * d0).mean(-1)


def patterns(click: Tensor) -> tuple[Tensor, Tensor]:
    """All patterns (4096, 12) and their probabilities (4096,)."""
    y = torch.tensor(list(itertools.product([0.0, 1.0], repeat=12)), dtype=torch.float64)
    return y, torch.where(y > 0, click, 1 - click).prod(1)


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("clip", [0.0, M])
def test_expectation_over_all_patterns(link: Link, clip: float) -> None:
    gamma, theta, score = small_world()
    y, probability = patterns(theta * gamma)
    loss = relmf(score, y, theta.expand_as(y), link=link, clip=clip).mean(1)  # (4096,)
    expected = (probability * loss).sum()
    d1, d0 = local_losses(score, link)
    bias = torch.where(theta < clip, gamma * (theta / max(clip, 1e-9) - 1) * (d1 - d0), 0.0).mean()
    assert abs(float(expected - ideal(gamma, score, link) - bias)) < 1e-12
    assert (abs(float(bias)) > 1e-3) == (clip > 0)
    # the variance, from the same patterns
    variance = (probability * (loss - expected).square()).sum()
    most = theta.clamp(min=clip)
    formula = (theta * gamma * (1 - theta * gamma) / most**2 * (d1 - d0) ** 2).sum() / 12**2
    assert abs(float(variance - formula)) < 1e-12


# ---- R-T1


def large_world() -> tuple[Tensor, Tensor, Tensor]:
    rng = np.random.default_rng(0)
    gamma = torch.tensor(rng.uniform(0.02, 0.6, (40, 50)))
    theta = torch.tensor(rng.beta(0.8, 3, 50).clip(0.02, 1)).expand(40, 50)
    q = torch.tensor(rng.uniform(0.05, 0.95, (40, 50)))
    return gamma.reshape(-1), theta.reshape(-1), torch.logit(q).reshape(-1)


def draws(clip: float, link: Link, n: int = 20_000) -> tuple[Tensor, Tensor, Tensor]:
    """Losses of n drawn logs, their expectation and variance by the formulas."""
    gamma, theta, score = large_world()
    generator, losses = stream(0, "draws"), []
    for _ in range(n // 1000):
        u = torch.rand(1000, 2000, generator=generator, dtype=torch.float32)
        y = (u < theta * gamma).double()
        losses.append(relmf(score, y, theta.expand_as(y), link=link, clip=clip).mean(1))
    d1, d0 = local_losses(score, link)
    most = theta.clamp(min=clip)
    mean = ideal(gamma, score, link) + (gamma * (theta / most - 1) * (d1 - d0)).mean()
    variance = (theta * gamma * (1 - theta * gamma) / most**2 * (d1 - d0) ** 2).sum() / 2000**2
    return torch.cat(losses), mean, variance


def test_r_t1_1_unbiasedness() -> None:
    loss, mean, variance = draws(clip=0.0, link="bce")
    assert abs(float(loss.mean() - mean)) <= 4 * float((variance / len(loss)).sqrt())
    assert 0.95 <= float(loss.var() / variance) <= 1.05


@pytest.mark.parametrize("clip", [0.1, 0.3])
def test_r_t1_2_clipped(clip: float) -> None:
    loss, mean, variance = draws(clip=clip, link="bce")
    assert abs(float(loss.mean() - mean)) <= 4 * float((variance / len(loss)).sqrt())
    assert 0.95 <= float(loss.var() / variance) <= 1.05
    gamma, _, score = large_world()
    off = abs(float(loss.mean() - ideal(gamma, score, "bce")))
    assert off > 4 * float((variance / len(loss)).sqrt())


@pytest.mark.parametrize("how", ["theta 1", "clip 1", "power 0"])
@pytest.mark.parametrize("link", LINKS)
def test_r_t1_3_limits(how: str, link: Link, small_log: Log) -> None:
    user, item = torch.meshgrid(torch.arange(3), torch.arange(5), indexing="ij")
    user, item = user.reshape(-1), item.reshape(-1)
    reward = small_log.clicks.label(user, item).double()
    power = {"theta 1": 0.0, "clip 1": 0.5, "power 0": 0.0}[how]
    objective = RelMF(Popularity(power=power), link=link, clip=1.0 if how == "clip 1" else 0.0)
    objective.bind(small_log)
    if how == "theta 1":
        objective.exposure.theta.fill_(1.0)
    scores = torch.randn(15, generator=stream(1), dtype=torch.float64)
    s, t = (scores.clone().requires_grad_() for _ in range(2))
    ours = objective(lambda u, i: s, Batch(user, item, reward))
    if link == "bce":
        plain = bce(t, reward)
    else:
        q = torch.sigmoid(t) if link == "sq_sigmoid" else t
        plain = (q - reward).square()
    ours.sum().backward()
    plain.sum().backward()
    assert torch.allclose(ours, plain, atol=1e-6) and torch.allclose(s.grad, t.grad, atol=1e-6)


@pytest.mark.parametrize("c", [1.0, 5.0])
@pytest.mark.parametrize("link", LINKS)
def test_r_t1_4_bias_of_weighted_factorisation(c: float, link: Link) -> None:
    gamma, theta, score = large_world()
    d1, d0 = local_losses(score, link)
    click, none, some = theta * gamma, torch.zeros_like(theta), torch.ones_like(theta)
    expected = click * weighted(some, d1, d0, c, 1.0) + (1 - click) * weighted(none, d1, d0, c, 1.0)
    bias = float(expected.mean() - ideal(gamma, score, link))
    formula = (gamma * ((c * theta - 1) * d1 + (1 - theta) * d0)).mean()
    assert abs(bias - float(formula)) < 1e-10
    assert abs(bias) > 1e-4


def test_bce_over_theta_on_both_labels_is_biased_and_ours_is_not() -> None:
    gamma, theta, score = large_world()
    d1, d0 = local_losses(score, "bce")
    click, w = theta * gamma, 1 / theta
    one, zero = torch.ones_like(theta), torch.zeros_like(theta)
    both = click * weighted(one, d1, d0, w, w) + (1 - click) * weighted(zero, d1, d0, w, w)
    excess = ((1 / theta - 1) * d0).mean()
    assert abs(float(both.mean() - ideal(gamma, score, "bce") - excess)) < 1e-10


def test_r_t1_5_closed_form() -> None:
    log = Log.of(
        {"user": [0, 0, 1, 2, 2, 3], "item": [0, 1, 2, 0, 3, 0], "reward": [1] * 6}, n_items=6
    )
    solver = Solver(Popularity(power=0.5), dim=3, l2=0.3, clip=0.1, sweeps=3).bind(log).double()
    solver.reset(stream(0))
    solver.solve(log).requires_grad_()  # ends with the items
    user, item = torch.meshgrid(torch.arange(4), torch.arange(6), indexing="ij")
    reward = log.clicks.label(user, item).double()
    theta = solver.exposure.theta.double()[item]

    def loss(scores: Tensor) -> Tensor:
        return relmf(scores, reward, theta, link="sq_linear", clip=0.1).sum()

    lengths = 6 * solver.user.square().sum() + 4 * solver.item.square().sum()  # 6 items, 4 users
    (loss(solver.user @ solver.item.T) + 0.3 * lengths).backward()
    assert float(solver.item.grad.abs().max()) < 1e-10
    assert float(solver.user.grad.abs().max()) > 1e-6  # the users moved one half sweep before
    w = inverse_exposure(reward, theta, 0.1)
    gaps = []
    for seed in range(3):
        scores = torch.randn(4, 6, generator=stream(seed), dtype=torch.float64)
        gaps.append(float(loss(scores) - (scores - w).square().sum()))
    assert max(gaps) - min(gaps) < 1e-10


@pytest.mark.parametrize("link", LINKS)
def test_r_t1_6_gradient(link: Link) -> None:
    s = torch.linspace(-4, 4, 9, dtype=torch.float64, requires_grad=True)
    reward = torch.tensor([0.0, 1.0, 1.0] * 3, dtype=torch.float64)
    theta = torch.linspace(0.05, 0.9, 9, dtype=torch.float64)
    relmf(s, reward, theta, link=link, clip=0.1).sum().backward()
    w, x = reward / theta.clamp(min=0.1), s.detach()
    q = torch.sigmoid(x)
    formula = {"bce": q - w, "sq_sigmoid": 2 * (q - w) * q * (1 - q), "sq_linear": 2 * (x - w)}
    assert torch.allclose(s.grad, formula[link], rtol=0, atol=1e-10)


@pytest.mark.parametrize("link", LINKS)
def test_r_t1_7_no_nan_where_exposure_is_zero(link: Link) -> None:
    s = torch.zeros(2, requires_grad=True)
    theta = torch.tensor([0.0, 0.5], requires_grad=True)
    loss = relmf(s, torch.tensor([0.0, 1.0]), theta, link=link, clip=0.0)
    loss.sum().backward()
    assert bool(torch.isfinite(loss).all() and torch.isfinite(s.grad).all())
    assert bool(torch.isfinite(theta.grad).all())


@pytest.mark.parametrize(
    ("draw", "unbiased"), [("balanced_iw", True), ("uniform", True), ("balanced", False)]
)
def test_r_t1_8_sampling(draw: str, unbiased: bool) -> None:
    generator = stream(3)
    user, item = torch.meshgrid(torch.arange(30), torch.arange(40), indexing="ij")
    clicked = torch.rand(30, 40, generator=generator) < 0.08
    log = Log.of(
        {"user": user[clicked], "item": item[clicked], "reward": torch.ones(int(clicked.sum()))},
        n_users=30,
        n_items=40,
    )
    sampler = AllPairs(draw=draw)
    model = Recommender(MF(dim=4, l2=0.0), RelMF(Popularity(), link="bce"), sampler)
    model.bind(log)
    model.reset(generator)
    score = torch.randn(30, 40, generator=generator) - 1.5
    objective = model.objective
    full = objective(lambda u, i: score[u, i], Batch(user, item, clicked.float())).mean()
    size, losses = 16, []
    epochs = -(-10_000 * size // len(sampler))
    for seed in range(epochs):
        batch = sampler(sampler.rows(stream(seed, "rows")), None, Step())
        loss = objective(lambda u, i: score[u, i], batch)
        losses.append(loss if batch.weight is None else loss * batch.weight)
    means = torch.cat(losses)[: 10_000 * size].view(10_000, size).mean(1)
    z = abs(float((means.mean() - full) / (means.std() / 100)))
    assert z < 4 if unbiased else z > 20


@pytest.mark.parametrize("link", LINKS)
def test_r_t1_9_population_limit(link: Link) -> None:
    gamma = torch.tensor([0.05, 0.3, 0.6, 0.9], dtype=torch.float64)
    theta = torch.tensor([0.1, 0.9, 0.4, 0.2], dtype=torch.float64)
    s = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([s], max_iter=500, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = relmf(s, theta * gamma, theta, link=link, clip=0.0).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    best = s.detach() if link == "sq_linear" else torch.sigmoid(s.detach())
    assert torch.allclose(best, gamma, atol=1e-3)
    assert not torch.allclose(best, theta * gamma, atol=1e-2)


def test_the_recommender_applies_sampling_weights_once(small_log: Log) -> None:
    model = Recommender(MF(dim=2, l2=0.0), RelMF(Popularity()), AllPairs(draw="balanced_iw"))
    model.bind(small_log)
    model.reset(stream(0))
    batch = model.sampler(model.sampler.rows(stream(0)), model.scorer, Step())
    by_hand = (model.objective(model.scorer, batch) * batch.weight).mean()
    assert torch.allclose(model.loss(batch, Step()), by_hand)


# ---- losses that are kept from being negative


def three(nonneg: Bound = "none", **options: float) -> tuple[RelMF, Batch, Tensor]:
    """Two clicks with exposures 1/4 and 1/2 and a pair without; squared losses of their scores."""
    objective = RelMF(Popularity(), link="sq_linear", clip=0.1, nonneg=nonneg, **options)
    objective.bind(Log.empty(1, 3))
    objective.exposure.theta = torch.tensor([0.25, 0.5, 1.0], dtype=torch.float64)
    batch = Batch(torch.zeros(3).long(), torch.arange(3), torch.tensor([1.0, 1.0, 0.0]).double())
    return objective, batch, torch.tensor([2.0, 0.5, 3.0], dtype=torch.float64, requires_grad=True)


def test_the_default_is_the_unbiased_loss_to_the_bit() -> None:
    objective, batch, score = three()
    plain = relmf(score, batch.reward, objective.exposure.theta, link="sq_linear", clip=0.1)
    assert torch.equal(objective(lambda u, i: score, batch), plain)
    # w = 4, 2, 0: 4 * 1 - 3 * 4; 2 * 0.25 - 1 * 0.25; 9
    assert plain.tolist() == [-8.0, 0.25, 9.0]


@pytest.mark.parametrize(("beta", "first"), [(0.0, 0.0), (3.0, -3.0), (7.9, -7.9), (8.1, -8.0)])
def test_local_keeps_each_loss_above_minus_beta_by_hand(beta: float, first: float) -> None:
    objective, batch, score = three("local", beta=beta)
    losses = objective(lambda u, i: score, batch)
    assert losses.tolist() == [first, 0.25, 9.0]
    losses.sum().backward()
    slope = 2 * (2.0 - 4.0) if first == -8.0 else 0.0  # 2 (s - w), none below -beta
    assert score.grad.tolist() == [slope, 2 * (0.5 - 2.0), 6.0]


def test_nnpu_by_hand_where_the_second_part_is_positive() -> None:
    objective, batch, score = three("nnpu")
    with torch.no_grad():
        score[2] = 4.0
    loss = objective(lambda u, i: score, batch)
    assert loss.shape == ()  # 4 * 1 + 2 * 0.25, and -3 * 4 - 1 * 0.25 + 16
    assert loss.item() == pytest.approx((4.5 + 3.75) / 3)
    loss.backward()
    assert score.grad.tolist() == pytest.approx([-4 / 3, -3 / 3, 8 / 3])


def test_nnpu_by_hand_where_the_second_part_is_negative() -> None:
    objective, batch, score = three("nnpu")
    loss = objective(lambda u, i: score, batch)  # -12 - 0.25 + 9 < 0
    assert loss.item() == pytest.approx(4.5 / 3)
    loss.backward()
    slope = [2 * 4 * (2.0 - 1) / 3, 2 * 2 * (0.5 - 1) / 3, 0.0]  # of w (1 - s)^2 alone
    assert score.grad.tolist() == pytest.approx(slope)


def test_nnpu_takes_sampling_weights_into_account() -> None:
    objective, batch, score = three("nnpu")
    weight = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    loss = objective(lambda u, i: score, replace(batch, weight=weight))
    second = 0.5 * -12 - 0.25 + 2 * 9
    assert loss.item() == pytest.approx((0.5 * 4 + 0.5 + second) / 3)


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("clip", [0.0, M])
def test_only_none_is_unbiased_by_enumeration(link: Link, clip: float) -> None:
    gamma, theta, score = small_world()
    score = score.abs() + 1.5  # relevant in the eyes of the scorer, so that losses are negative
    y, probability = patterns(theta * gamma)
    options = {"link": link, "clip": clip}
    exposure = theta.expand_as(y)
    plain = relmf(score, y, exposure, **options)  # (4096, 12)
    expected = float((probability * plain.mean(1)).sum())
    objective = RelMF(Popularity(), **options, nonneg="local").bind(Log.empty(1, 12))
    objective.exposure.theta = theta
    batch = Batch(torch.zeros(4096 * 12).long(), torch.arange(12).repeat(4096), y.view(-1))
    local = objective(lambda u, i: score[i], batch).view(4096, 12)
    assert float((local - plain.clamp(min=0)).abs().max()) == 0.0
    whole = nnpu(score, y, exposure, average, **options)  # (4096,)
    assert bool((whole >= plain.mean(1) - 1e-12).all())
    for bounded in (local.mean(1), whole):
        assert float((probability * bounded).sum()) > expected + 1e-4


@pytest.mark.parametrize("link", LINKS)
def test_nnpu_trains_and_is_the_plain_loss_where_its_second_part_is_positive(
    link: Link, small_log: Log
) -> None:
    def model(nonneg: Bound) -> Recommender:
        objective = RelMF(Popularity(), link=link, nonneg=nonneg)
        return Recommender(MF(dim=2), objective, AllPairs(draw="balanced_iw"))

    bounded, plain = (fit(small_log, model(n), **SHORT) for n in ("nnpu", "none"))
    scores = bounded.scorer.all(torch.arange(3))
    assert bool(torch.isfinite(scores).all())
    batch = plain.sampler(plain.sampler.rows(stream(0)), None, Step(generator=stream(1)))
    with torch.no_grad():
        for each in (bounded, plain):
            each.zero_grad()
            each.reset(stream(0))
            each.scorer.offset.fill_(0.5)
    assert bounded.objective(bounded.scorer, batch).dim() == 0
    ours, theirs = bounded.loss(batch, Step()), plain.loss(batch, Step())
    assert torch.allclose(ours, theirs, rtol=1e-6)
    ours.backward()
    theirs.backward()
    for a, b in zip(bounded.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(a.grad.to_dense(), b.grad.to_dense(), atol=1e-7)
