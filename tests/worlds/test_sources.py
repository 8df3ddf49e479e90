"""The world of human texts and copies: requests, clicks, and the loop they make."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import polars as pl
import pytest
import torch
from torch import Tensor

from recfb import Recommender, objectives, optim, simulate
from recfb.beliefs import Retrained
from recfb.contracts import Slate
from recfb.errors import ConfigError
from recfb.policies import Ranked
from recfb.random import stream
from recfb.samplers.visits import Visits
from recfb.scorers.history_mean import HistoryMean
from recfb.simulate import Refit
from recfb.solvers.direct import Direct
from recfb.worlds import PBM
from recfb.worlds.arrivals import FOREVER
from recfb.worlds.contamination import contaminated, shares
from recfb.worlds.copies import Copies
from recfb.worlds.sources import HALF, HISTORY, Sources, SourcesState, echo_of, echoed
from recfb.worlds.texts import DrawnTexts, GradualTexts

N = 60


def started(**options: Any) -> tuple[Sources, SourcesState]:
    world = Sources(DrawnTexts(N, 12), n_users=50, **options)
    return world, world.start(stream(0, "start"))


def clicked(world: Sources, state: SourcesState, item: Tensor) -> Tensor:
    """Which places of slates are clicked: (B, K)."""
    reward = world.respond(state, Slate(item), stream(0, "respond"))[0].reward
    assert bool((reward.sum(1) <= 1).all())
    return reward


def texts_of(state: SourcesState) -> Tensor:
    """Slates of a copy of another item, the human text and the copy of the wanted one: (B, 3)."""
    other = (state.clicked + 1) % N + N
    return torch.stack([other, state.clicked, state.clicked + N], 1)


def test_users_own_distinct_items_by_taste() -> None:
    state = started(sharpness=20.0)[1]
    assert state.shelf.shape == (50, HISTORY + 2 * HALF + 1)
    assert all(len(set(row)) == len(row) for row in state.shelf.tolist())
    flat = started(sharpness=0.0, style=3.0)[1]
    z = flat.texts.human @ flat.texts.artefact
    assert float(z[flat.shelf].mean()) > float(z.mean()) + 0.1  # a seed of style in human clicks
    plain = started(sharpness=0.0, style=0.0)[1]
    assert abs(float(z[plain.shelf].mean() - z.mean())) < 0.05


def test_what_is_known_before_the_loop_is_human() -> None:
    world, state = started()
    log = world.opening(state, 1, 8)
    frame = log.frame
    assert frame["item"].max() < N and set(frame["time"]) == {-1}
    assert len(frame) == 50 * HALF * 5 and float(frame["reward"].sum()) == 50 * HALF
    first = frame.filter(pl.col("reward") > 0).group_by("user", maintain_order=True).agg("item")
    half = state.shelf[:, HISTORY : HISTORY + HALF]
    assert first["item"].to_list() == half.tolist()
    assert (frame["history"].to_torch() == state.shelf[:, :HISTORY].repeat_interleave(20, 0)).all()
    items = log.items
    assert items["source"].to_list() == [0] * N + [1] * N
    assert items["twin"][3] == N + 3 and items["twin"][N + 3] == 3
    assert items["original"][N + 3] == 3
    assert torch.equal(items["rewrite"].to_torch()[:N], items["x"].to_torch()[N:])
    assert torch.equal(items["rewrite"].to_torch()[N:], state.texts.again)


def test_requests_take_the_halves_in_turn_and_list_both_texts() -> None:
    world, state = started()
    for half in (1, 0, 1):  # the opening took the first
        start = HISTORY + HALF * half
        assert torch.equal(state.clicked.view(50, HALF), state.shelf[:, start : start + HALF])
        pair = state.candidates.view(-1, 5, 2)
        assert bool(((pair[:, :, 0] - pair[:, :, 1]).abs() == N).all())
        assert torch.equal(pair[:, 0].min(1).values, state.clicked)
        assert bool((pair[:, 1:] % N != state.clicked[:, None, None]).all())
        assert 0.3 < float((pair[:, :, 0] < N).float().mean()) < 0.7  # a coin says which is first
        item = texts_of(state)
        truth = world.respond(state, Slate(item), stream(0, "respond"))[1]
        state = world.step(state, Slate(item), truth, stream(0, "step", state.time))


def test_histories_are_mixed_at_the_share_of_the_last_clicks() -> None:
    world, state = started()
    assert bool((world.observe(state).history < N).all())
    item = texts_of(state)
    item[: len(item) // 4] = item[: len(item) // 4, [0, 2, 1]]  # a quarter clicks copies
    truth = world.respond(state, Slate(item), stream(0, "respond"))[1]
    after = world.step(state, Slate(item), truth, stream(0, "step"))
    assert float(after.ratio) == 0.25
    history = world.observe(after).history
    assert torch.equal(history % N, state.shelf[:, :HISTORY].repeat_interleave(HALF, 0))
    assert float((history >= N).float().mean()) == pytest.approx(0.25, abs=0.03)
    nobody = {**truth, "reward": torch.zeros_like(truth["reward"])}
    assert float(world.step(after, Slate(item), nobody, stream(0)).ratio) == 0.25


def test_the_better_placed_text_of_the_wanted_item_is_clicked() -> None:
    world, state = started()
    item = texts_of(state)
    assert clicked(world, state, item).tolist() == [[0.0, 1.0, 0.0]] * len(item)
    assert clicked(world, state, item[:, [2, 0, 1]]).tolist() == [[1.0, 0.0, 0.0]] * len(item)
    assert not clicked(world, state, item[:, :1]).any()


def test_eta_one_takes_the_better_text_two_times_in_three() -> None:
    world = Sources(DrawnTexts(N, 12), n_users=3000, eta=1.0)
    state = world.start(stream(0))
    feedback, truth = world.respond(state, Slate(texts_of(state)), stream(1))
    assert float(feedback.reward[:, 1].mean()) == pytest.approx(2 / 3, abs=0.015)
    assert truth["value"][0].tolist() == pytest.approx([0, 2 / 3, 1 / 3])
    liked = Sources(DrawnTexts(N, 12), n_users=3000, eta=0.0, source_taste=1.0)
    value = liked.respond(state, Slate(texts_of(state)), stream(1))[1]["value"][0]
    assert float(value[2] / value[1]) == pytest.approx(2.71828, rel=1e-4)


def test_only_examined_texts_are_clicked() -> None:
    world = Sources(DrawnTexts(N, 12), n_users=3000, clicks=PBM(1.0))
    state = world.start(stream(0))
    item = texts_of(state)[:, [1, 0, 2]]  # human text at 1, copy at 3
    reward = world.respond(state, Slate(item), stream(1))[0].reward
    assert bool((reward[:, 0] == 1).all()) and not reward[:, 2].any()
    reward = world.respond(state, Slate(item[:, [1, 0, 2]]), stream(1))[0].reward
    assert float(reward[:, 1].mean()) == pytest.approx(1 / 2, abs=0.02)
    assert float(reward[:, 2].mean()) == pytest.approx(1 / 2 * 1 / 3, abs=0.02)


def test_the_whole_catalogue_and_its_values() -> None:
    world, state = started(candidates=None)
    assert world.observe(state).candidates is None
    values = world.values(state)
    assert values.shape == (200, 2 * N) and bool((values.sum(1) == 2).all())
    assert bool((values[torch.arange(200), state.clicked + N] == 1).all())


def test_the_test_lists_are_fixed_and_their_histories_mixed() -> None:
    world, state = started()
    context = world.test(state)
    assert torch.equal(context.candidates[:, 0], state.shelf[:, -1])
    assert torch.equal(context.candidates[:, 1], state.shelf[:, -1] + N)
    assert bool((context.history < N).all()) and bool((world.test(state, 1.0).history >= N).all())
    some = world.test(state, 0.5).history >= N
    more = world.test(state, 0.8).history >= N
    assert bool((more | ~some).all()) and float(some.float().mean()) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"n_users": 0}, "needs a user"),
        ({"texts": DrawnTexts(19)}, "more than 19 items"),
        ({"candidates": 1}, "2 candidates"),
        ({"source_taste": 1.0}, "would do nothing"),
    ],
)
def test_sources_out_of_range(wrong: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Sources(**wrong)


# ---- the loop


def policy(window: int | None = 1) -> Ranked:
    recommender = Recommender(
        HistoryMean(), objectives.BPR(), Visits(human=True), optimizer=optim.Adam(0.02)
    )
    return Ranked(Retrained(Direct(recommender, epochs=2), window=window))


def test_1_5_a_run_is_the_published_loop() -> None:
    """Round by round: the model of a round is trained on the clicks of the round before alone, and
    the click is on the better scored of the wanted item's texts."""
    world = Sources(DrawnTexts(N, 12, copies=Copies(0.95, 0.6, 0.5)), n_users=50)
    seen: list[dict[str, Any]] = []

    def probe(done: Any) -> dict[str, Tensor]:
        direct = done.policy.model._kept[-1][0]
        sampler = direct.recommender.sampler
        rows = torch.arange(len(sampler))
        batch = sampler(rows, None, replace(STEP, generator=stream(0)))
        first = done.policy.model.model.recommender.scorer.weight
        assert torch.equal(first, 0.5 * torch.eye(12))  # every training starts from the same
        scores = done.policy.model.score_of(
            done.context, torch.stack([done.state.clicked, done.state.clicked + N], 1)
        )
        clicks = done.slate.item[done.feedback.reward > 0]
        seen.append(
            {"trained": batch.item[:, 0], "history": batch.history, "clicks": clicks,
             "better": done.state.clicked + N * (scores[:, 1] > scores[:, 0]),
             "ratio": float(done.state.ratio), "negatives": batch.item[:, 1]}
        )  # fmt: skip
        return {}

    from recfb.contracts import Step

    STEP = Step()
    simulate(world, policy(), rounds=4, slate=10, refit=Refit(warmup=0), probes=[probe], seed=3)
    assert bool((seen[0]["trained"] < N).all()) and bool((seen[0]["negatives"] < N).all())
    for before, now in pairwise(seen):
        assert torch.equal(before["clicks"], before["better"])
        assert torch.equal(now["trained"], before["clicks"])  # in the order of the log
        assert now["ratio"] == pytest.approx(float((before["clicks"] >= N).float().mean()))
        assert bool((now["history"] < N).all())  # training histories are human


