"""Damaged logs: what a pass can count is told once, with counts and first rows; no crash."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from ope_world import TARGET, Fixed, draw
from torch import Tensor

from recfb import Evaluation, Log, LogError, Meta, PrepareError, SupportError, evaluate
from recfb.contracts import Context, Policy
from recfb.data import scan
from recfb.policies import Uniform

pytestmark = pytest.mark.filterwarnings("ignore::recfb.errors.OverlapWarning")
ROW = pl.int_range(pl.len())


def put(column: str, value: object, *rows: int) -> pl.Expr:
    """The column with one value in some rows."""
    return pl.when(ROW.is_in(rows)).then(pl.lit(value)).otherwise(pl.col(column)).alias(column)


def stored(folder: Path, *changes: pl.Expr, n: int = 1000, files: int = 2, **more: Any) -> Log:
    """A log of n rows with these changes, scanned from files in row groups of 100."""
    log = draw(n, **more)
    frame = log.frame
    for change in changes:
        frame = frame.with_columns(change)
    for k in range(files):
        part = frame.slice(k * n // files, n // files)
        part.write_parquet(folder / f"part-{k}.parquet", row_group_size=100)
    return Log.scan(folder, n_items=4, meta=log.meta)


def told(log: Log, policy: Policy | None = None, **options: Any) -> dict[str, str]:
    """What the one error says: every line by its column and kind."""
    policies = {"t": policy or Fixed(TARGET)}
    with pytest.raises((LogError, SupportError), match="the log cannot be evaluated") as error:
        evaluate(log, policies, **options)
    lines = str(error.value).splitlines()[1:]
    assert len(set(lines)) == len(lines)
    found = {}
    for line in lines:
        who, count, what, first = re.fullmatch(
            r"  (.+?): ([\d,]+) rows (.+?)[.:] .*\(first: (.+)\)\.", line
        ).groups()  # type: ignore[union-attr]
        found[f"{who} {what}"] = f"{count} from {first}"
    return found


class Short(Uniform):
    """Its probabilities sum to .9 at position 2."""

    def probs(self, context: Context) -> Tensor:
        assert context.position is not None
        probs = super().probs(context)
        return torch.where(context.position[:, None] == 2, 0.9 * probs, probs)


OUTSIDE = "propensity are outside (0, 1]"


@pytest.mark.parametrize("part", [1 << 18, 170])
def test_o_18_every_kind_at_once_is_told_in_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    monkeypatch.setattr(scan, "PART", part)
    log = stored(
        tmp_path,
        put("propensity", float("nan"), *range(600, 700)),  # a row group
        put("propensity", 0.0, 20),
        put("propensity", -0.5, 30),
        put("propensity", 1.5, 40),
        put("item", 4, 50, 800),
        put("item", -1, 51),
        put("reward", float("nan"), 60, 900),
        put("reward", float("inf"), 61),
        put("reward", 7.0, 70, 71, 950),
        put("position", 0, 80),
        put("unit", None, 90),
    )
    found = told(log, Short())
    name = "part-0.parquet:"
    assert {key: value for key, value in found.items() if name not in value} == {
        OUTSIDE: "103 from row 20",
        "item have an id outside the vocabulary": "3 from row 50",
        "reward are NaN": "2 from row 60",
        "reward do not fit a 32-bit float": "1 from row 61",
        "position are below 1": "1 from row 80",
        "unit are null": "1 from row 90",
    }
    rest = {key: value for key, value in found.items() if name in value}
    assert list(rest) == [
        "policies['t'].probs do not sum to 1",
        "reward lie outside the declared range (0, 1)",
    ]
    probs, reward = rest.values()
    # a third of the rows, less one without a known reward
    assert probs.startswith("332 from row 1 of part") and reward.startswith("3 from row 70 of part")


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (put("propensity", float("nan"), *range(100, 200)), OUTSIDE, "100 from row 100"),
        (put("propensity", 0.0, 7), OUTSIDE, "1 from row 7"),
        (put("propensity", -1e-9, 7, 8), OUTSIDE, "2 from row 7"),
        (put("propensity", 1.0001, 7), OUTSIDE, "1 from row 7"),
        (put("propensity", float("inf"), 7), OUTSIDE, "1 from row 7"),
        (put("item", 4, 7), "item have an id outside the vocabulary", "1 from row 7"),
        (put("item", 2**40, 7), "item have an id outside the vocabulary", "1 from row 7"),
        (put("item", None, 7), "item are null", "1 from row 7"),
        (put("reward", float("nan"), 7), "reward are NaN", "1 from row 7"),
        (put("reward", 1e300, 7), "reward do not fit a 32-bit float", "1 from row 7"),
        (put("position", -5, 7), "position are below 1", "1 from row 7"),
        (put("position", None, 7), "position are null", "1 from row 7"),
        (put("position", 70_000, 7), "position do not fit Int16", "1 from row 7"),
    ],
)
def test_o_18_each_kind_alone(tmp_path: Path, change: pl.Expr, kind: str, said: str) -> None:
    log = stored(tmp_path, change)
    assert told(log) == {kind: said}
    assert told(log, estimators=["ips"]) == {kind: said}  # and without a pass for a reward model


def test_o_18_rewards_outside_the_declared_range(tmp_path: Path) -> None:
    found = told(stored(tmp_path, put("reward", 1.5, 7, 600), put("reward", -0.5, 8)))
    (kind, said), = found.items()  # fmt: skip
    assert kind == "reward lie outside the declared range (0, 1)"
    assert re.fullmatch(r"3 from row 7 of part 'part-0\.parquet:\w+\[0:500\]'", said)


def test_o_18_a_column_of_text(tmp_path: Path) -> None:
    log = stored(tmp_path, pl.col("propensity").cast(pl.String), files=1)
    (kind, said), = told(log).items()  # fmt: skip
    assert kind.startswith("propensity hold String, not numbers") and said == "1,000 from row 0"


def test_o_18_slates_go_on_too(tmp_path: Path) -> None:
    rows = (
        (pl.int_range(pl.len()) // 3).alias("slate"),
        pl.col("propensity").alias("p_prefix"),
        put("position", -5, 7),
        put("p_prefix", 0.0, 11),
    )
    found = told(stored(tmp_path, *rows, n=300, files=1), estimators=["sips"])
    assert found["position are below 1"] == "1 from row 7"
    assert found["p_prefix are outside (0, 1]"] == "1 from row 11"


def test_o_18_nothing_is_told_twice_by_workers(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    log = stored(tmp_path, put("propensity", 0.0, 7, 600))
    with ThreadPoolExecutor(2) as executor:
        assert told(log, executor=executor) == {OUTSIDE: "2 from row 7"}


# ---- files


@pytest.mark.parametrize("share", [0.5, 0.98])
def test_o_18_a_cut_file_is_named(tmp_path: Path, share: float) -> None:
    stored(tmp_path, files=3)
    file = tmp_path / "part-1.parquet"
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(PrepareError, match=r"part-1\.parquet cannot be read .*cut, damaged"):
        evaluate(Log.scan(tmp_path, n_items=4), {"t": Fixed(TARGET)})


def test_o_18_a_file_cut_after_it_was_opened_is_named(tmp_path: Path) -> None:
    log = stored(tmp_path, files=3)
    plan = Evaluation({"t": Fixed(TARGET)}).fit(log)
    file = tmp_path / "part-1.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PrepareError, match=r"part-1\.parquet cannot be read"):
        plan.scan(log)
    file.write_bytes(whole)
    assert plan.report(plan.scan(log)).table["n"].to_list() == [999, 999]


def test_o_18_a_row_group_of_zeros_is_named(tmp_path: Path) -> None:
    log = stored(tmp_path, files=1)
    file = tmp_path / "part-0.parquet"
    data = bytearray(file.read_bytes())
    data[len(data) // 4 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 4)
    file.write_bytes(bytes(data))  # its footer is whole
    with pytest.raises(PrepareError, match=r"part-0\.parquet cannot be read"):
        evaluate(log, {"t": Fixed(TARGET)})


# ---- what the logger never could


def test_g5_a_policy_that_plays_what_the_logger_never_could(tmp_path: Path) -> None:
    log = stored(tmp_path, logger=[0.5, 0.3, 0.2, 0.0], meta=Meta(reward_range=(0, 2)))
    report = evaluate(log, {"t": Fixed([0.1, 0.2, 0.3, 0.4])}, estimators=["snips", "dr", "dm"])
    rows = {row["estimator"]: row for row in report.gates.filter(gate="G5").to_dicts()}
    assert {name: row["level"] for name, row in rows.items()} == {
        "snips": "fail", "dr": "fail", "dm": "warn",
    }  # fmt: skip
    for row in rows.values():
        assert row["evidence"].startswith("40.0% of the target's choices were never logged")
        assert "worth up to 0.8" in row["evidence"]  # .4 of a range of 2
    verdicts = dict(report.table.select("estimator", "verdict").iter_rows())
    assert verdicts["snips"] == verdicts["dr"] == "do not use"
    assert report.export()["value"].null_count() == 2
    calm = evaluate(log, {"t": Fixed([0.3, 0.3, 0.4, 0.0])}, estimators=["snips"])
    assert calm.gates.filter(gate="G5").height == 0
