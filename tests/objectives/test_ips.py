"""Inverse propensity scoring in training: exact expectations over all 2^12 observation patterns."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
import torch
from mnar_world import (
    CHANCE,
    SCORE,
    SEEN,
    THETA,
    WRONG,
    Known,
    batch_of,
    errors,
    expectation,
    score_of,
)

from recfb import ConfigError, Log, Recommender, estimate, fit
from recfb.contracts import Batch, Step
from recfb.exposures import Logged as LoggedExposure
from recfb.exposures import Popularity
from recfb.objectives import IPS, SNIPS
from recfb.objectives.ips import Loss, weighed
from recfb.random import stream
from recfb.samplers import AllPairs, Logged
from recfb.scorers import MF
from recfb.testing import check, check_estimator

LOSSES = get_args(Loss)


def losses_of(objective: IPS, loss: Loss) -> torch.Tensor:
    """The objective on every pattern: (4096, 12)."""
    return objective(score_of, batch_of(SEEN, loss)).view(-1, 12)


@pytest.mark.parametrize("kind", [IPS, SNIPS])
@pytest.mark.parametrize("loss", LOSSES)
def test_keeps_the_contract(kind: type[IPS], loss: Loss, small_log: Log) -> None:
    check(kind(Popularity(), loss=loss), small_log)


@pytest.mark.parametrize("estimator", [estimate.ips, estimate.snips])
def test_the_estimators_of_training_are_those_of_evaluation(estimator: estimate.Estimator) -> None:
    check_estimator(estimator)


# ---- by enumeration


@pytest.mark.parametrize("loss", LOSSES)
def test_ips_is_unbiased_with_the_true_exposure(loss: Loss) -> None:
    value = losses_of(IPS(Known(THETA), loss=loss, clip=0.0), loss).mean(1)  # (4096,)
    ideal = errors(loss).mean()
    assert float(CHANCE.sum()) == pytest.approx(1.0, abs=1e-12)
    assert abs(float(expectation(value) - ideal)) < 1e-12
    variance = expectation((value - ideal).square())
    formula = ((1 / THETA.view(-1) - 1) * errors(loss).square()).sum() / 12**2
    assert abs(float(variance - formula)) < 1e-12
    naive = expectation((SEEN * errors(loss)).mean(1)) / THETA.mean()
    assert abs(float(naive - ideal)) > 0.02  # what the mean of what was seen converges to


@pytest.mark.parametrize("clip", [0.3, 0.7])
@pytest.mark.parametrize("loss", LOSSES)
def test_clipped_ips_is_biased_by_the_formula(loss: Loss, clip: float) -> None:
    value = losses_of(IPS(Known(THETA), loss=loss, clip=clip), loss).mean(1)  # (4096,)
    theta, e = THETA.view(-1), errors(loss)
    bias = ((theta / theta.clamp(min=clip) - 1) * e).mean()
    assert float(bias) < -1e-2
    assert abs(float(expectation(value) - e.mean() - bias)) < 1e-12
    variance = expectation(value.square()) - expectation(value) ** 2
    formula = (theta * (1 - theta) / theta.clamp(min=clip) ** 2 * e.square()).sum() / 12**2
    assert abs(float(variance - formula)) < 1e-11


@pytest.mark.parametrize("loss", LOSSES)
def test_a_wrong_exposure_biases_ips_by_the_formula(loss: Loss) -> None:
    value = losses_of(IPS(Known(WRONG), loss=loss, clip=0.0), loss).mean(1)
    bias = ((THETA / WRONG - 1).view(-1) * errors(loss)).mean()
    assert abs(float(bias)) > 1e-2
    assert abs(float(expectation(value) - errors(loss).mean() - bias)) < 1e-12


@pytest.mark.parametrize("loss", LOSSES)
def test_snips_is_ips_over_ips_of_ones_and_a_ratio_of_right_expectations(loss: Loss) -> None:
    snips = SNIPS(Known(THETA), loss=loss, clip=0.0)
    value = torch.stack([snips(score_of, batch_of(seen, loss)) for seen in SEEN])  # (4096,)
    top = losses_of(IPS(Known(THETA), loss=loss, clip=0.0), loss).mean(1)
    below = (SEEN / THETA.view(-1)).mean(1)  # IPS of a loss that is 1 everywhere
    some = SEEN.any(1)
    assert torch.allclose(value[some], (top / below)[some], rtol=0, atol=1e-12)
    assert value[~some].tolist() == [0.0]
    ideal = float(errors(loss).mean())
    assert float(expectation(top) / expectation(below)) == pytest.approx(ideal, abs=1e-12)
    assert abs(float(expectation(value)) - ideal) > 1e-3  # consistent, but not unbiased


@pytest.mark.parametrize("seen", [SEEN[-1], SEEN[2731], SEEN[1]])
def test_losses_are_those_of_the_estimators(seen: torch.Tensor) -> None:
    shown = seen.nonzero().squeeze(1)
    e, p = errors("squared")[shown], THETA.view(-1)[shown]
    rows = estimate.Rows(e, p, torch.ones_like(p))
    batch = batch_of(seen, "squared")
    short = batch[shown]  # the same as rows of a log
    for kind, estimator in ((IPS, estimate.ips), (SNIPS, estimate.snips)):
        ours = kind(Known(THETA), clip=0.0)(score_of, short).mean()
        by_hand = estimator(rows, estimate.average)
        assert abs(float(ours - by_hand)) < 1e-12
    over_all = IPS(Known(THETA), clip=0.0)(score_of, batch).mean()
    over_rows = IPS(Known(THETA), clip=0.0)(score_of, short).mean()
    assert float(over_rows) == pytest.approx(float(over_all) * 12 / len(shown), abs=1e-12)


# ---- by hand


def test_by_hand() -> None:
    reward = torch.tensor([3.0, torch.nan, 1.0, torch.nan])
    batch = Batch(torch.zeros(4).long(), torch.arange(4), reward)
    score = torch.tensor([1.0, 7.0, 2.0, 0.0], requires_grad=True)
    theta = torch.tensor([[0.5, torch.nan, 0.1, 0.3]])
    losses = IPS(Known(theta), clip=0.25)(lambda u, i: score, batch)
    assert losses.tolist() == [8.0, 0.0, 4.0, 0.0]  # 4 / 0.5 and 1 / 0.25
    losses.sum().backward()
    assert score.grad.tolist() == [-8.0, 0.0, 8.0, 0.0]
    ratio = SNIPS(Known(theta), clip=0.25)(lambda u, i: score, batch)
    assert ratio.shape == () and ratio.item() == 2.0  # 12 / (2 + 4)
    weight = torch.tensor([0.5, 1.0, 2.0, 3.0])
    ratio = SNIPS(Known(theta), clip=0.25)(lambda u, i: score, replace(batch, weight=weight))
    assert ratio.item() == pytest.approx((0.5 * 8 + 2 * 4) / (0.5 * 2 + 2 * 4))


def test_the_mean_over_weights_is_by_hand() -> None:
    x = torch.tensor([2.0, 4.0])
    assert float(weighed(None)(x)) == 3.0
    assert float(weighed(torch.tensor([0.5, 1.5]))(x)) == 3.5


def test_snips_knows_exposures_up_to_a_constant() -> None:
    for seen in SEEN[1::500]:
        batch = batch_of(seen, "squared")
        one, half = (SNIPS(Known(table), clip=0.0)(score_of, batch) for table in (THETA, THETA / 2))
        assert abs(float(one - half)) < 1e-12


@pytest.mark.parametrize("kind", [IPS, SNIPS])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("seen", [SEEN[0], SEEN[1], SEEN[2731]])
def test_no_nan_where_reward_and_exposure_are_unknown(
    kind: type[IPS], loss: Loss, seen: torch.Tensor
) -> None:
    theta = torch.where(seen.view(3, 4), THETA, torch.nan).requires_grad_()
    score = SCORE.view(-1).clone().requires_grad_()
    value = kind(Known(theta), loss=loss, clip=0.0)(lambda u, i: score, batch_of(seen, loss)).sum()
    value.backward()
    assert bool(torch.isfinite(value)) and bool(torch.isfinite(score.grad).all())
    assert bool((score.grad[~seen] == 0).all()) and bool((score.grad[seen] != 0).all())
    assert theta.grad is None  # it would learn that everything is always observed


def test_rewards_outside_the_unit_interval_are_refused_under_the_log_loss() -> None:
    log = Log.of({"user": [0, 0, 1], "item": [0, 1, 0], "reward": [2.0, 5.0, None]})
    with pytest.raises(ConfigError, match=r"the log has 2 to 5.*\n?.*log\.binarise"):
        IPS(Popularity(), loss="log").bind(log)
    for reward in ([0.0, 1.5], [-0.5, 1.0]):
        with pytest.raises(ConfigError, match="for rewards in"):
            IPS(Popularity(), loss="log").bind(Log.of({"item": [0, 1], "reward": reward}))
    IPS(Popularity(), loss="log").bind(log.binarise(at=4))
    IPS(Popularity()).bind(log)


# ---- with samplers


def test_it_takes_rows_and_shown_pairs_but_no_click_labels() -> None:
    for sampler in (Logged(), AllPairs(labels="shown")):
        Recommender(MF(dim=2), IPS(Popularity()), sampler)
    with pytest.raises(ConfigError, match=r'AllPairs\(labels="shown"\)'):
        Recommender(MF(dim=2), IPS(Popularity()), AllPairs())


def test_balanced_weights_are_applied_once_to_ips_and_inside_snips(small_log: Log) -> None:
    sampler = AllPairs(labels="shown").bind(small_log)
    batch = sampler(sampler.rows(stream(0)), None, Step(generator=stream(1)))
    scorer = MF(dim=2, l2=0.0)
    for kind in (IPS, SNIPS):
        model = Recommender(scorer, kind(LoggedExposure()), sampler).bind(small_log)
        model.reset(stream(0))
        e = (model(batch.user, batch.item) - batch.reward).square() / batch.propensity  # (B,)
        seen = ~batch.reward.isnan()
        weight = batch.weight * seen
        by_hand = (weight * e.nan_to_num()).mean()
        if kind is SNIPS:
            by_hand = by_hand / (weight / batch.propensity).nan_to_num().mean()
        assert model.loss(batch, Step()).item() == pytest.approx(by_hand.item(), rel=1e-6)


@pytest.mark.parametrize("draw", ["uniform", "balanced_iw"])
@pytest.mark.parametrize("kind", [IPS, SNIPS])
def test_it_trains_on_logged_propensities(kind: type[IPS], draw: str, small_log: Log) -> None:
    sampler = AllPairs(draw=draw, labels="shown")
    model = Recommender(MF(dim=2), kind(LoggedExposure(), loss="log"), sampler)
    fit(small_log, model, max_epochs=20, batch_size=2, enable_progress_bar=False)
    assert bool(torch.isfinite(model.scorer.all(torch.arange(3))).all())
