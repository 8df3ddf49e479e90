"""Random logs with a known value: what can go wrong with them, and what reports say of each."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import polars as pl
import torch
from torch import Tensor

from recfb import Log, Meta, OverlapWarning, estimate, evaluate
from recfb.contracts import Context, Policy
from recfb.random import stream

CONTEXTS = 200
ITEMS = (2, 10, 100)
ROWS = (300, 1_000, 10_000, 100_000)
SHARES = (0.3, 0.3, 0.3, 0.1)  # of logs with so many rows
FAULTS = {
    "none": 0.44,
    "one propensity halved": 0.1,
    "noisy propensities": 0.1,
    "one day wrong": 0.06,
    "no support": 0.14,
    "clusters": 0.1,
    "rewards missing by item": 0.06,
}
"""What is wrong with a log, and how often. "none" and "clusters" are sound logs."""
SOUND = ("none", "clusters")
DAY = 86_400_000_000
ESTIMATORS = {
    "ips": estimate.ips,
    "snips": estimate.snips,
    "dr": estimate.dr,
    "sndr": estimate.sndr,
    "cips": functools.partial(estimate.cips, lam=10.0),
    "dros": functools.partial(estimate.dros, lam=100.0),
    "dm": estimate.dm,
}


class Softmax(Policy):
    """The row of a table that the context names in its first feature."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = table

    def probs(self, context: Context) -> Tensor:
        assert context.features is not None
        return self.table[context.features[:, 0].long()]


@dataclass(frozen=True)
class Case:
    """What a log was drawn from."""

    fault: str
    n_items: int
    rows: int
    dense: bool
    distance: float  # of the target from the logger
    floor: float  # the least probability of the logger, times the number of items


def case(seed: int) -> Case:
    """The settings of a log."""
    g = stream(seed, "case")

    def one_of(weights: Tensor) -> int:
        return int(torch.multinomial(weights, 1, generator=g))

    fault = list(FAULTS)[one_of(torch.tensor(list(FAULTS.values())))]
    n_items = ITEMS[one_of(torch.ones(3))]
    rows = ROWS[one_of(torch.tensor(SHARES))]
    dense = bool(one_of(torch.ones(2)))
    distance = (0.25, 0.5, 1.0, 2.0, 3.0)[one_of(torch.ones(5))]
    floor = (0.02, 0.1, 0.5)[one_of(torch.ones(3))]
    return Case(fault, n_items, rows, dense, distance, floor)


def draw(seed: int) -> tuple[Case, Log, Policy, float]:
    """A log with its target policy and the target's true value."""
    of, g = case(seed), stream(seed, "world")
    k, features = of.n_items, torch.randn(CONTEXTS, 4, generator=g)
    taste, habit, wish = torch.randn(3, 4, k, generator=g)
    base = (0.5 if of.dense else -4.0) + 0.5 * torch.randn(k, generator=g)
    rate = torch.sigmoid(base + 0.5 * features @ taste).double()  # (X, K)
    logger = torch.softmax(0.5 * features @ habit, 1).double()
    if of.fault == "no support" and k > 2:
        gone = torch.randperm(k, generator=g)[: max(1, k // 5)]
        logger[:, gone] = 0.0
    logger = logger / logger.sum(1, keepdim=True)
    open_to = (logger > 0).double()
    logger = (1 - of.floor) * logger + of.floor * open_to / open_to.sum(1, keepdim=True)
    target = torch.softmax(0.5 * features @ habit + of.distance * features @ wish / 2, 1).double()
    value = float((target * rate).sum(1).mean())
    rows = _rows(of, logger, rate, g)
    return of, rows, Softmax(target), value


def _rows(of: Case, logger: Tensor, rate: Tensor, g: torch.Generator) -> Log:
    n, k = of.rows, of.n_items
    if of.fault == "clusters":  # twenty rows of a user, with one context and a mood
        user = torch.arange(n) // 20
        context = torch.randint(CONTEXTS, (n // 20 + 1,), generator=g)[user]
        mood = torch.rand(n // 20 + 1, generator=g)[user]
        luck = torch.where(torch.rand(n, generator=g) < 0.5, mood, torch.rand(n, generator=g))
    else:
        user, context = torch.arange(n), torch.randint(CONTEXTS, (n,), generator=g)
        luck = torch.rand(n, generator=g)
    item = torch.multinomial(logger[context], 1, generator=g)[:, 0]
    reward = (luck < rate[context, item]).double()
    time = torch.arange(n) * 7 // n * DAY + 1_700_000_000_000_000
    p = logger[context, item]
    if of.fault == "one propensity halved":
        p = torch.where(item == int(torch.randint(k, (), generator=g)), p / 2, p)
    elif of.fault == "noisy propensities":
        p = (p * torch.exp(0.7 * torch.randn(n, generator=g))).clamp(max=1.0)
    elif of.fault == "one day wrong":
        p = torch.where(time == time[n // 2], torch.full_like(p, 1 / k), p)
    elif of.fault == "rewards missing by item":
        away = torch.rand(n, generator=g) < 0.3 * (reward > 0) * (item < max(1, k // 2))
        reward = reward.masked_fill(away, torch.nan)
    columns = {"item": item, "reward": reward, "propensity": p, "unit": user, "time": time}
    frame = pl.DataFrame({name: column.numpy() for name, column in columns.items()})
    frame = frame.with_columns(
        pl.col("reward").fill_nan(None),
        features=pl.Series(context.numpy().astype("float32")).reshape((n, 1)),
    )
    meta = Meta(reward_range=(0, 1), propensity="exact")
    return Log.of(frame, n_items=k, meta=meta)


def judged(seed: int) -> Iterator[Mapping[str, object]]:
    """What a report says of a log, an estimator a line, beside the truth."""
    of, log, target, value = draw(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OverlapWarning)
        report = evaluate(log, {"target": target}, estimators=ESTIMATORS)
    found: dict[str, dict[str, str]] = {}
    for row in report.gates.iter_rows(named=True):
        mine = found.setdefault(row["estimator"], {})
        if mine.get(row["gate"]) != "fail":
            mine[row["gate"]] = row["level"]
    for row in report.table.iter_rows(named=True):
        known = row["value"] is not None and row["lower"] is not None
        error = abs(row["value"] - value) if known else None
        half = (row["upper"] - row["lower"]) / 2 if known else None
        yield {
            "seed": seed,
            "fault": of.fault,
            "n_items": of.n_items,
            "rows": of.rows,
            "dense": of.dense,
            "distance": of.distance,
            "floor": of.floor,
            "estimator": row["estimator"],
            "verdict": row["verdict"],
            "covered": row["lower"] <= value <= row["upper"] if known else None,
            "off": None if error is None or not half else error / half,
            "value": row["value"],
            "se": row["se"],
            "truth": value,
            "ess": row["ess"],
            **{f"gate_{gate}": level for gate, level in found.get(row["estimator"], {}).items()},
        }
