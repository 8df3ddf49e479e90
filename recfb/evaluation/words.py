"""A report in words: its table as text, and one sentence that can be forwarded."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import polars as pl
from scipy.special import ndtri

if TYPE_CHECKING:
    from recfb.evaluation.report import Report

Row = dict[str, Any]
ORDER = ("usable", "usable with care", "do not use")
NUMBERS = (
    "value",
    "se",
    "lower",
    "upper",
    "difference",
    "lift",
    "lift_lower",
    "lift_upper",
    "p",
    "p_adjusted",
)


def blank(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with null for numbers that are not to be used."""
    bad = pl.col("verdict") == ORDER[2]
    numbers = [name for name in NUMBERS if name in frame.columns]
    return frame.with_columns(pl.when(~bad).then(pl.col(name)).alias(name) for name in numbers)


def record(report: Report) -> dict[str, object]:
    """A report as plain data for JSON: the sentence, exit code, notes and every frame; numbers that
    are not to be used are null."""
    frames = {"table": report.table, "compare": report.compare, "logged": report.logged}
    return {
        "sentence": sentence(report),
        "exit_code": report.exit_code,
        "alpha": report.alpha,
        "notes": list(report.notes),
        **{name: blank(frame).to_dicts() for name, frame in frames.items()},
        "gates": report.gates.to_dicts(),
        "weights": report.weights.to_dicts(),
    }


def lines(table: pl.DataFrame, alpha: float) -> list[str]:
    """Aligned text; numbers that are not to be used stand in parentheses, with the reason below."""
    by = _by(table)
    head = [*by, "policy", "estimator", "value", f"{1 - alpha:.0%} interval", "ess", "verdict"]
    rows, below = [head], [""]
    for row in table.iter_rows(named=True):
        value = "null" if row["value"] is None else f"{row['value']:.4g}"
        if row["verdict"] == ORDER[2]:
            value = f"({value})"
        ends = "" if row["lower"] is None else f"[{row['lower']:.4g}, {row['upper']:.4g}]"
        ess = "" if row["ess"] is None else f"{row['ess']:,.0f}"
        start = [str(row[name]) for name in (*by, "policy", "estimator")]
        rows.append([*start, value, f"{ends} {row['method']}".strip(), ess, row["verdict"]])
        below.append(row["reasons"])
    width = [max(len(row[k]) for row in rows) for k in range(len(head))]
    text = []
    for cells, reason in zip(rows, below, strict=True):
        text.append("  ".join(x.ljust(w) for x, w in zip(cells, width, strict=True)).rstrip())
        text += [f"    {reason}"] if reason else []
    return text


def sentence(report: Report) -> str:
    """One sentence on one policy of a report: lift over the base policy (without `base=`, over the
    logging policy), interval of the difference, verdict, and about how many more rows would decide.

    Of each policy it takes the best verdict, the first estimator on a tie; of the policies the
    largest difference among the numbers that may be used. Several comparisons are adjusted for
    (Holm), since the largest of many is large by chance. A number that is not to be used is not in
    it.

    >>> from recfb import Log, evaluate
    >>> from recfb.policies import Uniform
    >>> log = Log.of({"item": [0, 1] * 500, "reward": [1, 0] * 500, "propensity": [0.5] * 1000})
    >>> sentence(evaluate(log, {"uniform": Uniform()}, estimators=["snips"]))
    'uniform: 0.5 a row, as the logging policy (snips, 1,000 rows); usable.'
    """
    compared = report.compare if report.compare.height else report.logged
    rows = [_joined(row, report.table) for row in compared.iter_rows(named=True)]
    row = headline(rows)
    many = sum(r["estimator"] == row["estimator"] and r["difference"] is not None for r in rows)
    subject = f"{_group(report.table, row)}{row['policy']}"
    if row["value"] is None or row["verdict"] == ORDER[2]:
        return f"{subject}: {_refused(row, report.gates)}."
    row["of"] = "slate" if report.state.facts.slots else "row"
    tail = [word for word in (_verdict(row), _decides(row, report.alpha, many)) if word]
    return f"{subject}: {_gain(row, report.alpha)}; {', '.join(tail)}."


def headline(rows: list[Row]) -> Row:
    """The row that a report is summed up by."""
    best: dict[str, Row] = {}
    for row in rows:
        held = best.get(row["policy"])
        if held is None or _rank(row) < _rank(held):
            best[row["policy"]] = row
    fit = [row for row in best.values() if _rank(row) < 2]
    if not fit:
        return min(best.values(), key=_rank)
    return max(fit, key=lambda row: float(row["difference"]))


