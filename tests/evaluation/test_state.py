"""Merge laws: any order, any workers, any cut; a part twice is refused; save and load."""

from __future__ import annotations

import multiprocessing
import pickle
import random
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import reduce
from pathlib import Path

import polars as pl
import pytest
import torch
from ope_world import TARGET, Fixed, draw

from recfb import ConfigError, Evaluation, Log, PrepareError, RecfbError, evaluate
from recfb.data import blocks
from recfb.evaluation import State
from recfb.evaluation.state import order
from recfb.policies import BetaThompson, Uniform

EVERY = ["ips", "snips", "dm", "dr", "replay", "dros"]
POLICIES = {"uniform": Uniform(), "target": Fixed(TARGET)}


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "PART", 300)


def bits(state: State) -> list[torch.Tensor]:
    return [x for cell in state.groups().values() for x in cell if isinstance(x, torch.Tensor)]


def same(a: State, b: State) -> bool:
    return all(torch.equal(x, y) for x, y in zip(bits(a), bits(b), strict=True))


def states(log: Log) -> tuple[Evaluation, list[State]]:
    plan = Evaluation(POLICIES, estimators=EVERY).fit(log)
    return plan, [plan.scan(log, part) for part in log.parts()]


@pytest.mark.usefixtures("small_parts")
def test_o_t3_any_order_and_grouping_is_bit_equal() -> None:
    plan, parts = states(draw(2000))
    assert len(parts) == 7
    whole = reduce(lambda a, b: a + b, parts)
    rng = random.Random(0)
    for _ in range(5):
        shuffled = rng.sample(parts, len(parts))
        left = reduce(lambda a, b: a + b, shuffled[:3])
        right = reduce(lambda a, b: a + b, shuffled[3:])
        assert same(whole, right + left)
    tables = [plan.report(state).table for state in (whole, right + left)]
    assert tables[0].equals(tables[1])


@pytest.mark.usefixtures("small_parts")
def test_o_t3_empty_is_the_unit() -> None:
    _, parts = states(draw(600))
    empty = State(parts[0].facts)
    assert same(parts[0] + empty, parts[0]) and same(empty + parts[0], parts[0])


@pytest.mark.usefixtures("small_parts")
def test_o_t3_two_processes_and_threads_are_bit_equal() -> None:
    log = draw(1500)
    options = {"estimators": EVERY, "base": "uniform"}
    alone = evaluate(log, POLICIES, **options)
    with ThreadPoolExecutor(2) as executor:
        threads = evaluate(log, POLICIES, executor=executor, **options)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        processes = evaluate(log, POLICIES, executor=executor, **options)
    for other in (threads, processes):
        assert same(alone.state, other.state)
        assert alone.table.equals(other.table) and alone.compare.equals(other.compare)


@pytest.mark.parametrize("cut", [1, 37, 1000, 5000])
def test_o_t3_other_cuts_agree(monkeypatch: pytest.MonkeyPatch, cut: int) -> None:
    log = draw(70 if cut == 1 else 3000)
    whole = evaluate(log, POLICIES, estimators=EVERY).table
    monkeypatch.setattr(blocks, "PART", cut)
    parts = evaluate(log, POLICIES, estimators=EVERY)
    assert len(parts.state.parts) == -(-len(log) // cut)
    for column in ("value", "se", "lower", "upper", "ess", "max_weight", "n"):
        a, b = whole[column], parts.table[column]
        assert a.is_null().equals(b.is_null()), column
        there = a.drop_nulls().to_list()
        assert there == pytest.approx(b.drop_nulls().to_list(), rel=1e-12, abs=0), column
    assert whole["verdict"].equals(parts.table["verdict"])


@pytest.mark.usefixtures("small_parts")
def test_o_t3_a_part_twice_is_refused() -> None:
    _, parts = states(draw(600))
    with pytest.raises(RecfbError, match="1 parts are in both states") as error:
        parts[0] + parts[0]
    assert next(iter(parts[0].parts)) in str(error.value)
    whole = (parts[0] + parts[1]).compact()
    assert len(whole.cells) == 1 and len(whole.parts) == 2
    for part in parts:
        with pytest.raises(RecfbError, match="in both states"):
            whole + part


@pytest.mark.usefixtures("small_parts")
def test_o_t3_many_parts_are_compacted_to_the_same_bits() -> None:
    log = draw(600)
    plan, parts = states(log)
    loose = reduce(lambda a, b: a + b, parts)
    assert same(loose, loose.compact())
    assert plan.report(loose).table.equals(plan.report(loose.compact()).table)


def test_o_t3_more_than_sixty_four_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "PART", 3)
    log = draw(210)
    plan = Evaluation(POLICIES).fit(log)
    loose = reduce(lambda a, b: a + b, (plan.scan(log, part) for part in log.parts()))
    packed = plan.scan(log)
    assert len(loose.cells) == 70 and len(packed.cells) < 64
    assert packed.parts == loose.parts and same(loose, packed)


