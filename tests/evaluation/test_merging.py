"""Merging over files: orders, workers, a killed one, other cuts, days. One result, to the bit."""

from __future__ import annotations

import math
import multiprocessing
import os
import random
import signal
import struct
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import fields, is_dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from ope_world import TARGET, Fixed, draw
from polars.testing import assert_frame_equal

from recfb import Evaluation, Log, RecfbError, evaluate
from recfb.data import scan
from recfb.evaluation import State
from recfb.policies import Uniform

EVERY = ["ips", "snips", "dm", "dr", "replay", "dros"]
POLICIES = {"uniform": Uniform(), "target": Fixed(TARGET)}
SMALL = {"estimators": EVERY, "buckets": 256}
pytestmark = pytest.mark.filterwarnings("ignore::recfb.errors.OverlapWarning")


def write(folder: Path, log: Log, cuts: Sequence[int], names: Iterable[str] = ()) -> Log:
    """The rows between the cuts as files of a folder, scanned."""
    folder.mkdir(exist_ok=True)
    given = list(names) or [f"part-{k:03}.parquet" for k in range(len(cuts) - 1)]
    for name, start, stop in zip(given, cuts[:-1], cuts[1:], strict=True):
        log.frame.slice(start, stop - start).write_parquet(folder / name)
    return opened(folder, log)


def opened(path: Path, log: Log) -> Log:
    return Log.scan(path, n_items=log.n_items, meta=log.meta)


def bits(x: Any) -> Any:
    """Everything that a record holds, tensors and numbers byte by byte."""
    if isinstance(x, torch.Tensor):
        return str(x.dtype), tuple(x.shape), x.contiguous().numpy().tobytes()
    if isinstance(x, float):
        return struct.pack("d", x)
    if isinstance(x, Mapping):
        return sorted((str(key), bits(value)) for key, value in x.items())
    if is_dataclass(x):
        return [bits(getattr(x, field.name)) for field in fields(x)]
    if isinstance(x, (tuple, list)):
        return [bits(value) for value in x]
    return repr(x)


def same(a: State, b: State) -> bool:
    return (
        bits(a.groups()) == bits(b.groups())
        and a.parts == b.parts
        and a.facts == b.facts
        and bits(a.faults) == bits(b.faults)
    )


def added(states: Iterable[State]) -> State:
    return reduce(lambda a, b: a + b, states)


def by_halves(states: Sequence[State], rng: random.Random) -> State:
    """Added up as a random tree."""
    if len(states) == 1:
        return states[0]
    cut = rng.randrange(1, len(states))
    return by_halves(states[:cut], rng) + by_halves(states[cut:], rng)


def test_bits_see_the_last_one() -> None:
    one = torch.tensor([1.0, math.nan], dtype=torch.float64)
    assert bits({"a": (one, 1.0)}) == bits({"a": (one.clone(), 1.0)})
    assert bits(one) != bits(torch.tensor([1 + 2**-52, math.nan], dtype=torch.float64))
    assert bits(0.0) != bits(-0.0)


def test_o_t3_twenty_orders_of_the_same_files(tmp_path: Path) -> None:
    log = draw(900)
    scanned = write(tmp_path / "log", log, [0, 1, 90, 90, 200, 333, 500, 640, 900])
    plan = Evaluation(POLICIES, **SMALL).fit(scanned)
    parts = list(scanned.parts())
    assert len(parts) == 7  # the empty file is none
    states = [plan.scan(scanned, part) for part in parts]
    whole, rng = added(states), random.Random(3)
    expected = plan.report(whole).table
    for turn in range(20):
        shuffled = rng.sample(states, len(states))
        for found in (added(shuffled), by_halves(shuffled, rng)):
            assert same(whole, found)
        if turn % 5 == 0:
            assert plan.report(found).table.equals(expected)
    assert evaluate(scanned, POLICIES, **SMALL).table.equals(expected)


def test_o_t3_a_pool_of_spawned_processes(tmp_path: Path) -> None:
    log = draw(600)
    scanned = write(tmp_path / "log", log, range(0, 601, 100))
    plan = Evaluation(POLICIES, by="position", **SMALL).fit(scanned)
    alone = plan.scan(scanned)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        pending = [executor.submit(plan.scan_part, part) for part in scanned.parts()]
        states = [future.result() for future in as_completed(pending)]  # as they come
    assert same(alone, added(states)) and same(alone, added(states[::-1]))
    assert plan.report(added(states)).table.equals(plan.report(alone).table)


class Strict(ThreadPoolExecutor):
    """Takes no generators, as Dask's executor."""

    def map(self, fn: Any, *iterables: Any, **options: Any) -> Any:
        assert all(isinstance(x, Sequence) for x in iterables)
        return super().map(fn, *iterables, **options)


