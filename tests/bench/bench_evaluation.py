"""Timings of evaluation, printed: one thread, CPU seconds; obp beside ours in the same process.

OMP_NUM_THREADS=1 python tests/bench/bench_evaluation.py
"""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
import torch
from obp import ope

from recfb import Evaluation, Log, Meta, evaluate
from recfb.estimate import Rows
from recfb.evaluation.estimates import poisson_counts
from recfb.evaluation.state import State, total
from recfb.policies import BetaThompson, Uniform
from recfb.policies.beta_thompson import rank_probabilities

N, K = 1_000_000, 10
ESTIMATORS = ("ips", "snips", "dm", "dr", "dros")


def cpu(f: Callable[[], object], repeat: int = 3) -> float:
    best = float("inf")
    for _ in range(repeat):
        start = time.process_time()
        f()
        best = min(best, time.process_time() - start)
    return best


def compact_file(path: Path) -> Path:
    """A million reduced rows: reward, propensity, unit, and pe, v, q of one policy."""
    rng = np.random.default_rng(0)
    p = rng.uniform(0.02, 0.5, N)
    pl.DataFrame(
        {
            "r": (rng.random(N) < 0.1).astype(np.float64),
            "p": p,
            "pe": p * rng.gamma(2.0, 0.5, N),
            "v": rng.uniform(0.05, 0.15, N),
            "q": rng.uniform(0.05, 0.15, N),
            "unit": np.arange(N),
        }
    ).write_parquet(path, row_group_size=131_072)
    return path


def states(plan: Evaluation, path: Path) -> State:
    parts = []
    for start in range(0, N, 1 << 18):
        frame = pl.scan_parquet(path).slice(start, 1 << 18).collect()
        x = {name: frame[name].to_torch() for name in frame.columns}
        rows = Rows(x["r"], x["p"], x["pe"][None], x["v"][None], x["q"])
        parts.append(plan.scan_rows(rows, x["unit"], f"rows[{start}]"))
    return total(parts, parts[0].facts)


def compact(path: Path) -> None:
    plan = Evaluation({"target": Uniform()}, estimators=ESTIMATORS, reward_range=(0, 1))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    scan = cpu(lambda: states(plan, path))
    state = states(plan, path)

    def report() -> None:
        poisson_counts.cache_clear()
        plan.report(state)

    finish = cpu(report)
    print(f"five estimators, 1e6 compact rows from Parquet   {scan:6.3f} CPU s")
    print(f"report: se, intervals, 1,000 bootstraps, gates   {finish:6.3f} CPU s")
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"peak memory above the start                      {more:6.0f} MiB")
    sequences(path)


def sequences(path: Path) -> None:
    def plan(kind: str | None) -> Evaluation:
        options = {"estimators": ["ips"], "reward_range": (0, 1), "interval": kind}
        return Evaluation({"target": Uniform()}, **options)

    plain = cpu(lambda: states(plan(None), path))
    for kind in ("gamma_exponential", "betting"):
        more = cpu(lambda kind=kind: states(plan(kind), path), 1) - plain
        print(f"{kind:17} of 1e6 rows, above the pass      {more:6.3f} CPU s")


def beside_obp() -> None:
    rng = np.random.default_rng(1)
    dist = rng.dirichlet(np.ones(K), N)
    item, p = rng.integers(0, K, N), np.full(N, 1 / K)
    r = (rng.random(N) < 0.1).astype(np.float64)
    q = rng.uniform(0.05, 0.15, (N, K))
    rows = np.arange(N)
    pe, v, ql = dist[rows, item], (dist * q).sum(1), q[rows, item]
    theirs = {
        "ips": ope.InverseProbabilityWeighting(),
        "snips": ope.SelfNormalizedInverseProbabilityWeighting(),
        "dm": ope.DirectMethod(),
        "dr": ope.DoublyRobust(),
        "dros": ope.DoublyRobustWithShrinkage(lambda_=10.0),
    }
    data = {
        "reward": r, "action": item, "pscore": p, "position": np.zeros(N, dtype=int),
        "action_dist": dist[:, :, None], "estimated_rewards_by_reg_model": q[:, :, None],
    }  # fmt: skip
    plan = Evaluation({"t": Uniform()}, estimators=ESTIMATORS, reward_range=(0, 1))
    reduced = Rows(*(torch.from_numpy(x) for x in (r, p, pe[None], v[None], ql)))
    unit = torch.arange(N)

    def ours() -> pl.DataFrame:
        poisson_counts.cache_clear()
        return plan.report(plan.scan_rows(reduced, unit, "all")).table

    values = {name: f.estimate_policy_value(**data) for name, f in theirs.items()}
    mine = dict(ours().select("estimator", "value").iter_rows())
    gap = max(abs(values[name] - mine[name]) for name in values)
    value_time = cpu(lambda: [f.estimate_policy_value(**data) for f in theirs.values()], 2)
    draws = 20
    interval_time = cpu(
        lambda: [
            f.estimate_interval(n_bootstrap_samples=draws, random_state=0, **data)
            for f in theirs.values()
        ],
        1,
    )
    own = cpu(ours)
    print(f"\n1e6 rows, {K} items, five estimators; largest difference of values {gap:.1e}")
    print(f"ours, values and intervals (1,000 bootstraps)    {own:6.3f} CPU s")
    print(f"obp, values only                                 {value_time:6.3f} CPU s")
    print(f"obp, intervals of {draws} bootstraps                  {interval_time:6.3f} CPU s")
    print(f"ratio obp / ours, values only                    {value_time / own:6.1f}")
    full = interval_time * 1000 / draws
    print(f"ratio obp / ours, scaled to 1,000 bootstraps     {full / own:6.0f}")


def blocks() -> None:
    n, items = 200_000, 100
    g = torch.Generator().manual_seed(0)
    log = Log.of(
        {
            "item": torch.randint(items, (n,), generator=g),
            "reward": (torch.rand(n, generator=g) < 0.1).float(),
            "propensity": torch.full((n,), 1 / items, dtype=torch.float64),
            "unit": torch.arange(n),
        },
        n_items=items,
        meta=Meta(reward_range=(0, 1), propensity="exact"),
    )
    alpha = torch.linspace(2, 40, items).tolist()
    policies = {"thompson": BetaThompson(alpha=alpha, beta=1000.0).bind(log)}
    evaluate(log, policies)
    took = cpu(lambda: evaluate(log, policies), 2)
    print(f"\n{items} items, log to report, one policy, snips and dr  {n / took:12,.0f} rows/CPU s")


def thompson() -> None:
    a = torch.tensor([[1.0 + 3 * 1.06**k for k in range(80)]], dtype=torch.float64)
    b = torch.tensor([[1000.0 + 900 * ((37 * k) % 80) for k in range(80)]], dtype=torch.float64)
    live = torch.ones_like(a, dtype=torch.bool)
    took = cpu(lambda: rank_probabilities(a, b, live, 3), 5)
    error = float((rank_probabilities(a, b, live, 3).sum(2) - 1).abs().max())
    print(f"Thompson, 80 items x 3 positions                 {took:6.3f} CPU s, sums {error:.0e}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, spawn) as other:  # apart, so that memory is of reading only
            file = other.submit(compact_file, Path(folder) / "rows.parquet").result()
        compact(file)
    beside_obp()
    blocks()
    thompson()
