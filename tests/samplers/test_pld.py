"""Clicks resampled by their loss."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from recfb import Recommender, fit
from recfb.contracts import Batch, Scorer, Step
from recfb.data import Log
from recfb.errors import ConfigError
from recfb.objectives import BPR
from recfb.optim import Adagrad, Adam
from recfb.random import stream
from recfb.samplers import PLD, Clicks
from recfb.samplers.pld import resample
from recfb.scorers import MF, LightGCN, NeuMF
from recfb.testing import check
from recfb.testing.outcome import score_of

QUIET = {"enable_progress_bar": False, "enable_model_summary": False}
DRAWS = 200_000
RHO = 0.3  # share of noisy clicks


@pytest.mark.parametrize("loss", ["bpr", "bce"])
def test_keeps_the_contract(loss: str, checkerboard: Log) -> None:
    check(PLD(k=3, warmup=1, loss=loss), checkerboard)


def epoch(sampler: PLD | Clicks, number: int, seed: int) -> Batch:
    step = Step(epoch=number, generator=stream(seed, "step"))
    return sampler(sampler.rows(stream(seed, "rows")), score_of, step)


@pytest.mark.parametrize(
    ("sampler", "number"), [(PLD(k=1, warmup=0), 9), (PLD(k=4, warmup=3), 2)], ids=["k=1", "warmup"]
)
def test_r_t2_1_a_pool_of_one_is_clicks_by_user(
    sampler: PLD, number: int, checkerboard: Log
) -> None:
    plain = epoch(Clicks(by="user").bind(checkerboard), number, 7)
    batch = epoch(sampler.bind(checkerboard), number, 7)
    assert torch.equal(batch.user, plain.user)
    assert torch.equal(batch.item, plain.item)
    assert torch.equal(batch.reward, plain.reward)


def test_denoising_starts_with_the_epoch_after_warmup(checkerboard: Log) -> None:
    sampler = PLD(k=4, temperature=1e-3, warmup=3).bind(checkerboard)
    before, after = epoch(sampler, 2, 7), epoch(sampler, 3, 7)
    loss = torch.stack([-score_of(b.user, b.item[:, :1]).mean() for b in (before, after)])
    assert float(loss[1]) < float(loss[0]) - 0.5


def test_r_t2_2_draws_follow_the_softmax() -> None:
    loss = torch.arange(5.0, dtype=torch.float64)
    pick = resample(loss.expand(DRAWS, 5), 1.0, stream(0))
    count = torch.bincount(pick.squeeze(1), minlength=5)
    assert chisquare(count.numpy(), (DRAWS * torch.softmax(-loss, 0)).numpy()).pvalue > 0.001
    # the temperature divides the loss
    halved = resample(2 * loss.expand(DRAWS, 5), 2.0, stream(0))
    assert torch.equal(pick, halved)


def noisy_share(loss: Tensor, noisy: Tensor, temperature: float, seed: int) -> float:
    return float(noisy.gather(1, resample(loss, temperature, stream(seed, "pick"))).double().mean())


@pytest.mark.parametrize(
    ("gap", "k", "expected"),
    [
        (1, 2, 0.2030),
        (1, 5, 0.1575),
        (1, 20, 0.1409),
        (2, 2, 0.1401),
        (2, 5, 0.0720),
        (2, 20, 0.0581),
    ],
)
def test_r_t2_3_two_point_losses(gap: int, k: int, expected: float) -> None:
    noisy = torch.rand(DRAWS, k, generator=stream(gap, "noisy", k)) < RHO
    found = noisy_share(gap * 0.1 * noisy.double(), noisy, 0.1, k)
    assert abs(found - expected) < 4 * (expected * (1 - expected) / DRAWS) ** 0.5 + 5e-5


@pytest.mark.parametrize(("k", "expected"), [(1, 0.300), (2, 0.167), (5, 0.091), (50, 0.058)])
def test_r_t2_4_gaussian_losses(k: int, expected: float) -> None:
    draws = DRAWS if k < 50 else 50_000
    noisy = torch.rand(draws, k, generator=stream(0, "noisy", k)) < RHO
    noise = torch.randn(draws, k, generator=stream(0, "noise", k), dtype=torch.float64)
    found = noisy_share(0.5 * noise + noisy, noisy, 0.5, k)
    assert abs(found - expected) < 0.004


def test_r_t2_5_no_gradient_through_selection(checkerboard: Log) -> None:
    weight = torch.zeros(24, 24, requires_grad=True)
    seen = []

    def score(user: Tensor, item: Tensor) -> Tensor:
        seen.append(weight[user[:, None], item])
        return seen[-1]

    sampler = PLD(warmup=0).bind(checkerboard)
    batch = sampler(sampler.rows(stream(0)), score, Step(generator=stream(1)))
    assert [s.shape for s in seen] == [(len(sampler), 6)]  # one call: the pool and the free item
    assert not seen[0].requires_grad and not batch.item.requires_grad
    BPR()(score, batch).sum().backward()  # what was selected learns, and nothing else
    touched = torch.zeros(24, 24, dtype=torch.bool)
    touched[batch.user[:, None], batch.item] = True
    assert torch.equal(weight.grad != 0, touched)


def test_r_t2_6_a_small_temperature_takes_the_least_loss_and_breaks_ties_at_random() -> None:
    loss = torch.tensor([20.7, 20.2, 20.9, 20.2, 20.2]).expand(30_000, 5)
    count = torch.bincount(resample(loss, 1e-6, stream(0)).squeeze(1), minlength=5)
    assert count[[0, 2]].tolist() == [0, 0]
    assert bool(((count[[1, 3, 4]] - 10_000).abs() < 4 * (30_000 * 2 / 9) ** 0.5).all())
    even = torch.bincount(resample(loss, 1e6, stream(1)).squeeze(1), minlength=5)
    assert bool(((even - 6_000).abs() < 4 * (30_000 * 0.16) ** 0.5).all())


def test_r_t2_7_pools_are_the_users_own_and_negatives_are_not() -> None:
    user, item = [0] * 5 + [1, 2, 2], [0, 1, 2, 3, 4, 2, 0, 5]  # pools of 3, of copies, of 2 in 3
    log = Log.of({"user": user, "item": item, "reward": [1] * 8}, n_users=4, n_items=6)
    sampler = PLD(k=3, warmup=0).bind(log)
    pools = []

    def score(user: Tensor, item: Tensor) -> Tensor:
        pools.append((user, item))
        return score_of(user, item)

    rows = torch.cat([sampler.rows(stream(seed)) for seed in range(200)])
    batch = sampler(rows, score, Step(generator=stream(1)))
    [(who, shown)] = pools
    assert bool((log.clicks.label(who, shown[:, :-1]) == 1).all())
    assert bool((log.clicks.label(who, shown[:, -1:]) == 0).all())
    assert bool((batch.item[:, :1] == shown[:, :-1]).any(1).all())  # from the pool
    assert torch.equal(batch.item[:, 1], shown[:, -1])
    count = torch.bincount(batch.user, minlength=4)
    assert count[3] == 0  # no click
    assert bool(((count[:3] - 1600 / 3).abs() < 4 * (1600 * 2 / 9) ** 0.5).all())  # not by clicks
    full = shown[who == 0, :-1].sort(1).values  # a user with three clicks or more: no click twice
    assert bool((full[:, 1:] > full[:, :-1]).all())


def test_losses_by_hand() -> None:
    score = torch.tensor([[1.0, -2.0, 0.5]])  # two clicks and the free item
    assert PLD().losses(score)[0].tolist() == pytest.approx([0.474077, 2.578890], abs=1e-6)
    bce = PLD(loss="bce").losses(score)[0].tolist()
    assert bce == pytest.approx([0.313262, 2.126928], abs=1e-6)


def test_a_user_who_has_everything_is_refused() -> None:
    log = Log.of({"user": [0, 0, 1], "item": [0, 1, 0], "reward": [1, 1, 1]})
    with pytest.raises(ConfigError, match="have clicked all 2 items"):
        PLD().bind(log)


@pytest.mark.parametrize(
    ("scorer", "epochs"),
    [(MF(dim=4), 60), (LightGCN(dim=4, layers=2), 30), (NeuMF(dim=4, layers=(16, 8)), 60)],
    ids=["MF", "LightGCN", "NeuMF"],
)
def test_it_completes_the_checkerboard(scorer: Scorer, epochs: int, checkerboard: Log) -> None:
    optimizer = Adam(lr=0.02) if isinstance(scorer, LightGCN) else Adagrad()
    model = Recommender(scorer, BPR(), PLD(k=3, temperature=0.5), optimizer=optimizer)
    fit(checkerboard, model, max_epochs=epochs, batch_size=64, **QUIET)
    with torch.no_grad():
        scores = model.scorer.all(torch.arange(24))
    same = (torch.arange(24)[:, None] % 2) == (torch.arange(24) % 2)
    best = torch.where(same, scores, torch.inf).amin(1)
    assert bool((best > torch.where(same, -torch.inf, scores).amax(1)).all())
