"""The verb: degenerate logs, bad rows, subgroups, comparisons, export, binding."""

from __future__ import annotations

import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from ope_world import TARGET, Fixed, draw
from torch import Tensor

import recfb
from recfb import (
    ConfigError,
    Evaluation,
    Log,
    LogError,
    Meta,
    OverlapWarning,
    SupportError,
    UnboundError,
    estimate,
    evaluate,
)
from recfb.contracts import Context, Policy, Solver
from recfb.data import blocks
from recfb.estimate import Rows
from recfb.evaluation.results import holm
from recfb.policies import BetaThompson, Ranked, Uniform

EVERY = [name for name in estimate.ESTIMATORS if name != "mrdr"]  # which needs mu
pytestmark = pytest.mark.filterwarnings("ignore::recfb.errors.OverlapWarning")


def row_of(log: Log, estimator: str = "snips", policy: Policy | None = None, **options: Any) -> Any:
    policies = {"t": policy or Fixed(TARGET)}
    return evaluate(log, policies, estimators=[estimator], **options).table.to_dicts()[0]


def values(log: Log, policy: Policy | None = None, **options: Any) -> dict[str, Any]:
    report = evaluate(log, {"t": policy or Fixed(TARGET)}, estimators=EVERY, **options)
    return dict(zip(report.table["estimator"], report.table["value"], strict=True))


# ---- degenerate logs


@pytest.mark.parametrize("log", [draw(0), Log.empty(1, 4)], ids=["no rows", "a shape"])
def test_o_t8_an_empty_log_has_no_values_and_says_why(log: Log) -> None:
    report = evaluate(log, {"t": Fixed(TARGET), "u": Uniform()}, estimators=EVERY, base="u")
    assert report.table.height == 2 * len(EVERY)
    for column in ("value", "se", "lower", "upper", "ess", "max_weight"):
        assert report.table[column].null_count() == report.table.height
    assert set(report.table["reasons"]) == {"no rows"}
    assert set(report.table["verdict"]) == {"do not use"}
    assert report.table["n"].sum() == 0 and report.exit_code == 4
    assert "(null)" in str(report)


def test_o_t8_one_row_has_a_value_but_no_interval() -> None:
    log = draw(1)
    report = evaluate(log, {"u": Uniform()}, estimators=EVERY)
    for row in report.table.to_dicts():
        if row["estimator"] == "replay":
            assert row["value"] is None
        elif row["estimator"] in ("ips", "el"):
            assert (row["lower"], row["upper"]) == (0, 1)  # all the likelihood can say
        else:
            assert row["value"] is not None and row["lower"] is None and row["se"] is None
            assert "no interval: fewer than two units" in row["reasons"]


def test_o_t8_no_reward_is_known() -> None:
    log = draw(100)
    log = log.with_frame(log.frame.with_columns(reward=pl.lit(None, dtype=pl.Float32)))
    row = row_of(log)
    assert row["value"] is None and row["reasons"] == "no row has a known reward"


def test_o_t8_unknown_rewards_are_counted_and_left_out() -> None:
    log = draw(1000)
    odd = pl.int_range(pl.len()) % 10 == 0
    holes = log.with_frame(log.frame.with_columns(reward=pl.when(~odd).then(pl.col("reward"))))
    report = evaluate(holes, {"t": Fixed(TARGET)})
    kept = evaluate(log.filter(~odd), {"t": Fixed(TARGET)})
    assert report.table["n"].to_list() == [900, 900]
    assert "100 rows without a known reward were left out." in report.notes
    assert report.table["value"].to_list() == pytest.approx(kept.table["value"].to_list())


def test_o_t8_all_weights_zero() -> None:
    log = draw(200, logger=[0.5, 0.5, 0.0, 0.0])
    away = Fixed([0.0, 0.0, 0.5, 0.5])
    assert row_of(log, "ips", away)["value"] == 0  # unbiased, and to be refused
    assert row_of(log, "ips", away)["verdict"] == "do not use"
    row = row_of(log, "snips", away)
    assert row["value"] is None
    assert row["reasons"].startswith("no overlap: the policy never chooses a logged item")


