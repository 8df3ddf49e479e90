"""Closed loops: streams, order of a round, leaks, delays, resuming, files."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from torch import Generator, Tensor

from recfb import Recommender
from recfb.beliefs import Linear, Logistic, Payoff
from recfb.contracts import Context, Feedback, Policy, Round, Slate, Solver, Truth
from recfb.data import Log
from recfb.errors import ConfigError, PrepareError, SupportError
from recfb.objectives import BPR
from recfb.policies import (
    BetaThompson,
    LinUCB,
    Mixture,
    Oracle,
    Ranked,
    Switch,
    Thompson,
    Uniform,
)
from recfb.random import derive, stream
from recfb.samplers import Clicks
from recfb.scorers import MF
from recfb.simulate import Refit, Run, record, rounds, simulate
from recfb.worlds import Applicants, Arms, Delayed, Drift, OneSided, Tastes, Wrapper
from recfb.worlds.arms import ArmsState
from recfb.worlds.drift import Visit
from recfb.worlds.switching import SwitchingCost

COLUMNS = ["user", "item", "reward", "propensity", "time", "position", "slate", "p_prefix",
           "p_display", "known", "replication", "generation"]  # fmt: skip


class Counts(Solver):
    """Clicks of every item; `block` cuts the requests that are scored at once."""

    counts: Tensor

    def __init__(self, block: int = 4096) -> None:
        super().__init__()
        self.block = block

    def bind(self, log: Log) -> Counts:
        super().bind(log)
        self.register_buffer("counts", torch.zeros(log.n_items))
        return self

    def solve(self, log: Log) -> Counts:
        clicked = (log.tensor("reward") > 0).double()
        self.counts.copy_(torch.bincount(log.tensor("item"), clicked, minlength=self.n_items))
        return self

    def all(self, user: Tensor, out: Tensor | None = None) -> Tensor:
        taste = torch.randn(512, 6, generator=stream(3))[user]
        item = torch.randn(6, self.n_items, generator=stream(4))
        return self.counts + taste @ item

    def top(self, context: Context, k: int) -> Tensor:
        starts = range(0, len(context), self.block)
        blocks = [context[start : start + self.block] for start in starts]
        return torch.cat([super(Counts, self).top(block, k) for block in blocks])


SEEN: list[pl.DataFrame] = []


class Spy(Counts):
    """Keeps what every training was given."""

    def solve(self, log: Log) -> Spy:
        SEEN.append(log.frame)
        return super().solve(log)


class Sliding(Drift):
    """Every taste moves by one known vector a round."""

    def forward(self, taste: Tensor, visit: Visit, generator: Generator) -> Tensor:
        return taste + torch.tensor([0.5, -0.25, *[0.0] * 6])


class Hidden(Wrapper):
    """Replaces the truth that leaves the world by NaN, and steps with what it kept."""

    def respond(self, state: Any, slate: Slate, generator: Generator) -> tuple[Feedback, Truth]:
        feedback, truth = self.world.respond(state, slate, generator)
        self.kept = truth
        return feedback, {name: torch.full(x.shape, torch.nan) for name, x in truth.items()}

    def step(self, state: Any, slate: Slate, truth: Truth, generator: Generator) -> Any:
        return self.world.step(state, slate, self.kept, generator)


def loop(world: Any = None, policy: Policy | None = None, **options: Any) -> Run:
    world = Tastes(512, 60) if world is None else world
    policy = Ranked(Counts(), 0.2) if policy is None else policy
    return simulate(world, policy, **{"rounds": 5, "slate": 4, "seed": 7, **options})


def same(a: Run, b: Run) -> bool:
    return a.log.frame.equals(b.log.frame) and a.truth.equals(b.truth)


# ---- what a run is ------------------------------------------------------------------------------


def test_the_log_of_a_run_is_a_legal_log() -> None:
    run = loop()
    assert run.log.columns == COLUMNS
    again = Log.of(run.log.frame, n_users=512, n_items=60, keep=["generation"])
    assert again.frame.equals(run.log.frame)
    assert len(run.log) == 512 * 4 * 5
    assert run.log.meta.propensity == "exact"
    assert run.log.frame["propensity"].null_count() == 0
    key = ["slate", "position", "replication"]
    assert run.truth.select(key).equals(run.log.frame.select(key))
    assert run.truth.columns == [
        "position", "slate", "replication", "reward", "relevance", "home_relevance", "group",
        "topic", "examined", "p_examine", "value",
    ]  # fmt: skip
    assert not set(run.truth.columns[4:]) & set(run.log.columns)
    assert run.log.frame["generation"].unique(maintain_order=True).to_list() == [0, 1, 2, 3, 4]


def test_the_warm_up_is_uniform_with_exact_propensities() -> None:
    run = loop(refit=Refit(warmup=2))
    warm = run.log.frame.filter(pl.col("time") < 2)
    assert warm["propensity"].unique().to_list() == [1 / 60]
    assert warm["p_display"].unique().to_list() == pytest.approx([4 / 60])
    assert warm["generation"].unique().to_list() == [0]
    slate = warm.filter(pl.col("position") == 4)["p_prefix"].unique().to_list()
    assert slate == pytest.approx([1 / (60 * 59 * 58 * 57)])


def test_the_policy_that_is_passed_in_is_not_changed() -> None:
    policy = LinUCB()
    simulate(Arms([0.2, 0.8]), policy, rounds=3, replications=2)
    assert not hasattr(policy.model, "theta")
    assert not policy.state_dict()


# ---- randomness ---------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [Ranked(Counts(), 0.2), Uniform(), Oracle()], ids=repr)
def test_one_seed_one_run_to_the_byte(policy: Policy, tmp_path: Path) -> None:
    first, second = loop(policy=policy), loop(policy=policy)
    assert same(first, second)
    parts = []
    for name in ("a", "b"):
        loop(policy=policy, out=tmp_path / name)
        files = sorted(p for p in (tmp_path / name).rglob("*") if p.is_file())
        parts.append([(p.relative_to(tmp_path / name), p.read_bytes()) for p in files])
    assert parts[0] == parts[1]
    assert not first.log.frame.equals(loop(policy=policy, seed=8).log.frame)


def test_w_t1_truth_as_nan_gives_the_identical_run() -> None:
    for policy in (Ranked(Counts(), 0.2), Uniform()):
        world = Tastes(512, 60, drift=Sliding())
        open_run, hidden = loop(world, policy), loop(Hidden(world), policy)
        assert hidden.truth["reward"].is_nan().all()
        assert hidden.log.frame.equals(open_run.log.frame)
    for policy in (LinUCB(), BetaThompson()):
        open_run = loop(Arms([0.2, 0.7]), policy, slate=1, rounds=30, replications=3)
        hidden = loop(_HiddenArms([0.2, 0.7]), policy, slate=1, rounds=30, replications=3)
        assert hidden.log.frame.equals(open_run.log.frame)


class _HiddenArms(Arms):
    def respond(self, state: Any, slate: Slate, generator: Generator) -> tuple[Feedback, Truth]:
        feedback, truth = super().respond(state, slate, generator)
        return feedback, {name: torch.full_like(x, torch.nan) for name, x in truth.items()}


def test_w_t2_blocks_metrics_probes_and_chunks_change_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def probe(done: Round) -> dict[str, Tensor]:
        torch.rand(5, generator=torch.Generator())
        return {"clicks": done.truth["reward"].sum()}

    small, large = (loop(policy=Ranked(Counts(block), 0.2)) for block in (64, 4096))
    assert same(small, large)
    watched = loop(metrics=["gini", "jaccard"], probes=[probe])
    assert same(small, watched)
    assert (
        watched.probes["clicks"].to_list()
        == (watched.log.frame.group_by("time", maintain_order=True).agg(pl.col("reward").sum()))[
            "reward"
        ].to_list()
    )
    monkeypatch.setattr(record, "CHUNK_ROWS", 100)
    assert same(small, loop())


def test_common_random_numbers_across_policies() -> None:
    """Users, tastes and the world's noise are the same whoever acts: where two policies show the
    same item to the same user at the same position in the same round, the same happens."""
    world = Tastes(512, 60)
    runs = [loop(world, policy) for policy in (Uniform(), Ranked(Counts(), 0.3), Oracle())]
    for run in runs[1:]:
        assert torch.equal(run.state[0].world.taste, runs[0].state[0].world.taste)
        assert run.truth["examined"].equals(runs[0].truth["examined"])
        alike = run.log.frame["item"] == runs[0].log.frame["item"]
        assert alike.sum() > 500
        for column in ("reward", "relevance"):
            mine, theirs = (r.truth[column].filter(alike) for r in (run, runs[0]))
            assert mine.equals(theirs)
    first = [run.log.frame.filter(pl.col("time") == 0)["item"] for run in runs]
    assert first[0].equals(first[1])


SEEDS: list[int] = []


class Seeded(Uniform):
    def act(self, context: Context, generator: Generator, *, k: int = 1) -> Slate:
        SEEDS.append(generator.initial_seed())
        return super().act(context, generator, k=k)

    def update(self, context: Context, slate: Slate, feedback: Feedback, g: Generator) -> None:
        SEEDS.append(g.initial_seed())


class SeededArms(Arms):
    def respond(self, state: Any, slate: Slate, generator: Generator) -> tuple[Feedback, Truth]:
        SEEDS.append(generator.initial_seed())
        return super().respond(state, slate, generator)

    def step(self, state: Any, slate: Slate, truth: Truth, generator: Generator) -> Any:
        SEEDS.append(generator.initial_seed())
        return super().step(state, slate, truth, generator)


def test_every_stream_of_every_round_is_its_own() -> None:
    SEEDS.clear()
    simulate(SeededArms([0.5, 0.5]), Seeded(), rounds=10, refit=Refit(warmup=0))
    assert len(SEEDS) == len(set(SEEDS)) == 40
    first = list(SEEDS)
    simulate(SeededArms([0.5, 0.5]), Seeded(), rounds=10, refit=Refit(warmup=0), seed=1)
    assert not set(SEEDS[40:]) & set(first)


def test_a_wrapper_leaves_the_world_inside_as_it_was() -> None:
    bare = loop(policy=Uniform())
    wrapped = loop(Delayed(OneSided(Tastes(512, 60), range(60)), rounds=2, mean=1.0), Uniform())
    assert bare.truth.equals(wrapped.truth)


def test_replications_side_by_side_or_one_after_the_other() -> None:
    """Both are independent runs with their own number; loops can be handed to an executor."""
    side = simulate(Arms([0.3, 0.6]), Uniform(), rounds=40, replications=3, metrics=["clicks"])
    assert side.metrics["replication"].unique().to_list() == [0, 1, 2]
    assert len(side.state) == 1
    after = loop(replications=3, metrics=["gini"])
    assert len(after.state) == 3
    assert after.metrics.select("replication", "round").rows() == [
        (r, t) for r in range(3) for t in range(5)
    ]
    frames = after.log.frame.partition_by("replication")
    assert not frames[0]["item"].equals(frames[1]["item"])
    assert frames[0].equals(loop().log.frame)
    assert after.log.frame.select("slate", "position").is_unique().all()
    with ThreadPoolExecutor(2) as pool:
        assert same(after, loop(replications=3, metrics=["gini"], executor=pool))


# ---- the order of a round -----------------------------------------------------------------------


def test_w_t6_truth_is_of_the_state_before_the_step() -> None:
    world = Tastes(50, 20, drift=Sliding())
    run = simulate(world, Uniform(), rounds=4, slate=3, seed=5)
    start = world.start(stream(derive(5, "replication", 0), "start"))
    for t in range(4):
        taste = start.taste + t * torch.tensor([0.5, -0.25, *[0.0] * 6])
        here = run.log.frame["time"] == t
        rows = run.log.frame.filter(here)
        user, item = (rows[c].cast(pl.Int64).to_torch() for c in ("user", "item"))
        utility = (taste[user] * start.content[item]).sum(1) + start.quality[item] - 2
        relevance = run.truth.filter(here)["relevance"].to_torch()
        assert torch.allclose(relevance, utility.sigmoid(), atol=1e-6)


def test_probes_see_the_state_before_the_step() -> None:
    def probe(done: Round) -> dict[str, Tensor]:
        return {"round": done.state.time - torch.tensor(done.time), "known": torch.arange(2)}

    run = simulate(Arms([0.1, 0.9]), Uniform(), rounds=3, replications=2, probes=[probe])
    assert run.probes.columns == ["policy", "replication", "round", "known"]
    assert run.probes["known"].to_list() == [0, 0, 0, 1, 1, 1]


# ---- refits and delays --------------------------------------------------------------------------


def trained(refit: Refit, rounds: int = 8, world: Any = None) -> list[pl.DataFrame]:
    SEEN.clear()
    loop(Tastes(30, 10) if world is None else world, Ranked(Spy()), refit=refit, rounds=rounds)
    return list(SEEN)


def test_w_t19_no_training_sees_rows_newer_than_its_round_less_the_delay() -> None:
    frames = trained(Refit(delay=3))
    last = [frame["time"].max() for frame in frames]
    assert last == [0, 1, 2, 3]  # rounds 4 to 7: the warm-up lasts 1 + 3 rounds
    assert [frame["time"].min() for frame in frames] == [0] * 4


def test_refits_by_schedule_and_window() -> None:
    frames = trained(Refit(every=3, warmup=2))
    assert [frame["time"].max() for frame in frames] == [1, 4]
    frames = trained(Refit(window=2))
    assert [(f["time"].min(), f["time"].max()) for f in frames] == [
        (0, 0), (0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6),
    ]  # fmt: skip
    frames = trained(Refit(every="doubling"), rounds=9)
    assert [frame["time"].max() for frame in frames] == [0, 1, 3, 7]


def test_w_t19_rewards_that_are_not_known_are_masked_in_refits() -> None:
    """A reward of round t is known at the end of round t + 2: the training of round t + 3 is the
    first to see it."""
    frames = trained(Refit(), world=Delayed(Tastes(30, 10), rounds=2))
    assert len(frames) == 7
    for round_, frame in enumerate(frames, start=1):
        hidden = frame["time"] + 2 >= round_
        assert frame["reward"].is_null().equals(hidden)
        assert frame["known"].is_null().equals(hidden)


def test_the_clicks_before_round_0_are_trained_on() -> None:
    class Known(Tastes):
        def opening(self, state: Any, learners: int, rounds: int) -> Log:
            rows = pl.DataFrame(
                {"user": [0, 1], "item": [3, 3], "reward": [1.0, 1.0]},
                schema={"user": pl.Int32, "item": pl.Int32, "reward": pl.Float32},
            )
            return super().opening(state, learners, rounds).with_frame(rows)

    SEEN.clear()
    run = loop(Known(30, 10), Ranked(Spy()), refit=Refit(warmup=0), rounds=3)
    assert [frame.height for frame in SEEN] == [2, 2 + 120, 2 + 240]
    assert SEEN[1]["item"].to_list()[:2] == [3, 3]
    assert len(run.log) == 360
    assert run.log.frame["generation"].unique(maintain_order=True).to_list() == [1, 2, 3]


def test_a_recommender_trained_by_gradients_is_refitted_in_the_loop() -> None:
    model = Recommender(MF(4), BPR(), Clicks())
    run = loop(Tastes(40, 15), Ranked(model, 0.1), rounds=4, refit=Refit(every=2))
    assert run.log.frame["generation"].unique(maintain_order=True).to_list() == [0, 1, 2]
    weights = [p.clone() for p in run.state[0].policy.model.parameters()]
    again = loop(Tastes(40, 15), Ranked(model, 0.1), rounds=4, refit=Refit(every=2))
    assert same(run, again)
    after = again.state[0].policy.model.parameters()
    assert all(torch.equal(a, b) for a, b in zip(weights, after, strict=True))


class Diary(Policy):
    """Uniform, and keeps what every update brought."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[tuple[Context, Slate, Feedback]] = []

    def probs(self, context: Context) -> Tensor:
        return torch.full((len(context), self.n_items), 1 / self.n_items, dtype=torch.float64)

    def update(self, context: Context, slate: Slate, feedback: Feedback, g: Generator) -> None:
        self.entries.append((context, slate, feedback))


