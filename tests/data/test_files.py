from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recfb import Log, LogError, PrepareError, RecfbError
from recfb.data.product import atomic_file, atomic_folder, verify


@pytest.fixture
def rows() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    return pl.DataFrame(
        {
            "u": rng.integers(0, 50, 1000) + 10**12,
            "i": rng.integers(0, 9, 1000),
            "r": rng.integers(0, 2, 1000),
        }
    )


def test_read_and_scan_agree(rows: pl.DataFrame, tmp_path: Path) -> None:
    for k, part in enumerate((rows[:600], rows[600:])):
        part.write_parquet(tmp_path / f"part-{k}.parquet")
    read = Log.read(tmp_path, user="u", item="i", reward="r")
    scan = Log.scan(tmp_path, user="u", item="i", reward="r")
    assert scan.frame.equals(read.frame)
    assert len(scan) == 1000
    assert scan.columns == read.columns
    assert scan.clicks.key.tolist() == read.clicks.key.tolist()
    assert sum(len(block) for block in scan.blocks(128)) == 1000
    assert len({block.part for block in scan.blocks(128)}) == 2


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_cut_parquet_file_is_named(rows: pl.DataFrame, tmp_path: Path, share: float) -> None:
    whole = tmp_path / "whole.parquet"
    rows.write_parquet(whole)
    data = whole.read_bytes()
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(data[: int(len(data) * share)])
    for how in (Log.read, Log.scan):
        with pytest.raises(PrepareError, match=r"cut\.parquet cannot be read"):
            how(cut, user="u", item="i", reward="r")


def text(tmp_path: Path, content: str | bytes, name: str = "log.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("user,item,reward\n1,2,1\n1,3\n", "1 lines do not have 3 fields (first: line 3, '1,3')"),
        ("user,item,reward\n1,2,1,9\n", "do not have 3 fields"),
        ("user,item,reward\n1,2,NA\n", "reward: 1 rows are not numbers, for example 'NA'"),
        ('user,item,reward\n1,2,"1,5"\n', "for example '1,5'"),
        ("user,item,reward\n1,2,1e400\n", "do not fit a 32-bit float"),
        ("user,item,item\n1,2,1\n", "names the columns ['item'] twice"),
        ("user,item,reward\n,2,1\n", "user: 1 rows are null"),
        ("", "is empty"),
        ("user,item,reward\né,2,1\n".encode("latin-1"), "UTF-8"),
        ("user,item,reward\n1,2,1\n".encode("utf-16"), "is UTF-16"),
        ('user,item,reward\n"c,2,1\n', "the quote that opens in line 2"),
    ],
)
def test_damaged_text_is_refused(tmp_path: Path, content: str | bytes, says: str) -> None:
    with pytest.raises(RecfbError, match=re.escape(says)):
        Log.read(text(tmp_path, content))


def test_text_keeps_ids_as_they_stand(tmp_path: Path) -> None:
    log = Log.read(text(tmp_path, "user,item,reward\n007,2,1\n7,10,\n"))
    assert log.users["id"].to_list() == ["007", "7"]
    assert log.items["id"].to_list() == [2, 10]
    assert log.frame["reward"].to_list() == [1.0, None]


@pytest.mark.parametrize("separator", ["\t", "::", ";", "|"])
def test_separators_are_found(tmp_path: Path, separator: str) -> None:
    lines = "\n".join(
        separator.join(row) for row in (["1", "22", "5", "99"], ["2", "33", "3", "98"])
    )
    log = Log.read(
        text(tmp_path, lines, "ratings.dat"),
        has_header=False,
        user="column_0",
        item="column_1",
        reward="column_2",
        time="column_3",
    )
    assert log.decode().rows() == [(1, 22, 5.0, 99), (2, 33, 3.0, 98)]


