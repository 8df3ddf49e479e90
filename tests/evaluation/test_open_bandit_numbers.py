"""The Open Bandit sample: on-policy means, SNIPS and DR with their standard errors."""

from __future__ import annotations

import functools
import statistics
import warnings
from typing import Any

import pytest
from open_bandit_numbers import NUMBERS, ON_POLICY, SPREAD, SPREAD_SE, WOMEN

import recfb
from recfb import Dataset, OverlapWarning
from recfb.evaluation.report import Report


@functools.cache
def dataset(logger: str, campaign: str) -> Dataset:
    return recfb.dataset(f"open_bandit/{campaign}/{logger}")


def report_of(logger: str, campaign: str, **options: Any) -> Report:
    """Each log's question: what would the other policy have earned?"""
    data = dataset(logger, campaign)
    target = "bts@start" if logger == "random" else "uniform"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OverlapWarning)
        return recfb.evaluate(data.log, {target: data.policies[target]}, **options)


@pytest.mark.parametrize("log", list(ON_POLICY), ids="/".join)
def test_o_18b_on_policy_means(log: tuple[str, str]) -> None:
    data = dataset(*log)
    assert float(data.log.tensor("reward").double().mean()) == pytest.approx(ON_POLICY[log][0])


@pytest.mark.parametrize("log", list(NUMBERS), ids="/".join)
def test_o_18b_printed_digits(log: tuple[str, str]) -> None:
    snips, snips_se, dr, dr_se, contribution = NUMBERS[log]
    report = report_of(*log, interval="student")
    rows = {row["estimator"]: row for row in report.table.to_dicts()}
    assert round(rows["snips"]["value"], 5) == snips
    assert round(rows["snips"]["se"], 4) == snips_se
    if log == ("bts", "women"):
        for column, (low, high) in zip(("value", "se"), WOMEN, strict=True):
            assert low < rows["dr"][column] < high
    else:
        assert rows["dr"]["value"] == pytest.approx(dr, abs=SPREAD)
        assert rows["dr"]["se"] == pytest.approx(dr_se, abs=SPREAD_SE)
    found = report.gates.filter(gate="G3", estimator="snips")["evidence"].to_list()
    assert found == [f"the weighted rewards count as {contribution:.3g} rows"] or (
        float(found[0].split()[-2]) == pytest.approx(contribution, abs=0.05)
    )


def test_o_18b_dr_over_folds() -> None:
    for log, (_, _, dr, _, _) in NUMBERS.items():
        if log == ("bts", "women"):
            continue
        values = [
            report_of(*log, estimators=["dr"], seed=seed).table["value"].item()
            for seed in range(20)
        ]
        assert min(values) - 5e-6 <= dr <= max(values) + 5e-6, log
        assert statistics.stdev(values) < 0.00015


def test_o_18b_verdicts_with_t_intervals() -> None:
    failed = [
        log
        for log in NUMBERS
        if "fail"
        in report_of(*log, estimators=["snips"], interval="student")
        .gates.filter(gate="G3")["level"]
        .to_list()
    ]
    assert failed == [("random", "all"), ("bts", "all"), ("bts", "women")]


def test_o_18b_one_propensity_below_its_floor() -> None:
    report = report_of("bts", "women", estimators=["ips", "snips", "dr"])
    gates = {(g["gate"], g["estimator"]): g for g in report.gates.to_dicts()}
    row = report.table.filter(estimator="snips").to_dicts()[0]
    assert row["max_weight"] == pytest.approx(21_739, abs=1) and round(row["ess"], 1) == 2.1
    assert gates["G1", "snips"]["level"] == gates["G3", "snips"]["level"] == "fail"
    assert gates["G7", "dr"]["level"] == "fail"
    assert (
        "propensities below 1/200,000: 1; the smallest is 1e-06 at row"
        in (gates["G7", "snips"]["evidence"])
    )
    assert ("G4", "ips") not in gates  # mean weight 3.13, but z = 0.98
    assert set(report.table["verdict"]) == {"do not use"}


def test_o_18b_bts_start_is_compared_with_uniform() -> None:
    data = dataset("random", "men")
    report = recfb.evaluate(data.log, data.policies, base="uniform")
    rows = {(r["policy"], r["estimator"]): r for r in report.table.to_dicts()}
    uniform = rows["uniform", "snips"]
    assert uniform["value"] == pytest.approx(0.0046) and uniform["ess"] == pytest.approx(10_000)
    assert {r["verdict"] for r in rows.values()} == {"usable", "usable with care"}
    assert report.compare.filter(estimator="snips")["difference"].item() == pytest.approx(
        0.00461 - 0.0046, abs=5e-6
    )