def test_delayed_feedback_is_delivered_when_due_and_once() -> None:
    world = Delayed(Arms([0.5, 0.5]), rounds=1, mean=2.0, lost=0.2)
    run = simulate(world, Diary(), rounds=60, replications=4)
    arrived: dict[tuple[int, int], tuple[int, float]] = {}
    frame = run.log.frame
    known = {(t, r): k for t, r, k in frame.select("time", "replication", "known").rows()}
    item = {(t, r): i for t, r, i in frame.select("time", "replication", "item").rows()}
    reward = {(t, r): x for t, r, x in frame.select("time", "replication", "reward").rows()}
    for context, slate, feedback in run.state[0].policy.entries:
        assert context.learner is not None
        keys = zip(context.time.tolist(), context.learner.tolist(), strict=True)
        for key, shown, value in zip(
            keys, slate.item[:, 0].tolist(), feedback.reward[:, 0].tolist(), strict=True
        ):
            if value == value:
                assert key not in arrived
                assert item[key] == shown
                assert reward[key] == value
                arrived[key] = (known[key], value)
    lost = frame["reward"].null_count()
    assert 0.1 < lost / len(frame) < 0.3
    assert frame.filter(pl.col("reward").is_null())["known"].null_count() == lost
    due = {key for key, k in known.items() if k is not None and k < 60}
    assert set(arrived) == due
    first = [min(c.time.tolist()) for c, _, _ in run.state[0].policy.entries]
    assert first[0] == 0