def test_the_platform_keeps_or_forgets_by_its_window() -> None:
    world, _ = started()
    sizes = []

    def probe(done: Any) -> dict[str, Tensor]:
        sizes.append(len(done.policy.model._kept[-1][0].recommender.sampler))
        return {}

    for window in (1, None):
        simulate(world, policy(window), rounds=3, slate=10, refit=Refit(warmup=0), probes=[probe])
    assert sizes == [200, 200, 200, 200, 400, 600]


def test_8_2_one_seed_of_base_and_projection() -> None:
    def run(project: bool) -> pl.DataFrame:
        recommender = Recommender(
            HistoryMean(project=project),
            objectives.BPR(),
            Visits(among="others", human=True),
            optimizer=optim.Adam(0.02),
        )
        model = Ranked(Retrained(Direct(recommender), window=1))
        return simulate(
            Sources(), model, rounds=4, slate=10, refit=Refit(warmup=0), probes=[echoed], seed=0
        ).probes

    base, projected = run(False), run(True)
    share = base["share@3"]
    assert share[0] >= 0.60 and share[-1] - share[0] > 0.015
    assert base["rel_delta@3"][-1] <= -70 and base["ai_clicks"][-1] > 0.95
    assert base["ndcg_human@3"][-1] < base["ndcg_human@3"][0] - 1
    assert max(abs(x - 0.5) for x in projected["share@3"]) <= 0.03  # one seed


