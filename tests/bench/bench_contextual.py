"""Decisions and updates a CPU second of one thread: LinUCB and LinTS, 10 items and 10 features,
against mabwiser 2.7.4 where it is installed, with 1,000 replications and with one.

    OMP_NUM_THREADS=1 python tests/bench/bench_contextual.py
"""

from __future__ import annotations

import time
import warnings

import numpy as np
import torch

from recfb.contracts import Context, Feedback, Policy
from recfb.data import Log, Meta
from recfb.policies.lints import LinTS
from recfb.policies.linucb import LinUCB
from recfb.random import stream
from recfb.worlds.contextual import with_features

ITEMS, WIDTH = 10, 10
REPEATS = 3


def ours(policy: Policy, replications: int, rounds: int) -> float:
    """Rounds of all replications a CPU second, exact propensities included."""
    shape = with_features(Log.empty(1, ITEMS, meta=Meta(learners=replications)), WIDTH)
    policy.bind(shape).reset(stream(0))
    g = stream(1)
    x = torch.randn(rounds, replications, WIDTH, generator=g)
    reward = torch.rand(rounds, replications, ITEMS, generator=g)
    user = torch.zeros(replications, dtype=torch.int64)
    begin = time.process_time()
    with torch.no_grad():
        for t in range(rounds):
            context = Context(user, time=t, features=x[t])
            slate = policy.act(context, g)
            policy.update(context, slate, Feedback(reward[t].gather(1, slate.item)), g)
    return replications * rounds / (time.process_time() - begin)


def theirs(name: str, rounds: int = 300) -> float:
    """Rounds a CPU second of mabwiser; 0 where it is not installed."""
    try:
        from mabwiser.mab import MAB, LearningPolicy
    except ImportError:
        return 0.0
    kind = {"LinUCB": LearningPolicy.LinUCB, "LinTS": LearningPolicy.LinTS}[name]
    mab = MAB(arms=list(range(ITEMS)), learning_policy=kind(alpha=1.0))
    rng = np.random.default_rng(0)
    x, reward = rng.normal(size=(rounds, WIDTH)), rng.random((rounds, ITEMS))
    mab.fit(list(range(ITEMS)), list(reward[0]), x[:ITEMS])
    begin = time.process_time()
    for t in range(rounds):
        item = mab.predict(x[t : t + 1])
        mab.partial_fit([item], [reward[t, item]], x[t : t + 1])
    return rounds / (time.process_time() - begin)


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for policy in (LinUCB(1.0), LinTS(1.0)):
        name = type(policy).__name__
        pairs = [
            (theirs(name), ours(policy, 1, 500), ours(policy, 1000, 30)) for _ in range(REPEATS)
        ]
        other, single, many = (float(np.median(column)) for column in zip(*pairs, strict=True))
        print(f"{name}: one replication {single:,.0f} rounds/s, 1,000 of them {many:,.0f}", end="")
        if other:
            print(f"; mabwiser {other:,.0f}: {single / other:.2f} and {many / other:.0f} times")
        else:
            print("; mabwiser is not installed")