def test_a_constant_delay_is_a_shift_of_the_updates() -> None:
    run = simulate(Delayed(Arms([0.5, 0.5]), rounds=3), Diary(), rounds=6, replications=2)
    entries = run.state[0].policy.entries
    assert [context.time.unique().tolist() for context, _, _ in entries] == [[0], [1], [2]]
    undelayed = simulate(Arms([0.5, 0.5]), Diary(), rounds=6, replications=2)
    for late, soon in zip(entries, undelayed.state[0].policy.entries, strict=False):
        assert torch.equal(late[2].reward, soon[2].reward)
        assert soon[0].learner is None


def test_delays_within_a_slate_come_in_pieces() -> None:
    world = Delayed(Tastes(20, 10), rounds=0, mean=2.0)
    run = simulate(world, Diary(), rounds=30, slate=3)
    seen = sum(int((~f.reward.isnan()).sum()) for _, _, f in run.state[0].policy.entries)
    assert seen == run.log.frame.filter(pl.col("known") < 30).height


def test_one_sided_rewards_are_null_in_the_log_and_kept_in_the_truth() -> None:
    run = simulate(OneSided(Arms([0.5, 0.5])), Uniform(), rounds=50, metrics=["reward", "clicks"])
    hidden = run.log.frame["item"] == 0
    assert run.log.frame["reward"].is_null().equals(hidden)
    assert run.truth["reward"].null_count() == 0
    assert run.metrics["reward"].sum() > run.metrics["clicks"].sum()