def test_o_t3_states_of_different_plans_do_not_mix() -> None:
    log = draw(100)
    one, other = Evaluation(POLICIES).scan(log), Evaluation(POLICIES, seed=1).scan(log)
    with pytest.raises(ConfigError, match="of different evaluations"):
        one + other


def test_two_logs_add_up() -> None:
    plan = Evaluation(POLICIES, estimators=["ips", "snips"])
    one, two = draw(500, seed=1), draw(300, seed=2)
    both = plan.report(plan.scan(one) + plan.scan(two)).table
    joined = one.with_frame(pl.concat([one.frame, two.frame]))
    # the same rows, though rows of the two logs share units, which only widens intervals
    assert both["value"].to_list() == pytest.approx(
        evaluate(joined, POLICIES, estimators=["ips", "snips"]).table["value"].to_list(), rel=1e-12
    )
    assert both["n"].to_list() == [800] * 4


@pytest.mark.usefixtures("small_parts")
def test_plan_and_state_are_pickled_and_saved(tmp_path: Path) -> None:
    log = draw(700)
    plan = Evaluation({"thompson": BetaThompson(), **POLICIES}, by="position").fit(log)
    assert len(pickle.dumps(plan)) < 20_000  # no data
    copy = pickle.loads(pickle.dumps(plan))
    state = plan.scan(log)
    assert same(state, pickle.loads(pickle.dumps(copy.scan(log))))
    loaded = State.load(state.save(tmp_path / "state.parquet"))
    assert loaded.facts == state.facts and loaded.parts == state.parts
    assert same(loaded, state)
    assert plan.report(loaded).table.equals(plan.report(state).table)


def test_a_state_is_one_file_that_knows_whether_it_is_whole(tmp_path: Path) -> None:
    plan = Evaluation(POLICIES)
    state = plan.scan(draw(700))
    with pytest.raises(
        ConfigError, match=r"one \.parquet file, found 'state'\. Try 'state\.parquet'"
    ):
        state.save(tmp_path / "state")
    file = state.save(tmp_path / "state.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["state.parquet"]
    whole = file.read_bytes()
    for broken in (whole[: len(whole) // 2], b"", b"no state"):
        file.write_bytes(broken)
        with pytest.raises(PrepareError, match=r"state\.parquet cannot be read as a state"):
            State.load(file)
    frame, metadata = pl.read_parquet(whole), pl.read_parquet_metadata(whole)
    kept = {key: text for key, text in metadata.items() if key.startswith("recfb")}
    changes = (
        frame.with_columns(n=pl.col("n") + 1),
        frame.with_columns(low=pl.col("low") / 2),
        frame.with_columns(sums=pl.col("sums").list.eval(pl.element() + 1e-9)),
        frame.with_columns(where=pl.lit("row 1")),
    )
    for other in changes:
        other.write_parquet(file, metadata=kept)
        with pytest.raises(PrepareError, match=r"is damaged: its content is not what was saved"):
            State.load(file)
    frame.write_parquet(file, metadata=kept)
    assert same(State.load(file), state)
    frame.write_parquet(file)
    with pytest.raises(PrepareError, match="is no state of an evaluation"):
        State.load(file)


def test_parts_are_ordered_by_number() -> None:
    assert sorted(["log[100:1000]", "log[9:100]", "log[0:9]"], key=order) == [
        "log[0:9]",
        "log[9:100]",
        "log[100:1000]",
    ]
