"""The six Open Bandit logs: estimates, intervals, verdicts, and the on-policy truth beside them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from open_bandit_numbers import CAMPAIGNS, NUMBERS, ON_POLICY, SPREAD, SPREAD_SE, WOMEN
from scipy.stats import binomtest

import recfb
from recfb import Dataset, Evaluation, plots

RESULTS = Path(__file__).parents[2] / "docs" / "results"
ESTIMATORS = ("ips", "snips", "dr", "dros", "dros:mse", "switch")
INTERVALS = ("student", "bootstrap", "likelihood")
TARGET = {"random": "bts@start", "bts": "uniform"}

INTRO = """\
Three campaigns of a shop, each shown by a uniform policy (`random`) and by Thompson sampling
(`bts`): six logs of 10,000 rows, one shown item each. Every log is asked what the other policy
would have earned. All values are clicks per 1,000 shown rows; intervals are 95 %.

What the policies that wrote the logs earned, with Wilson intervals. `lowest` is the smallest
propensity, `ess` the effective sample size under the other policy, `clicks_count_as` that of the
weighted clicks:"""

TRAPS = """\
Before the estimates, the traps of these logs.

- **Only `bts` -> `uniform` has a truth**: the mean of the log that the uniform policy wrote. The
  Thompson logger learned while it logged, so `bts@start`, the policy of its prior, is not what
  wrote `bts`. The next table shows how far it moved: the median of |log(logged propensity / that of
  the prior)|.
- **The propensities of `bts` are counts of 200,000 simulations**, so small ones are rough, and gate
  G7 says so of every estimate from them.
- **One row of `women/bts` has propensity 0.000001**, which is no count of 200,000 draws. Under the
  uniform policy it weighs 21,739, 69 % of all weight, and 10,000 rows count as 2. Gates G1, G3 and
  G7 refuse the number. G4 is silent: a mean weight of 3.1 is within its own noise.
- **38 to 69 clicks a log.** All intervals are wide; read the verdict, not a winner. Where the
  weighted clicks count as fewer than 10, Student and bootstrap intervals are too narrow and gate G3
  refuses them. The likelihood interval is the one to read there; it is wide on the side where
  weights that were not seen could be.
- **Shrinking leans on the reward model**, here cell means of the same rows, and the intervals of
  `dros` and `switch` leave out what these err in. Those of `dros:mse` are narrow for that reason,
  and not because the value is known better.
- There is no user id: rows count as independent."""

TABLE = """\
What the other policy would have earned. `truth` is known for `uniform`. `verdict` goes with Student
and bootstrap, `by_likelihood` with the likelihood interval, which bounds what `ips` and `snips`
estimate. `dros` shrinks with strength 10; of `dros:mse` the log chooses the strength, which its
bootstrap counts and its Student interval does not."""

WHY = "Why a number is not simply usable, with a Student interval:"


@functools.cache
def dataset(logger: str, campaign: str) -> Dataset:
    return recfb.dataset(f"open_bandit/{campaign}/{logger}")


def on_policy(logger: str, campaign: str) -> tuple[float, float, float]:
    """The mean reward of a log with its Wilson interval."""
    clicks = int(dataset(logger, campaign).log.tensor("reward").sum())
    ends = binomtest(clicks, 10_000).proportion_ci(0.95, method="wilson")
    return clicks / 10_000, float(ends.low), float(ends.high)


@functools.cache
def reports(logger: str, campaign: str) -> dict[str, recfb.Report]:
    """One pass, and a report of it with each interval."""
    data = dataset(logger, campaign)
    target = TARGET[logger]
    plan = Evaluation({target: data.policies[target]}, estimators=ESTIMATORS)
    state = plan.scan(data.log)
    return {kind: plan.report(state, interval=kind) for kind in INTERVALS}


def rows_of(logger: str, campaign: str, kind: str) -> dict[str, dict[str, Any]]:
    return {row["estimator"]: row for row in reports(logger, campaign)[kind].table.to_dicts()}


def contribution(logger: str, campaign: str) -> float:
    """The effective size of the weighted rewards, as gate G3 says it."""
    gates = reports(logger, campaign)["student"].gates
    text: str = gates.filter(gate="G3", estimator="snips")["evidence"].item()
    return float(text.split()[-2])


def logs() -> Iterator[dict[str, Any]]:
    for campaign in CAMPAIGNS:
        for logger, target in TARGET.items():
            log = dataset(logger, campaign).log
            snips = rows_of(logger, campaign, "student")["snips"]
            yield {
                "log": f"{campaign}/{logger}",
                "clicks": int(log.tensor("reward").sum()),
                "earned": interval(on_policy(logger, campaign)),
                "propensities": log.meta.propensity,
                "lowest": f"{float(log.tensor('propensity').min()):.2g}",
                "asked": target,
                "ess": f"{snips['ess']:,.0f}",
                "clicks_count_as": f"{contribution(logger, campaign):.1f}",
            }


def moved() -> pl.DataFrame:
    """How far the Thompson policy went from its prior: by campaign, in the first hour, and on each
    later day."""
    found = []
    for campaign in CAMPAIGNS:
        data = dataset("bts", campaign)
        block = next(data.log.blocks(10_000))
        prior = data.policies["bts@start"].prob_of(block.context, block.slate.item)
        gap = (block.slate.propensity / prior).log().abs()[:, 0]
        time = data.log.frame["time"]
        rows = pl.DataFrame({"gap": gap.numpy(), "us": time - time.min()}).with_columns(
            date=time.cast(pl.Datetime("us")).dt.date().dt.to_string("day %d")
        )
        days = rows.group_by("date").agg(pl.col("gap").median()).sort("date")
        first = rows.filter(pl.col("us") < 3_600_000_000)["gap"].median()
        by_day = {name: gap for name, gap in days.iter_rows() if name != days["date"][0]}
        found.append({"campaign": campaign, "first hour": first, **by_day})
    return pl.DataFrame(found)


def interval(numbers: tuple[Any, Any, Any]) -> str:
    """Value and limits, per 1,000 rows."""
    value, lower, upper = (None if x is None else f"{1000 * x:.2f}" for x in numbers)
    return f"{value} [{lower}, {upper}]"


def limits(row: dict[str, Any]) -> str:
    return "-" if row["lower"] is None else interval((0, row["lower"], row["upper"]))[5:]


def estimates() -> Iterator[dict[str, Any]]:
    for campaign in CAMPAIGNS:
        for logger, target in TARGET.items():
            kinds = {kind: rows_of(logger, campaign, kind) for kind in INTERVALS}
            for name in ESTIMATORS:
                row = {kind: rows[name] for kind, rows in kinds.items()}
                likely = row["likelihood"]["method"] == "likelihood"
                yield {
                    "log": f"{campaign}/{logger}",
                    "policy": target,
                    "estimator": name,
                    "value": f"{1000 * row['student']['value']:.2f}",
                    "student": limits(row["student"]),
                    "bootstrap": limits(row["bootstrap"]),
                    "likelihood": limits(row["likelihood"]) if likely else "-",
                    "truth": interval(on_policy("random", campaign)) if logger == "bts" else "-",
                    "verdict": row["student"]["verdict"],
                    "by_likelihood": row["likelihood"]["verdict"] if likely else "-",
                }


def reasons() -> pl.DataFrame:
    """The reasons of each log, with the estimators that they are of."""
    tables = [
        reports(logger, campaign)["student"].table.with_columns(log=pl.lit(f"{campaign}/{logger}"))
        for campaign in CAMPAIGNS
        for logger in TARGET
    ]
    bad = pl.concat(tables).filter(pl.col("reasons") != "")
    apart = pl.col("reasons").str.replace_all(r"; ([A-Z]+\d*: )", "\n$1").str.split("\n")
    each = bad.with_columns(apart).explode("reasons")
    named = each.group_by("log", "reasons", maintain_order=True).agg(pl.col("estimator"))
    return named.select("log", pl.col("estimator").list.join(", ").alias("estimators"), "reasons")


def picture() -> pl.DataFrame:
    """Of each log the likelihood interval of snips, and Student's of dr and dros."""
    shown = [("likelihood", "snips"), ("student", "dr"), ("student", "dros")]
    tables = []
    for campaign in CAMPAIGNS:
        for logger, target in TARGET.items():
            name = pl.lit(f"{target} on {campaign}/{logger}")
            for kind, estimator in shown:
                table = reports(logger, campaign)[kind].table.filter(estimator=estimator)
                tables.append(table.with_columns(policy=name))
    return pl.concat(tables).with_columns(pl.col("value", "lower", "upper") * 1000)


