"""The sentence to forward, for every verdict; differences from the logging policy; weights."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import polars as pl
import pytest
import torch
from ope_world import TARGET, Fixed, draw

from recfb import Log, Meta, evaluate
from recfb.estimate import Estimator, Mean, Rows, dr, ips, snips
from recfb.evaluation import Report, State
from recfb.evaluation.spread import heaviest
from recfb.evaluation.state import Facts
from recfb.evaluation.words import record, sentence
from recfb.policies import Uniform

Row = dict[str, Any]
VALUE: Row = {"policy": "new", "estimator": "dr", "value": 0.12, "lower": 0.1, "upper": 0.14}
VALUE |= {"n": 1000, "verdict": "usable", "reasons": ""}
GAIN: Row = {"policy": "new", "base": "old", "estimator": "dr", "difference": 0.02, "lift": 0.2}
GAIN |= {"lower": -0.02, "upper": 0.06, "p": 0.3, "p_adjusted": 0.3, "verdict": "usable"}
OLD = {**VALUE, "policy": "old", "value": 0.1}
NULLS = {"value": pl.Float64, "difference": pl.Float64, "lower": pl.Float64, "upper": pl.Float64}
NULLS |= {"p": pl.Float64, "p_adjusted": pl.Float64, "base": pl.String, "lift": pl.Float64}


def frame(rows: list[Row]) -> pl.DataFrame:
    types = {name: kind for name, kind in NULLS.items() if rows and name in rows[0]}
    return pl.DataFrame(rows, schema_overrides=types)


def report_of(table: list[Row], *, compare: list[Row] = (), logged: list[Row] = ()) -> Report:  # type: ignore[assignment]
    gate = {"policy": "new", "estimator": "dr", "level": "fail", "advice": "collect more rows"}
    gates = pl.DataFrame([gate, {**gate, "advice": "and then some"}])
    state = State(Facts(""))
    return Report(
        frame(table), frame(list(compare)), gates, state, (), frame(list(logged)), pl.DataFrame()
    )


def test_undecided_says_how_many_more_rows() -> None:
    text = sentence(report_of([VALUE, OLD], compare=[GAIN]))
    assert text == (
        "new: 0.12 a row against 0.1 of old, +20 % (95 % interval of the difference [-0.02, 0.06]; "
        "dr, 1,000 rows); usable, not decided: about 3,000 more rows like these would, if the "
        "difference stays."
    )  # half the interval is twice the difference: four times the rows


def test_slates_are_called_slates() -> None:
    report = report_of([VALUE, OLD], compare=[GAIN])
    state = State(Facts("", slots=3))
    text = sentence(dataclasses.replace(report, state=state))
    assert text.startswith("new: 0.12 a slate against") and "dr, 1,000 slates" in text
    assert "about 3,000 more slates like these" in text


def test_decided() -> None:
    gain = {**GAIN, "lower": 0.01, "upper": 0.03, "p": 0.01, "p_adjusted": 0.01}
    assert sentence(report_of([VALUE, OLD], compare=[gain])).endswith("; usable, decided.")
    loss = {**gain, "difference": -0.02, "lower": -0.03, "upper": -0.01, "lift": -0.2}
    text = sentence(report_of([{**VALUE, "value": 0.08}, OLD], compare=[loss]))
    assert text.startswith("new: 0.08 a row against 0.1 of old, -20 %")
    assert text.endswith("usable, decided.")


def test_the_logging_policy_is_the_base_without_one() -> None:
    text = sentence(report_of([VALUE], logged=[{**GAIN, "base": None}]))
    assert text.startswith("new: 0.12 a row against 0.1 of the logging policy, +20 %")


def test_usable_with_care_says_why() -> None:
    row = {**VALUE, "verdict": "usable with care", "reasons": "G1: effective sample size 200"}
    gain = {**GAIN, "verdict": "usable with care"}
    text = sentence(report_of([row], logged=[{**gain, "base": None}]))
    assert "; usable with care (G1: effective sample size 200), not decided: about 3,000" in text


def test_do_not_use_has_no_number_but_a_reason_and_an_advice() -> None:
    row = {**VALUE, "verdict": "do not use", "reasons": "G1: effective sample size 9"}
    gain = {**GAIN, "verdict": "do not use"}
    assert sentence(report_of([row, OLD], compare=[gain])) == (
        "new: do not use (G1: effective sample size 9); collect more rows; and then some."
    )


def test_a_base_that_fails_is_named() -> None:
    old = {**OLD, "verdict": "do not use", "reasons": "G1: effective sample size 9"}
    gain = {**GAIN, "verdict": "do not use"}
    assert sentence(report_of([VALUE, old], compare=[gain])) == (
        "new: do not use (the base old: G1: effective sample size 9)."
    )


def test_no_value_says_why() -> None:
    row = {**VALUE, "value": None, "lower": None, "upper": None, "verdict": "do not use"}
    row["reasons"] = "no row has a known reward"
    gain = {**GAIN, "base": None, "difference": None, "verdict": "do not use"}
    text = sentence(report_of([row], logged=[gain]))
    assert text == "new: no value (no row has a known reward)."


def test_no_interval_and_no_lift() -> None:
    gain = {**GAIN, "lower": None, "upper": None, "p": None, "p_adjusted": None, "lift": None}
    assert sentence(report_of([VALUE, OLD], compare=[gain])) == (
        "new: 0.12 a row against 0.1 of old (no interval of the difference; dr, 1,000 rows); "
        "usable."
    )


def test_two_comparisons_ask_for_more() -> None:
    near = {**GAIN, "lower": 0.001, "upper": 0.039, "p": 0.04, "p_adjusted": 0.08}
    low = {**GAIN, "policy": "low", "difference": -0.05}
    table = [VALUE, OLD, {**VALUE, "policy": "low"}]
    text = sentence(report_of(table, compare=[low, near]))
    assert text.startswith("new: ")
    assert "not decided among 2 comparisons: about 180 more rows" in text  # (1.1436 x .95)^2 x 1000
    gain = {**near, "p": None, "p_adjusted": None}
    low = {**low, "p": None, "p_adjusted": None}
    text = sentence(report_of(table, compare=[low, gain]))
    assert text.endswith("usable, decided by itself, one of 2 comparisons.")


def test_the_best_verdict_of_a_policy_then_the_largest_gain() -> None:
    care = {"verdict": "usable with care", "reasons": "G3"}
    table = [{**VALUE, "estimator": "snips", **care}, VALUE]
    table += [{**VALUE, "policy": "more", "estimator": "snips", "value": 0.15, **care}]
    table += [{**VALUE, "policy": "most", "value": 0.9, "verdict": "do not use"}]
    logged = [
        {**GAIN, "base": None, "estimator": row["estimator"], "policy": row["policy"]}
        | {"verdict": row["verdict"], "difference": row["value"] - 0.1}
        for row in table
    ]
    assert sentence(report_of(table, logged=logged)).startswith("more: 0.15 a row against 0.1")
    assert "dr, 1,000 rows" in sentence(report_of(table[:2], logged=logged[:2]))


def test_the_first_estimator_wins_a_tie() -> None:
    table = [VALUE, {**VALUE, "estimator": "snips"}]
    logged = [{**GAIN, "base": None, "estimator": row["estimator"]} for row in table]
    assert "dr, 1,000 rows" in sentence(report_of(table, logged=logged))
    assert "snips, 1,000 rows" in sentence(report_of(table, logged=logged[::-1]))


def test_groups_are_named() -> None:
    row, gain = {"week": "3", **VALUE}, {"week": "3", **GAIN}
    text = sentence(report_of([row, {**row, "policy": "old"}], compare=[gain]))
    assert text.startswith("week 3, new: 0.12")


@pytest.mark.filterwarnings("ignore::recfb.OverlapWarning")
def test_the_record_for_machines_has_no_failed_numbers() -> None:
    log = draw(60, logger=[0.97, 0.01, 0.01, 0.01])
    report = evaluate(log, {"t": Fixed(TARGET)}, estimators=["snips"])
    assert report.exit_code == 3
    data = json.loads(json.dumps(record(report)))
    assert data["exit_code"] == 3 and "do not use" in data["sentence"]
    for name in ("table", "logged"):
        assert data[name][0].get("value", data[name][0].get("difference")) is None
    assert data["gates"][0]["gate"] and data["weights"][0]["n"] == 60


@pytest.mark.parametrize("estimator", [ips, snips, dr], ids=lambda f: f.__name__)
def test_differences_from_the_logging_policy_are_paired(estimator: Estimator) -> None:
    """The same numbers as an estimator that subtracts the mean reward itself."""

    def gain(t: Rows, mean: Mean) -> torch.Tensor:
        return estimator(t, mean) - mean(t.r)

    log, policies = draw(), {"t": Fixed(TARGET), "uniform": Uniform()}
    report = evaluate(log, policies, estimators={"plain": estimator, "gain": gain})
    rows = report.logged.filter(estimator="plain").to_dicts()
    other = report.table.filter(estimator="gain").to_dicts()
    mean = float(log.tensor("reward").to(torch.float64).mean())
    assert [row["policy"] for row in rows] == ["t", "uniform"]
    for row, twin in zip(rows, other, strict=True):
        assert row["base"] is None
        assert row["difference"] == pytest.approx(twin["value"], abs=1e-12)
        assert row["se"] == pytest.approx(twin["se"], rel=1e-9)
        assert row["lift"] == pytest.approx(twin["value"] / mean, rel=1e-9)
        assert row["lower"] < row["difference"] < row["upper"]


@pytest.mark.filterwarnings("ignore::recfb.OverlapWarning")
def test_limits_that_always_hold_have_none_from_the_logging_policy() -> None:
    log = draw(meta=Meta(reward_range=(0, 1), propensity="exact", floor=0.1))
    report = evaluate(log, {"t": Fixed(TARGET)}, estimators=["ips"], interval="bernstein")
    row = report.logged.to_dicts()[0]
    assert row["lower"] is None and row["p"] is None and row["difference"] is not None


@pytest.mark.filterwarnings("ignore::recfb.OverlapWarning")
def test_weights_of_a_small_log() -> None:
    rows = {"item": [0, 0, 1, 1], "reward": [1, 0, 1, 0], "propensity": [0.5, 0.5, 0.1, 0.5]}
    log = Log.of({**rows, "unit": [1, 2, 3, 3]}, n_items=2)
    (row,) = evaluate(log, {"uniform": Uniform()}, estimators=["snips"]).weights.to_dicts()
    assert row["n"] == 4 and row["buckets"] == 3  # weights 1, 1, 5, 1
    assert row["ess"] == pytest.approx(64 / 28)
    assert (row["mean_weight"], row["max_weight"]) == pytest.approx((2, 5))
    assert row["top_row"] == pytest.approx(5 / 8)
    assert row["top"][-2:] == pytest.approx([0.9 * 6 / 8, 1.0])  # of 3 buckets; 6 of 8 in one


def test_weights_without_rows_or_propensities() -> None:
    log = Log.of({"item": [0, 1], "reward": [1.0, 0.0]})
    row = evaluate(log, {"uniform": Uniform()}, estimators=["dm"]).weights.to_dicts()[0]
    assert row["ess"] is None and row["max_weight"] is None
    assert evaluate(Log.empty(1, 2), {"uniform": Uniform()}, estimators=["ips"]).weights.is_empty()


def test_equal_weights_lie_on_the_diagonal() -> None:
    shares = [0.25, 0.5, 0.8, 1.0]
    assert heaviest(torch.ones(2, 40), shares)[1].tolist() == pytest.approx(shares)
