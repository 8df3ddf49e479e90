"""Closed loops: cells (users x items x rounds) a CPU second of one thread, with the full log and
truth written as Parquet.

    OMP_NUM_THREADS=1 python tests/bench/bench_simulate.py
"""

from __future__ import annotations

import resource
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

from recfb.beliefs import Linear
from recfb.contracts import Solver
from recfb.data import Log
from recfb.fit import fit
from recfb.policies import BetaThompson, LinUCB, Oracle, Ranked, Uniform
from recfb.random import stream
from recfb.simulate import Refit, simulate
from recfb.worlds import Arms, Tastes


class Factors(Solver):
    """A fixed factor model: what a trained recommender costs to serve."""

    user: Tensor
    item: Tensor

    def __init__(self, dim: int = 20) -> None:
        super().__init__()
        self.dim = dim

    def bind(self, log: Log) -> Factors:
        super().bind(log)
        self.register_buffer("user", torch.randn(log.n_users, self.dim, generator=stream(1)))
        self.register_buffer("item", torch.randn(log.n_items, self.dim, generator=stream(2)))
        return self

    def all(self, user: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.mm(self.user[user], self.item.T, out=out)

    def solve(self, log: Log) -> Factors:
        return self


def loop(users: int, items: int, rounds: int, *, write: bool, epsilon: float = 0.0) -> None:
    policy, refit = Ranked(Factors(), epsilon), Refit(every=1000, warmup=1)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run" if write else None
        before, wall = time.process_time(), time.perf_counter()
        run = simulate(
            Tastes(users, items), policy, rounds=rounds, slate=10, refit=refit, out=out,
            keep="log" if write else "metrics",
        )  # fmt: skip
        cpu, wall = time.process_time() - before, time.perf_counter() - wall
        size = sum(p.stat().st_size for p in Path(folder).rglob("*.parquet"))
        rows = users * 10 * rounds
        print(
            f"{users:>7,} x {items:>6,} x {rounds:>3}  eps {epsilon:.1f}  "
            f"{'Parquet' if write else 'memory '}  {users * items * rounds / cpu:.2e} cells/CPU s  "
            f"{rows / cpu:.2e} rows/CPU s  {cpu:.2f} CPU s, {wall:.2f} s  "
            f"{size / rows:.1f} bytes a row"
        )
        del run


def bandits() -> None:
    world = Arms([0.3, 0.5, 0.7])
    for policy in (Oracle(), Uniform(), Ranked(Linear(), 0.1), LinUCB(0.5), BetaThompson()):
        simulate(world, policy, rounds=20, replications=32)
        before = time.process_time()
        simulate(world, policy, rounds=2000, replications=32)
        print(
            f"{policy!r:32} {(time.process_time() - before) / 2000 * 1e6:6.0f} us a round, 32 runs"
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    fit(Log.empty(3, 3), Factors())  # imports
    loop(500, 300, 2, write=True)
    for write, epsilon in ((True, 0.0), (False, 0.0), (True, 0.1)):
        loop(5_000, 2_000, 10, write=write, epsilon=epsilon)
    loop(100_000, 10_000, 2, write=False)
    bandits()
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