def test_a_bom_and_iso_times_are_read(tmp_path: Path) -> None:
    log = Log.read(text(tmp_path, "\ufeffuser,item,reward,time\n1,2,1,2024-01-02 03:04:05\n"))
    assert log.frame["time"].to_list() == [1_704_164_645_000_000]


def test_names_with_brackets_and_patterns(rows: pl.DataFrame, tmp_path: Path) -> None:
    rows.write_parquet(tmp_path / "day[1].parquet")
    assert len(Log.read(tmp_path / "day[1].parquet", user="u", item="i", reward="r")) == 1000
    assert len(Log.scan(tmp_path / "day[1].parquet", user="u", item="i", reward="r")) == 1000
    assert len(Log.read(tmp_path / "day*.parquet", user="u", item="i", reward="r")) == 1000
    with pytest.raises(PrepareError, match=r"there is no file .*has \['day\[1\]"):
        Log.read(tmp_path / "night*.parquet")


def test_parts_with_other_types_are_refused(rows: pl.DataFrame, tmp_path: Path) -> None:
    rows.write_parquet(tmp_path / "a.parquet")
    rows.with_columns(pl.col("u").cast(pl.String)).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(LogError, match=r"b\.parquet has other columns or id types"):
        Log.read(tmp_path, user="u", item="i", reward="r")
    with pytest.raises(LogError, match="different files"):
        Log.scan(tmp_path, user="u", item="i", reward="r")


def test_problems_of_a_scan_are_summed_over_the_pass(tmp_path: Path) -> None:
    for k in range(2):
        frame = pl.DataFrame(
            {"item": [0, 1, 2], "reward": [1.0, 0.0, 1.0], "propensity": [0.5, 2.0, 0.0]}
        )
        frame.write_parquet(tmp_path / f"{k}.parquet")
    log = Log.scan(tmp_path)
    seen = 0
    with pytest.raises(LogError, match=r"propensity: 4 rows are outside \(0, 1\] \(first: row 1\)"):
        for block in log.blocks():
            seen += len(block)
    assert seen == 6


def test_a_product_is_whole_or_absent(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), atomic_file(tmp_path / "table.txt") as part:
        part.write_text("half")
        raise RuntimeError
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "model") as folder:
        (folder / "weights").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_an_existing_product_is_not_overwritten(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "model") as folder:
        (folder / "weights").write_text("one")
    with (
        pytest.raises(PrepareError, match="exists already"),
        atomic_folder(tmp_path / "model") as folder,
    ):
        (folder / "weights").write_text("two")
    assert (tmp_path / "model" / "weights").read_text() == "one"
    with atomic_folder(tmp_path / "model", replace=True) as folder:
        (folder / "weights").write_text("two")
    assert (tmp_path / "model" / "weights").read_text() == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_flipped_bit_a_missing_and_a_foreign_file_are_found(tmp_path: Path) -> None:
    def product(name: str) -> Path:
        with atomic_folder(tmp_path / name) as folder:
            (folder / "weights").write_bytes(b"abcd")
            (folder / "config").write_bytes(b"efgh")
        return tmp_path / name

    verify(product("good"))
    flipped = product("flipped")
    (flipped / "weights").write_bytes(b"abce")
    with pytest.raises(PrepareError, match="weights is damaged"):
        verify(flipped)
    missing = product("missing")
    (missing / "config").unlink()
    with pytest.raises(PrepareError, match="config missing"):
        verify(missing)
    foreign = product("foreign")
    (foreign / "extra").write_text("x")
    with pytest.raises(PrepareError, match="extra"):
        verify(foreign)


def test_a_damaged_written_log_is_refused(tmp_path: Path) -> None:
    Log.of({"item": [1, 2], "reward": [1, 0]}).write(tmp_path / "log")
    part = tmp_path / "log" / "part-00000.parquet"
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(bytes(data))
    for how in (Log.read, Log.scan):
        with pytest.raises(PrepareError, match="is damaged"):
            how(tmp_path / "log")
