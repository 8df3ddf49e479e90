"""Bandits without context: CPU seconds of one thread for the first 2^13 of 2^16 rounds of 32
replications, scaled up; blocks are as long as 2^16 rounds make them.

    OMP_NUM_THREADS=1 python tests/bench/bench_bandits.py
"""

from __future__ import annotations

import time
from typing import Any

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
    """CPU seconds of 2^16 rounds; nothing is logged, as in the experiments."""
    world = SwitchingCost(Budgeted(MultiScaleWalk(2, WHOLE), total=total))
    options: dict[str, Any] = {"rounds": ROUNDS, "replications": ROWS, "keep": "metrics"}
    before = time.process_time()
    simulate(world, policy, refit=Refit(warmup=0), **options)
    return (time.process_time() - before) * WHOLE / ROUNDS


if __name__ == "__main__":
    torch.set_num_threads(1)
    cases: list[tuple[Policy, int | None]] = [
        (Constant(horizon=WHOLE), None),
        (BlockedTsallis(horizon=WHOLE), None),
        (BlockedExp3(horizon=WHOLE), None),
        (TsallisSwitch(), None),
        (Exp3(horizon=WHOLE), None),
        (Exp3IX(horizon=WHOLE), None),
        (Exp3Mixed(horizon=WHOLE), None),
        (TsallisINF(), None),
        (TsallisINF("rv"), None),
        (UCB1(), None),
        (KLUCB(), None),
        (BoltzmannGumbel(), None),
        (BetaThompson(), None),
        (DartboardFull(1024, horizon=WHOLE), None),
        (DartboardFull(8192, horizon=WHOLE), None),
        (ShrinkingDartboard(horizon=WHOLE), None),
        (LazyLeader(horizon=WHOLE), None),
        (BudgetedBandit(1024, horizon=WHOLE), 1024),
        (DartboardFlex(1024, horizon=WHOLE), 1024),
        (LabelEfficientDartboard(1024, horizon=WHOLE), 1024),
    ]
    for policy, total in cases:
        print(f"{policy!s:48} {seconds(policy, total):6.1f} s")