def test_the_dial_of_the_training_log() -> None:
    world, state = started()
    log = world.opening(state, 1, 1)
    mixed = contaminated(log, 0.2, 0.5, generator=stream(0))
    found = shares(mixed)
    assert found["p_pos"] == pytest.approx(0.2, abs=0.1)
    assert found["p_neg"] == pytest.approx(0.5, abs=0.06)
    matched = shares(contaminated(log, 0.8, generator=stream(0)))
    assert matched["p_pos"] == pytest.approx(matched["p_neg"], abs=0.1)
    assert shares(log) == {"p_pos": 0.0, "p_neg": 0.0}
    same = (mixed.tensor("item") % N == log.tensor("item")).all()
    assert bool(same)
    with pytest.raises(ConfigError, match="shares of copies"):
        contaminated(log, 1.5, generator=stream(0))


def test_a_model_of_the_world_is_measured_at_any_ratio() -> None:
    world, state = started()
    direct = policy().model
    from recfb import fit

    fit(world.opening(state, 1, 1), direct)
    human, copies = echo_of(world, state, direct, 0.0), echo_of(world, state, direct, 1.0)
    assert float(human["ndcg_human@3"]) != float(copies["ndcg_human@3"])


def rounds_of(world: Sources, count: int) -> list[SourcesState]:
    """States of the first rounds of a world whose users are shown the copy of what they want first,
    where there is one."""
    state = world.start(stream(0, "start"))
    found = [state]
    for t in range(count - 1):
        slate = Slate(world.values(state).flip(1).topk(2, dim=1).indices.sub(2 * N - 1).neg())
        truth = world.respond(state, slate, stream(0, "respond", t))[1]
        state = world.step(state, slate, truth, stream(0, "step", t))
        found.append(state)
    return found


