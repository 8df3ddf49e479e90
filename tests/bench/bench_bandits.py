"""Bandits without context: CPU seconds of one thread for 2^16 rounds of 32 replications, scaled up
from 2^13.

    OMP_NUM_THREADS=1 python tests/bench/bench_bandits.py
"""

from __future__ import annotations

import time

import torch

from recfb.contracts import Policy
from recfb.policies import BetaThompson
from recfb.policies.boltzmann_gumbel import BoltzmannGumbel
from recfb.policies.exp3 import Exp3, Exp3IX, Exp3Mixed
from recfb.policies.feedback_budgets import (
    BlockedExp3,
    BlockedTsallis,
    BudgetedBandit,
    Constant,
    DartboardFlex,
    DartboardFull,
    LabelEfficientDartboard,
    ShrinkingDartboard,
)
from recfb.policies.klucb import KLUCB
from recfb.policies.lazy_leader import LazyLeader
from recfb.policies.tsallis_inf import TsallisINF
from recfb.policies.tsallis_switch import TsallisSwitch
from recfb.policies.ucb1 import UCB1
from recfb.simulate import Refit, simulate
from recfb.worlds.switching import Budgeted, SwitchingCost
from recfb.worlds.walk import MultiScaleWalk

ROUNDS, ROWS, WHOLE = 2**13, 32, 2**16


def seconds(policy: Policy, total: int | None = None) -> float:
    """CPU seconds of 2^16 rounds."""
    world = SwitchingCost(Budgeted(MultiScaleWalk(2, ROUNDS), total=total))
    before = time.process_time()
    simulate(
        world,
        policy,
        rounds=ROUNDS,
        replications=ROWS,
        refit=Refit(warmup=0),
        metrics=["regret"],
        keep="metrics",
    )
    return (time.process_time() - before) * WHOLE / ROUNDS


if __name__ == "__main__":
    torch.set_num_threads(1)
    cases: list[tuple[Policy, int | None]] = [
        (Constant(), None),
        (BlockedTsallis(), None),
        (BlockedExp3(), None),
        (TsallisSwitch(), None),
        (Exp3(), None),
        (Exp3IX(), None),
        (Exp3Mixed(), None),
        (TsallisINF(), None),
        (TsallisINF("rv"), None),
        (UCB1(), None),
        (KLUCB(), None),
        (BoltzmannGumbel(), None),
        (BetaThompson(), None),
        (DartboardFull(1024), None),
        (ShrinkingDartboard(), None),
        (LazyLeader(), None),
        (BudgetedBandit(1024), 1024),
        (DartboardFlex(1024), 1024),
        (LabelEfficientDartboard(1024), 1024),
    ]
    for policy, total in cases:
        print(f"{policy!s:48} {seconds(policy, total):6.1f} s")
