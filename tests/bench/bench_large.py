"""Evaluation of large logs, printed: a million rows of 100 items beside obp, from log to report,
each in a process of its own; a hundred million compact rows; ten policies; slates.

OMP_NUM_THREADS=1 python tests/bench/bench_large.py
"""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from bench_evaluation import ESTIMATORS, compact_file, cpu
from torch import Tensor

from recfb import Evaluation, Log, Meta, evaluate
from recfb.contracts import Context, Policy
from recfb.estimate import Rows
from recfb.evaluation.slates import SlateRows
from recfb.evaluation.state import State, total
from recfb.policies import Uniform

N, K, D = 1_000_000, 100, 10
SPAWN = multiprocessing.get_context("spawn")


def world() -> dict[str, np.ndarray]:
    """Contexts, a uniform logger's choices, clicks, and the weights of a policy and of a model."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((N, D)).astype(np.float32)
    taste, guess = rng.standard_normal((2, D, K)).astype(np.float32) / 4
    item = rng.integers(0, K, N)
    click = rng.random(N) < 0.1 + 0.02 * x[:, 0].clip(-2, 2)
    return {"x": x, "item": item, "reward": click.astype(np.float64), "pi": taste, "q": guess / 20}


class Softmax(Policy):
    """A linear policy."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight

    def probs(self, context: Context) -> Tensor:
        assert context.features is not None
        return torch.softmax(context.features @ self.weight, 1).double()


class Line(torch.nn.Module):
    """A linear reward model that was fitted on another log."""

    fitted_on = "another log"

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight

    def bind(self, log: Log) -> Line:
        return self

    def scores(self, context: Context) -> Tensor:
        assert context.features is not None
        return 0.1 + context.features @ self.weight


