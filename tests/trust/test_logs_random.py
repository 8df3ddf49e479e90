"""Frames drawn at random: `Log.of` makes a legal log of each, or says what is wrong with it."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import polars as pl
import pytest
from hostile import INF, NAN
from ledger import Ledger

from recfb import Log
from recfb.data import door
from recfb.data.columns import COLUMNS
from recfb.errors import LogError

Kind = tuple[Any, list[Any]]
"""A type and some of its values, the ends among them."""

FLOATS = [0.0, -0.0, 0.5, 1.0, -1.7, 1e-320, 3.4e38, 1e300, NAN, INF, -INF]
KINDS: list[Kind] = [
    *((kind, [0, 1, 2, 3, 100]) for kind in (pl.UInt8, pl.Int16, pl.UInt32)),
    (pl.Int8, [0, 1, -1, 127, -128]),
    (pl.Int64, [0, 1, -1, 2**31, 2**53 + 1, 2**63 - 1, -(2**63)]),
    (pl.UInt64, [0, 1, 2**53 + 1, 2**63, 2**64 - 1]),
    (pl.Int128, [0, -1, 2**63, 2**64, -(2**100)]),
    (pl.Float32, [x for x in FLOATS if abs(x) != 1e300]),
    (pl.Float64, FLOATS),
    (pl.Boolean, [True, False]),
    (pl.String, ["", "a", "7", "007", "\u00e9", "e\u0301", "a\0b", " ", "nan"]),
    (pl.Categorical, ["a", "b", ""]),
    (pl.Binary, [b"", b"a"]),
    (pl.Date, [date(1, 1, 1), date(1970, 1, 1), date(9999, 12, 31)]),
    (pl.Datetime("ms"), [datetime(1, 1, 1), datetime(2020, 2, 29, 12)]),
    (pl.Time, [time(0), time(23, 59)]),
    (pl.Duration("us"), [timedelta(0), timedelta(days=-9)]),
    (pl.Decimal(12, 3), [Decimal("0"), Decimal("0.5"), Decimal("-3.137"), Decimal("2")]),
    (pl.Null, [None]),
    (pl.List(pl.Int32), [[], [0], [0, 1], [-1, 2], [None], [0, 1, 2, 3]]),
    (pl.List(pl.Float64), [[], [0.5], [0.5, 0.5], [1.5, -0.5], [NAN], [None]]),
    (pl.List(pl.String), [[], ["a"]]),
    (pl.List(pl.List(pl.Int8)), [[[]], [[1]]]),
    (pl.Array(pl.Float32, 2), [[0.5, 0.5], [NAN, 1.0], [0.0, None]]),
    (pl.Array(pl.Int64, 2), [[0, 1], [-1, -1], [2**40, 0]]),
    (pl.Struct({"a": pl.Int8}), [{"a": 1}, {"a": None}]),
]
FITTING: dict[str, list[Kind]] = {
    "user": [(pl.Int64, [-1, 0, 7, 2**53 + 1, 2**53]), (pl.String, ["", "7", "007", "a"])],
    "item": [(pl.UInt64, [0, 1, 2**63, 2**64 - 1]), (pl.Categorical, ["a", "b"])],
    "reward": [(pl.Float32, [0.0, -1.5, 3.4e38, None]), (pl.Boolean, [True, False, None])],
    "propensity": [(pl.Float64, [1.0, 0.5, 5e-324, None])],
    "time": [(pl.Int64, [0, -(2**63), 2**63 - 1]), (pl.Date, [date(1, 1, 1), date(2020, 2, 29)])],
    "position": [(pl.Int64, [1, 2, 32_767])],
    "slate": [(pl.Int64, list(range(-50, 50))), (pl.String, list("abcdefghijklmnopqrstuvwxyz"))],
    "unit": [(pl.String, ["", "a", "b"])],
    "p_prefix": [(pl.Float32, [1.0, 0.25, None])],
    "known": [(pl.Decimal(12, 3), [Decimal("2"), None])],
    "history": [(pl.Array(pl.Int32, 2), [[-1, -1], [0, -1]]), (pl.List(pl.Int8), [[0], [-1]])],
    "features": [(pl.Array(pl.Float64, 2), [[0.5, 1e30], [0.0, -1.0]])],
    "mu": [(pl.List(pl.Float64), [[0.5, 0.5], [1.0], None])],
    "available": [(pl.List(pl.Int64), [[0], [0, 1], [1]])],
    "logger": [(pl.Int8, [0, 1])],
}


def frame_of(seed: int) -> pl.DataFrame:
    """Up to 12 rows with an item, a reward and some more; in half of the frames one column is of
    a type that may not fit, and in one of five another has nulls."""
    dice = random.Random(seed)
    more = dice.sample([n for n in FITTING if n not in ("item", "reward")], dice.randrange(4))
    names = ["item", "reward", *more]
    odd, holes = dice.choice([None] * len(names) + names), dice.choice([*names, *[None] * 12])
    height, columns = dice.choice([0, 1, 2, 5, 12]), []
    for name in names:
        kind, values = dice.choice(KINDS if name == odd else FITTING[name])
        drawn = [dice.choice(values) for _ in range(height)]
        if name == holes and height:
            drawn[dice.randrange(height)] = None
        columns.append(pl.Series(name, drawn, dtype=kind))
    return pl.DataFrame(columns)


def legal(frame: pl.DataFrame, log: Log) -> bool:
    """Whether nothing was lost or changed, and everything is what a log promises."""
    back = log.decode()
    inside = {"item": log.n_items, "user": log.n_users}
    return (
        back.height == frame.height == len(log)
        and set(back.columns) == set(frame.columns)
        and all(_dense(log.frame[side], n) for side, n in inside.items() if side in back.columns)
        and all(_kept(frame[name], back[name]) for name in back.columns)
        and len(log.vocabulary.digest) == 64
    )


def _dense(column: pl.Series, n: int) -> bool:
    return column.null_count() == 0 and bool(column.is_between(0, n - 1).all())


def _kept(before: pl.Series, after: pl.Series) -> bool:
    """Whether a column is as it was, in the type of its name."""
    name, kind = after.name, COLUMNS[after.name].dtype
    if name in ("user", "item"):
        return before.cast(pl.String).to_list() == after.cast(pl.String).to_list()
    if name in ("slate", "unit") and before.dtype == pl.String:
        return before.null_count() == 0 and before.n_unique() == after.n_unique()
    if before.dtype.is_temporal():
        before = before.dt.epoch("us").cast(pl.Int64)
    if after.dtype.is_nested():
        return _listed(before) == _listed(after)
    if after.dtype.is_float() and not bool(after.is_finite().fill_null(True).all()):
        return False
    if kind in (pl.Float32, pl.Float64):
        return before.cast(kind).equals(after, null_equal=True)
    return before.cast(pl.Float64).equals(after.cast(pl.Float64), null_equal=True)


def _listed(column: pl.Series) -> list[Any]:
    inner = getattr(column.dtype, "inner", None)
    wide = pl.Float32 if inner is not None and inner.is_float() else pl.Int64
    return column.cast(pl.List(wide), strict=False).to_list()


def frames_at_random(ledger: Ledger, whole: bool) -> None:
    """1,000 of them, always the same ones; some must be logs, and some must not."""
    made = [0, 0]

    def act(frame: pl.DataFrame) -> bool:
        try:
            log = Log.of(frame)
        except LogError:
            made[1] += 1
            return True
        made[0] += 1
        return legal(frame, log)

    for seed in range(1000 if whole else 300):
        frame = frame_of(seed)
        ledger.gives(f"frame {seed}, {dict(frame.schema)}", partial(act, frame), bool)
    ledger.gives("some are logs, some are none", lambda: min(made), lambda few: few > 60)


def test_random_frames(ledger: Callable[[str], Ledger], whole: bool) -> None:
    with ledger("logs: random frames") as each:
        frames_at_random(each, whole)


def _first_rows(pick: Callable[..., pl.LazyFrame], *given: Any) -> pl.LazyFrame:
    return pick(*given).head(3)


def _unlooked(column: pl.Series, *_: Any) -> pl.Series:
    return column.cast(COLUMNS[column.name].dtype, strict=False)


@pytest.mark.parametrize(
    ("guard", "blind", "kind"),
    [
        ("pick", partial(_first_rows, door.pick), "silent"),
        ("_cast", _unlooked, "silent"),
        ("_check_ids", lambda column, *_: column, "rude"),
        ("_holds", lambda *_: True, "rude"),
        ("_narrow", lambda column, *_: column, "rude"),
    ],
)
def test_random_frames_can_fail(
    guard: str, blind: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, guard, blind)
    frames_at_random(found := Ledger("x"), True)
    assert any(f": {kind}:" in fault for fault in found.faults)