def test_o_t8_replay_without_a_match_is_null_and_never_zero() -> None:
    row = row_of(draw(200), "replay")
    assert row["value"] is None and row["lower"] is None
    assert row["reasons"].startswith("no overlap: the policy is certain of none")
    sure = row_of(draw(2000), "replay", Fixed([0, 1, 0, 0]))
    assert sure["value"] == pytest.approx(0.4, abs=0.07) and sure["method"] == "bootstrap"


def test_o_t8_one_item() -> None:
    log = draw(500, logger=[1.0], rates=[0.3])
    for name, value in values(log, Uniform()).items():
        assert value == pytest.approx(float(log.tensor("reward").mean()), abs=0.02), name


def test_o_t8_constant_reward() -> None:
    log = draw(500, rates=[1.0] * 4)
    row = row_of(log, "snips")
    assert row["value"] == row["lower"] == row["upper"] == 1 and row["se"] == pytest.approx(0)


def test_o_t8_tiny_propensity_and_huge_weight() -> None:
    log = draw(500)
    tiny = pl.when(pl.int_range(pl.len()) == 7).then(1e-12).otherwise(pl.col("propensity"))
    log = log.with_frame(log.frame.with_columns(propensity=tiny))
    for name in ("ips", "snips", "dr"):
        row = row_of(log, name)
        assert row["value"] is not None and row["max_weight"] >= 1e11
        assert row["ess"] == pytest.approx(1, abs=1e-3)
    assert row_of(log, "snips")["verdict"] == "do not use"


def test_o_t6_target_equal_to_logger() -> None:
    log = draw(700)
    row = row_of(log, "ips", Fixed([0.4, 0.3, 0.2, 0.1]))
    assert row["value"] == pytest.approx(float(log.tensor("reward").double().mean()), abs=1e-15)
    assert row["ess"] == pytest.approx(700, abs=1e-9) and row["max_weight"] == 1


def test_o_t6_order_relabelling_and_scale() -> None:
    log = draw(600)
    plain = values(log)
    mixed = log.with_frame(log.frame.sample(fraction=1, shuffle=True, seed=1))
    flipped = log.with_frame(log.frame.with_columns(item=(3 - pl.col("item")).cast(pl.Int32)))
    tripled = log.with_frame(
        log.frame.with_columns(reward=pl.col("reward") * 3), Meta(reward_range=(0, 3))
    )
    for name, value in plain.items():
        if value is not None:
            assert values(mixed)[name] == pytest.approx(value, rel=1e-12)
            assert values(flipped, Fixed(TARGET[::-1]))[name] == pytest.approx(value, rel=1e-12)
            assert values(tripled)[name] == pytest.approx(3 * value, rel=1e-12)


def test_o_t6_twins_of_an_item_change_nothing() -> None:
    log = draw(600)
    twin = ((pl.col("item") == 0) & (pl.int_range(pl.len()) % 2 == 0)).cast(pl.Int32) * 4
    frame = log.frame.with_columns(
        item=(pl.col("item") + twin).cast(pl.Int32),
        propensity=pl.when(pl.col("item") == 0).then(0.2).otherwise(pl.col("propensity")),
    )
    split = Log.of(frame, n_items=5, meta=log.meta)
    halves = Fixed([TARGET[0] / 2, *TARGET[1:], TARGET[0] / 2])
    for name in ("ips", "snips"):
        assert values(split, halves)[name] == pytest.approx(values(log)[name], rel=1e-9)


def test_o_t6_the_log_twice_halves_the_variance() -> None:
    log = draw(3000)
    twice = log.with_frame(
        pl.concat([log.frame, log.frame.with_columns(unit=pl.col("unit") + 3000)])
    )
    one, two = row_of(log), row_of(twice)
    assert two["value"] == pytest.approx(one["value"], rel=1e-12)
    assert two["se"] / one["se"] == pytest.approx(0.5**0.5, rel=0.05)


# ---- bad rows


