"""The six Open Bandit logs: estimates, intervals, verdicts, and the on-policy truth beside them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

import recfb
from recfb import OverlapWarning, plots

RESULTS = Path(__file__).parents[2] / "docs" / "results"


@pytest.mark.claims
def test_open_bandit(page: Callable[..., None]) -> None:
    tables = []
    for campaign in ("all", "men", "women"):
        logs = {b: recfb.dataset(f"open_bandit/{campaign}/{b}") for b in ("random", "bts")}
        truth = {b: float(data.log.tensor("reward").mean()) for b, data in logs.items()}
        for logger, target, other in (("random", "bts@start", "bts"), ("bts", "uniform", "random")):
            data = logs[logger]
            policies = {target: data.policies[target]}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", OverlapWarning)
                own = recfb.evaluate(data.log, policies, estimators=["snips", "dr"]).table
                likely = recfb.evaluate(
                    data.log, policies, estimators=["snips"], interval="likelihood"
                ).table
            rows = pl.concat([own, likely]).with_columns(
                log=pl.lit(f"{campaign}/{logger}"), on_policy=pl.lit(truth[other])
            )
            tables.append(rows)
    table = pl.concat(tables)
    columns = ["log", "policy", "estimator", "value", "se", "lower", "upper", "method", "on_policy"]
    columns += ["ess", "max_weight", "verdict"]
    reasons = table.select("log", "policy", "estimator", "method", "verdict", "reasons")
    named = table.with_columns(
        policy=pl.format("{} on {}", "policy", "log"),
        estimator=pl.format("{} {}", "estimator", "method"),
    )
    marks = dict(named.select("policy", "on_policy").iter_rows())
    plots.write(
        plots.evaluated(named, "Open Bandit; | on-policy mean", marks), RESULTS / "open_bandit.png"
    )
    page(
        "open_bandit",
        "Open Bandit: what another policy would have earned",
        {
            "Clicks a shown row. `on_policy` is the mean of the log that the policy itself wrote; "
            "bts@start is the prior of a policy that went on learning, so only bts -> uniform is "
            "an "
            "exact test.": table.select(columns),
            "Why": reasons,
        },
        ("open_bandit.png",),
    )
    exact = table.filter(policy="uniform").filter(pl.col("verdict") != "do not use")
    covered = (exact["lower"] <= exact["on_policy"]) & (exact["on_policy"] <= exact["upper"])
    assert bool(covered.all())
    women = table.filter(log="women/bts")
    assert bool((women["verdict"] == "do not use").all())
