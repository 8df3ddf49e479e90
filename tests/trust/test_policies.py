"""Policies and columns of probabilities that are none, in evaluate."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import polars as pl
import pytest
import torch
from hostile import BAD, INF, NAN, F, Said, Say, even, table
from ledger import Ledger
from torch import Tensor

from recfb import Log
from recfb.contracts import Context
from recfb.estimate import Rows
from recfb.evaluate.plan import Evaluation
from recfb.evaluation import reduction, slate_rows
from recfb.evaluation.weighting import chances
from recfb.policies import Uniform

plan = sys.modules["recfb.evaluate.plan"]  # the package's name is the verb's too
N = 60
LOG = Log.of(
    pl.DataFrame({"user": [k % 5 for k in range(N)], "item": [k % 3 for k in range(N)]}),
    reward=(pl.col("item") + pl.col("user")) % 2,
    propensity=1 / 3,
    n_users=5,
    n_items=3,
)
SLATES = Log.of(
    pl.DataFrame({"slate": [k // 2 for k in range(N)], "position": [1 + k % 2 for k in range(N)]}),
    item=pl.col("position") % 2,
    reward=pl.col("slate") % 2,
    propensity=1 / 3,
    p_prefix=pl.col("position").replace_strict({1: 1 / 3, 2: 1 / 6}),
    n_items=3,
)


class Duck:
    """A policy by its methods alone."""

    def __init__(self, say: Say) -> None:
        self.say = say

    def probs(self, context: Context) -> Tensor:
        found: Tensor = self.say(len(context))
        return found

    def prob_of(self, context: Context, item: Tensor) -> Tensor:
        return self.probs(context).gather(1, item)


def targets(ledger: Ledger, whole: bool) -> None:
    """Target, logging and slate policies whose rows are no distribution, and reward models."""
    right = lambda found: abs(found[0]["value"] - 0.5) < 0.1  # noqa: E731
    for kind in (Said, Duck):
        act = partial(table, LOG, {"t": kind(even)}, estimators=["ips"])
        ledger.gives(f"{kind.__name__} that is right", act, right)
        for case, (say, says) in BAD.items():
            act = partial(table, LOG, {"t": kind(say)}, estimators=["ips"])
            ledger.refuses(f"{kind.__name__}, {case}", act, "policies['t'].probs", says)
    half = Log.of(LOG.frame.with_columns(pl.col("item") % 2), available=pl.lit([0, 1]), n_items=3)
    act = partial(table, half, {"t": Said(even)}, estimators=["ips"])
    ledger.refuses("mass on what is not available", act, "policies['t']", "unavailable")
    logged = Log.of(LOG.frame, logger=0, n_users=5, n_items=3)
    for case, (say, _) in BAD.items():
        named = {0: Said(say)}
        act = partial(table, logged, estimators=["balanced_ips"], loggers=named)
        if case != "infinite":  # of which the rows of other items show nothing
            ledger.refuses(f"a logger, {case}", act)
        if case in ("below 0", "NaN", "too narrow", "numpy"):
            act = partial(chances, next(LOG.blocks()), Said(say).bind(LOG))
            ledger.refuses(f"weights of a fit, {case}", act, "Said.prob")
        for name in ("sips", "iips", "snrips"):
            act = partial(table, SLATES, {"t": Said(say)}, estimators=[name])
            ledger.refuses(f"{name}, {case}", act, "probs")
        if case in ("sum 1.001", "sum 0.999", "sum 0", "below 0", "half precision"):
            continue  # rewards may be so
        act = partial(table, LOG, reward_model=Scores(say), estimators=["dm", "dr"])
        if case in ("NaN", "infinite"):
            marked = lambda found: all(  # noqa: E731
                row["value"] is None and row["verdict"] == "do not use" for row in found
            )
            ledger.gives(f"a reward model, {case}", act, marked)
        else:
            ledger.refuses(f"a reward model, {case}", act, "reward_model.scores", "(60, 3)")


class Scores:
    """A model of given scores."""

    def __init__(self, say: Say) -> None:
        self.say = say

    def bind(self, log: Log) -> Scores:
        return self

    def scores(self, context: Context) -> Tensor:
        found: Tensor = self.say(len(context))
        return found


def columns(ledger: Ledger, whole: bool) -> None:
    """Columns of target probabilities that were made elsewhere."""
    judge = Evaluation({"t": Uniform()}, estimators=["ips"])
    good = {"r": [1.0, 0.0], "p": [0.5, 0.5], "pe": [0.5, 0.5]}

    def value(unit: int = 2, kind: torch.dtype = F, **odd: Any) -> float:
        made = {name: torch.tensor(x, dtype=kind) for name, x in {**good, **odd}.items()}
        pe = made["pe"] if made["pe"].dim() > 1 else made["pe"][None]
        state = judge.scan_rows(Rows(made["r"], made["p"], pe), torch.arange(unit), "mine")
        return float(judge.report(state).table["value"].item())

    ledger.gives("columns that are right", value, lambda found: found == 0.5)
    for name, numbers in {
        "r": [NAN, INF],
        "p": [0.0, -1.0, 2.0],
        "pe": [NAN, -0.5, 1.1, INF],
    }.items():
        for number in numbers:
            act = partial(value, **{name: [number, 0.5]})
            ledger.refuses(f"{name} {number}", act, name, "row 0 of part 'mine'")
    ledger.refuses("p NaN", partial(value, p=[NAN, 0.5]), "1 of 2 rows have no propensity")
    ledger.refuses("pe of two policies", partial(value, pe=[[0.5, 0.5]] * 2), "pe", "(2, 2)")
    ledger.refuses("pe of three rows", partial(value, pe=[0.5] * 3), "pe", "(1, 3)")
    ledger.refuses("three units", partial(value, unit=3), "unit", "(3,)")
    ledger.refuses("half as many bits", partial(value, kind=torch.float32), "float32")


FAMILIES = {"targets": targets, "columns": columns}


@pytest.mark.parametrize("family", FAMILIES)
def test_policies(family: str, ledger: Callable[[str], Ledger], whole: bool) -> None:
    with ledger("policies: in evaluate") as each:
        FAMILIES[family](each, whole)


@pytest.mark.parametrize(
    ("family", "room", "guard", "blind", "fault"),
    [
        ("targets", reduction, "_bad_rows", lambda *_: {}, "Said, sum 1.001"),
        ("targets", slate_rows.Guard, "check", lambda *_: None, "sips, sum 0.999"),
        ("columns", plan, "value_faults", lambda *_, **__: {}, "pe 1.1"),
    ],
)
def test_policies_can_fail(
    family: str, room: Any, guard: str, blind: Any, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if guard == "check":
        blind = lambda self, name, probs, *_: probs.to(F)  # noqa: E731
    monkeypatch.setattr(room, guard, blind)
    FAMILIES[family](found := Ledger("x"), False)
    assert any(f"{fault}: silent" in each for each in found.faults)