class Broken(Uniform):
    """Wrong in one row of ten."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def probs(self, context: Context) -> Tensor:
        probs = super().probs(context)
        wrong = torch.arange(len(context)) % 10 == 3
        if self.kind == "sum":
            probs[wrong] *= 0.9
        elif self.kind == "nan":
            probs[wrong, 0] = torch.nan
        elif self.kind == "sign":
            probs[wrong, 0], probs[wrong, 1] = -0.25, 0.75
        elif self.kind == "shape":
            return probs[:, :2]
        return probs


@pytest.mark.parametrize(
    "kind, said, count",
    [("sum", "do not sum to 1", 100), ("nan", "have NaN or infinite", 100),
     ("sign", "have negative", 100), ("shape", r"have shape \(2,\), expected \(4,\)", "1,000")],
)  # fmt: skip
def test_policies_that_are_no_distribution_end_in_one_error(
    monkeypatch: pytest.MonkeyPatch, kind: str, said: str, count: object
) -> None:
    monkeypatch.setattr(blocks, "PART", 200)
    log = draw(1000)
    with pytest.raises(
        SupportError, match=rf"policies\['b'\]\.probs: {count} rows {said}"
    ) as error:
        evaluate(log, {"u": Uniform(), "b": Broken(kind)})
    assert f"row {0 if kind == 'shape' else 3} of part '{log.name}[0:200]'" in str(error.value)


def test_unavailable_items_must_have_no_probability() -> None:
    log = draw(100, available=[[0, 1]] * 100, logger=[0.5, 0.5, 0.0, 0.0])
    with pytest.raises(SupportError, match="100 rows give probability to unavailable items"):
        evaluate(log, {"t": Fixed(TARGET)})
    assert row_of(log, "snips", Uniform())["value"] is not None


def test_some_rows_without_a_propensity_are_an_error_with_a_count() -> None:
    log = draw(100)
    hole = pl.when(pl.int_range(pl.len()) >= 7).then(pl.col("propensity"))
    log = log.with_frame(log.frame.with_columns(propensity=hole))
    with pytest.raises(LogError, match="7 of 100 rows have no propensity"):
        evaluate(log, {"t": Fixed(TARGET)})
    assert row_of(log, "dm")["value"] is not None


def test_rewards_outside_a_declared_range() -> None:
    log = draw(100, reward=torch.arange(100) % 6, meta=Meta(reward_range=(0, 4)))
    with pytest.raises(LogError, match=r"reward: 16 rows lie outside the declared range \(0, 4\)"):
        evaluate(log, {"t": Fixed(TARGET)})
    assert row_of(log, reward_range=(0, 5))["value"] is not None


def test_rewards_outside_the_assumed_range_have_no_likelihood() -> None:
    log = draw(1000, reward=torch.arange(1000) % 5, meta=None)
    row = row_of(log, "ips")
    assert row["value"] is not None and row["lower"] is None
    assert "declare the range of rewards" in row["reasons"]
    assert row_of(log, "snips")["lower"] is not None
    known = row_of(log, "ips", reward_range=(0, 4))
    assert 0 <= known["lower"] < known["value"] < known["upper"] <= 4


def test_problems_of_a_scanned_file_are_told_after_the_pass(tmp_path: Path) -> None:
    draw(100).frame.with_columns(
        propensity=pl.when(pl.int_range(pl.len()) < 3).then(2.0).otherwise(pl.col("propensity"))
    ).write_parquet(tmp_path / "log.parquet")
    log = Log.scan(tmp_path / "log.parquet", n_items=4)
    with pytest.raises(LogError, match=r"propensity: 3 rows are outside \(0, 1\]"):
        evaluate(log, {"t": Fixed(TARGET)})


def test_a_scanned_log_is_evaluated_like_one_in_memory(tmp_path: Path) -> None:
    log = draw(900)
    log.frame.write_parquet(tmp_path / "log.parquet")
    scanned = Log.scan(tmp_path / "log.parquet", n_items=4, meta=log.meta)
    a, b = (evaluate(x, {"t": Fixed(TARGET)}, estimators=EVERY).table for x in (log, scanned))
    assert a.equals(b)


# ---- the plan


@pytest.mark.parametrize(
    "options, said",
    [
        ({"estimators": ["snip"]}, "Did you mean 'snips'"),
        ({"estimators": []}, "needs a policy and an estimator"),
        ({"buckets": 1000}, "power of 2"),
        ({"reward_range": (1, 0)}, r"\(low, high\)"),
        ({"base": "unifrm"}, "Did you mean 'uniform'"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        evaluate(draw(10), {"uniform": Uniform(), "t": Fixed(TARGET)}, **options)


def test_wrong_columns_are_named() -> None:
    with pytest.raises(LogError, match="'country'"):
        evaluate(draw(10), {"t": Fixed(TARGET)}, by="country")
    with pytest.raises(LogError, match="'user'"):
        evaluate(draw(10), {"t": Fixed(TARGET)}, unit="user")


def test_reduced_rows_give_the_same_report() -> None:
    log, plan = draw(800), Evaluation({"t": Fixed(TARGET)}, estimators=["ips", "snips"])
    block = next(log.blocks(1000))
    item = block.slate.item[:, 0]
    p, r = block.slate.propensity[:, 0], block.feedback.reward[:, 0].double()
    rows = Rows(r, p, torch.tensor([TARGET], dtype=torch.float64)[:, item])
    mine = plan.report(plan.scan_rows(rows, block.unit, "mine")).table
    columns = ["value", "se", "lower", "upper", "n", "ess", "max_weight"]
    assert mine.select(columns).equals(
        evaluate(log, plan.policies, estimators=["ips", "snips"]).table.select(columns)
    )


def test_units_repeat() -> None:
    log = draw(3000, unit=False, user=torch.arange(3000) // 30)
    by_user, by_row = row_of(log), row_of(draw(3000))
    assert by_user["value"] == pytest.approx(by_row["value"], rel=1e-12)
    assert by_user["se"] != by_row["se"]


# ---- subgroups and comparisons


def test_subgroups_are_what_the_filtered_log_says() -> None:
    log = draw(3000)
    table = evaluate(log, {"t": Fixed(TARGET), "u": Uniform()}, by="position").table
    assert table.columns[:3] == ["position", "policy", "estimator"]
    assert table["position"].unique(maintain_order=True).to_list() == ["1", "2", "3"]
    for position in (1, 2, 3):
        alone = row_of(log.filter(pl.col("position") == position))
        mine = table.filter(position=str(position), policy="t", estimator="snips").to_dicts()[0]
        for column in ("value", "n", "ess", "max_weight"):
            assert mine[column] == pytest.approx(alone[column], rel=1e-12)
        assert mine["se"] == pytest.approx(alone["se"], rel=1e-9)


def test_many_subgroups_share_fewer_buckets() -> None:
    log = draw(4000, replication=torch.arange(4000) % 20)
    report = evaluate(log, {"t": Fixed(TARGET)}, by="replication", estimators=["snips"])
    assert report.table.height == 20
    assert {cell.sums.shape[-1] for cell in report.state.groups().values()} == {256}
    alone = row_of(log.filter(pl.col("replication") == 3), buckets=256)
    mine = report.table.filter(replication="3").to_dicts()[0]
    assert mine["value"] == pytest.approx(alone["value"], rel=1e-12)
    assert mine["se"] == pytest.approx(alone["se"], rel=1e-9)


def test_comparisons_are_paired_and_adjusted() -> None:
    policies = {"u": Uniform(), "t": Fixed(TARGET), "same": Uniform()}
    report = evaluate(draw(4000), policies, base="u", estimators=["snips", "dr"])
    rows = {(r["policy"], r["estimator"]): r for r in report.compare.to_dicts()}
    assert len(rows) == 4 and {r["base"] for r in rows.values()} == {"u"}
    value = {(r["policy"], r["estimator"]): r for r in report.table.to_dicts()}
    t = rows["t", "snips"]
    gap = value["t", "snips"]["value"] - value["u", "snips"]["value"]
    assert t["difference"] == pytest.approx(gap, rel=1e-12)
    assert t["lift"] == pytest.approx(gap / value["u", "snips"]["value"], rel=1e-12)
    apart = (value["t", "snips"]["se"] ** 2 + value["u", "snips"]["se"] ** 2) ** 0.5
    assert t["se"] < apart and t["lower"] < gap < t["upper"]
    assert t["p_adjusted"] == pytest.approx(2 * t["p"])
    same = rows["same", "snips"]
    assert same["difference"] == 0 and same["se"] == 0 and same["p"] == same["p_adjusted"] == 1


def test_o_lifts_have_limits_by_the_delta_method() -> None:
    log, bold = draw(4000), Fixed([0.7, 0.1, 0.1, 0.1])
    policies = {"u": Uniform(), "t": Fixed(TARGET), "b": bold}
    report = evaluate(log, policies, base="u", estimators=["ips"], buckets=1 << 17)
    item, p, r = (log.tensor(c) for c in ("item", "propensity", "reward"))
    w = torch.tensor([TARGET, [0.25] * 4], dtype=torch.float64)[:, item] / p  # (2, n)
    a, b = (w * r).mean(1)
    phi = (w[0] * r - a) / b - a / b**2 * (w[1] * r - b)  # (n,) influence of a / b
    se = float(phi.std()) / 4000**0.5
    row = report.compare.filter(policy="t", estimator="ips").to_dicts()[0]
    assert row["lift"] == pytest.approx(float(a / b - 1), rel=1e-9)
    half = (row["lift_upper"] - row["lift_lower"]) / 2
    assert half == pytest.approx(1.9606 * se, rel=0.02)  # few rows share a bucket
    assert (row["lift_upper"] + row["lift_lower"]) / 2 == pytest.approx(row["lift"], rel=1e-9)
    for mine in report.table.to_dicts():  # the same numbers stand beside the values
        twin = report.compare.filter(policy=mine["policy"], estimator=mine["estimator"])
        for column in ("difference", "lift", "lift_lower", "lift_upper", "p_adjusted"):
            expected = None if mine["policy"] == "u" else twin[column].item()
            assert mine[column] == expected, column
    two = report.compare.filter(estimator="ips")
    assert two["p_adjusted"].to_list() == pytest.approx(holm(two["p"].to_list()))
    assert report.table.columns[-5:] == [
        "difference", "lift", "lift_lower", "lift_upper", "p_adjusted",
    ]  # fmt: skip


def test_o_lifts_are_invariant_to_the_scale_of_rewards() -> None:
    log, policies = draw(1000), {"u": Uniform(), "t": Fixed(TARGET)}
    tripled = log.with_frame(
        log.frame.with_columns(reward=pl.col("reward") * 3), Meta(reward_range=(0, 3))
    )
    one, three = (evaluate(x, policies, base="u").compare for x in (log, tripled))
    for column in ("lift", "lift_lower", "lift_upper", "p_adjusted"):
        assert one[column].to_list() == pytest.approx(three[column].to_list(), rel=1e-6)


def test_o_no_lift_over_nothing() -> None:
    log = draw(500, rates=[0.0] * 4)
    row = evaluate(log, {"u": Uniform(), "t": Fixed(TARGET)}, base="u").compare.to_dicts()[0]
    assert row["lift"] is None and row["lift_lower"] is None and row["difference"] == 0


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, float("nan")])[:3] == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.9]) == pytest.approx([1.0, 1.0])


# ---- the report


def test_columns_are_stable() -> None:
    report = evaluate(draw(100), {"t": Fixed(TARGET)})
    assert report.table.columns == [
        "policy", "estimator", "value", "se", "lower", "upper", "method", "n", "ess",
        "max_weight", "verdict", "reasons",
    ]  # fmt: skip
    assert report.compare.height == 0 and report.compare.columns[:4] == [
        "policy", "base", "estimator", "difference",
    ]  # fmt: skip
    assert report.gates.columns == [
        "gate", "policy", "estimator", "level", "evidence", "advice",
    ]  # fmt: skip


def test_what_is_not_to_be_used_is_exported_as_null(tmp_path: Path) -> None:
    report = evaluate(
        draw(150, rates=[0.05] * 4), {"t": Fixed(TARGET)}, estimators=["snips", "ips"]
    )
    assert report.table["verdict"].to_list() == ["do not use", "usable with care"]
    assert report.table["value"].null_count() == 0  # the table keeps it
    assert report.exit_code == 3
    out = report.export()
    for column in ("value", "se", "lower", "upper"):
        assert out[column].is_null().to_list() == [True, False]
    assert report.export(allow_failed=True).equals(report.table)
    assert pl.read_parquet(report.write(tmp_path / "t.parquet")).equals(out)
    rows = json.loads(report.write(tmp_path / "t.json").read_text())
    assert rows[0]["value"] is None and rows[1]["value"] is not None
    whole = pl.read_csv(report.write(tmp_path / "t.csv", allow_failed=True))
    assert whole["value"].null_count() == 0
    with pytest.raises(ConfigError, match=r"Try 't\.parquet'"):
        report.write(tmp_path / "t.xlsx")
    text = str(report).splitlines()
    assert "95% interval" in text[0]
    assert f"({report.table['value'][0]:.4g})" in text[1]  # in parentheses, the reason below
    assert text[2].startswith("    G3: the weighted rewards count as")


def test_exit_codes() -> None:
    assert evaluate(draw(4000), {"t": Fixed(TARGET)}).exit_code == 0
    assert evaluate(draw(0), {"t": Fixed(TARGET)}).exit_code == 4


# ---- binding


def test_an_unbound_policy_is_bound_to_the_sizes_and_left_alone() -> None:
    policy = BetaThompson(alpha=[1.0, 2.0, 3.0, 4.0])
    first = values(draw(500), policy)
    assert not hasattr(policy, "n_items")
    assert first == values(draw(500), BetaThompson(alpha=[1.0, 2.0, 3.0, 4.0]).bind(draw(3)))


class Says(Solver):
    """Scores that it learnt: the item's mean reward."""

    table: Tensor

    def bind(self, log: Log) -> Says:
        super().bind(log)
        self.register_buffer("table", torch.zeros(log.n_items))
        return self

    def solve(self, log: Log) -> Says:
        count = torch.bincount(log.tensor("item"), minlength=log.n_items)
        total = torch.bincount(log.tensor("item"), log.tensor("reward"), minlength=log.n_items)
        self.table.copy_(total / count)
        return self

    def all(self, user: Tensor, out: Tensor | None = None) -> Tensor:
        return self.table.expand(len(user), -1)

    def forward(self, user: Tensor, item: Tensor, batch: object = None) -> Tensor:
        return self.table[item]