# ---- going on -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("world", "policy", "options"),
    [
        (Tastes(64, 30, drift=Sliding()), Ranked(Counts(), 0.2), {"metrics": ["gini", "jaccard"]}),
        (Delayed(Arms([0.2, 0.8]), mean=2.0), LinUCB(), {"slate": 1, "replications": 3}),
        (Delayed(Tastes(64, 30), rounds=2), Ranked(Counts()), {"replications": 2}),
    ],
    ids=["drifting", "bandit", "delayed"],
)
def test_w_t24_a_run_goes_on_as_if_it_had_not_stopped(
    world: Any, policy: Policy, options: dict[str, Any]
) -> None:
    whole = loop(world, policy, rounds=9, **options)
    first = loop(world, policy, rounds=4, **options)
    rest = loop(world, policy, rounds=5, state=first.state, **options)
    late = whole.log.frame["time"] >= 4
    late_log, late_truth = whole.log.frame.filter(late), whole.truth.filter(late)
    assert late_log.equals(rest.log.frame)
    assert late_truth.equals(rest.truth)
    assert whole.metrics.filter(pl.col("round") >= 4).equals(rest.metrics)


def test_w_t24_forks_share_the_world() -> None:
    world = Tastes(512, 60)
    first = loop(world, rounds=3)
    same_policy = [loop(world, rounds=3, state=first.state) for _ in range(2)]
    assert same(*same_policy)
    other = loop(world, Oracle(), rounds=3, state=first.state)
    assert other.truth["examined"].equals(same_policy[0].truth["examined"])
    assert other.log.frame["time"].unique().to_list() == [3, 4, 5]
    greedy = loop(world, Ranked(Counts()), rounds=2, state=first.state, refit=Refit(every=100))
    assert greedy.log.frame["generation"].unique().to_list() == [3]  # trained at once


