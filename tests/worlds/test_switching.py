"""Switching costs and budgets of feedback."""

from __future__ import annotations

import pytest
import torch

from recfb.contracts import Slate
from recfb.errors import ConfigError
from recfb.policies import Uniform
from recfb.random import stream
from recfb.simulate import Refit, simulate
from recfb.worlds import Arms, OneSided, Tastes
from recfb.worlds.switching import Budgeted, SwitchingCost


def asks(item: list[int], observe: list[list[int]]) -> Slate:
    wish = torch.tensor(observe).bool()
    return Slate(torch.tensor(item)[:, None], observe=wish)


def test_a_switch_costs_and_the_first_slate_does_not() -> None:
    """Items 0 0 1 1 0 at cost 2: switches 0 0 1 0 1."""
    inner = Arms([0.3, 0.7])
    world = SwitchingCost(inner, cost=2.0)
    state, told, net = world.start(stream(0), 1), [], []
    for t, item in enumerate([0, 0, 1, 1, 0]):
        slate = Slate(torch.tensor([[item]]))
        feedback, truth = world.respond(state, slate, stream(1, t))
        _, bare = inner.respond(state.world, slate, stream(1, t))
        assert torch.equal(truth["reward"], bare["reward"])
        assert torch.equal(truth["best"], bare["best"])
        told.append(float(feedback.cost))
        net.append(float((truth["value"] - bare["value"]).sum()))
        state = world.step(state, slate, truth, stream(2, t))
    assert told == [0, 0, 2, 0, 2]
    assert net == pytest.approx([0, 0, -2, 0, -2])


def test_a_slate_of_other_items_or_another_order_is_one_switch() -> None:
    world = SwitchingCost(Arms([0.3, 0.7, 0.5]))
    state = world.start(stream(0), 3)
    state = world.step(state, Slate(torch.tensor([[0, 1]] * 3)), {}, stream(0))
    feedback, truth = world.respond(state, Slate(torch.tensor([[0, 1], [1, 0], [1, 2]])), stream(1))
    assert truth["switch"].tolist() == [0, 1, 1]
    assert float(truth["best"][0] - truth["value"][1].sum()) == pytest.approx(1.2 - 1.0 + 1)
    assert feedback.cost is not None
    assert feedback.cost.tolist() == [0, 1, 1]


def test_costs_of_two_wrappers_add_up() -> None:
    world = SwitchingCost(SwitchingCost(Arms([0.3, 0.7]), cost=1.0), cost=0.5)
    state, first = world.start(stream(0)), Slate(torch.tensor([[0]]))
    state = world.step(state, first, {}, stream(0))
    feedback, _ = world.respond(state, Slate(torch.tensor([[1]])), stream(0))
    assert feedback.cost is not None
    assert feedback.cost.tolist() == [1.5]


def test_extra_budget_the_played_item_is_free() -> None:
    """K = 3, extra 2: all items cost 2; then nothing but the item shown is left."""
    inner = Arms([1.0, 0.0, 1.0])
    world = Budgeted(inner, extra=2)
    state = world.start(stream(0), 2)
    slate = asks([0, 1], [[1, 1, 1], [0, 1, 0]])
    feedback, truth = world.respond(state, slate, stream(1))
    assert feedback.reward.tolist() == [[1.0], [0.0]]
    assert feedback.extra is not None
    assert feedback.extra[0].tolist() == [1.0, 0.0, 1.0]
    assert feedback.extra[1].isnan().tolist() == [True, False, True]
    assert truth["used"].tolist() == [2, 0]
    state = world.step(state, slate, truth, stream(2))
    slate = asks([0, 1], [[1, 0, 0], [1, 1, 1]])
    feedback, truth = world.respond(state, slate, stream(1))
    assert feedback.extra is not None
    assert feedback.extra.isnan().tolist() == [[False, True, True], [False, False, False]]
    assert truth["used"].tolist() == [0, 2]
    state = world.step(state, slate, truth, stream(2))
    feedback, truth = world.respond(state, asks([0, 1], [[1, 1, 0]] * 2), stream(1))
    assert feedback.extra is not None
    assert bool(feedback.extra.isnan().all())
    assert truth["used"].tolist() == [0, 0]
    assert feedback.reward.tolist() == [[1.0], [0.0]]