def test_a_fitted_model_inside_an_unbound_policy_is_kept() -> None:
    train, log = draw(3000, seed=1), draw(3000)
    model = recfb.fit(train, Says())
    policy = Ranked(model, epsilon=0.1)
    row = row_of(log, "snips", policy)
    assert row["value"] == pytest.approx(0.9 * 0.6 + 0.1 * 0.45, abs=0.05)
    assert model.table.max() > 0 and policy.model is model


def test_a_model_that_was_never_fitted_is_refused() -> None:
    with pytest.raises(UnboundError, match=r"policies\['t'\]\.model is a Says that was never"):
        row_of(draw(10), "snips", Ranked(Says()))


def test_a_model_of_other_ids_is_refused() -> None:
    model = recfb.fit(draw(300, logger=[0.5, 0.3, 0.2], rates=[0.1] * 3), Says())
    with pytest.raises(LogError, match=r"policies\['t'\]\.model was fitted on a log with other"):
        row_of(draw(10), "snips", Ranked(model))
    with pytest.raises(LogError, match="reward_model was fitted on a log with other"):
        row_of(draw(10), "dr", reward_model=model)


def test_a_reward_model_is_read() -> None:
    model = recfb.fit(draw(20_000, seed=1), Says())
    report = evaluate(draw(500), {"t": Fixed(TARGET)}, reward_model=model, estimators=["dm"])
    assert report.table["value"].item() == pytest.approx(
        float(torch.tensor(TARGET) @ model.table), abs=1e-6
    )
    assert "Reward model: Says()." in report.notes


