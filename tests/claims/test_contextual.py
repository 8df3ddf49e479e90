"""C-E1 to C-E3: batch sizes, Bernoulli rewards, a network, the digits, and replay of a real log."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import torch

import recfb
from recfb import Recommender, objectives, optim, plots, samplers
from recfb.beliefs.linear import Linear
from recfb.beliefs.logistic import Logistic
from recfb.beliefs.neural_linear import FeatureNet
from recfb.contracts import Policy
from recfb.interop.labelled import Labelled
from recfb.policies.bagging import Bagging
from recfb.policies.beta_thompson import BetaThompson
from recfb.policies.epsilon_greedy import EpsilonGreedy
from recfb.policies.falcon import FALCON
from recfb.policies.greedy import Greedy
from recfb.policies.igw import IGW
from recfb.policies.lints import LinTS
from recfb.policies.linucb import LinUCB
from recfb.policies.neural_linear import NeuralLinearTS
from recfb.policies.squarecb import SquareCB
from recfb.policies.thompson import Thompson
from recfb.policies.uniform import Uniform
from recfb.simulate import Refit, simulate
from recfb.worlds.contextual import Contextual
from recfb.worlds.replay import Replay, replayed

RESULTS = Path(__file__).parents[2] / "docs" / "results"
REQUESTS = 4096
NOW = Refit(every="doubling", warmup=0)
REFERENCE = {
    ("LinUCB 0.3", 1): 44, ("LinUCB 0.3", 32): 64, ("LinUCB 0.3", 256): 301,
    ("LinTS 0.3", 1): 75, ("LinTS 0.3", 32): 83, ("LinTS 0.3", 256): 148,
    ("SquareCB 10", 1): 64, ("SquareCB 10", 32): 70, ("SquareCB 10", 256): 138,
}  # fmt: skip


def regret(world: Contextual, policy: Policy, refit: Refit = NOW, replications: int = 24) -> float:
    """Mean regret over 4,096 requests, not a request."""
    run = simulate(
        world, policy, rounds=REQUESTS // world.requests, replications=replications, refit=refit,
        metrics=["regret"], keep="metrics",
    )  # fmt: skip
    last = run.metrics.filter(pl.col("round") == pl.col("round").max())
    return float(last["regret"].to_torch().mean()) * world.requests


def batches() -> pl.DataFrame:
    """6.5: a posterior that is frozen within a batch. gamma = 10 sqrt(t K) in requests t."""
    rows = []
    for batch in (1, 32, 256):
        policies: dict[str, Policy] = {
            "LinUCB 0.3": LinUCB(0.3),
            "LinTS 0.3": LinTS(0.3),
            "SquareCB 10": SquareCB(10 * (5 * batch) ** 0.5),
        }
        world = Contextual(requests=batch)
        for name, policy in policies.items():
            found = regret(world, policy)
            rows.append((name, batch, found, REFERENCE[name, batch]))
    return pl.DataFrame(rows, ["policy", "batch", "regret", "reference"], orient="row")


def binary() -> pl.DataFrame:
    """Bernoulli rewards with a logistic link: regret of 4,096 requests in batches of 8."""
    world = Contextual(link="logistic", requests=8)
    policies: dict[str, Policy] = {
        "uniform": Uniform(),
        "greedy over Logistic": Greedy(Logistic()),
        "Thompson over Logistic": Thompson(Logistic()),
        "Thompson over Logistic, diagonal": Thompson(Logistic(covariance="diagonal")),
        "IGW over Logistic": IGW(Logistic(), 10 * 8**0.5, power=0.5),
        "LinTS 0.5": LinTS(0.5),
    }
    rows = [(name, regret(world, policy, replications=8)) for name, policy in policies.items()]
    return pl.DataFrame(rows, ["policy", "regret"], orient="row")


def nonlinear() -> pl.DataFrame:
    """Rewards sin(2 pi x . theta) / 2: regret of 4,096 requests in batches of 8, 3 features."""
    world = Contextual(5, 3, link="nonlinear", requests=8)
    net = Recommender(
        FeatureNet((32, 32)), objectives.MSE(), samplers.Logged(), optimizer=optim.Adam(lr=0.01)
    )
    policies: dict[str, tuple[Policy, Refit]] = {
        "uniform": (Uniform(), NOW),
        "LinTS 0.3": (LinTS(0.3), NOW),
        "neural-linear": (NeuralLinearTS(net), Refit(every=25, warmup=5, warm=True)),
    }
    rows = [
        (name, regret(world, policy, refit, replications=4))
        for name, (policy, refit) in policies.items()
    ]
    return pl.DataFrame(rows, ["policy", "regret"], orient="row")


def digits() -> tuple[pl.DataFrame, pl.DataFrame]:
    """C-E2: one pass over the digits, 10 shuffles: the share of errors, and by round."""
    policies: dict[str, Policy] = {
        "eps 0.05": EpsilonGreedy(Linear(), 0.05),
        "LinUCB 0.3": LinUCB(0.3),
        "LinTS 0.1": LinTS(0.1),
        "bagging": Bagging(10, prior=0.1),
        "SquareCB": SquareCB(10.0),
        "FALCON": FALCON(Linear(), 3.0),
    }
    rows, rounds = [], []
    for name, policy in policies.items():
        run = simulate(
            Labelled("digits"), policy, rounds=1797, replications=10, refit=NOW,
            metrics=["regret"], keep="metrics",
        )  # fmt: skip
        metrics = run.metrics.with_columns(policy=pl.lit(name))
        rounds.append(metrics)
        last = metrics.filter(round=1796)["regret"].to_torch() / 1797
        rows.append((name, float(last.mean()), float(last.std() / 10**0.5)))
    return pl.DataFrame(rows, ["policy", "errors", "se"], orient="row"), pl.concat(rounds)


def open_bandit() -> pl.DataFrame:
    """C-E3: replay of the uniform log of the Open Bandit sample, every policy to its end."""
    log = recfb.dataset("open_bandit/all/random").log
    world = Replay(log, requests=50)
    policies: dict[str, Policy] = {
        "uniform": Uniform(),
        "beta Thompson": BetaThompson(),
        "LinUCB, no features": LinUCB(0.3),
    }
    rows = []
    for name, policy in policies.items():
        run = simulate(
            world, policy, rounds=world.rounds, replications=5, refit=Refit(warmup=0, every=10**6)
        )
        found = replayed(run.truth)
        rows.append((name, found.accepted, found.value, found.se))
    columns = ["policy", "accepted", "value", "se"]
    return pl.DataFrame(rows, columns, orient="row")


@pytest.mark.claims
def test_b_c_e1_to_c_e3(page: Callable[..., None]) -> None:
    torch.set_num_threads(1)
    batch, logistic, network, (errors, rounds), replay = (
        batches(), binary(), nonlinear(), digits(), open_bandit(),
    )  # fmt: skip
    plots.write(
        plots.by_round(rounds, ["regret"], "Errors on the digits"), RESULTS / "contextual.png"
    )
    page(
        "contextual",
        "Contextual bandits",
        {
            "C-E1, batch sizes: regret of 4,096 requests on the linear world of\n"
            "`simulators/contextual_bandits.yaml`, where the table for a batch of 1 is. 24\n"
            "replications; `reference` is an independent implementation.": batch,
            "C-E1, Bernoulli rewards with a logistic link; 8 replications.": logistic,
            "C-E1, a nonlinear world, where linear beliefs are wrong; 4 replications.": network,
            "C-E2, the digits as a bandit: share of errors in one pass, 10 shuffles.": errors,
            "C-E3, replay of the uniform Open Bandit sample (10,000 rows, 80 items, 38 clicks):\n"
            "rows accepted in 5 replications, and the mean reward of these. Too few for a\n"
            "difference to be seen; replications share the log's rows, so the standard error\n"
            "is too small for a comparison between logs.": replay,
        },
        ("contextual.png",),
    )
    for row in batch.iter_rows(named=True):
        assert abs(row["regret"] / row["reference"] - 1) < 0.25, row
    of = dict(logistic.iter_rows())
    assert of["Thompson over Logistic"] < 0.25 * of["uniform"]
    assert of["IGW over Logistic"] < 0.25 * of["uniform"]
    of = dict(network.iter_rows())
    assert of["neural-linear"] < 0.6 * of["LinTS 0.3"]
    assert errors["errors"].max() < 0.5  # 0.9 at random
    counts = replay["accepted"].to_list()
    assert all(abs(count - 625) < 5 * 25 for count in counts)  # 5 * 10,000 / 80
