"""Logs from files that are cut, damaged, unreadable, misnamed, or not like their neighbours."""

from __future__ import annotations

import json
import random
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hostile import ROWS, same, table
from ledger import Ledger

from recfb import Log
from recfb import errors as known
from recfb.data import files, scan, text

WRITERS: dict[str, str] = {"parquet": "write_parquet", "arrow": "write_ipc", "csv": "write_csv"}
DOORS: dict[str, Callable[..., Log]] = {"read": Log.read, "scan": Log.scan}


def cut(ledger: Ledger, tmp_path: Path, whole: bool) -> None:
    """Parquet and Arrow cut, overwritten or continued, read and scanned."""

    for kind in ("parquet", "arrow"):
        good = tmp_path / f"good.{kind}"
        getattr(ROWS, WRITERS[kind])(good)
        data, dice = good.read_bytes(), random.Random(5)
        broken = {f"cut at {100 * s:g} %": data[: int(len(data) * s)] for s in (0, 0.3, 0.9, 0.999)}
        broken |= {f"{n} random bytes": dice.randbytes(n) for n in (1, 12, 4096)}
        broken["random bytes between marks"] = b"PAR1" + dice.randbytes(999) + b"PAR1"
        broken["bytes behind the end"] = data + b"and more"
        for case, content in broken.items():
            file = tmp_path / f"bad.{kind}"
            file.write_bytes(content)
            for door, opened in DOORS.items():
                ledger.refuses(f"{door} {kind}, {case}", partial(opened, file), "bad", "again")
        for seed in range(200 if whole else 20):  # Parquet has no checksums: right, or an error
            spot = random.Random(seed)
            content = bytearray(data)
            where = spot.randrange(len(data) - 400, len(data) - 8)
            content[where : where + 4] = spot.randbytes(4)
            file.write_bytes(content)
            right = lambda log: len(log) == len(log.frame) == ROWS.height  # noqa: E731
            for door, opened in DOORS.items():
                case = f"{door} {kind}, footer overwritten at {where}"
                ledger.settles(case, partial(opened, file), right)


def names(ledger: Ledger, tmp_path: Path, whole: bool) -> None:
    """Names with pattern characters, patterns without a match, folders, and what is no file."""
    for kind, write in WRITERS.items():
        folder = tmp_path / kind
        folder.mkdir()
        for name in ("log[1]", "a*b", "a?b", "ü 100 %20"):
            for decoy in ("log1", "aXb", "axxb"):
                getattr(ROWS.head(1), write)(folder / f"{decoy}.{kind}")
            file = folder / f"{name}.{kind}"
            getattr(ROWS, write)(file)
            for door, opened in DOORS.items():
                ledger.gives(f"{door} {name}.{kind}", partial(opened, file), same())
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "folder.parquet").mkdir()
    gone: dict[str, tuple[Path | str, str]] = {
        "no match": (tmp_path / "none*.parquet", "there is no file"),
        "no folder": (tmp_path / "nowhere" / "log.parquet", "nowhere"),
        "an open bracket": (tmp_path / "no[", "no["),
        "a folder without parts": (tmp_path / "empty", "no .parquet file"),
        "a folder named as a file": (tmp_path / "empty" / "folder.parquet", "no .parquet file"),
        "a pattern for folders": (tmp_path / "empty" / "*", "there is no file"),
        "a name with NUL": (f"{tmp_path}/a\0b.parquet", "there is no file"),
        "a name of 400 letters": (tmp_path / ("a" * 400), "too long"),
    }
    for case, (path, says) in gone.items():
        for door, opened in DOORS.items():
            ledger.refuses(f"{door} {case}", partial(opened, path), says)
    written = Log.of(ROWS).write(tmp_path / "written")
    for door, opened in DOORS.items():
        ledger.gives(f"{door} written", partial(opened, written), same())
        for option in ({"reward": "stars"}, {"n_items": 99}, {"keep": ["price"]}):
            word = next(iter({"keep": "price"}.get(key, key) for key in option))
            case = f"{door} written with {option}"
            ledger.refuses(case, partial(opened, written, **option), word)
        other = Log.of(ROWS.head(2))
        ledger.refuses(
            f"{door} written, like= a log that lacks its items",
            partial(opened, written, like=other),
            "outside the vocabulary",
        )


READ = """
import json, os, sys
from pathlib import Path
import recfb.data.files, recfb.data.scan, recfb.data.text
from recfb import Log
{prelude}
if os.geteuid() == 0:
    os.setuid(65534)
told = {{}}
for path in json.loads(sys.argv[1]):
    for door in ("read", "scan"):
        try:
            log = getattr(Log, door)(path)
            told[f"{{door}} {{path}}"] = ["", f"{{len(log)}} rows"]
        except BaseException as error:
            told[f"{{door}} {{path}}"] = [type(error).__name__, str(error)]
print(json.dumps(told))
"""


