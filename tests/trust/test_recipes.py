"""Recipes that reach out of their folder, name other files than they say, or unpack without end."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from ledger import Ledger, contents
from payloads import Payload, payload, spec, typed

from recfb import Log, dataset
from recfb.data.recipe import File
from recfb.shelf import prepare

ROWS = b"user,item,reward\na,1,1\nb,2,0\n"
HEAD = {"summary": "s", "source": "s", "licence": "MIT", "own_copy": "Get it."}
SHA = hashlib.sha256(ROWS).hexdigest()
BOMB = b"user,item,reward\n" + b"a,1,1\n" * 200_000


@pytest.fixture
def bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Payload:
    """A shelf with one recipe, the user's copy of its files, a cache with another set, a file that
    nobody may read, and a payload."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECFB_HOME", str(tmp_path / "cache"))
    own, elsewhere = tmp_path / "own", tmp_path / "elsewhere"
    for folder in (own, elsewhere, tmp_path / "datasets" / "mine"):
        folder.mkdir(parents=True)
    (elsewhere / "secret.csv").write_bytes(ROWS)
    (own / "log.csv").write_bytes(ROWS)
    (own / "link.csv").symlink_to(elsewhere / "secret.csv")
    (own / "up").symlink_to(elsewhere)
    (own / "loop").symlink_to(own / "loop")
    (own / "cut.parquet").write_bytes(b"PAR1xxxxPAR1")
    pl.DataFrame({"id": ["1", "2"], "f": [1.0, 2.0]}).write_parquet(own / "items.parquet")
    made = payload(tmp_path, monkeypatch)
    archives(own, made)
    Log.of({"item": [1, 2], "reward": [1, 0]}).write(tmp_path / "cache" / "other")
    kept = {name: contents(tmp_path / name) for name in ("cache", "elsewhere", "own")}
    made.intact = lambda: all(contents(tmp_path / name) == was for name, was in kept.items())
    return made