def test_a_state_that_does_not_fit_is_refused() -> None:
    dropped = loop(keep="metrics", metrics=["gini"])
    assert not len(dropped.log)
    assert not dropped.truth.height
    assert dropped.metrics.height == 5
    assert dropped.log.n_items == 60
    with pytest.raises(ConfigError, match='keep="log"'):
        loop(state=dropped.state)
    with pytest.raises(ConfigError, match="1 runs"):
        loop(state=loop().state, replications=2)


# ---- files --------------------------------------------------------------------------------------


def test_out_streams_the_same_log_and_truth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = loop(replications=2)
    monkeypatch.setattr(record, "KEPT_ROWS", 3000)
    run = loop(replications=2, out=tmp_path / "run", metrics=["gini"])
    assert len(sorted((tmp_path / "run" / "log").glob("part-*.parquet"))) == 6
    assert run.log.frame.equals(kept.log.frame)
    assert run.truth.equals(kept.truth)
    read = Log.read(tmp_path / "run" / "log")
    assert read.frame.equals(kept.log.frame)
    assert (read.n_users, read.n_items, read.meta) == (512, 60, kept.log.meta)
    assert run.metrics["gini"].null_count() == 0
    with pytest.raises(PrepareError, match="exists already"):
        loop(out=tmp_path / "run")


