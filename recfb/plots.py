"""Figures from the verbs' tables. Every function takes a frame and returns a matplotlib Figure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from textwrap import fill

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from recfb.data.product import atomic_file
from recfb.evaluation.spread import TOP

__all__ = ["Figure", "by_round", "evaluated", "log_log", "measured", "weights", "write"]

INK, MUTED, GRID = "#1f2430", "#6b7280", "#e5e7eb"
SERIES = ("#2563eb", "#d97706", "#059669", "#db2777", "#7c3aed", "#0891b2", "#65a30d", "#9f1239")
VERDICT = {"usable": "#059669", "usable with care": "#d97706", "do not use": "#9ca3af"}


def measured(table: pl.DataFrame, title: str = "") -> Figure:
    """One panel a metric: each recommender's value with its interval (`measure`)."""
    metrics = table["metric"].unique(maintain_order=True).to_list()
    names = table["recommender"].unique(maintain_order=True).to_list()
    figure, axes = _panels(len(metrics), 0.42 * len(names) + 1.3)
    for axis, metric in zip(axes, metrics, strict=True):
        rows = table.filter(pl.col("metric") == metric)
        _intervals(axis, rows, "recommender", names, [SERIES[0]] * rows.height)
        axis.set_title(metric, loc="left", fontsize=10, color=INK)
    return _finish(figure, title)


def evaluated(
    table: pl.DataFrame, title: str = "", truth: Mapping[str, float] | None = None
) -> Figure:
    """Values with intervals, one line a policy and estimator, coloured by verdict (`evaluate`).

    Args:
        table: `Report.table`.
        title: above the figure.
        truth: known values of policies, drawn as vertical marks.
    """
    label = pl.format("{}  {}", "policy", "estimator").alias("label")
    rows = table.with_columns(label).filter(pl.col("value").is_not_null())
    names = rows["label"].to_list()
    figure, (axis,) = _panels(1, 0.36 * len(names) + 1.5)
    colours = [VERDICT[verdict] for verdict in rows["verdict"]]
    _intervals(axis, rows.with_columns(_row=pl.int_range(pl.len())), "_row", names, colours)
    _zoom(axis, rows, (truth or {}).values())
    for policy, value in (truth or {}).items():
        at = [k for k, name in enumerate(rows["policy"]) if name == policy]
        axis.plot([value] * len(at), at, "|", color=INK, markersize=16, markeredgewidth=1.6)
    handles = [axis.plot([], [], "o", color=colour)[0] for colour in VERDICT.values()]
    figure.legend(
        handles, list(VERDICT), loc="outside lower right", ncols=3, frameon=False, fontsize=8
    )
    return _finish(figure, title)


def weights(spread: pl.DataFrame, title: str = "") -> Figure:
    """Who carries the number: effective sample size beside the rows, and the part of all weight
    that the heaviest hash buckets of units carry (`Report.weights`).

    A curve along the dashed line is a policy whose units weigh the same. The largest single weight
    stands beside the bar, with its part of all weight.
    """
    kept = spread.columns[: spread.columns.index("policy")]
    label = pl.concat_str([*kept, "policy"], separator="  ").alias("label")
    rows = spread.with_columns(label).filter(pl.col("ess").is_not_null())
    figure, (left, right) = _panels(2, max(3.4, 0.5 * rows.height + 1.5))
    for y, (row, colour) in enumerate(
        zip(rows.iter_rows(named=True), _cycle(rows.height), strict=True)
    ):
        left.barh(y, row["n"], color=GRID, height=0.55)
        left.barh(y, row["ess"], color=colour, height=0.55)
        left.text(0, y - 0.32, _heaviest(row), fontsize=7.5, color=MUTED, va="bottom")
        right.plot(TOP, row["top"], color=colour, linewidth=1.8, label=row["label"], marker=".")
    left.set_yticks(range(rows.height), rows["label"])
    left.set_ylim(rows.height - 0.5, -0.75)
    left.set_title("rows, and what they count as", loc="left", fontsize=10, color=INK)
    equal = np.geomspace(TOP[0], 1, 50)
    right.plot(equal, equal, "--", color=MUTED, linewidth=1)
    right.set(xscale="log", ylim=(0, 1.02))
    right.set_xticks([0.001, 0.01, 0.1, 1], ["0.1 %", "1 %", "10 %", "all"])
    right.minorticks_off()
    right.set_title("part of all weight", loc="left", fontsize=10, color=INK)
    right.set_xlabel("heaviest share of the buckets of units", fontsize=8, color=MUTED)
    if rows.height:
        right.legend(frameon=False, fontsize=8, loc="upper left")
    else:
        left.text(0, 0, "the log has no propensities", fontsize=8, color=MUTED)
    _clean(left, "x")
    _clean(right, "y")
    return _finish(figure, title)


def _heaviest(row: dict[str, float]) -> str:
    """Effective sample size and the largest weight in words."""
    largest = (
        f"{row['max_weight']:,.0f}" if row["max_weight"] >= 100 else f"{row['max_weight']:.3g}"
    )
    return (
        f"{row['ess']:,.0f} of {row['n']:,}; largest weight {largest}, {row['top_row']:.1%} of all"
    )