def archives(own: Path, bad: Payload) -> None:
    """Packed files, archives that lead out of their folder, and files that unpack without end."""
    with zipfile.ZipFile(own / "out.zip", "w") as archive:
        archive.writestr("../../cache/planted.csv", ROWS)
    with zipfile.ZipFile(own / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("log.csv", BOMB)
    with tarfile.open(own / "out.tar", "w") as tar:
        for name in ("../../cache/planted.csv", "/cache/planted.csv"):
            member = tarfile.TarInfo(name)
            member.size = len(ROWS)
            tar.addfile(member, io.BytesIO(ROWS))
        link = tarfile.TarInfo("log.csv")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    (own / "log.csv.gz").write_bytes(gzip.compress(BOMB))
    (own / "packed.csv").write_bytes(gzip.compress(BOMB))
    (own / "log.csv.bz2").write_bytes(bz2.compress(BOMB))
    (own / "log.csv.xz").write_bytes(lzma.compress(BOMB))
    (own / "log.csv.zz").write_bytes(zlib.compress(BOMB))
    pl.DataFrame({"item": pl.repeat(1, 4_000_000, eager=True)}).with_columns(
        reward=pl.lit(1)
    ).write_parquet(own / "bomb.parquet", row_group_size=1 << 25)
    (own / "module.csv").write_text(f"import os; os.system({bad.command!r})\n")


FILES: dict[str, tuple[Any, str]] = {
    "a path upwards": ({"path": "../elsewhere/secret.csv"}, "leaves"),
    "a path upwards, later": ({"path": "up/../../elsewhere/secret.csv"}, "leaves"),
    "an absolute path": ({"path": "/etc/hostname"}, "leaves"),
    "a link out": ({"path": "link.csv"}, "leaves"),
    "a folder that leads out": ({"path": "up/secret.csv"}, "leaves"),
    "a link to itself": ({"path": "loop"}, "loop"),
    "a folder": ({"path": "."}, "no file"),
    "no file": ({"path": "none.csv"}, "none.csv"),
    "a pattern": ({"path": "*.csv"}, "*.csv"),
    "a home": ({"path": "~/log.csv"}, "~/log.csv"),
    "an address": ({"path": "http://127.0.0.1/log.csv"}, "127.0.0.1"),
    "NUL in a path": ({"path": "a\0b"}, "path"),
    "a very long path": ({"path": "a" * 5000}, "path"),
    "no path": ({}, "path"),
    "null as a path": ({"path": None}, "path"),
    "a number as a path": ({"path": 5}, "path"),
    "another checksum": ({"path": "log.csv", "sha256": "f" * 64}, "SHA-256"),
    "half a checksum": ({"path": "log.csv", "sha256": SHA[:32]}, "SHA-256"),
    "a number as a checksum": ({"path": "log.csv", "sha256": 123}, "sha256"),
    "out of a package": ({"path": "../../../../../../etc/passwd", "package": "json"}, "leaves"),
    "a package that runs": ({"path": "trust_evil.py", "package": "trust_evil"}, "trust_evil"),
    "a package that is none": ({"path": "x", "package": "../json"}, "json"),
    "the running program": ({"path": "x", "package": "__main__"}, "__main__"),
    "a list of packages": ({"path": "x", "package": ["json"]}, "package"),
    "another layout": ({"path": "log.csv", "layout": "pickle"}, "pickle"),
    "no matrix": ({"path": "log.csv", "layout": "matrix"}, "no matrix"),
    "an unknown key": ({"path": "log.csv", "sha265": SHA}, "sha265"),
    "a cut file": ({"path": "cut.parquet"}, "cut.parquet"),
    "a program": ({"path": "module.csv"}, "item"),
    "a zip that leads out": ({"path": "out.zip"}, "zip"),
    "a zip bomb": ({"path": "bomb.zip"}, "zip"),
    "a tar that leads out": ({"path": "out.tar"}, "tar"),
    "a gzip bomb": ({"path": "log.csv.gz"}, "gzip"),
    "a gzip bomb by another name": ({"path": "packed.csv"}, "gzip"),
    "a gzip bomb as a matrix": ({"path": "log.csv.gz", "layout": "matrix"}, "gzip"),
    "a bzip2 bomb": ({"path": "log.csv.bz2"}, "bzip2"),
    "an xz bomb": ({"path": "log.csv.xz"}, "xz"),
    "a zlib bomb": ({"path": "log.csv.zz"}, "zlib"),
    "a Parquet bomb": ({"path": "bomb.parquet"}, "4,000,000"),
}
LOG = {"log": {"path": "log.csv"}}
PAGES: dict[str, tuple[Any, str]] = {
    "no mapping": ([1], "mapping"),
    "no files": ({}, "files"),
    "files as a list": ({"files": ["log.csv"]}, "files"),
    "files as a text": ({"files": "log.csv"}, "files"),
    "a file as a text": ({"files": {"log": "log.csv"}}, "log.csv"),
    "other files": ({"files": {**LOG, "run": {"path": "x"}}}, "run"),
    "a cut table of items": ({"files": {**LOG, "items": {"path": "cut.parquet"}}}, "cut.parquet"),
    "text as a table": ({"files": {**LOG, "items": {"path": "log.csv"}}}, "log.csv"),
    "a bomb of items": ({"files": {**LOG, "items": {"path": "bomb.parquet"}}}, "4,000,000"),
    "another id": ({"files": {**LOG, "items": {"path": "items.parquet"}}, "id": "x"}, "'x'"),
    "other counts": ({"files": LOG, "counts": {"rows": 5}}, "5"),
    "counts as a number": ({"files": LOG, "counts": 5}, "counts"),
    "counts as texts": ({"files": LOG, "counts": {"rows": "2"}}, "counts"),
    "an unknown column": ({"files": LOG, "columns": {"rewrd": "reward"}}, "rewrd"),
    "columns as a list": ({"files": LOG, "columns": ["reward"]}, "columns"),
    "an option among columns": ({"files": LOG, "columns": {"n_users": 3}}, "n_users"),
    "a negative size": ({"files": LOG, "n_users": -1}, "-1"),
    "a size as a text": ({"files": LOG, "n_users": "all"}, "n_users"),
    "a limit as a text": ({"files": LOG, "binarise": "high"}, "binarise"),
    "a range of three": ({"files": LOG, "meta": {"reward_range": [1, 2, 3]}}, "reward_range"),
    "a range of texts": ({"files": LOG, "meta": {"reward_range": ["a", "b"]}}, "reward_range"),
    "another task": ({"files": LOG, "meta": {"task": "dancing"}}, "dancing"),
    "variants as a number": ({"files": LOG, "variants": 5}, "variants"),
}
ALPHA = {"path": "log.csv", "key": "all.alpha"}
POLICIES: dict[str, tuple[Any, str]] = {
    "policies as a list": ([1], "policies"),
    "a shell": ({"p": spec("os.system", command="true")}, "os.system"),
    "a file out of the folder": (
        {"p": spec("BetaThompson", alpha={**ALPHA, "path": "../x"})},
        "..",
    ),
    "no YAML": ({"p": spec("BetaThompson", alpha={**ALPHA, "path": "cut.parquet"})}, "cut"),
    "another key": ({"p": spec("BetaThompson", alpha={**ALPHA, "path": "a.yaml"})}, "all.alpha"),
    "a number as a key": ({"p": spec("BetaThompson", alpha={**ALPHA, "key": 5})}, "key"),
}


def recipe(page: Any) -> None:
    """The recipe on the shelf."""
    full = {**HEAD, **page} if isinstance(page, dict) else page
    Path("datasets/mine/recipe.yaml").write_text(json.dumps(full))


def prepared(page: Any) -> Any:
    recipe(page)
    return prepare("mine", "own")


def by_command(page: Any) -> Any:
    recipe(page)
    return typed("prepare", "mine", "--from", "own")


def files(ledger: Ledger) -> None:
    pages = {name: ({"files": {"log": one}}, says) for name, (one, says) in FILES.items()}
    for door, act in {"prepare": prepared, "recfb prepare": by_command}.items():
        for case, (page, says) in {**pages, **PAGES}.items():
            ledger.refuses(f"{case}, {door}", lambda a=act, p=page: a(p), says)


def names(ledger: Ledger) -> None:
    """Names of data sets and simulators are names, and no paths."""
    recipe({"files": LOG})
    for name in ("../mine", "/etc", "mine/../../x", ".mine", "", "mi\0ne", "~", "mine/..", "*"):
        ledger.refuses(f"the name {name!r}", lambda n=name: prepare(n, "own"))
        ledger.refuses(
            f"the name {name!r}, recfb", lambda n=name: typed("prepare", n, "--from=own")
        )
        ledger.refuses(f"the simulator {name!r}", lambda n=name: typed("simulate", n))
    for source in ("none", "own/log.csv", "own/out.zip", "own/out.tar"):
        ledger.refuses(f"from {source}", lambda s=source: prepare("mine", s), source)


def policies(ledger: Ledger) -> None:
    for case, (page, says) in POLICIES.items():
        full = {"files": LOG, "policies": page}
        ledger.refuses(case, lambda p=full: inside(p), says)


def inside(page: Any) -> Any:
    """Policies of a recipe whose files are beside it."""
    for name in ("log.csv", "cut.parquet"):
        Path("datasets/mine", name).write_bytes(Path("own", name).read_bytes())
    Path("datasets/mine/a.yaml").write_text("all: 3\n")
    recipe({**page, "own_copy": None})
    return dataset("mine").policies


def right(ledger: Ledger) -> None:
    """What is meant to work does."""
    for case, one in {"a checksum": {"sha256": SHA}, "in capitals": {"sha256": SHA.upper()},
                      "none": {}, "null": {"sha256": None}}.items():  # fmt: skip
        page = {"files": {"log": {"path": "log.csv", **one}}, "counts": {"rows": 2}}
        ledger.gives(case, lambda p=page: (prepared(p), len(dataset("mine").log))[1],
                     lambda rows: rows == 2)  # fmt: skip


@pytest.mark.usefixtures("whole")
def test_recipes_stay_inside(ledger: Callable[..., Ledger], bad: Payload) -> None:
    with ledger("recipes: files and pages", clean=bad.clean, intact=bad.intact) as each:
        files(each)
        names(each)
    with ledger("recipes: policies", clean=bad.clean) as each:
        policies(each)
    with ledger("recipes: what is right", clean=bad.clean) as each:
        right(each)


def test_the_families_can_fail(bad: Payload, monkeypatch: pytest.MonkeyPatch) -> None:
    def anywhere(self: File, folder: Path) -> Path:
        return folder / self.path

    monkeypatch.setattr(File, "find", anywhere)
    each = Ledger("x", clean=bad.clean, intact=bad.intact)
    files(each)
    assert each.counts["lost"], each.faults[:5]  # a data set in the cache is new
    each = Ledger("x")
    files(each)
    policies(each)
    assert {"silent", "rude"} <= set(each.counts), each.faults[:5]