def test_models_are_trained_also_where_the_log_goes_to_files(tmp_path: Path) -> None:
    kept, written = loop(), loop(out=tmp_path / "run")
    assert written.log.frame["generation"].max() == 4
    assert same(kept, written)


def test_a_run_that_fails_leaves_no_files(tmp_path: Path) -> None:
    class Broken(Uniform):
        def act(self, context: Context, generator: Generator, *, k: int = 1) -> Slate:
            if context.time == 2:
                raise RuntimeError("broken")
            return super().act(context, generator, k=k)

    with pytest.raises(RuntimeError, match="broken"):
        loop(policy=Broken(), out=tmp_path / "run")
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


# ---- the doors ----------------------------------------------------------------------------------


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="slate=60 or fewer"):
        loop(slate=61)
    with pytest.raises(ConfigError, match="rounds is a positive number"):
        loop(rounds=0)
    with pytest.raises(ConfigError, match="Did you mean 'gini'"):
        loop(metrics=["ginni"])
    for wrong in ({"every": 0}, {"window": 0}, {"delay": -1}, {"warmup": -1}):
        with pytest.raises(ConfigError, match="found"):
            Refit(**wrong)


def test_few_available_items_are_refused() -> None:
    class Empty(Wrapper):
        def observe(self, state: Any) -> Context:
            few = torch.arange(60)[None] < 3
            return replace(self.world.observe(state), available=few)

    with pytest.raises(ConfigError, match="only 3 items"):
        loop(Empty(Tastes(512, 60)), Uniform())
    run = loop(Empty(Tastes(512, 60)), Uniform(), slate=2)
    assert run.log.frame["available"].unique().to_list() == [[0, 1, 2]]
    assert run.log.frame["item"].max() == 2


