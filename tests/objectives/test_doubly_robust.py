"""Doubly robust joint learning: exact expectations, apart gradients, and ratings that are missing
not at random."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from mnar_world import (
    GUESS,
    ITEM,
    RATING,
    REWARD,
    SCORE,
    SEEN,
    THETA,
    USER,
    WRONG,
    F,
    Known,
    Table,
    batch_of,
    errors,
    expectation,
    ratings,
    score_of,
)
from torch import Tensor

from recfb import ConfigError, Log, Recommender, estimate, fit
from recfb.config import build
from recfb.contracts import Batch, Objective, Sampler, Step, describe
from recfb.estimate import each
from recfb.exposures import Popularity
from recfb.objectives import DR, IPS, MRDR, MSE, SNIPS
from recfb.objectives.doubly_robust import misfit, variance
from recfb.objectives.ips import Loss, error, observed
from recfb.optim import Adam
from recfb.random import stream
from recfb.samplers import AllPairs, Logged
from recfb.scorers import MF
from recfb.testing import check, check_estimator

LOSSES = get_args(Loss)
KINDS = [DR, MRDR]


def perfect(loss: Loss) -> Tensor:
    """Scores of an imputation that knows every reward: (3, 4)."""
    return RATING if loss == "squared" else torch.where(REWARD["log"] > 0, torch.inf, -torch.inf)


def guessed(loss: Loss, table: Tensor) -> Tensor:
    """Imputed rewards by hand: (12,)."""
    return (table if loss == "squared" else torch.sigmoid(table)).view(-1)


def parts(kind: type[DR], theta: Tensor, table: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
    """The scorer's and the imputation's losses on every pattern: (4096, 12) each."""
    objective = kind(Known(theta), imputation=Table(table), loss=loss, clip=0.0)
    with torch.no_grad():
        both = objective(score_of, batch_of(SEEN, loss)).view(-1, 12)
        objective.imputation_loss = lambda rows: torch.zeros_like(rows.r)
        prediction = objective(score_of, batch_of(SEEN, loss)).view(-1, 12)
    return prediction, both - prediction


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", LOSSES)
def test_keeps_the_contract(kind: type[DR], loss: Loss, small_log: Log) -> None:
    check(kind(Popularity(), imputation=MF(dim=2), loss=loss), small_log)


@pytest.mark.parametrize("estimator", [estimate.dr, misfit, variance])
def test_all_that_is_reduced_goes_through_mean(estimator: estimate.Estimator) -> None:
    check_estimator(estimator)


# ---- by enumeration


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", LOSSES)
def test_unbiased_with_the_true_exposure_whatever_is_imputed(kind: type[DR], loss: Loss) -> None:
    value = parts(kind, THETA, GUESS, loss)[0].mean(1)  # (4096,)
    assert abs(float(expectation(value) - errors(loss).mean())) < 1e-12
    direct = error(SCORE.view(-1), guessed(loss, GUESS), loss).mean()
    assert abs(float(direct - errors(loss).mean())) > 0.05  # what is imputed is wrong


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", LOSSES)
def test_exact_in_every_pattern_with_a_perfect_imputation(kind: type[DR], loss: Loss) -> None:
    value, own = parts(kind, WRONG, perfect(loss), loss)
    assert float((value.mean(1) - errors(loss).mean()).abs().max()) < 1e-12
    assert float(own.abs().max()) < 1e-24


@pytest.mark.parametrize("loss", LOSSES)
def test_biased_by_the_product_of_both_mistakes(loss: Loss) -> None:
    value = parts(DR, WRONG, GUESS, loss)[0].mean(1)
    q = error(SCORE.view(-1), guessed(loss, GUESS), loss)
    bias = ((THETA / WRONG - 1).view(-1) * (errors(loss) - q)).mean()
    assert abs(float(bias)) > 1e-2
    assert abs(float(expectation(value) - errors(loss).mean() - bias)) < 1e-12


@pytest.mark.parametrize("loss", LOSSES)
def test_mrdr_differs_in_what_its_imputation_learns_from_only(loss: Loss) -> None:
    plain, robust = (parts(kind, THETA, GUESS, loss) for kind in KINDS)
    assert torch.equal(plain[0], robust[0])
    gap = errors(loss) - error(SCORE.view(-1), guessed(loss, GUESS), loss)  # (12,)
    p = THETA.view(-1)
    assert torch.allclose(plain[1], SEEN * gap**2 / p, rtol=1e-9)
    assert torch.allclose(robust[1], SEEN * (1 - p) * gap**2 / p**2, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("seen", [SEEN[0], SEEN[2731], SEEN[-1]])
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_are_those_of_the_estimators(seen: Tensor, loss: Loss) -> None:
    e, q = errors(loss), error(SCORE.view(-1), guessed(loss, GUESS), loss)
    p = torch.where(seen, THETA.view(-1), 1.0)
    rows = estimate.Rows(e, p, seen.to(F), v=q, q=q)
    for kind, own in ((DR, misfit), (MRDR, variance)):
        objective = kind(Known(THETA), imputation=Table(GUESS), loss=loss, clip=0.0)
        with torch.no_grad():
            ours = objective(score_of, batch_of(seen, loss)).mean()
        by_hand = estimate.dr(rows, estimate.average) + own(rows, estimate.average)
        assert abs(float(ours - by_hand)) < 1e-12


def moments(table: Tensor, loss: Loss = "squared") -> tuple[Tensor, Tensor, Tensor]:
    """The variance of the doubly robust loss over all patterns, and what DR's and MRDR's imputation
    losses expect, all with a gradient in what is imputed."""
    reward = batch_of(SEEN, loss).reward.view(-1, 12)
    options = {"loss": loss, "clip": 0.0, "imputed": guessed(loss, table)}
    rows = observed(SCORE.view(-1), reward, THETA.view(-1), **options)
    value = estimate.dr(rows, estimate.average)  # (4096,)
    spread = expectation(value.square()) - expectation(value) ** 2
    losses = (expectation(own(rows, estimate.average)) for own in (misfit, variance))
    return spread, *losses


@pytest.mark.parametrize("loss", LOSSES)
def test_mrdr_imputes_for_the_least_variance_and_dr_does_not(loss: Loss) -> None:
    table = GUESS.clone().requires_grad_()
    spread, plain, robust = moments(table, loss)
    assert abs(float((spread - robust / 12).detach())) < 1e-11
    slopes = [torch.autograd.grad(x, table, retain_graph=True)[0] for x in (spread, plain, robust)]
    assert torch.allclose(slopes[0], slopes[2] / 12, rtol=0, atol=1e-11)
    cosine = torch.nn.functional.cosine_similarity(slopes[0].view(-1), slopes[1].view(-1), dim=0)
    assert float(cosine) < 0.99


def test_the_constant_that_mrdr_imputes_gives_the_smaller_variance() -> None:
    spread, plain, robust = torch.stack(
        [torch.stack(moments(torch.full((3, 4), float(c), dtype=F))) for c in range(-4, 8)]
    ).T  # (3, 12)
    assert int(robust.argmin()) == int(spread.argmin()) != int(plain.argmin())
    assert float(spread[robust.argmin()]) < 0.95 * float(spread[plain.argmin()])


# ---- by hand


@pytest.mark.parametrize(("kind", "own"), [(DR, 2.0 * 3.0**2), (MRDR, 2.0 * 3.0**2)])
def test_by_hand_at_one_half(kind: type[DR], own: float) -> None:
    # s = 1, r = 3: e = 4; imputed 2: e_hat = 1; p = 1/2: 1 + 2 (4 - 1) = 7
    reward = torch.tensor([3.0, torch.nan], dtype=F)
    batch = Batch(torch.zeros(2).long(), torch.arange(2), reward)
    objective = kind(
        Known(torch.tensor([[0.5, torch.nan]])), imputation=Table(torch.full((1, 2), 2.0))
    )
    losses = objective(lambda u, i: torch.ones(2, dtype=F), batch)
    assert losses.tolist() == [7.0 + own, 1.0]


def test_by_hand_at_one_quarter_with_a_clip() -> None:
    # e - e_hat = 3, p = 1/4: 1 + 4 * 3 = 13; own losses 4 * 9 and (3/4) * 16 * 9
    batch = Batch(torch.tensor([0]), torch.tensor([0]), torch.tensor([3.0]))
    for kind, own in ((DR, 36.0), (MRDR, 108.0)):
        objective = kind(
            Known(torch.tensor([[0.01]])), imputation=Table(torch.full((1, 1), 2.0)), clip=0.25
        )
        assert objective(lambda u, i: torch.ones(1), batch).tolist() == [13.0 + own]


# ---- gradients


def gradients(objective: DR, loss: Loss, batch: Batch) -> tuple[Tensor, Tensor]:
    """Of the summed losses, in the scores and in the imputation's table: (12,) each."""
    score = SCORE.view(-1).clone().requires_grad_()
    objective.imputation.table.grad = None
    objective(lambda u, i: score, batch).sum().backward()
    return score.grad, objective.imputation.table.grad.view(-1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("seen", [SEEN[1], SEEN[2731], SEEN[-1]])
def test_neither_loss_reaches_the_parameters_of_the_other(
    kind: type[DR], loss: Loss, seen: Tensor
) -> None:
    batch = batch_of(seen, loss)
    objective = kind(Known(THETA), imputation=Table(GUESS), loss=loss, clip=0.0)
    ours = gradients(objective, loss, batch)

    s, g = SCORE.view(-1).clone().requires_grad_(), GUESS.view(-1).clone().requires_grad_()
    options = {"reward": batch.reward, "exposure": THETA.view(-1), "loss": loss, "clip": 0.0}
    prediction = estimate.dr(observed(s, imputed=guessed(loss, GUESS), **options), each)
    (of_scorer,) = torch.autograd.grad(prediction.sum(), s)
    own = {DR: misfit, MRDR: variance}[kind]
    rows = observed(SCORE.view(-1), imputed=guessed(loss, g), **options)
    (of_imputation,) = torch.autograd.grad(own(rows, each).sum(), g)

    assert torch.allclose(ours[0], of_scorer, rtol=0, atol=1e-12)
    assert torch.allclose(ours[1], of_imputation, rtol=0, atol=1e-12)
    assert bool((ours[0] != 0).all())  # imputed errors teach the scorer about unobserved pairs
    assert bool((ours[1][~seen] == 0).all())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_in_the_scores_by_formula(kind: type[DR], loss: Loss) -> None:
    seen, s = SEEN[2731], SCORE.view(-1)
    objective = kind(Known(THETA), imputation=Table(GUESS), loss=loss, clip=0.0)
    ours, _ = gradients(objective, loss, batch_of(seen, loss))
    target = guessed(loss, GUESS)
    target = target + seen * (REWARD[loss].view(-1) - target) / THETA.view(-1)
    formula = 2 * (s - target) if loss == "squared" else torch.sigmoid(s) - target
    assert torch.allclose(ours, formula, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("seen", [SEEN[0], SEEN[1], SEEN[2731]])
def test_no_nan_where_reward_and_exposure_are_unknown(
    kind: type[DR], loss: Loss, seen: Tensor
) -> None:
    theta = torch.where(seen.view(3, 4), THETA, torch.nan).requires_grad_()
    objective = kind(Known(theta), imputation=Table(GUESS), loss=loss, clip=0.0)
    for gradient in gradients(objective, loss, batch_of(seen, loss)):
        assert bool(torch.isfinite(gradient).all())
    assert theta.grad is None


# ---- in a recommender


def test_other_samplers_are_refused() -> None:
    for sampler in (Logged(), AllPairs()):
        with pytest.raises(ConfigError, match=r'AllPairs\(labels="shown"\)'):
            Recommender(MF(dim=2), DR(Popularity(), imputation=MF(dim=2)), sampler)


def test_rewards_outside_the_unit_interval_are_refused_under_the_log_loss() -> None:
    log = Log.of({"user": [0, 0], "item": [0, 1], "reward": [2.0, 5.0]})
    with pytest.raises(ConfigError, match="the log has 2 to 5"):
        MRDR(Popularity(), imputation=MF(dim=2), loss="log").bind(log)


def test_the_penalties_of_both_scorers_are_in_the_loss_and_both_learn(small_log: Log) -> None:
    sampler = AllPairs(labels="shown")
    model = Recommender(
        MF(dim=2, l2=0.5), DR(Popularity(), imputation=MF(dim=3, l2=2.0)), sampler
    ).bind(small_log)
    model.reset(stream(0))
    batch = sampler(sampler.rows(stream(1)), None, Step())

    def lengths(scorer: MF) -> Tensor:
        return scorer.user[batch.user].square().sum(1) + scorer.item[batch.item].square().sum(1)

    imputation = model.objective.imputation
    penalty = 0.5 * (0.5 * lengths(model.scorer) + 2.0 * lengths(imputation))  # (B,)
    losses = model.objective(model.scorer, batch)
    by_hand = (batch.weight * (losses + penalty)).mean()
    assert model.loss(batch, Step()).item() == pytest.approx(by_hand.item(), rel=1e-5)
    fit(small_log, model, max_epochs=5, enable_progress_bar=False)
    for scorer in (model.scorer, imputation):
        assert scorer.item_bias.abs().max().item() > 0.1  # it begins at 0


@pytest.mark.parametrize("seed", [0, 1])
def test_less_error_over_all_pairs_than_the_plain_loss_where_the_liked_is_rated(seed: int) -> None:
    log, rating, theta = ratings(seed)
    true = Known(theta)
    assert float(log.tensor("reward").mean() - rating.mean()) > 0.6

    def mf() -> MF:
        return MF(dim=2, l2=0.2)

    tried: dict[str, tuple[Objective, Sampler]] = {
        "mse": (MSE(), Logged()),
        "ips": (IPS(true), AllPairs(labels="shown")),
        "snips": (SNIPS(true), AllPairs(labels="shown")),
        "dr": (DR(true, imputation=mf()), AllPairs(labels="shown")),
        "mrdr": (MRDR(true, imputation=mf()), AllPairs(labels="shown")),
    }
    missed = {}
    for name, (objective, sampler) in tried.items():
        model = Recommender(mf(), objective, sampler, optimizer=Adam(lr=0.05))
        fit(log, model, max_epochs=100, enable_progress_bar=False)
        with torch.no_grad():
            missed[name] = float((model.scorer.all(torch.arange(60)) - rating).square().mean())
    plain = missed.pop("mse")
    assert max(missed.values()) < 0.85 * plain, f"{missed} against {plain}"


def page_of(objective: dict[str, object], sampler: dict[str, object]) -> dict[str, object]:
    return {
        "class_path": "Recommender",
        "init_args": {
            "scorer": {"class_path": "MF", "init_args": {"dim": 4}},
            "objective": objective,
            "sampler": sampler,
        },
    }


SHOWN = {"class_path": "AllPairs", "init_args": {"labels": "shown"}}
CLICKS = {"class_path": "AllPairs"}
POPULARITY = {"class_path": "Popularity", "init_args": {"power": 1.0}}
SMALL = {"class_path": "MF", "init_args": {"dim": 3, "l2": 0.1}}


@pytest.mark.parametrize(
    ("name", "arguments", "sampler"),
    [
        ("MSE", {}, {"class_path": "recfb.samplers.Logged"}),
        ("IPS", {"exposure": POPULARITY, "loss": "log", "clip": 0.1}, SHOWN),
        ("SNIPS", {"exposure": POPULARITY}, {"class_path": "recfb.samplers.Logged"}),
        ("DR", {"exposure": POPULARITY, "imputation": SMALL, "loss": "log"}, SHOWN),
        ("MRDR", {"exposure": POPULARITY, "imputation": SMALL, "clip": 0.2}, SHOWN),
        ("RelMF", {"exposure": POPULARITY, "nonneg": "nnpu"}, CLICKS),
        ("RelMF", {"exposure": POPULARITY, "nonneg": "local", "beta": 0.5}, CLICKS),
    ],
)
def test_configurations_build_and_train(
    name: str, arguments: dict[str, object], sampler: dict[str, object], small_log: Log
) -> None:
    page = page_of({"class_path": name, "init_args": arguments}, sampler)
    model = build(Recommender, page)
    written = describe(model)["init_args"]["objective"]["init_args"]
    for key, value in arguments.items():
        if isinstance(value, dict):
            assert written[key]["init_args"].items() >= value["init_args"].items()
        else:
            assert written[key] == value
    assert describe(build(Recommender, describe(model))) == describe(model)
    fit(small_log, model, max_epochs=2, enable_progress_bar=False)
    with torch.no_grad():
        assert bool(torch.isfinite(model(USER[:8], ITEM[:8])).all())


def test_an_imputation_is_required() -> None:
    page = page_of({"class_path": "DR", "init_args": {"exposure": POPULARITY}}, SHOWN)
    with pytest.raises(ConfigError, match="imputation"):
        build(Recommender, page)