def test_total_budget_nothing_is_free() -> None:
    world = Budgeted(Arms([1.0, 0.0]), total=2)
    state = world.start(stream(0), 3)
    feedback, truth = world.respond(state, Slate(torch.tensor([[0], [0], [0]])), stream(1))
    assert bool(feedback.reward.isnan().all())
    assert feedback.extra is None
    assert truth["reward"].tolist() == [[1.0]] * 3
    slate = asks([0, 0, 0], [[1, 0], [0, 1], [1, 1]])
    feedback, truth = world.respond(state, slate, stream(1))
    assert feedback.reward.isnan()[:, 0].tolist() == [False, True, False]
    assert truth["used"].tolist() == [1, 1, 2]


def test_b_3_10_4_a_budget_is_never_exceeded_and_strict_says_so() -> None:
    """Random requests for 200 rounds, larger and smaller ones."""
    world, strict = (
        Budgeted(Arms([0.5] * 4), total=37),
        Budgeted(Arms([0.5] * 4), total=37, strict=True),
    )
    state = world.start(stream(0), 50)
    for t in range(200):
        wish = torch.rand(50, 4, generator=stream(1, t)) < 0.4
        item = torch.randint(4, (50, 1), generator=stream(2, t))
        slate = Slate(item, observe=wish)
        feedback, truth = world.respond(state, slate, stream(3, t))
        assert feedback.extra is not None
        granted = ~feedback.extra.isnan()
        assert torch.equal(granted.sum(1), truth["used"])
        assert bool((granted.any(1) == granted.eq(wish).all(1))[wish.any(1)].all())
        state = world.step(state, slate, truth, stream(4))
        assert int(state.beside.max()) <= 37
    assert int(state.beside.min()) > 33
    with pytest.raises(ConfigError, match=r"asks for 4 outcomes with \d of 37 left"):
        strict.respond(state, asks([0] * 50, [[1] * 4] * 50), stream(5))


def test_without_a_budget_all_is_granted() -> None:
    world = Budgeted(Arms([1.0, 0.0]))
    feedback, truth = world.respond(world.start(stream(0)), asks([0], [[1, 1]]), stream(1))
    assert feedback.extra is not None
    assert feedback.extra.tolist() == [[1.0, 0.0]]
    assert truth["used"].tolist() == [1]


def test_what_is_asked_for_is_what_would_have_been_paid() -> None:
    """The outcome of the item shown is its reward, and asking draws nothing of its own."""
    inner = Arms([0.2, 0.5, 0.8], sd=1.0)
    world = Budgeted(inner)
    state = world.start(stream(0), 40)
    bare, under = stream(1), stream(1)
    alone, _ = inner.respond(state.world, Slate(torch.ones(40, 1).long()), bare)
    feedback, _ = world.respond(state, asks([1] * 40, [[1, 1, 1]] * 40), under)
    assert feedback.extra is not None
    assert torch.equal(feedback.extra[:, 1:2], alone.reward)
    assert torch.equal(bare.get_state(), under.get_state())
    assert torch.equal(feedback.extra, inner.outcomes(state.world, stream(1)))


def test_columns_of_a_run() -> None:
    world = SwitchingCost(Budgeted(Arms([0.4, 0.6]), extra=5), cost=0.5)
    run = simulate(
        world, Uniform(), rounds=20, replications=4, refit=Refit(warmup=0), metrics=["regret"]
    )
    truth = run.truth
    assert {"reward", "value", "best", "switch", "used"} <= set(truth.columns)
    lost = (truth["best"] - truth["value"]).sum()
    last = run.metrics.filter(run.metrics["round"] == 19)
    assert last["regret"].sum() == pytest.approx(lost)
    item = run.log.tensor("item").view(20, 4)
    assert truth["switch"].sum() == int((item[1:] != item[:-1]).sum())


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="costs at least 0"):
        SwitchingCost(Arms([0.5]), cost=-1.0)
    with pytest.raises(ConfigError, match="extra or total"):
        Budgeted(Arms([0.5]), 1, total=1)
    with pytest.raises(ConfigError, match="at least 0"):
        Budgeted(Arms([0.5]), total=-1)
    for inner in (Tastes(3, 3), SwitchingCost(Arms([0.5]))):
        with pytest.raises(ConfigError, match="what every item would have paid"):
            Budgeted(inner)


def test_other_wrappers_go_around() -> None:
    world = OneSided(SwitchingCost(Budgeted(Arms([1.0, 1.0]))), revealing=[1])
    assert world.vectorised
    feedback, _ = world.respond(world.start(stream(0), 2), asks([0, 1], [[0, 0]] * 2), stream(1))
    assert feedback.reward.isnan()[:, 0].tolist() == [True, False]
    assert feedback.cost is not None
