"""Logs with values that mean nothing: ids, propensities, rewards, slates, lists, mappings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hostile import INF, NAN, ROWS, same, table
from ledger import Ledger

from recfb import Log, fit, measure
from recfb.cli import main
from recfb.data import door, vocabulary
from recfb.errors import RecfbError
from recfb.evaluation import results
from recfb.solvers import Popularity


def with_values(**columns: Any) -> pl.DataFrame:
    """The rows with other columns."""
    made = {
        name: column if isinstance(column, (pl.Series, pl.Expr)) else pl.Series(column)
        for name, column in columns.items()
    }
    return ROWS.with_columns(**made)


UNSIGNED: list[int] = [2**63, 1, 2, 3]
IDS: dict[str, tuple[Any, str]] = {
    "1.7": ([1.7, 1.0, 2.0, 3.0], "Float64"),
    "1.0": ([1.0, 1.0, 2.0, 3.0], "Float64"),
    "NaN": ([NAN, 1.0, 2.0, 3.0], "Float64"),
    "null": ([None, 1, 2, 3], "are null"),
    "all null": ([None] * 4, "are null"),
    "yes and no": ([True, False, True, True], "Boolean"),
    "bytes": ([b"a", b"b", b"a", b"c"], "Binary"),
    "lists": ([[1], [2], [1], [3]], "List"),
    "dates": (pl.Series([1, 2, 3, 4]).cast(pl.Date), "Date"),
    "decimals": (pl.Series(["1", "2", "3", "4"]).cast(pl.Decimal(10, 2)), "Decimal"),
    "objects": (pl.Series([{1}, {2}, {3}, {4}], dtype=pl.Object), "Object"),
    "2^64 and more": (pl.Series([2**64, 1, 2, 3], dtype=pl.Int128), "64 bits"),
    "-1 beside 2^63": (pl.Series([-1, 2**63, 2, 3], dtype=pl.Int128), "64 bits"),
}
ODD_IDS: dict[str, Any] = {
    "empty text": ["", "a", "b", "c"],
    "-1": [-1, 1, 2, 3],
    "2^31": [2**31, 2**31 - 1, 2, 3],
    "2^53 + 1 beside 2^53": [2**53 + 1, 2**53, 2, 3],
    "2^63": pl.Series(UNSIGNED, dtype=pl.UInt64),
    "2^64 - 1": pl.Series([2**64 - 1, 2**63 - 1, 2, 3], dtype=pl.UInt64),
    "2^63 in 128 bits": pl.Series(UNSIGNED, dtype=pl.Int128),
    "007 beside 7": ["007", "7", "07", "7"],
    "é in two spellings": ["\u00e9", "e\u0301", "e", "E"],
    "NUL": ["a\0b", "a", "b", "a\0"],
}


def ids(ledger: Ledger, tmp_path: Path, whole: bool) -> None:
    """Ids that are none, and ids that only look alike."""
    strings = Log.of(ROWS.with_columns(pl.col("user", "item").cast(pl.String)))
    numbers, unsigned = Log.of(ROWS), Log.of(with_values(user=ODD_IDS["2^63"]))
    for side in ("user", "item"):
        for case, (values, says) in IDS.items():
            act = partial(Log.of, with_values(**{side: values}))
            ledger.refuses(f"{side} {case}", act, side, says)
        for case, values in ODD_IDS.items():
            frame = with_values(**{side: values})
            wanted = frame[side].cast(pl.String).to_list()

            def kept(log: Log, side: str = side, wanted: list[str] = wanted) -> bool:
                back = log.decode()[side].cast(pl.String).to_list()
                return back == wanted and len(log.vocabulary.digest) == 64

            ledger.gives(f"{side} {case}", partial(Log.of, frame), kept)
            if not isinstance(values[0], str):
                sized = partial(Log.of, frame, **{f"n_{side}s": 4})
                ledger.refuses(f"{side} {case}, 4 of them", sized, side, "outside")
        text = ROWS.with_columns(pl.col(side).cast(pl.String))
        word = (side, "Cast them")
        ledger.refuses(f"{side} text, like= numbers", partial(Log.of, text, like=numbers), *word)
        ledger.refuses(f"{side} 1-based", partial(Log.of, ROWS, **{f"n_{side}s": 3}), side)
        for size in (-1, 2.5, "4", 2**31, 1 << 60):
            act = partial(Log.of, ROWS, **{f"n_{side}s": size})
            ledger.refuses(f"n_{side}s={size!r}", act, "whole", repr(size))
    ledger.refuses("numbers, like= text", partial(Log.of, ROWS, like=strings), "user", "String")
    for case, user in {"-1": -1, "-2^63": -(2**63), "unknown": 9}.items():
        act = partial(Log.of, with_values(user=[user, 1, 2, 3]), like=unsigned)
        ledger.refuses(f"{case}, like= unsigned", act, "user", "outside the vocabulary")
    ledger.refuses("like= a number", partial(Log.of, ROWS, like=3), "int has no vocabulary")
    far = Log.of(
        {"user": [0, 99_999], "item": [49_999, 49_998], "reward": [1, 1]},
        n_users=100_000,
        n_items=50_000,
    )
    right = lambda pairs: (  # noqa: E731
        pairs.user.tolist() == [0, 99_999] and pairs.item.tolist() == [49_999, 49_998]
    )
    ledger.gives("pair keys beyond 2^31", lambda: far.clicks, right)
    file = tmp_path / "far.parquet"
    far.frame.write_parquet(file)
    scanned = lambda: Log.scan(file, n_users=100_000, n_items=50_000).shown  # noqa: E731
    ledger.gives("scanned pair keys beyond 2^31", scanned, right)


PROPENSITIES = [NAN, INF, -INF, 0.0, -0.1, 1.1, 1 + 1e-9]
TINY = [5e-324, 1e-310, 1e-300, 1e-160, 1e-40]


def numbers(ledger: Ledger, tmp_path: Path, whole: bool) -> None:
    """Propensities and rewards that are none, at the door, in evaluate and on the command line."""
    page = tmp_path / "policies.yaml"
    page.write_text("uniform: {class_path: Uniform}\n")
    file = tmp_path / "log.parquet"
    for value in PROPENSITIES:
        frame = with_values(propensity=[0.5, 0.25, value, 0.25])
        frame.write_parquet(file)
        ledger.refuses(f"propensity {value}", partial(Log.of, frame), "propensity", "(0, 1]")
        act = lambda: table(Log.scan(file), estimators=["ips", "dm"])  # noqa: E731
        ledger.refuses(f"propensity {value}, evaluated", act, "propensity", "(0, 1]", "row 2")
        shell = ["evaluate", str(file), "--policies", str(page)]
        ledger.gives(f"propensity {value}, recfb evaluate", partial(main, shell), (1).__eq__)
    unknown = Log.of(with_values(propensity=[0.5, None, 0.5, 0.25]))
    weigh = partial(table, unknown, estimators=["ips"])
    ledger.refuses("propensity null, evaluated", weigh, "1 of 4 rows have no propensity")
    direct = partial(table, unknown, estimators=["dm"])
    ledger.gives("propensity null, dm", direct, lambda rows: rows[0]["value"] is not None)
    none = partial(table, Log.of(with_values(propensity=[None] * 4)), estimators=["ips"])
    ledger.gives("no propensity known", none, refused)
    for value in TINY:
        log = Log.of(with_values(propensity=[value, 0.25, 0.5, 0.25]))
        act = partial(table, log, estimators=["ips", "snips"])
        ledger.gives(f"propensity {value}", act, refused)
    for value in (NAN, INF, -INF, 1e39, "x"):
        rewards = pl.Series([value, 0.0, 1.0, 1.0], strict=False)
        frame = with_values(reward=rewards)
        ledger.refuses(f"reward {value}", partial(Log.of, frame), "reward")
    for number in (1.5, -1e9):
        log = Log.of(with_values(reward=[number, 0.0, 1.0, 1.0]))
        act = partial(table, log, reward_range=(0, 1))
        ledger.refuses(f"reward {number} of (0, 1)", act, "reward", "(0, 1)", "row 0")


def refused(rows: Sequence[dict[str, Any]]) -> bool:
    """Whether every number of a table is marked as not to be used, with a reason."""
    return all(row["verdict"] == "do not use" and row["reasons"] for row in rows)


LISTS: dict[str, tuple[str, Any, str]] = {
    "available of no item": ("available", [[]] * 4, "empty"),
    "available of item 3 of 3": ("available", [[0, 1, 2, 3]] * 4, "no item"),
    "available of item -1": ("available", [[0, 1, 2, -1]] * 4, "no item"),
    "available with null": ("available", [[0, 1, 2, None]] * 4, "no item"),
    "available of 0.5": ("available", [[0.0, 0.5, 1.0, 2.0]] * 4, "Float64"),
    "available of text": ("available", [["0", "1", "2"]] * 4, "String"),
    "available of original ids": ("available", [[5, 6, 7]] * 4, "no item"),
    "available without the item": ("available", [[0, 1]] * 4, "leave out"),
    "available null": ("available", [None, [0, 1], [0], [2]], "null"),
    "history of item 3 of 3": ("history", [[0, 3]] * 4, "not in the log"),
    "history of item -5": ("history", [[0, -5]] * 4, "not in the log"),
    "history of 1.7": ("history", [[0.0, 1.7]] * 4, "Float64"),
    "history of other widths": ("history", [[0], [0, 1], [0], [0]], "1 entries"),
    "features of text": ("features", [["a"]] * 4, "String"),
    "features of lists": ("features", [[[1.0]]] * 4, "List(List"),
    "features of structs": ("features", [[{"a": 1}]] * 4, "Struct"),
    "features with NaN": ("features", [[NAN, 1.0]] * 4, "NaN"),
    "features null": ("features", [None] * 4, "null"),
    "mu below 0": ("mu", [[1.5, -0.5, 0.0]] * 4, "negative"),
    "mu of NaN": ("mu", [[NAN, 0.5, 0.5]] * 4, "sum to 1"),
    "mu of 1.001": ("mu", [[0.5, 0.5, 0.001]] * 4, "sum to 1"),
    "mu of text": ("mu", [["1", "0", "0"]] * 4, "String"),
}
MAPPINGS: dict[str, tuple[dict[str, Any], str]] = {
    "one column for two": ({"reward": "propensity", "propensity": "propensity"}, "'propensity'"),
    "another column's only one": ({"reward": "item"}, "item"),
    "no such column": ({"reward": "stars"}, "'stars'"),
    "no such canonical column": ({"rewrad": "reward"}, "'rewrad'"),
    "no such kept column": ({"keep": ["price"]}, "'price'"),
    "an expression of no column": ({"reward": pl.col("stars")}, "stars"),
    "an expression of another type": ({"reward": pl.col("item").str.len_chars()}, "expression"),
    "an expression with fewer rows": ({"reward": pl.col("reward").head(2)}, "expression"),
    "an expression of two columns": ({"reward": pl.col("item", "user")}, "reward"),
}


def columns(ledger: Ledger, tmp_path: Path, whole: bool) -> None:
    """Lists, slates and positions that contradict each other, and mappings that do not fit."""
    for case, (name, values, says) in LISTS.items():
        act = partial(Log.of, with_values(**{name: pl.Series(values, strict=False)}))
        ledger.refuses(case, act, name, says)
    file = tmp_path / "rows.parquet"
    ROWS.write_parquet(file)
    for case, (mapping, says) in MAPPINGS.items():
        ledger.refuses(case, partial(Log.of, ROWS, **mapping), says)
        for opened in (Log.read, Log.scan):
            act = lambda f=opened, m=mapping: f(file, **m).frame  # noqa: E731
            ledger.refuses(f"{case}, {opened.__name__}", act, says)
    constant = partial(Log.of, ROWS.select("user"), user=1, item=7, reward=1)
    ledger.gives("numbers for all rows", constant, lambda log: len(log) == ROWS.height)
    ledger.gives("kept twice", partial(Log.of, ROWS, keep=["reward", "reward"]), same())
    listed, other = Log.of(with_values(available=[[0, 1, 2]] * 4)), Log.of(ROWS.tail(2))
    recoded = partial(listed.recode, other.vocabulary)
    ledger.refuses("lists of numbers in another vocabulary", recoded, "available", "like=")
    ledger.refuses("lists of numbers, added", partial(other.extend, listed), "available", "like=")
    slates: dict[str, tuple[dict[str, Any], str]] = {
        "twice the same place": ({"slate": [1, 1, 2, 2], "position": [1, 1, 1, 2]}, "share"),
        "text slates, the same place": ({"slate": list("aabb"), "position": [1, 1, 1, 2]}, "share"),
        "position 0": ({"position": [0, 1, 2, 3]}, "1-based"),
        "position 1.5": ({"position": [1.5, 1.0, 2.0, 3.0]}, "position"),
        "position 40,000": ({"position": [40_000, 1, 2, 3]}, "position"),
        "slate 2^63": ({"slate": pl.Series(UNSIGNED, dtype=pl.UInt64)}, "slate"),
        "slate null": ({"slate": [None, 1, 2, 3]}, "slate"),
    }
    for case, (made, says) in slates.items():
        ledger.refuses(case, partial(Log.of, with_values(**made)), says)
    for case, position in {"gaps": [1, 3, 1, 2], "no first": [2, 3, 1, 2]}.items():
        log = Log.of(with_values(slate=[1, 1, 2, 2], position=position, p_prefix=[0.5] * 4))
        act = partial(table, log, estimators=["sips"])
        ledger.refuses(f"positions with {case}, evaluated", act, "slate", "position 1, 2")
    rising = with_values(slate=[1, 1, 2, 2], position=[1, 2, 1, 2], p_prefix=[0.1, 0.2, 0.2, 0.1])
    act = partial(table, Log.of(rising), estimators=["sips"])
    ledger.refuses("a p_prefix that rises", act, "p_prefix", "rises", "slate 0")


FEW = {
    "no row": ROWS.clear(),
    "one row": ROWS.head(1),
    "one user": ROWS.with_columns(user=1),
    "one item": ROWS.with_columns(item=5, propensity=1.0),
    "rewards all 1": ROWS.with_columns(reward=1.0),
    "rewards all 0": ROWS.with_columns(reward=0.0),
    "rewards all below 0": ROWS.with_columns(reward=-1.0),
    "rewards all null": ROWS.with_columns(reward=pl.lit(None, pl.Float64)),
}


def few(ledger: Ledger, tmp_path: Path, whole: bool) -> None:
    """Logs that say next to nothing, through all verbs: no number without a warning."""
    model = fit(Log.of(ROWS), Popularity())
    for case, frame in FEW.items():
        log = Log.of(frame)
        ledger.gives(f"{case}, held", lambda log=log: log, same(frame))
        ledger.gives(f"{case}, evaluated", partial(table, log, estimators=["snips"]), refused)
        clicked = frame.filter(pl.col("reward") > 0)
        fitted = lambda log=log: fit(log, Popularity()).recommend([1], 3)  # noqa: E731
        right = lambda found, c=clicked: (  # noqa: E731
            not (set(found["item"]) & set(c.filter(pl.col("user") == 1)["item"]))
        )
        ledger.gives(f"{case}, fitted", fitted, right)
        act = partial(measure, log, {"popularity": model}, metrics=["hit@9"])
        sane = lambda found: found["value"][0] in (None, 1.0)  # noqa: E731
        ledger.settles(f"{case}, measured", act, sane)


FAMILIES = {"ids": ids, "numbers": numbers, "columns": columns, "few": few}


@pytest.mark.parametrize("family", FAMILIES)
def test_values(family: str, ledger: Callable[[str], Ledger], whole: bool, tmp_path: Path) -> None:
    with ledger("logs: values") as each:
        FAMILIES[family](each, tmp_path, whole)


def broken(family: str, tmp_path: Path) -> list[str]:
    """What a family finds."""
    FAMILIES[family](found := Ledger("x"), tmp_path, False)
    return found.faults


def test_ids_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = vocabulary.encode
    monkeypatch.setattr(door, "_narrow", lambda column, *_: column.cast(pl.Int64, strict=False))
    monkeypatch.setattr("recfb.data.tables.encode", lambda i, k, s: real(i, k, s).fill_null(0))
    assert any("user 2^64 and more: silent" in fault for fault in broken("ids", tmp_path))


def test_numbers_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "_why", lambda *_: "")
    assert any("propensity 1e-300: " in fault for fault in broken("numbers", tmp_path))


def test_columns_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "check_items", lambda *_: None)
    faults = broken("columns", tmp_path)
    assert any("available without the item: silent" in fault for fault in faults)


def test_few_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: Any) -> Any:
        raise RecfbError("nothing")

    monkeypatch.setattr("recfb.data.history._popular", nothing)
    assert any("no row, fitted: rude" in fault for fault in broken("few", tmp_path))
