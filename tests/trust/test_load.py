"""Large logs and loops under a memory limit that is set: numbers that are known beforehand, or a
failure that nobody can take for one."""

from __future__ import annotations

import resource
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import fault_jobs as jobs
import numpy as np
import polars as pl
import pytest
from ledger import Ledger

from recfb import Log, Meta, evaluate, fit, simulate, solvers
from recfb.policies import Ranked
from recfb.worlds import Tastes

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # processes beside threads
MIB = 1 << 20
PART = 1_000_000


def under(mib: int, job: Callable[..., Any], *args: Any, late: float = 900) -> Any:
    """A job in a process that may not have more data than this (RLIMIT_DATA: heap and private
    memory, not the code of libraries), above what its imports take."""
    return jobs.apart(_limited, mib, job, *args, late=late)


def _limited(mib: int, job: Callable[..., Any], *args: Any) -> Any:
    now = next(
        int(line.split()[1]) // 1024
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmData")
    )
    resource.setrlimit(resource.RLIMIT_DATA, ((now + mib) * MIB,) * 2)
    return job(*args)


def parts(folder: Path, rows: int) -> dict[str, float]:
    """A log of a uniform policy over ten items, a million rows a file, and what ips must say of a
    policy that prefers the later ones."""
    folder.mkdir()
    target, total, clicks = np.arange(1, 11) / 55, 0.0, 0
    for k, start in enumerate(range(0, rows, PART)):
        rng, n = np.random.default_rng(k), min(PART, rows - start)
        item = rng.integers(0, 10, n, dtype=np.int32)
        reward = (rng.random(n, dtype=np.float32) < 0.02 * (1 + item)).astype(np.float32)
        columns = {"item": item, "reward": reward, "propensity": np.full(n, 0.1)}
        pl.DataFrame(columns).write_parquet(folder / f"part-{k:03}.parquet")
        total += float((reward * target[item] / 0.1).sum())
        clicks += int(reward.sum())
    return {"ips": total / rows, "n": rows, "clicks": clicks}


def valued(folder: Path) -> dict[str, float]:
    meta = Meta(reward_range=(0, 1), propensity="exact")
    log = Log.scan(folder, n_items=10, meta=meta)
    later = jobs.Fixed((np.arange(1, 11) / 55).tolist())
    table = evaluate(log, {"later": later}, estimators=["ips"]).table
    return {"ips": table["value"][0], "n": table["n"][0]}


def clicked(rows: int) -> tuple[int, int, int]:
    """Clicks on a grid: user u clicks the items u + 0, u + 1, ... so all counts are known."""
    items = int((2 * rows) ** 0.5)
    return 2 * items, items, items // 4


def learned(rows: int) -> dict[str, Any]:
    """Popularity and BPR of the grid."""
    users, items, each = clicked(rows)
    user = np.repeat(np.arange(users, dtype=np.int32), each)
    item = (user + np.tile(np.arange(each, dtype=np.int32), users)) % items
    frame = pl.DataFrame({"user": user, "item": item.astype(np.int32)})
    frame = frame.with_columns(reward=pl.lit(1.0, pl.Float32))
    log = Log.of(frame, n_users=users, n_items=items)
    count = fit(log, solvers.Popularity()).count
    model = fit(
        log, jobs.bpr(), max_epochs=1, batch_size=65_536, enable_progress_bar=False,
        accelerator="cpu",
    )  # fmt: skip
    finite = all(bool(x.isfinite().all()) for x in model.parameters())
    least, most = (int(x) for x in count.aminmax())
    return {"clicks": len(log.clicks), "least": least, "most": most, "finite": finite}


def played(users: int, items: int, folder: Path) -> dict[str, float]:
    """A closed loop, read part by part: its rows, its clicks, and the chances they had."""
    world, policy = Tastes(users, items), Ranked(solvers.ALS(dim=4, sweeps=1), 0.1)
    simulate(world, policy, rounds=20, out=folder, keep="metrics")
    log = pl.scan_parquet(folder / "log" / "part-*.parquet")
    truth = pl.scan_parquet(folder / "truth" / "part-*.parquet")
    rows, clicks, rounds = (
        log.select(pl.len(), pl.col("reward").sum(), pl.col("time").n_unique()).collect().row(0)
    )
    chance, wide = (
        truth.select(
            pl.col("value").sum(), (pl.col("value") * (1 - pl.col("value"))).sum().alias("wide")
        )
        .collect()
        .row(0)
    )
    return {"rows": rows, "rounds": rounds, "z": (clicks - chance) / wide**0.5}


def load(ledger: Ledger, tmp_path: Path, share: float, mib: int) -> None:
    """1e8 rows, 2e7 clicks, 100,000 users x 10,000 items x 20 rounds, or a share of them."""
    stated = f"{mib:,} MiB above the imports"
    rows = int(1e8 * share)
    truth = parts(tmp_path / "rows", rows)
    ledger.gives(
        f"{rows:,} rows evaluated within {stated}",
        partial(under, mib, valued, tmp_path / "rows"),
        lambda found: found["n"] == rows and abs(found["ips"] - truth["ips"]) < 1e-9,
    )
    clicks = int(2e7 * share)
    users, _, each = clicked(clicks)
    ledger.gives(
        f"{clicks:,} clicks fitted within {stated}",
        partial(under, mib, learned, clicks),
        lambda found: (
            found == {"clicks": users * each, "least": 2 * each, "most": 2 * each, "finite": True}
        ),
    )
    people, things = max(50, int(1e5 * share)), max(20, int(1e4 * share))
    ledger.gives(
        f"{people:,} users x {things:,} items x 20 rounds within {stated}",
        partial(under, mib, played, people, things, tmp_path / "loop"),
        lambda found: (
            found["rows"] == 20 * people and found["rounds"] == 20 and abs(found["z"]) < 5
        ),
    )


def starved(ledger: Ledger, tmp_path: Path) -> None:
    """The limit bites: small jobs, which take a second, end without a number under a tiny one."""
    parts(tmp_path / "few", 100_000)
    for name, job, value in (
        ("an evaluation", valued, tmp_path / "few"),
        ("a fit", learned, 20_000),
    ):
        act = partial(under, 2, job, value, late=8)
        ledger.refuses(f"{name} within 2 MiB", act, error=Exception)


def test_load(ledger: Any, whole: bool, tmp_path: Path) -> None:
    with ledger("load: numbers under a memory limit") as each:
        if whole:
            load(each, tmp_path, 1.0, 6144)
        else:
            load(each, tmp_path, 1 / 1000, 1024)
        starved(each, tmp_path)


def test_a_row_too_many_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = parts
    monkeypatch.setitem(
        globals(), "parts", lambda *a: {key: 1.01 * x for key, x in known(*a).items()}
    )
    each = Ledger("x")
    load(each, tmp_path, 1 / 1000, 1024)
    assert each.counts == {"silent": 1, "right": 2}