def by_round(
    metrics: pl.DataFrame,
    names: Sequence[str],
    title: str = "",
    labels: Mapping[str, str] | None = None,
) -> Figure:
    """One panel a metric: the mean over replications by round, one line a policy (`simulate`).

    Where there are several replications, a band shows the 95 % interval of the mean.
    """
    figure, axes = _panels(len(names), 3.2)
    policies = metrics["policy"].unique(maintain_order=True).to_list()
    for axis, name in zip(axes, names, strict=True):
        for policy, colour in zip(policies, _cycle(len(policies)), strict=True):
            mean, se = pl.col(name).mean(), pl.col(name).std() / pl.len().sqrt()
            rows = (
                metrics.filter(pl.col("policy") == policy)
                .group_by("round")
                .agg(mean, se.alias("se"))
            )
            rows = rows.sort("round")
            x, y = rows["round"].to_numpy(), rows[name].to_numpy()
            half = 1.96 * rows["se"].fill_null(0.0).to_numpy()
            axis.plot(x, y, color=colour, linewidth=1.8, label=(labels or {}).get(policy, policy))
            axis.fill_between(x, y - half, y + half, color=colour, alpha=0.15, linewidth=0)
        axis.set_title(name, loc="left", fontsize=10, color=INK)
        axis.set_xlabel("round", fontsize=8, color=MUTED)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        _clean(axis, "y")
    handles, names_shown = axes[0].get_legend_handles_labels()
    figure.legend(handles, names_shown, loc="outside right center", frameon=False, fontsize=8)
    return _finish(figure, title)


def log_log(
    table: pl.DataFrame, theory: pl.DataFrame, x: str, y: str, *, panel: str = "", title: str = ""
) -> Figure:
    """y by x on logarithmic axes, one line a policy, dashed where it is theory.

    Args:
        table: columns x, y, `panel` and policy.
        theory: the same columns; `policy` says what each line is.
        x: what grows, a horizon or a budget.
        y: what is measured.
        panel: the column whose values have a panel each; none: one panel.
        title: above all panels.
    """
    if not panel:
        table, theory = (t.with_columns(pl.lit("").alias(panel)) for t in (table, theory))
    names = table[panel].unique(maintain_order=True).to_list()
    policies = table["policy"].unique(maintain_order=True).to_list()
    figure, axes = _panels(len(names), 4.0)
    for axis, name in zip(axes, names, strict=True):
        for policy, colour in zip(policies, _cycle(len(policies)), strict=True):
            rows = table.filter(pl.col("policy") == policy, pl.col(panel) == name).sort(x)
            axis.plot(rows[x], rows[y], ".-", color=colour, linewidth=1.8, label=policy)
        for (policy,), rows in theory.filter(pl.col(panel) == name).sort(x).group_by("policy"):
            axis.plot(rows[x], rows[y], "--", color=MUTED, linewidth=1)
            last = rows[x][-1], rows[y][-1]
            axis.annotate(
                str(policy), last, (3, 0), textcoords="offset points", fontsize=7, color=MUTED
            )
        axis.set(xscale="log", yscale="log")
        axis.set_title(str(name), loc="left", fontsize=10, color=INK)
        axis.set_xlabel(x, fontsize=8, color=MUTED)
        _clean(axis, "y")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=8)
    return _finish(figure, title)


def write(figure: Figure, path: str | Path) -> Path:
    """Write a figure as PNG; whole or not at all."""
    with atomic_file(path) as part:
        figure.savefig(part, format="png", dpi=150, facecolor="white")
    return Path(path)


def _cycle(n: int) -> list[str]:
    return [SERIES[k % len(SERIES)] for k in range(n)]


def _panels(n: int, height: float) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(max(6.4, 3.4 * n), height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = np.atleast_1d(figure.subplots(1, n))
    return figure, list(axes)


def _intervals(
    axis: Axes, rows: pl.DataFrame, key: str, names: Sequence[str], colours: Sequence[str]
) -> None:
    at = [name if isinstance(name, int) else names.index(name) for name in rows[key]]
    value, lower, upper = (rows[c].to_numpy().astype(float) for c in ("value", "lower", "upper"))
    for y, v, low, high, colour in zip(at, value, lower, upper, colours, strict=True):
        axis.plot([low, high], [y, y], color=colour, linewidth=2, solid_capstyle="round")
        axis.plot(v, y, "o", color=colour, markersize=6)
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)
    _clean(axis, "x")


def _zoom(axis: Axes, rows: pl.DataFrame, marks: Iterable[float]) -> None:
    """Keep values and ordinary intervals in view; intervals far wider than the others leave it,
    with an arrow."""
    shown = rows.drop_nulls(["lower", "upper"])
    if not shown.height:
        return
    width = shown["upper"] - shown["lower"]
    ordinary = shown.filter(width <= 4 * float(width.median()))  # type: ignore[arg-type]
    ends = [*ordinary["lower"], *ordinary["upper"], *rows["value"], *marks]
    low, high = min(ends), max(ends)
    pad = 0.05 * (high - low or 1.0)
    axis.set_xlim(low - pad, high + pad)
    for y, (lower, upper, verdict) in enumerate(
        rows.select("lower", "upper", "verdict").iter_rows()
    ):
        for end, edge, arrow in ((lower, low - pad, "<"), (upper, high + pad, ">")):
            if end is not None and (end < edge if arrow == "<" else end > edge):
                axis.plot(edge, y, arrow, color=VERDICT[verdict], markersize=7, clip_on=False)


def _clean(axis: Axes, grid: str) -> None:
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.spines["bottom"].set_color(GRID)
    axis.grid(axis=grid, color=GRID, linewidth=0.8)  # type: ignore[arg-type]
    axis.set_axisbelow(True)
    axis.tick_params(length=0, labelsize=8, labelcolor=INK)


def _finish(figure: Figure, title: str) -> Figure:
    if title:
        lines = fill(title, int(11 * figure.get_figwidth()))
        figure.suptitle(lines, x=0.01, ha="left", fontsize=11, color=INK)
    return figure