def test_what_a_policy_shows_is_checked() -> None:
    class Wrong(Uniform):
        def __init__(self, item: Tensor) -> None:
            super().__init__()
            self.item = item

        def act(self, context: Context, generator: Generator, *, k: int = 1) -> Slate:
            return Slate(self.item)

    for item, message in [
        (torch.zeros(2, 2).long(), "shape"),
        (torch.zeros(2, 1), "int64"),
        (torch.tensor([[0], [3]]), "item 3"),
        (torch.tensor([[0], [-1]]), "item -1"),
    ]:
        with pytest.raises(SupportError, match=message):
            simulate(Arms([0.1, 0.2, 0.3]), Wrong(item), rounds=2, replications=2)


def test_what_a_policy_publishes_is_checked_at_the_start_and_after_trainings() -> None:
    class Wrong(Policy):
        def probs(self, context: Context) -> Tensor:
            return torch.full((len(context), self.n_items), 0.4, dtype=torch.float64)

    with pytest.raises(SupportError, match=r"Wrong.probs has 2 rows that do not sum to 1.*Divide"):
        simulate(Arms([0.1, 0.2, 0.3]), Wrong(), rounds=2, replications=2, refit=Refit(warmup=0))


def test_a_recommender_that_gives_nan_is_refused() -> None:
    class Lost(Counts):
        def all(self, user: Tensor, out: Tensor | None = None) -> Tensor:
            scores = super().all(user, out)
            scores[1, 3] = torch.nan
            return scores

    with pytest.raises(SupportError, match="Lost gives NaN to 1 of 3840 scores, first to item 3"):
        loop(policy=Ranked(Lost(), 0.2))


def test_policies_without_exact_values_leave_null() -> None:
    class Silent(Uniform):
        def act(self, context: Context, generator: Generator, *, k: int = 1) -> Slate:
            return Slate(super().act(context, generator, k=k).item)

    frame = loop(policy=Silent()).log.frame
    for column in ("propensity", "p_prefix", "p_display"):
        assert frame[column].is_null().equals(frame["time"] > 0)


def test_two_far_apart_arms_are_told_apart_by_thompson_sampling() -> None:
    run = simulate(Arms([0.1, 0.9]), BetaThompson(), rounds=100, replications=16)
    late = run.log.frame.filter(pl.col("time") >= 50)
    share = late.group_by("replication").agg((pl.col("item") == 1).mean().alias("best"))
    assert share["best"].min() > 0.8