def test_o_t3_many_files_are_added_up_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    """File 10 is read before file 2, and 64 parts are added up on the way."""
    log, options = draw(700), {"estimators": ["ips"], "buckets": 64}
    names = [f"part-{k}.parquet" for k in range(70)]
    scanned = write(tmp_path / "log", log, range(0, 701, 10), names)
    plan = Evaluation({"t": Fixed(TARGET)}, **options).fit(scanned)
    loose = added(plan.scan(scanned, part) for part in scanned.parts())
    with Strict(1) as workers:
        found = evaluate(scanned, plan.policies, executor=workers, **options).state
    assert len(loose.cells) == 70 and len(found.cells) < 64
    assert same(loose, found) and same(loose, plan.scan(scanned))


def test_o_t3_a_worker_killed_in_the_middle(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    log = draw(600)
    scanned = write(tmp_path / "log", log, range(0, 601, 60))
    plan = Evaluation(POLICIES, **SMALL).fit(scanned)
    alone = plan.scan(scanned)

    def slowly(part: Any) -> State:
        time.sleep(0.1)
        return plan.scan_part(part)

    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        pids = client.run(os.getpid).values()
        futures = client.map(slowly, list(scanned.parts()))
        next(iter(distributed.as_completed(futures)))
        assert sum(not future.done() for future in futures) >= 5
        os.kill(min(pids), signal.SIGKILL)
        states = client.gather(futures)
    assert same(alone, added(states))
    assert plan.report(added(states)).table.equals(plan.report(alone).table)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_o_t3_other_cuts_of_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    log = draw({1: 20, 7: 150, 64: 500}[size])
    one = write(tmp_path / "one", log, [0, len(log)])
    many = write(tmp_path / "many", log, [*range(0, len(log), size), len(log)])
    assert len(list(many.parts())) == math.ceil(len(log) / size) > 1
    whole = evaluate(one, POLICIES, **SMALL).table
    monkeypatch.setattr(scan, "PART", 13)  # and row ranges within files
    for cut in (many, opened(tmp_path / "one", log)):
        found = evaluate(cut, POLICIES, **SMALL).table
        assert_frame_equal(found, whole, rel_tol=1e-12, abs_tol=1e-15)


def test_o_t3_a_part_again_after_compact_is_refused(tmp_path: Path) -> None:
    log = draw(300)
    scanned = write(tmp_path / "log", log, [0, 100, 200, 300])
    plan = Evaluation(POLICIES, **SMALL).fit(scanned)
    states = [plan.scan(scanned, part) for part in scanned.parts()]
    packed = added(states).compact()
    loaded = State.load(packed.save(tmp_path / "state.parquet"))
    late = states[0] + added(states[1:]).compact()
    assert len(packed.cells) == 1 and len(late.cells) == 2
    for known in (packed, loaded, late):
        assert known.parts == {part.name for part in scanned.parts()}
    for state in states:
        for known in (packed, loaded, late, packed.compact()):
            with pytest.raises(RecfbError, match="1 parts are in both states"):
                known + state
            with pytest.raises(RecfbError, match="1 parts are in both states"):
                state + known


def test_o_t3_a_copied_file_is_the_same_part(tmp_path: Path) -> None:
    log = draw(200)
    here = write(tmp_path / "here", log, [0, 100, 200])
    plan = Evaluation(POLICIES, estimators=["ips"]).fit(here)
    there = write(tmp_path / "there", log, [100, 200], ["part-001.parquet"])
    with pytest.raises(RecfbError, match=r"the first is 'part-001\.parquet:"):
        plan.scan(here) + plan.scan(there)
    other = write(tmp_path / "other", draw(100, seed=5), [0, 100], ["part-001.parquet"])
    assert len((plan.scan(here) + plan.scan(other)).parts) == 3


DAYS = ["2026-03-01.parquet", "2026-03-02.parquet"]


def two_days(folder: Path) -> tuple[Log, Log, Log]:
    """Yesterday, which knew two positions, today, and both."""
    log = draw(500)
    frame = log.frame.with_columns(
        position=pl.when(pl.int_range(pl.len()) < 300).then(pl.col("position") % 2 + 1)
        .otherwise(pl.col("position")).cast(pl.Int16)
    )  # fmt: skip
    both = write(folder, log.with_frame(frame), [0, 300, 500], DAYS)
    yesterday, today = (opened(folder / day, log) for day in DAYS)
    return yesterday, today, both


def test_o_t3_yesterday_and_today(tmp_path: Path) -> None:
    yesterday, today, both = two_days(tmp_path / "log")
    plan = Evaluation(POLICIES, estimators=["ips", "snips", "replay"], buckets=256)
    kept = State.load(plan.scan(yesterday).save(tmp_path / "state.parquet"))
    summed, together = kept + plan.scan(today), plan.scan(both)
    assert same(summed, together) and same(plan.scan(today) + kept, together)
    assert plan.report(summed).table.equals(plan.report(together).table)
    with pytest.raises(RecfbError, match="in both states"):
        kept + together


def test_o_t3_today_with_yesterdays_reward_model(tmp_path: Path) -> None:
    yesterday, today, both = two_days(tmp_path / "log")
    plan = Evaluation(POLICIES, **SMALL).fit(yesterday)  # its cell means too
    kept = State.load(plan.scan(yesterday).compact().save(tmp_path / "state.parquet"))
    assert same(kept + plan.scan(today), plan.scan(both))
