"""Logs from separated text: encodings, quotes, ragged rows, and fields that are no numbers."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from ledger import Ledger

from recfb import Log
from recfb.data import text

HEAD = "user,item,reward\n"
BAD: dict[str, tuple[str | bytes, str]] = {
    "nothing": ("", "empty"),
    "line ends alone": ("\n\n\n", "first line"),
    "a blank first line": (f"\n{HEAD}1,2,1\n", "first line"),
    "NUL alone": (b"\0" * 99, "NUL"),
    "UTF-16": (f"{HEAD}1,2,1\n".encode("utf-16"), "UTF-16"),
    "UTF-16 without a mark": (f"{HEAD}1,2,1\n".encode("utf-16-le"), "NUL"),
    "UTF-32": (f"{HEAD}1,2,1\n".encode("utf-32"), "UTF-8"),
    "latin-1": (f"{HEAD}jos\u00e9,2,1\n".encode("latin-1"), "UTF-8"),
    "latin-1 in the header": ("us\u00e9r,item,reward\n1,2,1\n".encode("latin-1"), "UTF-8"),
    "carriage returns alone": (f"{HEAD}1,2,1\n".replace("\n", "\r"), "fields"),
    "a name twice": ("user,item,reward,item\n1,2,1,3\n", "['item'] twice"),
    "a quoted name twice": ('user,item,reward,"item"\n1,2,1,3\n', "['item'] twice"),
    "two names missing": ("user,item,reward,,\n1,2,1,3,4\n", "twice"),
    "a name of 200,000 letters": ("a" * 200_000 + ",item,reward\n1,2,1\n", "field"),
    "other names": ("User,Item,Reward\n1,2,1\n", "Did you mean 'Item'"),
    "too few fields": (f"{HEAD}1,2,1\n1,2\n", "line 3, '1,2'"),
    "too many fields": (f"{HEAD}1,2,1,4\n", "line 2, '1,2,1,4'"),
    "too few fields, quoted": (f'{HEAD}"1",2\n1,2,1\n', "line 2"),
    "too many fields, quoted": (f'{HEAD}1,2,1\n"1",2,1,4\n', "line 3"),
    "too few fields over two lines": (f'{HEAD}"1\n2",3\n4,5,0\n', "line 2"),
    "a blank line": (f"{HEAD}1,2,1\n\n2,3,0\n", "line 3"),
    "a line of blanks": (f"{HEAD}1,2,1\n  \n2,3,0\n", "line 3"),
    "a line of NUL": (f"{HEAD}\0\n1,2,1\n", "line 2"),
    "an open quote": (f'{HEAD}"1,2,1\n2,3,1\n', "opens in line 2"),
    "an open quote at the end": (f'{HEAD}1,2,1\n3,"4,0\n', "opens in line 3"),
    "an open quote in the header": ('user,"item,reward\n1,2,1\n', "opens in line 1"),
    "a quote inside a field": (f'{HEAD}5" disc,2,1\n', "opens in line 2"),
    "two quotes in two lines": (f'{HEAD}a"b,2,1\nc"d,4,0\n5,5,1\n', "quotes"),
    "NA as a reward": (f"{HEAD}1,2,NA\n", "'NA'"),
    "a decimal comma": (f'{HEAD}1,2,"1,5"\n', "'1,5'"),
    "a decimal comma between semicolons": ("user;item;reward\n1;2;1,5\n", "'1,5'"),
    "1e400": (f"{HEAD}1,2,1e400\n", "32-bit"),
    "infinity": (f"{HEAD}1,2,inf\n", "32-bit"),
    "NaN": (f"{HEAD}1,2,NaN\n", "NaN"),
    "hexadecimal": (f"{HEAD}1,2,0x10\n", "'0x10'"),
    "thousands": (f"{HEAD}1,2,1_000\n", "'1_000'"),
    "words": (f"{HEAD}1,2,true\n", "'true'"),
    "a NUL behind a number": (f"{HEAD}1,2,1\0\n", "reward"),
    "no id": (f"{HEAD},2,1\n1,2,1\n", "user"),
    "no id, quoted": (f'{HEAD}"",2,1\n1,2,1\n', "user"),
    "position 0": ("user,item,reward,position\n1,2,1,0\n", "1-based"),
    "time 2^63": ("user,item,reward,time\n1,2,1,9223372036854775808\n", "9223372036854775808"),
    "times and numbers": ("user,item,reward,time\n1,2,1,2020-01-01\n1,2,1,5\n", "2020-01-01"),
    "slate and position twice": (
        "user,item,reward,slate,position\n1,2,1,a,1\n1,3,1,a,1\n",
        "share their slate",
    ),
    "separators inside quotes that are none": ("user::item::reward\n'a::b'::2::1\n", "line 2"),
    "a quoted long separator": ('user::item::reward\n"a::b"::2::1\n', "line 2"),
}
Rows = list[tuple[Any, Any, float | None]]
GOOD: dict[str, tuple[str | bytes, Rows]] = {
    "a byte order mark": (b"\xef\xbb\xbf" + f"{HEAD}1,2,1\n".encode(), [(1, 2, 1.0)]),
    "a mark and ::": (b"\xef\xbb\xbfuser::item::reward\n1::2::1\n", [(1, 2, 1.0)]),
    "a mark and a quoted name": (b'\xef\xbb\xbf"user",item,reward\n1,2,1\n', [(1, 2, 1.0)]),
    "line ends of both kinds": (f"{HEAD}1,2,1\r\n2,3,0\n", [(1, 2, 1.0), (2, 3, 0.0)]),
    "no last line end": (f"{HEAD}1,2,1", [(1, 2, 1.0)]),
    "a header alone": (HEAD, []),
    "a quoted separator": (f'{HEAD}"1,2",3,1\n', [("1,2", 3, 1.0)]),
    "a quoted line end": (f'{HEAD}"1\n2",3,1\n4,5,0\n', [("1\n2", 3, 1.0), ("4", 5, 0.0)]),
    "a doubled quote": (f'{HEAD}"a""b",2,1\n', [('a"b', 2, 1.0)]),
    "007 beside 7": (f"{HEAD}007,2,1\n7,2,0\n", [("007", 2, 1.0), ("7", 2, 0.0)]),
    "2^63 beside 2^63 - 1": (
        f"{HEAD}9223372036854775808,2,1\n9223372036854775807,2,0\n",
        [("9223372036854775808", 2, 1.0), ("9223372036854775807", 2, 0.0)],
    ),
    "2^53 + 1 beside 2^53": (
        f"{HEAD}9007199254740993,2,1\n9007199254740992,2,0\n",
        [(9007199254740993, 2, 1.0), (9007199254740992, 2, 0.0)],
    ),
    "1.0 beside 1": (f"{HEAD}1.0,2,1\n1,2,0\n", [("1.0", 2, 1.0), ("1", 2, 0.0)]),
    "-0 beside 0": (f"{HEAD}-0,2,1\n0,2,0\n", [("-0", 2, 1.0), ("0", 2, 0.0)]),
    "NA as an id": (f"{HEAD}NA,2,1\n1,3,0\n", [("NA", 2, 1.0), ("1", 3, 0.0)]),
    "a NUL in an id": (f"{HEAD}a\0b,2,1\na,2,0\n", [("a\0b", 2, 1.0), ("a", 2, 0.0)]),
    "blanks": (f"{HEAD} 1, 2, 1\n", [(1, 2, 1.0)]),
    "no reward": (f"{HEAD}1,2,\n", [(1, 2, None)]),
    "a comment is a row": (f"{HEAD}#1,2,1\n", [("#1", 2, 1.0)]),
    "one field of 200,000 letters": (f"{HEAD}{'a' * 200_000},2,1\n", [("a" * 200_000, 2, 1.0)]),
    "two gzip members": (
        gzip.compress(f"{HEAD}1,2,1\n".encode()) + gzip.compress(b"3,4,0\n"),
        [(1, 2, 1.0), (3, 4, 0.0)],
    ),
}


def rows_of(log: Log) -> Rows:
    """The rows of a log, as they were typed."""
    return log.decode().select("user", "item", "reward").rows()


def fields(ledger: Ledger, tmp_path: Path, whole: bool) -> None:
    """Text as it is found, each with the rows it holds or what is wrong with it."""
    file = tmp_path / "log.csv"
    for opened in (Log.read, Log.scan):
        for case, (content, says) in BAD.items():
            file.write_bytes(content.encode() if isinstance(content, str) else content)
            ledger.refuses(f"{opened.__name__} {case}", partial(opened, file), says)
        for case, (content, rows) in GOOD.items():
            file.write_bytes(content.encode() if isinstance(content, str) else content)
            right = partial(lambda wanted, log: rows_of(log) == wanted, rows)
            ledger.gives(f"{opened.__name__} {case}", partial(opened, file), right)
    file.write_text(f"{HEAD}1,2,1\n")
    for separator in ('"', "\n", "\r", 3):
        act = partial(Log.read, file, separator=separator)
        ledger.refuses(f"separator={separator!r}", act, "separator=")
    for separator in (";", "::", "|"):
        act = partial(Log.read, file, separator=separator)
        ledger.refuses(f"separator={separator!r}", act, "user,item,reward")
    file.write_text(f"{HEAD}1,2,1\n".replace(",", "\u00a7"))
    act = partial(Log.read, file, separator="\u00a7")
    ledger.gives("a separator of two bytes", act, lambda log: rows_of(log) == [(1, 2, 1.0)])


def damaged(ledger: Ledger, tmp_path: Path, whole: bool) -> None:
    """Compressed text that is cut, random bytes, and fields that were knocked out at random."""
    lines = [f'"{u}",{i},{(u + i) % 2}' for u in range(9) for i in range(4)]
    content = (HEAD + "\n".join(lines) + "\n").encode()
    packed, file = gzip.compress(content), tmp_path / "log.csv.gz"
    for share in (0, 0.3, 0.9, 0.999):
        file.write_bytes(packed[: int(len(packed) * share)])
        ledger.refuses(f"gzip cut at {100 * share:g} %", partial(Log.read, file), "log.csv.gz")
    file.write_bytes(packed + b"junk")
    ledger.refuses("gzip, bytes behind the end", partial(Log.read, file), "log.csv.gz")
    for seed in range(300 if whole else 30):
        dice = random.Random(seed)
        file = tmp_path / "random.csv"
        file.write_bytes(
            dice.randbytes(999) if seed % 2 else bytes(dice.choices(range(32, 127), k=999))
        )
        ledger.refuses(f"random bytes {seed}", partial(Log.read, file), "random.csv")
        spoilt = bytearray(content)
        where = dice.randrange(len(HEAD), len(content))
        del spoilt[where : where + dice.randrange(1, 4)]
        file.write_bytes(spoilt)
        # less than a line is gone: an error, or a row for every line that is left
        height = spoilt.rstrip(b"\n").count(b"\n")
        right = partial(lambda n, log: len(log) == n, height)
        ledger.settles(f"bytes cut out at {where}", partial(Log.read, file), right)


def several(ledger: Ledger, tmp_path: Path, whole: bool) -> None:
    """Ids mean the same in all files of a log, and in the log of a model."""
    for name, ids in {"a": ("1", "7"), "b": ("007", "7")}.items():
        (tmp_path / f"{name}.csv").write_text(HEAD + "".join(f"{i},2,1\n" for i in ids))
    wanted = [("1", 2, 1.0), ("7", 2, 1.0), ("007", 2, 1.0), ("7", 2, 1.0)]
    both = partial(Log.read, tmp_path / "*.csv")
    ledger.gives("numbers, then text", both, lambda log: rows_of(log) == wanted)
    known = Log.read(tmp_path / "b.csv")
    (tmp_path / "c.csv").write_text(f"{HEAD}7,2,1\n")
    act = partial(Log.read, tmp_path / "c.csv", like=known)
    ledger.gives("7, like= a log of text", act, lambda log: rows_of(log) == [("7", 2, 1.0)])
    (tmp_path / "d.csv").write_text(f"{HEAD}07,2,1\n")
    act = partial(Log.read, tmp_path / "d.csv", like=known)
    ledger.refuses("07, like= a log of 007 and 7", act, "user", "outside the vocabulary")


FAMILIES = {"fields": fields, "damaged": damaged, "several": several}


@pytest.mark.parametrize("family", FAMILIES)
def test_text(family: str, ledger: Callable[[str], Ledger], whole: bool, tmp_path: Path) -> None:
    with ledger("logs: text") as each:
        FAMILIES[family](each, tmp_path, whole)


@pytest.mark.parametrize(
    ("family", "guard", "blind", "fault"),
    [
        ("fields", "_refuse_ragged", lambda *_: None, "read too few fields, quoted: silent"),
        ("fields", "_records", lambda lines, _: (lines, None), "an open quote: rude"),
        ("damaged", "_unreadable", lambda _, error: error, "random bytes 1: rude"),
        ("several", "as_text", lambda ids: ids, "numbers, then text: rude"),
    ],
)
def test_text_can_fail(
    family: str, guard: str, blind: Any, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, guard, blind)
    if guard == "_refuse_ragged":  # as it was: the parser fills what is missing
        monkeypatch.setattr(text, "_parse", lambda file, *_: pl.read_csv(file, infer_schema=False))
    FAMILIES[family](found := Ledger("x"), tmp_path, False)
    assert any(fault in each for each in found.faults)