def gradual(first: float, rate: float) -> GradualTexts:
    return GradualTexts(DrawnTexts(N, 12), first=first, rate=rate)


def test_copies_that_are_all_there_change_nothing() -> None:
    plain = rounds_of(Sources(DrawnTexts(N, 12), n_users=50), 4)
    whole = rounds_of(Sources(gradual(1.0, 0.0), n_users=50), 4)
    for a, b in zip(plain, whole, strict=True):
        assert torch.equal(a.candidates, b.candidates) and torch.equal(a.history, b.history)


def test_copies_arrive_at_their_rate_and_are_nowhere_before() -> None:
    world = Sources(gradual(0.1, 0.3), n_users=200)
    states = rounds_of(world, 5)
    arrives = states[0].texts.arrives
    assert arrives is not None
    assert [int((arrives <= t).sum()) for t in range(5)] == [6, 24, 42, 60, 60]
    for t, state in enumerate(states):
        state = replace(state, ratio=torch.tensor(1.0))
        shown = [state.candidates, state.history, world.test(state).history]
        for item in shown:
            assert item is not None
            machine = item[item >= N] - N
            assert bool((arrives[machine] <= t).all())
        wanted = state.clicked + N
        has_copy = (state.candidates == wanted[:, None]).any(1)
        assert torch.equal(has_copy, arrives[state.clicked] <= t)
        assert bool(((state.candidates == state.clicked[:, None]).sum(1) == 1).all())
        history = world.test(state).history
        assert history is not None and bool(((history >= N) == (arrives[history % N] <= t)).all())
    share = [float((state.candidates >= N).double().mean()) for state in states]
    assert share == pytest.approx([0.05, 0.2, 0.35, 0.5, 0.5], abs=0.08)


def test_a_whole_catalogue_has_what_is_written() -> None:
    world = Sources(gradual(0.5, 0.0), n_users=50, candidates=None)
    state = rounds_of(world, 2)[1]
    here = world.observe(state).available
    assert here is not None and here.shape == (1, 2 * N)
    assert bool(here[0, :N].all()) and int(here[0, N:].sum()) == N // 2
    assert not bool(world.values(state)[:, ~here[0]].any())
    assert state.texts.arrives is not None and int(state.texts.arrives.max()) == FOREVER


def test_shares_of_copies_are_shares() -> None:
    with pytest.raises(ConfigError, match=r"first=1.5, rate=0.1. For a tenth"):
        GradualTexts(first=1.5)
