"""Every log that is written evaluates other policies, by its exact propensities."""

from __future__ import annotations

import pytest
import torch

from recfb import evaluate
from recfb.beliefs.linear import Linear
from recfb.contracts import Policy
from recfb.policies.epsilon_greedy import EpsilonGreedy
from recfb.policies.igw import IGW
from recfb.policies.mixture import Mixture
from recfb.policies.softmax import Softmax
from recfb.policies.uniform import Uniform
from recfb.random import stream
from recfb.simulate import Refit, Run, simulate
from recfb.worlds.contextual import Contextual

WORLD = Contextual(4, 3, link="logistic", available=0.7, requests=40)
FRESH = 40_000
POLICIES: dict[str, Policy] = {
    "epsilon": EpsilonGreedy(Linear(), 0.3),
    "igw": IGW(Linear(), 20.0),
    "softmax": Softmax(Linear(), 0.2),
    "uniform": Uniform(),
    "mixture": Mixture(IGW(Linear(), 100.0), 0.2),
}
RUNS: dict[str, Run] = {}


def run_of(name: str) -> Run:
    if name not in RUNS:
        RUNS[name] = simulate(WORLD, POLICIES[name], rounds=150, refit=Refit(warmup=0))
    return RUNS[name]


def true_value(policy: Policy, run: Run) -> float:
    """Of the frozen policy, on many fresh requests of the same world."""
    state = WORLD.step(run.state[0].world, None, {}, stream(1))  # type: ignore[arg-type]
    values = []
    for t in range(FRESH // WORLD.requests):
        context = WORLD.observe(state)
        values.append((policy.probs(context) * WORLD.values(state)).sum(1))
        state = WORLD.step(state, None, {}, stream(1, t))  # type: ignore[arg-type]
    return float(torch.cat(values).mean())


@pytest.mark.parametrize("logger", ["epsilon", "igw", "softmax", "uniform", "mixture"])
def test_b_every_log_evaluates_every_frozen_policy(logger: str) -> None:
    names = ["epsilon", "igw", "softmax", "uniform", "mixture"]
    frozen = {name: run_of(name).state[0].policy for name in names}
    log = run_of(logger).log
    report = evaluate(log, frozen, estimators=["ips", "snips", "dr"], unit="slate")
    truth = {name: true_value(policy, run_of(name)) for name, policy in frozen.items()}
    for row in report.table.iter_rows(named=True):
        off = abs(row["value"] - truth[row["policy"]])
        assert off < 4 * row["se"] + 4 * 0.5 / FRESH**0.5, (logger, row)