def rows_to_decide(n: int, difference: float, half: float) -> float:
    """How many rows in all until an interval that is n rows' `half` wide on each side, and narrows
    with their square root, leaves 0 out.

    >>> rows_to_decide(1000, difference=1.0, half=2.0)
    4000.0
    """
    return math.inf if difference == 0 else n * (half / difference) ** 2


def _joined(row: Row, table: pl.DataFrame) -> Row:
    """A comparison with the value, size and reasons of its policy and of its base."""
    of = {name: row[name] for name in _by(table)}
    kept = ("value", "n", "reasons")
    mine = table.row(
        by_predicate=_is(estimator=row["estimator"], policy=row["policy"], **of), named=True
    )
    found = {**row, **{name: mine[name] for name in kept}}
    rest = table.filter(_is(estimator=row["estimator"], policy=row["base"], **of))
    if rest.height and row["verdict"] == ORDER[2] != mine["verdict"]:
        found["reasons"] = f"the base {row['base']}: {rest['reasons'].item()}"
        found["blamed"] = row["base"]
    return found


def _is(**columns: str | None) -> pl.Expr:
    return pl.all_horizontal(
        pl.col(name).eq_missing(pl.lit(value)) for name, value in columns.items()
    )


def _rank(row: Row) -> int:
    return 3 if row["value"] is None else ORDER.index(row["verdict"])


def _group(table: pl.DataFrame, row: Row) -> str:
    return "".join(f"{name} {row[name]}, " for name in _by(table))


def _by(table: pl.DataFrame) -> list[str]:
    """The column that the report was made by, if any."""
    return table.columns[: table.columns.index("policy")]


def _gain(row: Row, alpha: float) -> str:
    """0.0047 a row against 0.0038 of uniform, +24 % (95 % interval of the difference ...)."""
    of = row["of"]
    value, size = f"{row['value']:.3g} a {of}", f"{row['estimator']}, {row['n']:,} {of}s"
    level = f"{100 * (1 - alpha):.4g} % interval"
    if _same(row):
        return f"{value}, as {_base(row)} ({size})"
    ends = f"no interval of the difference; {size}"
    if row["lower"] is not None:
        ends = f"{level} of the difference {_ends(row)}; {size}"
    base = row["value"] - row["difference"]
    return f"{value} against {base:.3g} of {_base(row)}{_lift(row['lift'])} ({ends})"


def _same(row: Row) -> bool:
    """No difference but rounding."""
    return bool(abs(row["difference"]) <= 1e-9 * abs(row["value"]))


def _base(row: Row) -> str:
    return "the logging policy" if row["base"] is None else str(row["base"])


def _lift(lift: float | None) -> str:
    return "" if lift is None else f", {100 * lift:+.3g} %"


def _ends(row: Row) -> str:
    return f"[{row['lower']:.3g}, {row['upper']:.3g}]"


def _verdict(row: Row) -> str:
    if row["verdict"] == ORDER[0] or not row["reasons"]:
        return str(row["verdict"])
    return f"{row['verdict']} ({row['reasons']})"


def _decides(row: Row, alpha: float, many: int) -> str:
    """Whether the interval leaves 0 out, and otherwise about how many more rows would."""
    if row["lower"] is None or _same(row):
        return ""
    gap, p = row["difference"], row["p_adjusted"]
    word = "among" if p is not None else "by itself, one of"
    over = f" {word} {many} comparisons" if many > 1 else ""
    if (row["lower"] > 0 or row["upper"] < 0) and (p is None or p <= alpha):
        return f"decided{over}"
    wider = ndtri(alpha / (2 * many)) / ndtri(alpha / 2) if p is not None else 1.0
    half = wider * (gap - row["lower"] if gap > 0 else row["upper"] - gap)
    more = rows_to_decide(row["n"], gap, half) - row["n"]
    rows = f"about {rounded(more)} more {row['of']}s like these"
    return f"not decided{over}: {rows} would, if the difference stays"


def rounded(x: float) -> str:
    """A number of rows to one figure, or to two below 3: an estimate, not a count.

    >>> rounded(123_456), rounded(61_000), rounded(0.2)
    ('120,000', '60,000', '1')
    """
    if x < 1:
        return "1"
    size = math.floor(math.log10(x))
    figures = 0 if x >= 3 * 10**size else 1
    return f"{round(x, figures - size):,.0f}"


def _refused(row: Row, gates: pl.DataFrame) -> str:
    """Why there is no number, and what to do."""
    if row["value"] is None:
        return f"no value ({row['reasons']})"
    wrong = gates.filter(
        _is(policy=row.get("blamed", row["policy"]), estimator=row["estimator"], level="fail")
    )
    advice = list(dict.fromkeys(text for text in wrong["advice"] if text))
    return f"do not use ({row['reasons']})" + "".join(f"; {x}" for x in advice)