@pytest.mark.claims
def test_open_bandit(page: Callable[..., None]) -> None:
    marks = {
        f"uniform on {campaign}/bts": 1000 * on_policy("random", campaign)[0]
        for campaign in CAMPAIGNS
    }
    title = "Open Bandit, clicks per 1,000 rows; | what the uniform policy earned"
    plots.write(plots.evaluated(picture(), title, marks), RESULTS / "open_bandit.png")
    page(
        "open_bandit",
        "Open Bandit: what another policy would have earned",
        {
            INTRO: pl.DataFrame(list(logs())),
            TRAPS: moved(),
            TABLE: pl.DataFrame(list(estimates())),
            WHY: reasons(),
        },
        ("open_bandit.png",),
    )


@pytest.mark.claims
@pytest.mark.parametrize("log", list(NUMBERS), ids="/".join)
def test_o_18b_the_numbers_hold(log: tuple[str, str]) -> None:
    snips, snips_se, dr, dr_se, size = NUMBERS[log]
    rows = rows_of(*log, "student")
    assert on_policy(*log) == pytest.approx(ON_POLICY[log], abs=5.1e-6)
    assert round(rows["snips"]["value"], 5) == snips
    assert round(rows["snips"]["se"], 4) == snips_se
    assert contribution(*log) == pytest.approx(size, abs=0.06)
    if log == ("bts", "women"):
        for column, (low, high) in zip(("value", "se"), WOMEN, strict=True):
            assert low < rows["dr"][column] < high
        for kind in INTERVALS:
            assert {row["verdict"] for row in rows_of(*log, kind).values()} == {"do not use"}
    else:
        assert rows["dr"]["value"] == pytest.approx(dr, abs=SPREAD)
        assert rows["dr"]["se"] == pytest.approx(dr_se, abs=SPREAD_SE)


@pytest.mark.claims
def test_o_18b_what_may_be_used_covers_the_truth() -> None:
    for campaign in CAMPAIGNS:
        truth = on_policy("random", campaign)[0]
        for kind in INTERVALS:
            for name in ("snips", "dr"):
                row = rows_of("bts", campaign, kind)[name]
                covers = row["lower"] <= truth <= row["upper"]
                assert covers or row["verdict"] == "do not use", (campaign, kind, name)


@pytest.mark.claims
def test_o_18b_the_thompson_logger_left_its_prior() -> None:
    table = moved().drop("campaign")
    assert table["first hour"].is_between(0.09, 0.205).all()
    later = table.drop("first hour")
    assert later.min_horizontal().min() > 0.5 and later.max_horizontal().max() < 2
