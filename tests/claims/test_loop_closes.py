"""The loop closes: logs of the popularity loop train recommenders and evaluate policies, and the
truth of the world says how well."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import polars as pl
import pytest
import torch
from torch import Tensor

import recfb
from recfb import exposures, solvers
from recfb.contracts import Round, alter
from recfb.data import Log
from recfb.errors import OverlapWarning
from recfb.policies import Ranked, Uniform
from recfb.simulate import simulate
from recfb.worlds import PBM, Tastes

SEEDS, K, EPSILON = 8, 10, 0.3
REPLICATIONS, ROUNDS, USERS, ALPHA = 200, 4, 50, 0.05


class Logged(NamedTuple):
    """A log, the true relevance of all pairs, and their exposure along the run: (U, I) each.

    `observe` is 1 - prod_t (1 - p_t), p_t = P(shown and examined in round t | what came before).
    `surprise` is sum_t sum_i p_t (1[shown and examined] - p_t) of each user, (U,): of mean 0.
    """

    log: Log
    relevance: Tensor
    observe: Tensor
    surprise: Tensor


@lru_cache(maxsize=1)
def world() -> Tastes:
    found = recfb.simulator("popularity_loop").world
    assert isinstance(found, Tastes)
    return found


def p_observe(policy: Ranked, round_: Round, n_items: int, theta: Tensor) -> Tensor:
    """sum_k P(item i at position k) theta_k of an eps-slate policy: (U, I); round 0 is uniform."""
    epsilon = 1.0 if round_.time == 0 else policy.epsilon
    found = torch.full((len(round_.context), n_items), epsilon * float(theta.sum()) / n_items)
    if epsilon < 1:
        top = policy.top(round_.context, len(theta))  # (U, K)
        found.scatter_add_(1, top, (1 - epsilon) * theta.expand(len(top), -1))
    return found


def logged(seed: int) -> Logged:
    """Twenty rounds under ALS with three uniform slates in ten."""
    loop, place = recfb.simulator("popularity_loop"), world()
    theta = PBM(eta=1.0).examination(K)
    unseen = torch.ones(place.n_users, place.n_items, dtype=torch.float64)
    surprise = torch.zeros(place.n_users, dtype=torch.float64)

    def watch(round_: Round) -> dict[str, Tensor]:
        assert isinstance(round_.policy, Ranked)
        p = p_observe(round_.policy, round_, place.n_items, theta)
        unseen.mul_(1 - p)
        seen = p.gather(1, round_.slate.item) * round_.truth["examined"]  # (U, K)
        surprise.add_(seen.sum(1) - p.square().sum(1))
        return {}

    run = loop.run("als_eps3", seed=seed, probes=[watch])
    return Logged(run.log, place.relevance(run.state[0].world), (1 - unseen).float(), surprise)


def calibration(seen: Logged, exposure: exposures.Given | exposures.Popularity) -> float:
    """Mean prediction over mean relevance of the rarer half of the items, by true exposure."""
    model = recfb.fit(seen.log, solvers.RelMF(exposure, dim=8, l2=0.001, clip=0.01))
    score = model.all(torch.arange(seen.log.n_users))  # (U, I)
    rare = seen.observe.mean(0).argsort()[: seen.log.n_items // 2]
    return float(score[:, rare].mean() / seen.relevance[:, rare].mean())


def calibrations(seed: int) -> dict[str, float]:
    """By method; the three differ in the exposure alone, which is 1 in MF."""
    seen = logged(seed)
    return {
        "MF": calibration(seen, exposures.Given(torch.ones(seen.log.n_items))),
        "Rel-MF, true exposure": calibration(seen, exposures.Given(seen.observe)),
        "Rel-MF, popularity^.5": calibration(seen, exposures.Popularity(power=0.5)),
    }


def check_calibration(found: dict[str, float]) -> None:
    off = {name: abs(value - 1) for name, value in found.items()}
    assert off["Rel-MF, true exposure"] < off["MF"]


def test_relmf_is_calibrated_on_rare_items_of_a_loop() -> None:
    check_calibration(calibrations(0))


def test_exposure_is_the_rate_at_which_items_are_seen() -> None:
    """Round by round, given what came before: the mean surprise of users is 0 within 4 se."""
    surprise = logged(0).surprise
    assert abs(float(surprise.mean())) < 4 * float(surprise.std()) / len(surprise) ** 0.5


def covered(seed: int) -> dict[str, float]:
    """Estimate and interval of the uniform policy from a log of popularity with uniform slates
    half of the time, retrained every round; and its exact value, in clicks a request."""
    place = alter(world(), {"n_users": USERS})
    logger = Ranked(solvers.Popularity(), epsilon=0.5)
    run = simulate(place, logger, rounds=ROUNDS, slate=K, seed=seed)
    relevance = place.relevance(run.state[0].world).to(torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OverlapWarning)
        report = recfb.evaluate(run.log, {"uniform": Uniform()}, estimators=["iips"], alpha=ALPHA)
    row = report.table.row(0, named=True)
    truth = float(PBM(eta=1.0).examination(K).sum() * relevance.mean())
    return {"truth": truth, "value": row["value"], "lower": row["lower"], "upper": row["upper"]}


def test_an_estimate_is_near_the_truth() -> None:
    found = covered(0)
    assert abs(found["value"] - found["truth"]) < found["upper"] - found["lower"]


@pytest.mark.claims
def test_the_loop_closes(page: Callable[..., None]) -> None:
    rows = [{"seed": seed, **calibrations(seed)} for seed in range(SEEDS)]
    runs = pl.DataFrame([covered(seed) for seed in range(REPLICATIONS)])
    inside = runs.select(pl.col("truth").is_between("lower", "upper").mean()).item()
    error = runs["value"] - runs["truth"]
    table = pl.DataFrame({
        "replications": [REPLICATIONS],
        "nominal": [1 - ALPHA],
        "coverage": [inside],
        "bias": [error.mean()],
        "se_of_bias": [error.std() / REPLICATIONS**0.5],
    })  # fmt: skip
    page(
        "loop_closes",
        "The loop closes",
        {
            "Mean prediction over mean relevance of the rarer half of the items, from 20 rounds of "
            "the popularity loop under ALS with eps .3. One closed form, 8 dimensions; the methods "
            "differ in the exposure alone. True exposure: 1 - prod_t (1 - P(shown and examined in "
            "round t)), each given the rounds before.": pl.DataFrame(rows),
            f"95 % intervals for the uniform policy, by item-position IPS on logs of {USERS} users "
            f"and {ROUNDS} rounds: popularity, retrained every round, with a uniform slate half of "
            "the time. Each replication has a population of its own.": table,
        },
    )
    for row in rows:
        check_calibration({name: value for name, value in row.items() if name != "seed"})
    assert abs(inside - (1 - ALPHA)) < 4 * (ALPHA * (1 - ALPHA) / REPLICATIONS) ** 0.5
    assert abs(error.mean()) < 4 * error.std() / REPLICATIONS**0.5
