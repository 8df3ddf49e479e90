"""Bandits with switching costs and feedback budgets: what is played, and what it comes to."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from math import log2
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recfb.contracts import Policy, Round, World
from recfb.policies import (
    BlockedExp3,
    BlockedTsallis,
    BudgetedBandit,
    DartboardFlex,
    DartboardFull,
    Exp3,
    LazyLeader,
    ShrinkingDartboard,
    TsallisSwitch,
)
from recfb.policies.switching_bounds import bandit_cap
from recfb.simulate import Refit, simulate
from recfb.worlds.gaps import OCTAVES, Gaps
from recfb.worlds.switching import Budgeted, SwitchingCost
from recfb.worlds.walk import MultiScaleWalk, benchmark_gap, canonical_gap, canonical_sigma

WALKS = ("canonical", "scaled", "scaled, noisy")


@dataclass(frozen=True)
class Job:
    """One policy in one world, all instances on the rows: replication r is instance r modulo
    their number."""

    name: str
    world: World[Any]
    policy: Policy
    rounds: int
    instances: Sequence[float | str]
    replications: int
    budget: int = 0


class Totals:
    """A probe that sums over the rounds, 256 at a time, so that no log has to be kept."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.kept: list[Mapping[str, Tensor]] = []

    def __call__(self, round: Round) -> Mapping[str, Tensor]:
        self.kept.append(round.truth)
        if len(self.kept) == 256:
            self.add()
        return {}

    def add(self) -> None:
        """Sum what was kept."""
        names = {"regret": "best", "switches": "switch", "observations": "used"}
        for name, column in names.items() if self.kept else ():
            total = torch.stack([truth[column] for truth in self.kept]).sum(0).double()
            if name == "regret":
                total -= torch.stack([truth["value"] for truth in self.kept]).sum(0)[:, 0]
            self.sums[name] = self.sums.get(name, 0) + total
        self.kept.clear()


def play(job: Job) -> pl.DataFrame:
    """One row an instance: means over its replications, and the standard error of the regret."""
    torch.set_num_threads(1)
    totals, rows = Totals(), len(job.instances) * job.replications
    options: dict[str, Any] = {"refit": Refit(warmup=0), "probes": [totals], "keep": "metrics"}
    simulate(job.world, job.policy, rounds=job.rounds, replications=rows, **options)
    totals.add()
    each = {k: v.view(job.replications, -1) for k, v in totals.sums.items()}  # (R, instances)
    found: dict[str, Any] = {name: value.mean(0).tolist() for name, value in each.items()}
    found["se"] = (each["regret"].std(0) / job.replications**0.5).tolist()
    keys = {"policy": job.name, "rounds": job.rounds, "budget": job.budget}
    return pl.DataFrame({"instance": list(job.instances), **found}).select(
        *(pl.lit(value).alias(name) for name, value in keys.items()), pl.all()
    )


def play_all(jobs: Iterable[Job]) -> pl.DataFrame:
    """All jobs, the long ones first, on two processes."""
    ordered = sorted(jobs, key=lambda job: -job.rounds)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pl.concat(pool.map(play, ordered))


def walk(rounds: int) -> World[Any]:
    """The canonical walk, the scaled one, and the scaled one with noise of each arm: K = 2."""
    gap, sigma = benchmark_gap(rounds, 2), 1 / (6 * log2(rounds) ** 0.5)
    inside = MultiScaleWalk(
        2,
        rounds,
        gap=[canonical_gap(rounds, 2), gap, gap],
        sigma=[canonical_sigma(rounds), sigma, sigma],
        noise=[0.0, 0.0, 0.2],
    )
    return SwitchingCost(Budgeted(inside))


def rate_jobs(octaves: Iterable[int], replications: int) -> Iterable[Job]:
    """S1: regret by horizon. Exp3 without blocks is played to 2^16."""
    policies = {
        "BlockedTsallis": BlockedTsallis(),
        "BlockedExp3": BlockedExp3(),
        "TsallisSwitch": TsallisSwitch(),
        "ShrinkingDartboard": ShrinkingDartboard(),
        "Exp3": Exp3(),
    }
    for octave in octaves:
        for name, policy in policies.items():
            if name != "Exp3" or octave <= 16:
                yield Job(name, walk(2**octave), policy, 2**octave, WALKS, replications)


def gaps(budget: Mapping[str, int]) -> World[Any]:
    """Four arms, seven gaps; a strict world, in which asking for too much is an error."""
    return SwitchingCost(Budgeted(Gaps(4), **budget, strict=True))


def extra_jobs(rounds: int, budgets: Sequence[int], replications: int) -> Iterable[Job]:
    """S2: regret by extra observations; bandits use none, `DartboardFlex` a total budget."""
    free = {
        "BlockedExp3": BlockedExp3(),
        "BlockedTsallis": BlockedTsallis(),
        "TsallisSwitch": TsallisSwitch(),
    }
    for name, policy in free.items():
        yield Job(name, gaps({"extra": 0}), policy, rounds, OCTAVES, replications)
    for extra in budgets:
        full = DartboardFull(extra)
        world = gaps({"extra": extra})
        yield Job("DartboardFull", world, full, rounds, OCTAVES, replications, extra)
    for total in (b for b in budgets if b <= rounds and b.bit_length() % 2 == 1):
        flex = DartboardFlex(total)
        world = gaps({"total": total})
        yield Job("DartboardFlex", world, flex, rounds, OCTAVES, replications, total)


def total_jobs(rounds: int, budgets: Sequence[int], replications: int) -> Iterable[Job]:
    """S3: regret by all observations, when nothing is free; and all losses known, as a floor."""
    for total in budgets:
        policies: dict[str, Policy] = {
            "BudgetedBandit": BudgetedBandit(total),
            "DartboardFlex": DartboardFlex(total),
            "DartboardFull": DartboardFull(total=total),
        }
        if total > bandit_cap(rounds, 4):
            policies["BudgetedBandit, not capped"] = BudgetedBandit(total, capped=False)
        for name, policy in policies.items():
            world = gaps({"total": total})
            yield Job(name, world, policy, rounds, OCTAVES, replications, total)
    for leader in (ShrinkingDartboard(), LazyLeader(), LazyLeader(perturbation="gumbel")):
        whole = 4 * rounds
        world = gaps({"total": whole})
        yield Job(repr(leader), world, leader, rounds, OCTAVES, replications, whole)


def worst(runs: pl.DataFrame) -> pl.DataFrame:
    """The instance of largest mean regret, for each policy and budget."""
    top = runs.sort("regret", descending=True)
    keys = ("policy", "rounds", "budget")
    return top.group_by(keys, maintain_order=True).first().sort("budget", "policy")


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Of the least-squares line of log y on log x."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])
