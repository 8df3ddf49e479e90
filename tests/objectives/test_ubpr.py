"""Unbiased pairwise ranking: by enumeration, its limits, and what it must be fed with."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from recfb import ConfigError, Log, Recommender, fit
from recfb.contracts import Batch
from recfb.exposures import Popularity
from recfb.objectives import BPR, UBPR
from recfb.objectives.bpr import bpr
from recfb.objectives.relmf import inverse_exposure
from recfb.objectives.ubpr import ubpr
from recfb.random import stream
from recfb.samplers import AllPairs, Clicks
from recfb.scorers import MF
from recfb.testing import check


def objective(theta: list[float], **options: float) -> UBPR:
    made = UBPR(Popularity(), **options).bind(Log.empty(1, len(theta)))
    made.exposure.theta = torch.tensor(theta, dtype=torch.float64)
    return made


def test_keeps_the_contract(small_log: Log) -> None:
    check(UBPR(Popularity()), small_log)


def test_r_7_6_expectation_over_the_four_outcomes() -> None:
    gamma = torch.tensor([0.7, 0.2, 0.9, 0.4], dtype=torch.float64)
    theta = torch.tensor([0.1, 0.35, 0.8, 1.0], dtype=torch.float64)
    score = torch.tensor([0.3, -1.2, 2.0, 0.0], dtype=torch.float64)
    for i, j in itertools.permutations(range(4), 2):
        expected = 0.0
        for y_i, y_j in itertools.product([0.0, 1.0], repeat=2):
            chance = 1.0
            for y, k in ((y_i, i), (y_j, j)):
                click = float(theta[k] * gamma[k])
                chance *= click if y else 1 - click
            w_i, w_j = (
                inverse_exposure(torch.tensor(y, dtype=torch.float64), theta[k], 0.0)
                for y, k in ((y_i, i), (y_j, j))
            )
            expected += chance * float(ubpr(score[i], score[j], w_i, w_j))
        ideal = gamma[i] * (1 - gamma[j]) * bpr(score[i], score[j])
        assert abs(expected - float(ideal)) < 1e-12


def test_an_item_paired_with_itself_would_be_biased() -> None:
    gamma, theta = 0.6, 0.5
    w = torch.tensor(1 / theta, dtype=torch.float64)
    zero = torch.zeros((), dtype=torch.float64)
    expected = theta * gamma * float(ubpr(zero, zero, w, w))  # one Y for both
    assert abs(expected - gamma * (1 - gamma) * math.log(2)) > 0.1


def test_r_7_6_where_all_is_seen_and_the_other_is_unclicked_it_is_bpr() -> None:
    score = torch.randn(2, 4, generator=stream(0), dtype=torch.float64)
    reward = torch.tensor([[1.0, 0, 0, 0]] * 2)
    batch = Batch(torch.tensor([0, 1]), torch.arange(4).expand(2, -1), reward)
    ours = objective([1.0] * 4)(lambda u, i: score, batch)
    assert torch.allclose(ours, BPR()(lambda u, i: score, batch), atol=1e-12)


@pytest.mark.parametrize("beta", [0.0, 0.5, math.inf])
def test_losses_by_hand_are_bounded_below_by_beta(beta: float) -> None:
    batch = Batch(torch.tensor([0]), torch.tensor([[0, 1, 2]]), torch.tensor([[1.0, 1.0, 0.0]]))
    score = torch.tensor([[1.0, 0.5, 2.0]], dtype=torch.float64, requires_grad=True)
    losses = objective([0.5, 0.25, 1.0], beta=beta)(lambda u, i: score, batch)[0]
    below = 2 * (1 - 4) * math.log1p(math.exp(-0.5))  # -2.84
    above = 2 * math.log1p(math.exp(1.0))
    assert losses.tolist() == pytest.approx([max(below, -beta), above])
    losses[0].backward()
    assert (float(score.grad.abs().sum()) == 0.0) == (beta < 1)


def test_small_exposures_are_clipped() -> None:
    batch = Batch(torch.tensor([0]), torch.tensor([[0, 1]]), torch.tensor([[1.0, 0.0]]))
    zero = torch.zeros(1, 2, dtype=torch.float64)
    loss = objective([0.001, 1.0], clip=0.2)(lambda u, i: zero, batch)
    assert float(loss) == pytest.approx(5 * math.log(2))


@pytest.mark.parametrize("sampler", [Clicks(), AllPairs()])
def test_other_samplers_are_refused(sampler: Clicks | AllPairs) -> None:
    with pytest.raises(ConfigError, match=r'samplers.Clicks\(among="any"\)'):
        Recommender(MF(dim=2), UBPR(Popularity()), sampler)


def test_it_completes_the_checkerboard(checkerboard: Log) -> None:
    sampler = Clicks(negatives=2, among="any")
    model = Recommender(MF(dim=4), UBPR(Popularity(power=0.5)), sampler)
    fit(checkerboard, model, max_epochs=60, batch_size=64, enable_progress_bar=False)
    with torch.no_grad():
        scores = model.scorer.all(torch.arange(24))
    same = (torch.arange(24)[:, None] % 2) == (torch.arange(24) % 2)
    best = torch.where(same, scores, torch.inf).amin(1)
    assert bool((best > torch.where(same, -torch.inf, scores).amax(1)).all())