def test_beliefs_learn_by_updates_not_by_refits(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError("a belief was trained on the log")

    monkeypatch.setattr(rounds, "trainer", refuse)
    run = simulate(Arms([0.2, 0.8]), Ranked(Linear(), 0.1), rounds=30, replications=2)
    assert run.log.frame["generation"].unique().to_list() == [0]
    model = run.state[0].policy.model
    assert float(model.A.sum()) == 2 * 2 + 60  # the ridge, and one row a round and learner


def test_a_policy_is_retrained_where_its_model_or_a_part_is() -> None:
    bandit, ranked = LinUCB(), Ranked(Recommender(MF(2), BPR(), Clicks()))
    assert ranked.retrained and not bandit.retrained
    assert Mixture(ranked).retrained and not Mixture(bandit).retrained
    assert Switch(3, bandit, ranked).retrained and not Switch(3, bandit, bandit).retrained


class Descends(Uniform):
    """Takes a gradient step in `update`."""

    weight: Tensor

    def reset(self, generator: Generator) -> None:
        super().reset(generator)
        self.weight = torch.zeros(self.n_items, requires_grad=True)

    def update(
        self, context: Context, slate: Slate, feedback: Feedback, generator: Generator
    ) -> None:
        with torch.enable_grad():
            loss = ((self.weight[slate.item] - feedback.reward) ** 2).sum()
        loss.backward()
        assert self.weight.grad is not None
        self.weight = (self.weight - 0.1 * self.weight.grad).detach().requires_grad_()


class Declared(Descends):
    differentiates = True


@pytest.mark.parametrize("policy", [Declared(), Mixture(Declared(), 0.5)])
def test_a_policy_that_differentiates_says_so(policy: Policy) -> None:
    run = simulate(Arms([0.2, 0.8]), policy, rounds=40)
    learnt = run.state[0].policy
    weight = getattr(learnt, "policy", learnt).weight.detach()
    assert 0.1 < float(weight[0]) < float(weight[1])


def test_a_policy_that_differentiates_and_does_not_say_so_is_told() -> None:
    with pytest.raises(ConfigError, match=r"Descends.update needs autograd.*differentiates = True"):
        simulate(Arms([0.2, 0.8]), Descends(), rounds=2)
    short = Descends()
    short.update = lambda *_: torch.zeros(2) @ torch.zeros(3)  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="size"):
        simulate(Arms([0.2, 0.8]), short, rounds=2)


class Reads(Arms):
    """Notes which slates came with probabilities."""

    def __init__(self, means: list[float]) -> None:
        super().__init__(means)
        self.told: list[bool] = []

    def respond(
        self, state: ArmsState, slate: Slate, generator: Generator
    ) -> tuple[Feedback, Truth]:
        self.told.append(slate.probs is not None)
        return super().respond(state, slate, generator)


class Informed(Reads):
    informed = True


def test_probabilities_that_nobody_reads_are_not_worked_out() -> None:
    """But for the first ones, which are checked, and where the world reads them; whoever is told
    what, the same is shown."""
    now, silent, informed = Refit(warmup=0), Reads([0.2, 0.8]), Informed([0.2, 0.8])
    for policy in (BetaThompson(), Thompson(Linear())):
        runs = {}
        for keep in ("log", "metrics"):
            for world in (silent, informed):
                world.told.clear()
                runs[keep, world] = simulate(
                    SwitchingCost(world), policy, rounds=6, replications=3, refit=now,
                    metrics=["regret"], keep=keep,
                ).metrics  # fmt: skip
                quiet = keep == "metrics" and world is silent
                assert world.told == [True, *[not quiet] * 5]
        first, *others = runs.values()
        assert all(first.equals(other) for other in others)


def test_a_model_that_learns_from_probabilities_is_told_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the model weights by them, the run that keeps no log learns what the other does; so it
    is where a model does not say whether it does."""
    monkeypatch.delattr(Payoff, "informed")
    policy, now = Thompson(Payoff(Logistic(), weights="ips")), Refit(warmup=0)
    runs = [
        simulate(Applicants(), policy, rounds=20, refit=now, metrics=["clicks"], keep=keep)
        for keep in ("log", "metrics")
    ]
    assert runs[0].metrics.equals(runs[1].metrics)


def test_no_round_has_the_numbers_of_another() -> None:
    """Also after the 256 rounds whose seeds are worked out together."""
    shown = simulate(Arms([0.5] * 5), Uniform(), rounds=1024, replications=8).log.tensor("item")
    blocks = shown.view(4, 256 * 8).double()
    alike = (blocks[:, None] == blocks[None]).double().mean(2)  # (4, 4) a fifth by chance
    assert float(alike.fill_diagonal_(0.2).sub_(0.2).abs().max()) < 5 * (0.16 / 2048) ** 0.5