def unreadable(ledger: Ledger, tmp_path: Path, whole: bool, prelude: str = "") -> None:
    """Files and folders without permission, as a user who is not root: in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        bad: list[Path] = []
        for kind, write in WRITERS.items():
            getattr(ROWS, write)(root / f"log.{kind}")
            bad.append(root / f"log.{kind}")
        for folder in ("closed", "half/closed"):
            (root / folder).mkdir(parents=True)
            ROWS.write_parquet(root / folder / "b.parquet")
            bad.append(root / folder)
        ROWS.write_parquet(root / "half" / "a.parquet")
        asked = [*map(str, bad), f"{root}/closed/b.parquet", f"{root}/closed/*.parquet"]
        asked += [f"{root}/half"]
        for path in bad:
            path.chmod(0)
        command = [sys.executable, "-c", READ.format(prelude=prelude), json.dumps(asked)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        for path in bad:
            path.chmod(stat.S_IRWXU)
    for case, (error, said) in json.loads(done.stdout.splitlines()[-1]).items():
        ledger.refuses(case, partial(_again, error, said), "ermission", case.split("/")[-1])


def _again(error: str, said: str) -> str:
    """What another process raised, or gave."""
    if not error:
        return said
    raise getattr(known, error, RuntimeError)(said)


def parts(ledger: Ledger, tmp_path: Path, whole: bool) -> None:
    """A second file whose columns are others, or of other types."""
    more = ROWS.with_columns(time=pl.int_range(4), kept=pl.lit("a"))
    text_reward = pl.col("reward").cast(pl.String)
    other: dict[str, tuple[pl.DataFrame, str]] = {
        "text rewards": (more.with_columns(text_reward), "reward"),
        "text ids": (more.with_columns(pl.col("item").cast(pl.String)), "item"),
        "32-bit ids": (more.with_columns(pl.col("item").cast(pl.Int32)), "item"),
        "broken ids": (more.with_columns(pl.col("item") + 0.5), "item"),
        "a kept column of another type": (more.with_columns(kept=1), "kept"),
        **{f"no {name}": (more.drop(name), name) for name in more.columns},
        "one more": (more.with_columns(position=1), "position"),
        "NaN in the second": (more.with_columns(reward=pl.lit(float("nan"))), "reward"),
    }
    good = {
        "columns in another order": more.select(reversed(more.columns)),
        "a column that is not read": more.with_columns(other=1),
        "whole rewards": more.with_columns(pl.col("reward").cast(pl.Int8)),
        "no rows": more.clear(),
    }
    opened: dict[str, Callable[[Path], Any]] = {
        "read": lambda path: Log.read(path, keep=["kept"]),
        "scan": lambda path: Log.scan(path, keep=["kept"]).frame,
        "evaluate": lambda path: table(Log.scan(path, keep=["kept"]), estimators=["ips"]),
    }
    for number, (case, (second, says)) in enumerate(other.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        more.write_parquet(folder / "a.parquet")
        second.write_parquet(folder / "b.parquet")
        for door, act in opened.items():
            if door == "evaluate" and says == "kept" and "type" in case:
                continue  # it does not read the column
            ledger.refuses(f"{door}, {case}", partial(act, folder), says)
    for number, (case, second) in enumerate(good.items()):
        folder = tmp_path / f"good {number}"
        folder.mkdir()
        more.write_parquet(folder / "a.parquet")
        second.write_parquet(folder / "b.parquet")
        both = pl.concat([more, second.select(more.columns)], how="vertical_relaxed")
        for door, f in DOORS.items():
            act = partial(f, folder, keep=["kept"])
            ledger.gives(f"{door}, {case}", act, same(both))
    slates = ROWS.with_columns(slate=pl.int_range(4), position=1)
    (tmp_path / "slates").mkdir()
    for file in ("a", "b"):
        slates.write_parquet(tmp_path / "slates" / f"{file}.parquet")
    for door in ("read", "scan"):
        act = lambda d=door: DOORS[d](tmp_path / "slates").frame  # noqa: E731
        ledger.refuses(f"{door}, slates that are numbered anew in each file", act, "slate", "share")


FAMILIES = {"cut": cut, "names": names, "unreadable": unreadable, "parts": parts}


@pytest.mark.parametrize("family", FAMILIES)
def test_files(family: str, ledger: Callable[[str], Ledger], whole: bool, tmp_path: Path) -> None:
    with ledger("logs: files") as each:
        FAMILIES[family](each, tmp_path, whole)


def test_cut_files_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "damaged", lambda file, error: error)
    cut(ledger := Ledger("x"), tmp_path, False)
    assert any("read parquet, cut at 90 %: rude" in fault for fault in ledger.faults)


def test_names_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = pl.read_csv
    monkeypatch.setattr(text.pl, "read_csv", lambda *a, glob, **k: real(*a, **k))
    names(ledger := Ledger("x"), tmp_path, False)
    assert any("read log[1].csv: silent" in fault for fault in ledger.faults)


def test_unreadable_folders_can_fail(tmp_path: Path) -> None:
    blind = "recfb.data.files._inside = lambda folder: folder.rglob('*')"
    unreadable(ledger := Ledger("x"), tmp_path, False, blind)
    assert any("half: silent: '4 rows'" in fault for fault in ledger.faults)


def test_parts_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "same_columns", lambda *_: None)
    parts(ledger := Ledger("x"), tmp_path, False)
    assert any("evaluate, no time: silent" in fault for fault in ledger.faults)