def test_plans_with_estimators_of_ones_own_travel() -> None:
    plan = Evaluation({"t": Fixed(TARGET)}, estimators={"mine": estimate.snips}).fit(draw(10))
    assert pickle.loads(pickle.dumps(plan)).functions == {"mine": estimate.snips}


def test_no_warning_without_need() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", OverlapWarning)
        evaluate(draw(2000), {"t": Fixed(TARGET), "u": Uniform()})


def test_a_single_user_is_no_cluster() -> None:
    """A log of one user, as bandit simulators write: rows, or slates, are the units."""
    log = draw(400, unit=False)
    one = Log.of(log.frame.with_columns(user=pl.lit(0)), n_items=4, meta=log.meta)
    alone = evaluate(one, {"t": Fixed(TARGET)}, estimators=["ips"], interval="student").table
    assert alone["se"].item() == pytest.approx(
        evaluate(log, {"t": Fixed(TARGET)}, estimators=["ips"], interval="student")
        .table["se"]
        .item(),
        rel=0.1,
    )
    slates = Log.of(
        one.frame.with_columns(slate=pl.int_range(400) // 4, position=1 + pl.int_range(400) % 4)
    )
    clustered = Evaluation({"t": Uniform()}).fit(slates)
    assert clustered.facts is not None and clustered.facts.unit == "slate"
    asked = evaluate(one, {"t": Fixed(TARGET)}, estimators=["ips"], unit="user").table
    assert asked["se"].item() is None  # as asked