def memory() -> float:
    """MiB of this process at its largest."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def ours(_: int) -> dict[str, Any]:
    """CPU seconds of the log, of the report, of its pass over reduced rows; memory; values."""
    torch.set_num_threads(1)
    data = world()
    policies, line = {"t": Softmax(torch.from_numpy(data["pi"]))}, Line(torch.from_numpy(data["q"]))
    small = Log.of({"item": [0, 1], "reward": [0, 1]}, n_items=2)
    evaluate(small, {"u": Uniform()}, estimators=["dm"])  # imports are no part of it
    before, start = memory(), time.process_time()
    features = pl.Series(data["x"], dtype=pl.Array(pl.Float32, D))
    columns = {"item": data["item"], "reward": data["reward"], "unit": np.arange(N)}
    frame = pl.DataFrame(columns).with_columns(features=features, propensity=1 / K)
    log = Log.of(frame, n_items=K, meta=Meta(reward_range=(0, 1), propensity="exact"))
    made = time.process_time() - start
    report = evaluate(log, policies, estimators=ESTIMATORS, reward_model=line, interval="bootstrap")
    end_to_end = time.process_time() - start
    peak = memory() - before
    plan = Evaluation(policies, estimators=ESTIMATORS, reward_range=(0, 1), interval="bootstrap")
    pi = torch.softmax(torch.from_numpy(data["x"] @ data["pi"]), 1).double()
    q = 0.1 + torch.from_numpy(data["x"] @ data["q"]).double()
    item = torch.from_numpy(data["item"])[:, None]
    pe, v, own = pi.gather(1, item).T, (pi * q).sum(1)[None], q.gather(1, item)[:, 0]
    rows = Rows(torch.from_numpy(data["reward"]), torch.full((N,), 1 / K).double(), pe, v, own)
    step = cpu(lambda: plan.report(plan.scan_rows(rows, torch.arange(N), "all")))
    values = dict(report.table.select("estimator", "value").iter_rows())
    return {"log": made, "all": end_to_end, "step": step, "memory": peak, "values": values}


def theirs(_: int) -> dict[str, Any]:
    """The same with obp: dense arrays of policy and model, values and intervals of 100 resamples,
    its default (ours are of 1,000)."""
    from obp import ope

    data = world()
    names = ["ips", "snips", "dm", "dr", "dros"]
    estimators = [
        ope.InverseProbabilityWeighting(),
        ope.SelfNormalizedInverseProbabilityWeighting(),
        ope.DirectMethod(),
        ope.DoublyRobust(),
        ope.DoublyRobustWithShrinkage(lambda_=10.0),
    ]
    before, start = memory(), time.process_time()
    logits = data["x"] @ data["pi"]
    odds = np.exp(logits - logits.max(1, keepdims=True)).astype(np.float64)
    dist = (odds / odds.sum(1, keepdims=True))[:, :, None]
    q = (0.1 + data["x"] @ data["q"]).astype(np.float64)[:, :, None]
    feedback = {
        "reward": data["reward"], "action": data["item"], "pscore": np.full(N, 1 / K),
        "position": np.zeros(N, dtype=int), "n_rounds": N, "n_actions": K, "context": data["x"],
    }  # fmt: skip
    judge = ope.OffPolicyEvaluation(bandit_feedback=feedback, ope_estimators=estimators)
    begin = time.process_time()
    said = {"action_dist": dist, "estimated_rewards_by_reg_model": q}
    found = judge.estimate_policy_values(**said)
    judge.estimate_intervals(n_bootstrap_samples=100, random_state=0, **said)
    end = time.process_time()
    values = dict(zip(names, found.values(), strict=True))
    return {"all": end - start, "step": end - begin, "memory": memory() - before, "values": values}


def apart(f: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
    """Run in a process of its own, so that memory is its own."""
    with ProcessPoolExecutor(1, SPAWN) as other:
        return other.submit(f, 0).result()


def beside_obp() -> None:
    mine, other = apart(ours), apart(theirs)
    gap = max(abs(mine["values"][name] - value) for name, value in other["values"].items())
    print(f"1e6 rows, {K} items, one thread; largest difference of values {gap:.1e}")
    for name, text in (
        ("all", "policy, model, five estimators, intervals"),
        ("step", "estimation alone, from reduced rows     "),
        ("memory", "peak memory above the start             "),
    ):
        unit = "MiB  " if name == "memory" else "CPU s"
        ratio = mine[name] / other[name]
        print(f"{text}   {mine[name]:8.2f} {unit} obp {other[name]:8.2f}   1/{1 / ratio:,.0f}")
    rate = N / (mine["all"] - mine["log"])
    print(f"log to report, one linear policy and model          {rate:12,.0f} rows/CPU s")


def piece(path: Path, k: int) -> State:
    """The compact rows of a file, once more: part k of a log that is a hundred of them."""
    torch.set_num_threads(1)
    plan = Evaluation({"target": Uniform()}, estimators=ESTIMATORS, reward_range=(0, 1))
    parts = []
    for start in range(0, N, 1 << 18):
        frame = pl.scan_parquet(path).slice(start, 1 << 18).collect()
        x = {name: frame[name].to_torch() for name in frame.columns}
        rows = Rows(x["r"], x["p"], x["pe"][None], x["v"][None], x["q"])
        parts.append(plan.scan_rows(rows, x["unit"] + k * N, f"{k}[{start}]"))
    return total(parts, parts[0].facts).compact()


def large(path: Path) -> None:
    plan = Evaluation({"target": Uniform()}, estimators=ESTIMATORS, reward_range=(0, 1))
    with ProcessPoolExecutor(2, SPAWN) as executor:
        list(executor.map(memory_of, range(2)))  # two processes, with what they import
        start = time.perf_counter()
        states = executor.map(partial(piece, path), range(100))
        state = total(states, plan.scan_rows(no_rows(), torch.zeros(0).long(), "none").facts)
        report = plan.report(state)
        took = time.perf_counter() - start
    assert report.table["n"][0] == 100 * N
    print(f"1e8 compact rows, five estimators, two processes    {took:12.1f} s")


def no_rows() -> Rows:
    none = torch.zeros(0, dtype=torch.float64)
    return Rows(none, none, none[None], none[None], none)


def memory_of(_: int) -> float:
    return memory()


def ten_policies() -> None:
    g = torch.Generator().manual_seed(0)
    p = torch.rand(N, generator=g).double().clamp(min=0.02)
    pe, v = torch.rand(2, 10, N, generator=g).double()
    r, q = torch.rand(2, N, generator=g).double()
    rows = Rows((r < 0.1).double(), p, pe * p, v / 5, q / 5)
    names = {f"policy {k}": Uniform() for k in range(10)}
    plan = Evaluation(names, estimators=ESTIMATORS, reward_range=(0, 1))
    took = cpu(lambda: plan.report(plan.scan_rows(rows, torch.arange(N), "all")), 2)
    print(f"ten policies, 1e6 compact rows, pass and report     {took:12.2f} CPU s")


def slates() -> None:
    g = torch.Generator().manual_seed(0)
    shape = (3, N)
    at, prefix = torch.rand(2, *shape, generator=g).double().clamp(min=0.1)
    at_e, prefix_e, display = torch.rand(3, 3, 1, N, generator=g).double()
    slot = (torch.rand(shape, generator=g) < 0.1).double()
    ones = torch.ones(shape).double()
    rows = SlateRows(
        slot.sum(0), prefix[-1], prefix_e[-1], slot=slot, here=ones, at=at, at_e=at_e,
        prefix=prefix, prefix_e=prefix_e, display_e=display,
    )  # fmt: skip
    few = {"slate": [0, 0, 0], "position": [1, 2, 3], "item": [0, 1, 2], "reward": [1, 0, 0]}
    log = Log.of({**few, "propensity": [0.5] * 3, "p_prefix": [0.5, 0.25, 0.2]}, n_items=3)
    plan = Evaluation({"t": Uniform()}, estimators=["rips"], interval="student").fit(log)
    took = cpu(lambda: plan.report(plan.scan_rows(rows, torch.arange(N), "all")), 2)
    print(f"1e6 slates of three, rips with its interval         {took:12.2f} CPU s")


if __name__ == "__main__":
    torch.set_num_threads(1)
    beside_obp()
    ten_policies()
    slates()
    with tempfile.TemporaryDirectory() as folder:
        large(compact_file(Path(folder) / "rows.parquet"))
