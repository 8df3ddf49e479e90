"""How often verdicts and gates are right: 5,000 logs that no threshold was chosen on."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import polars as pl
import pytest
from verdict_world import FAULTS, SOUND, judged

LOGS = 5000
FAR = 3.0  # half-widths
ORDER = ["usable", "usable with care", "do not use"]
WEIGHING = ["ips", "snips", "dr", "sndr", "cips", "dros"]

miss = (1 - pl.col("covered").mean()).alias("missed")
far = (pl.col("off") > FAR).mean().alias("far_off")


def judge(seeds: range) -> pl.DataFrame:
    """What reports say of some logs."""
    rows = [row for seed in seeds for row in judged(seed)]
    return pl.DataFrame(rows, infer_schema_length=None)


def verdicts(cases: pl.DataFrame) -> pl.DataFrame:
    """Misses of the 95 % intervals by estimator and verdict."""
    table = cases.group_by("estimator", "verdict").agg(pl.len().alias("n"), miss, far)
    both = pl.col("estimator").cast(pl.Enum([*WEIGHING, "dm"]))
    return table.sort(both, pl.col("verdict").cast(pl.Enum(ORDER)))


def faults(cases: pl.DataFrame) -> pl.DataFrame:
    """What is said of logs with each fault, and how often a number called usable is missed."""
    said = [(pl.col("verdict") == word).mean().alias(word) for word in ORDER]
    usable = pl.col("verdict") == "usable"
    table = cases.group_by("fault").agg(
        pl.len().alias("n"),
        miss,
        *said,
        (1 - pl.col("covered").filter(usable).mean()).alias("usable_missed"),
        ((pl.col("off") > FAR) & usable).sum().alias("usable_far_off"),
    )
    return table.sort(pl.col("fault").cast(pl.Enum(list(FAULTS))))


def gates(cases: pl.DataFrame) -> pl.DataFrame:
    """For each gate, over the estimates that it can speak of: how often it fires on sound logs
    whose interval covers (false alarms), how often intervals miss where it fires and where it is
    silent, and the share of far-off estimates of faulty logs on which it is silent."""
    names = sorted(
        (name for name in cases.columns if name.startswith("gate_") and _warns(cases[name])),
        key=lambda name: (not name[6:].isdigit(), int(name[6:]) if name[6:].isdigit() else 0),
    )
    rows = []
    for name in names:
        said = pl.col(name).is_in(["warn", "fail"])
        mine = cases.filter(pl.col(name).is_not_null().any().over("estimator"))
        mine = mine.with_columns(fires=said.fill_null(False), fails=(pl.col(name) == "fail"))
        fine = mine.filter(pl.col("fault").is_in(SOUND), "covered")
        wrong = mine.filter(~pl.col("fault").is_in(SOUND), pl.col("off") > FAR)
        fired, silent = mine.filter("fires"), mine.filter(~pl.col("fires"))
        rows.append(
            {
                "gate": name.removeprefix("gate_"),
                "n": fired.height,
                "false_alarms": fine["fires"].mean(),
                "false_failures": fine["fails"].fill_null(False).mean(),
                "missed_where_it_fires": 1 - fired["covered"].mean() if fired.height else None,
                "missed_where_silent": 1 - silent["covered"].mean() if silent.height else None,
                "silent_on_far_off": 1 - wrong["fires"].mean() if wrong.height else None,
            }
        )
    return pl.DataFrame(rows)


def _warns(levels: pl.Series) -> bool:
    """Whether a gate ever says more than a note."""
    return bool(levels.is_in(["warn", "fail"]).any())


@pytest.mark.claims
def test_o_12_4_verdicts(page: Callable[..., None]) -> None:
    size = 100
    chunks = [range(start, start + size) for start in range(0, LOGS, size)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        cases = pl.concat(executor.map(judge, chunks), how="diagonal")
    cases = cases.filter(pl.col("covered").is_not_null())
    weighed = cases.filter(pl.col("estimator").is_in(WEIGHING))
    usable = cases.filter(verdict="usable")
    wrong = cases.filter(pl.col("off") > FAR)
    told = wrong.filter(pl.col("verdict") != "usable")
    weighing = weighed.filter(pl.col("off") > FAR)
    warned = weighing.filter(pl.col("verdict") != "usable")
    total = pl.DataFrame(
        {
            "numbers called usable": [usable.height],
            "covered": [usable["covered"].mean()],
            "off by > 3 half-widths": [wrong.height],
            "not called usable": [told.height / wrong.height],
            "without dm": [warned.height / weighing.height],
        }
    )
    page(
        "verdicts",
        "How often verdicts and gates are right",
        {
            f"{LOGS:,} simulated logs of 2, 10 and 100 items and 300 to 100,000 rows, with dense\n"
            "and rare rewards, five distances of the target, and seven estimators with their own\n"
            "intervals, nominal 95 %. No threshold was chosen on any of them; more than half\n"
            "have a fault (tests/claims/verdict_world.py).": total,
            "`missed`: intervals without the true value. `far_off`: off by more than three\n"
            "half-widths. dm's interval leaves out the error of its model, so it is never called\n"
            "usable without care.": verdicts(cases),
            "By what is wrong with the log, without dm. Clusters are no fault: intervals know\n"
            "them.": faults(weighed),
            "By gate, over the estimators it speaks of. `false_alarms`: warnings and failures on\n"
            "sound logs whose interval covers. A gate knows its own fault only and is silent\n"
            "on most of the others; what is far off is called by one of them.": gates(weighed),
        },
    )
    assert usable["covered"].mean() >= 0.94
    assert told.height / wrong.height >= 0.95
    assert warned.height / weighing.height >= 0.95
