"""Bandits with switching costs, by horizon and by feedback: Cheng, Zhou and Ji, ICML 2023."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import log
from pathlib import Path

import polars as pl
import pytest
from switching_runs import (
    WALKS,
    extra_jobs,
    play_all,
    rate_jobs,
    slope,
    total_jobs,
    worst,
)

from recfb import plots
from recfb.policies import auto_for_budget
from recfb.policies import switching_bounds as bounds

RESULTS = Path(__file__).parents[2] / "docs" / "results"
BANDITS = ("BlockedTsallis", "BlockedExp3", "TsallisSwitch")
CANONICAL = {  # mean regret with switches of a calibration run, K = 2
    2**12: {"BlockedTsallis": 156, "BlockedExp3": 106, "TsallisSwitch": 134, "Exp3": 1856},
    2**14: {"BlockedTsallis": 422, "BlockedExp3": 270, "TsallisSwitch": 342, "Exp3": 7428},
    2**16: {"BlockedTsallis": 1075, "BlockedExp3": 663, "TsallisSwitch": 785, "Exp3": 30684},
    2**17: {"BlockedTsallis": 1727, "BlockedExp3": 1060, "TsallisSwitch": 1248},
}
for horizon, value in {2**12: 13, 2**14: 27, 2**16: 57, 2**17: 81}.items():
    CANONICAL[horizon]["ShrinkingDartboard"] = value
EXTRA = {  # K = 4, T = 2^16, worst over the gaps
    ("BlockedExp3", 0): 3793, ("BlockedTsallis", 0): 3204, ("TsallisSwitch", 0): 3293,
    ("DartboardFull", 2**8): 3819, ("DartboardFull", 2**9): 2433, ("DartboardFull", 2**10): 2110,
    ("DartboardFull", 2**11): 1403, ("DartboardFull", 2**12): 1020, ("DartboardFull", 2**13): 783,
    ("DartboardFull", 2**14): 648, ("DartboardFull", 2**15): 495, ("DartboardFull", 2**16): 445,
    ("DartboardFull", 2**17): 377, ("DartboardFull", 3 * 2**16): 403,
    ("DartboardFlex", 2**8): 8103, ("DartboardFlex", 2**10): 4082, ("DartboardFlex", 2**12): 2047,
    ("DartboardFlex", 2**14): 1095, ("DartboardFlex", 2**16): 608,
}  # fmt: skip
TOTAL = {  # K = 4, T = 2^15, worst over the gaps
    "BudgetedBandit": (4658, 3348, 2041, 1959, 2170),
    "DartboardFlex": (5447, 3650, 2025, 1019, 607),
    "DartboardFull": (3694, 2474, 1206, 593, 430),
}
FULL = {"ShrinkingDartboard()": 280, "LazyLeader()": 266, "LazyLeader(perturbation='gumbel')": 310}


def near(cells: pl.DataFrame, size: str, expected: Mapping[tuple[str, int], float]) -> pl.DataFrame:
    """Both numbers of each policy and size, their ratio, and their difference in standard errors:
    the calibration had as many replications as we have."""
    rows = [(*key, float(value)) for key, value in expected.items()]
    wanted = pl.DataFrame(rows, schema=["policy", size, "calibration"], orient="row")
    gap = pl.col("regret") - pl.col("calibration")
    return (
        wanted.with_columns(pl.col(size).cast(cells[size].dtype))
        .join(cells, on=["policy", size], how="left", maintain_order="left")
        .select("policy", size, "regret", "calibration",
                ratio=pl.col("regret") / pl.col("calibration"),
                errors=gap / (2**0.5 * pl.col("se")))
    )  # fmt: skip


def alike(table: pl.DataFrame) -> bool:
    """Within 20 %, or, where 24 or 32 replications do not say that much, within 2 standard
    errors."""
    share = pl.col("ratio").is_between(0.8, 1.2)
    return bool(table.select(share | (pl.col("errors").abs() < 2)).to_series().all())


def dashed(x: str, points: Sequence[float], **lines: Sequence[float]) -> pl.DataFrame:
    """Lines of theory, as `plots.log_log` takes them."""
    rows = [
        (name, at, value)
        for name, line in lines.items()
        for at, value in zip(points, line, strict=True)
    ]
    return pl.DataFrame(rows, schema=["policy", x, "regret"], orient="row")


@pytest.mark.claims
def test_b_s1_regret_grows_with_the_horizon(page: Callable[..., None]) -> None:
    """Bandits 2/3, all losses known 1/2, no blocks 1; on the walk of Dekel et al., and scaled."""
    runs = play_all(rate_jobs(range(10, 18), 32))
    rows = []
    for (name, instance), part in runs.sort("rounds").group_by(
        "policy", "instance", maintain_order=True
    ):
        T, regret = part["rounds"].to_list(), part["regret"].to_list()
        last = slope(T[-5:], regret[-5:])
        rows.append((name, instance, slope(T, regret), last, *regret[-2:]))
    columns = ["policy", "walk", "slope", "slope of last 5", "second to last", "last regret"]
    slopes = pl.DataFrame(rows, schema=columns, orient="row")
    canonical = runs.filter(pl.col("instance") == "canonical")
    cases = {(n, t): v for t, row in CANONICAL.items() for n, v in row.items()}
    table = near(canonical, "rounds", cases)
    T = [2.0**10, 2.0**17]
    rates = {"T": [t / 2 for t in T], "T^2/3": [t ** (2 / 3) for t in T],
             "T^1/2": [t**0.5 for t in T]}  # fmt: skip
    theory = dashed("rounds", T, **rates).join(pl.DataFrame({"instance": WALKS}), how="cross")
    title = "Regret with switches at unit cost, K = 2"
    figure = plots.log_log(runs, theory, "rounds", "regret", panel="instance", title=title)
    plots.write(figure, RESULTS / "switching_rates.png")
    parts = canonical.filter(pl.col("rounds") == 2**16).select("policy", "regret", "switches", "se")
    page(
        "switching_rates",
        "Regret with switching costs by horizon",
        {
            "Slopes of log regret on log T, T = 2^10 to 2^17 (Exp3 without blocks: 2^16), 32 "
            "replications. Rates are T^(2/3) for bandit feedback, T^(1/2) where all losses are "
            "known.": slopes,
            "Canonical walk: mean regret with switches, beside a calibration run.": table,
            "Canonical walk at T = 2^16: nearly all of it is switching, and the gap is so small "
            "that an item kept for good pays about 7. The slope tests the schedule of blocks, not "
            "learning; the scaled walks have both.": parts,
        },
        ("switching_rates.png",),
    )
    assert alike(table)
    scaled_exp3 = (pl.col("policy") == "Exp3") & (pl.col("walk") != "canonical")  # it learns a bit
    for row in slopes.filter(~scaled_exp3).iter_rows(named=True):
        low, high = {"ShrinkingDartboard": (0.45, 0.58), "Exp3": (0.95, 1.1)}.get(
            row["policy"], (0.60, 0.72)
        )
        assert low <= row["slope"] <= high, row
    for name, bound in (
        ("BlockedTsallis", bounds.blocked_tsallis),
        ("BlockedExp3", bounds.blocked_exp3),
        ("ShrinkingDartboard", lambda t, k: bounds.dartboard_full(t, k, t)),
    ):
        for row in runs.filter(pl.col("policy") == name).iter_rows(named=True):
            assert row["regret"] <= bound(row["rounds"], 2), row


@pytest.mark.claims
def test_b_s2_extra_observations_help_from_a_point_on(page: Callable[..., None]) -> None:
    """Regret falls as T / sqrt(B) once B is large enough, and not before."""
    T, K = 2**16, 4
    budgets = [2**e for e in range(6, 18)] + [3 * T]
    cells = worst(play_all(extra_jobs(T, budgets, 24)))
    found = {(n, b): r for n, b, r in cells.select("policy", "budget", "regret").iter_rows()}
    table = near(cells, "budget", EXTRA)
    full = {b: found["DartboardFull", b] for b in budgets}
    bandit = found["BlockedTsallis", 0]
    best = {b: min(bandit, value) for b, value in full.items()}
    falling = [b for b in budgets if 2**8 <= b <= 2**13]
    fall = slope(falling, [best[b] for b in falling])
    x = [float(b) for b in budgets]
    bound = [bounds.dartboard_full(T, K, b // 3) for b in budgets]
    branches = {"T^2/3 branch": [bandit] * len(x), "bound": bound,
                "(T ln K)^1/2": [(T * log(K)) ** 0.5] * len(x)}  # fmt: skip
    title = "Regret by observations beyond the item played, K = 4, T = 2^16, worst gap"
    shown, theory = cells.filter(pl.col("budget") > 0), dashed("budget", x, **branches)
    figure = plots.log_log(shown, theory, "budget", "regret", title=title)
    plots.write(figure, RESULTS / "extra_feedback.png")
    page(
        "extra_feedback",
        "Regret with switching costs by extra observations",
        {
            "Worst over seven gaps of mean regret with switches, 24 replications. "
            f"The better of BlockedTsallis and DartboardFull falls with slope {fall:.2f} from 2^8 "
            f"to 2^13 observations. K^(1/3) T^(2/3) is {(K * T**2) ** (1 / 3):.0f}; the branches "
            "meet below it, since blocked bandits have a large constant.": table,
            "All cells.": cells,
        },
        ("extra_feedback.png",),
    )
    for row in cells.filter(pl.col("policy").str.starts_with("Dartboard")).iter_rows(named=True):
        looks = row["budget"] // 3 if row["policy"] == "DartboardFull" else row["budget"]
        shape = bounds.dartboard_full if row["policy"] == "DartboardFull" else bounds.dartboard_flex
        assert row["regret"] <= shape(T, K, looks), row
        assert row["observations"] <= row["budget"]
    assert bandit <= bounds.blocked_tsallis(T, K)
    chosen = {b: type(auto_for_budget(T, K, extra=b)).__name__ for b in (2**6, 2**13)}
    assert chosen[2**6] == "BlockedTsallis"  # too few to help: it plays the bandit branch
    assert chosen[2**13] == "DartboardFull"
    assert full[2**13] <= 0.35 * bandit
    assert full[2**6] >= bandit
    assert -0.6 <= fall <= -0.35
    assert alike(table)


@pytest.mark.claims
def test_b_s3_bandit_feedback_cannot_use_a_large_budget(page: Callable[..., None]) -> None:
    """With a total budget, looks apart from play go on helping; looks at the played item do not."""
    T, K = 2**15, 4
    budgets = [64, 256, 1024, 4096, 16384]
    cells = worst(play_all(total_jobs(T, budgets, 32)))
    found = {(n, b): r for n, b, r in cells.select("policy", "budget", "regret").iter_rows()}
    expected = {(n, b): v for n, row in TOTAL.items() for b, v in zip(budgets, row, strict=True)}
    expected |= {("BudgetedBandit, not capped", b): v for b, v in ((4096, 3144), (16384, 10028))}
    expected |= {(n, 4 * T): v for n, v in FULL.items()}
    table = near(cells, "budget", expected)
    x = [float(b) for b in budgets]
    start = found["DartboardFull", 64]
    theory = dashed("budget", x, **{"T / B^1/2": [start * (64 / b) ** 0.5 for b in x]})
    title = "Regret by all observations, K = 4, T = 2^15, worst gap"
    shown = cells.filter(pl.col("budget") < 4 * T)
    figure = plots.log_log(shown, theory, "budget", "regret", title=title)
    plots.write(figure, RESULTS / "total_feedback.png")
    page(
        "total_feedback",
        "Regret with switching costs by total observations",
        {
            "Worst over seven gaps of mean regret with switches, 32 replications, beside a "
            f"calibration run. K^(1/3) T^(2/3) is {(K * T**2) ** (1 / 3):.0f}; BudgetedBandit "
            f"has at most {bounds.bandit_cap(T, K)} blocks.": table,
            "All cells.": cells,
        },
        ("total_feedback.png",),
    )
    for row in cells.iter_rows(named=True):
        b = row["budget"]
        bound = {
            "DartboardFull": bounds.dartboard_full(T, K, b // K),
            "DartboardFlex": bounds.dartboard_flex(T, K, b),
            "BudgetedBandit": bounds.budgeted_bandit(T, K, min(b, bounds.bandit_cap(T, K))),
            "BudgetedBandit, not capped": bounds.budgeted_bandit(T, K, b),
            "ShrinkingDartboard()": bounds.dartboard_full(T, K, T),
        }.get(row["policy"], bounds.lazy_leader(T, K))
        assert row["regret"] <= bound, row
        assert row["observations"] <= b
    for name in ("DartboardFull", "DartboardFlex"):
        assert slope(budgets, [found[name, b] for b in budgets]) <= -0.35
    assert found["BudgetedBandit", 16384] > 0.85 * found["BudgetedBandit", 1024]
    assert found["BudgetedBandit, not capped", 16384] > 3 * found["BudgetedBandit", 16384]
    assert alike(table)
