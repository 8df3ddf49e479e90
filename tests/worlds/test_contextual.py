"""Contextual worlds, classification as a bandit, and replay of a log."""

from __future__ import annotations

import polars as pl
import pytest
import torch
from torch import Tensor

from recfb.beliefs.linear import Linear
from recfb.contracts import Context, Feedback, Policy, Slate
from recfb.data import Log
from recfb.errors import ConfigError
from recfb.interop.labelled import Labelled
from recfb.policies.greedy import Greedy
from recfb.policies.linucb import LinUCB
from recfb.policies.uniform import Uniform
from recfb.random import stream
from recfb.simulate import Refit, simulate
from recfb.testing import check
from recfb.worlds.classification import Classification
from recfb.worlds.contextual import Contextual
from recfb.worlds.replay import Replay, replayed

NOW = Refit(warmup=0)


@pytest.mark.parametrize(
    "world",
    [
        Contextual(),
        Contextual(link="logistic", available=0.5, requests=3),
        Contextual(layout="items", spread=0.5),
        Contextual(link="nonlinear", layout="fixed"),
        Labelled("wine", noise=0.1),
        Classification([[0.0], [1.0], [2.0]], [1, 2, 3], noise=0.3),
    ],
    ids=repr,
)
def test_worlds_pass_the_checks(world: object) -> None:
    check(world)


def test_values_by_hand() -> None:
    """theta = (1, 2) and x = (.6, .8): z = 2.2."""
    for link, value in (
        ("linear", 2.2),
        ("logistic", float(torch.tensor(8.8).sigmoid())),
        ("nonlinear", float(torch.tensor(2 * torch.pi * 2.2).sin() / 2)),
    ):
        world = Contextual(1, 2, link=link)  # type: ignore[arg-type]
        state = world.start(stream(0))
        state.theta.copy_(torch.tensor([[[1.0, 2.0]]]))
        state.x.copy_(torch.tensor([[0.6, 0.8]]))
        assert float(world.values(state)) == pytest.approx(value, abs=1e-6)


def test_layouts() -> None:
    shared, items = Contextual(3, 2, requests=4), Contextual(3, 2, layout="items", requests=4)
    s, i = shared.start(stream(0), 2), items.start(stream(0), 2)
    assert s.x.shape == (8, 2) and s.theta.shape == (2, 3, 2)
    assert i.x.shape == (8, 3, 2) and i.theta.shape == (2, 1, 2)
    assert torch.allclose(s.x.norm(dim=1), torch.ones(8))
    values = items.values(i)
    assert float(values[5, 2]) == pytest.approx(float(i.x[5, 2].double() @ i.theta[1, 0]))
    fixed = Contextual(3, 2, layout="fixed")
    f = fixed.start(stream(0))
    assert torch.equal(fixed.step(f, None, {}, stream(1)).x, f.x)  # type: ignore[arg-type]


def test_noise_differs_by_context() -> None:
    """sd = noise (1 + spread (|x_1| sqrt(d) - 1)): .3 times 2 at |x_1| = 1, none at x_1 = 0."""
    world = Contextual(1, 4, noise=0.3, spread=1.0, requests=20_000)
    state = world.start(stream(0))
    state.x.zero_()
    state.x[:10_000, 0] = 1.0
    state.x[10_000:, 1] = 1.0
    shown = Slate(torch.zeros(20_000, 1, dtype=torch.int64))
    _, truth = world.respond(state, shown, stream(1))
    error = (truth["reward"] - truth["value"]).squeeze(1)
    assert float(error[:10_000].std()) == pytest.approx(0.6, rel=0.03)
    assert float(error[10_000:].abs().max()) < 1e-6


def test_masks_leave_something_and_have_their_share() -> None:
    world = Contextual(5, 2, available=0.3, requests=20_000)
    mask = world.observe(world.start(stream(0))).available
    assert mask is not None and bool(mask.any(1).all())
    assert float(mask.double().mean()) == pytest.approx(0.3 + 0.7**5 / 5, abs=0.01)
    run = simulate(Contextual(4, 2, available=0.5, requests=50), LinUCB(), rounds=20, refit=NOW)
    allowed = run.log.frame.select(pl.col("available").list.contains(pl.col("item")))
    assert allowed.to_series().all()
    best = run.truth["best"] >= run.truth["value"] - 1e-12
    assert best.all()


def test_b_6_5_replications_are_alone() -> None:
    """Replicate r of R is the learner that meets the same rows alone."""
    run = simulate(Contextual(3, 2), LinUCB(0.5), rounds=60, replications=3, refit=NOW)
    frame = run.log.frame.filter(pl.col("replication") == 1)
    world, alone = Contextual(3, 2), LinUCB(0.5)
    alone.bind(world.opening(world.start(stream(0)), 1, 60))
    for row in range(60):
        x = frame["features"][row : row + 1].to_torch()
        context = Context(torch.zeros(1, dtype=torch.int64), time=row, features=x)
        index = alone.index(context)[0]
        shown = frame["item"][row]
        assert float(index[shown]) == pytest.approx(float(index.max()), abs=1e-9)
        reward = frame["reward"][row : row + 1].to_torch()[:, None]
        alone.update(context, Slate(torch.tensor([[shown]])), Feedback(reward), stream(0))


def test_fixed_context_locks_greedy_in() -> None:
    """Without diverse contexts, greedy pays a linear regret in some replications; LinUCB does
    not."""

    def late(policy: Policy) -> Tensor:
        run = simulate(
            Contextual(5, 4, layout="fixed"), policy, rounds=400, replications=64, refit=NOW,
            metrics=["regret"], keep="metrics",
        )  # fmt: skip
        last = run.metrics.pivot("round", index="replication", values="regret")
        return (last["399"] - last["199"]).to_torch()

    assert float(late(Greedy(Linear())).mean()) > 3 * float(late(LinUCB(1.0)).mean())


def test_contextual_refuses() -> None:
    for options, message in (
        ({"n_items": 0}, "has items, features"),
        ({"noise": -1.0}, "noise is at least 0"),
        ({"available": 0.0}, "available in"),
        ({"link": "probit"}, "link is linear"),
        ({"layout": "wide"}, "layout is shared"),
    ):
        with pytest.raises(ConfigError, match=message):
            Contextual(**options)  # type: ignore[arg-type]


# ---- classification


def test_classes_are_numbered_before_rewards_are_made() -> None:
    world = Classification([[0.0], [2.0], [4.0]], [7, 3, 9], order="given", requests=3)
    state = world.start(stream(0))
    assert world.n_items == 3
    assert world.values(state).tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 1]]
    x = world.observe(state).features
    assert x is not None and x[:, 0].tolist() == pytest.approx([-1.224745, 0, 1.224745])
    assert x[:, 1].tolist() == [1, 1, 1]


def test_costs_noise_and_order() -> None:
    priced = Classification([[0.0], [1.0]], [0, 1], rewards=[[0.5, 0.0], [0.2, 0.9]], order="given")
    assert priced.values(priced.start(stream(0))).tolist() == [[0.5, 0.0]]
    n = 4000
    features, labels = [[0.0]] * n, [0, 1] * (n // 2)
    noisy = Classification(features, labels, noise=0.4, order="given", requests=n)
    clean = Classification(features, labels, order="given", requests=n)
    same = noisy.values(noisy.start(stream(0))) == clean.values(clean.start(stream(0)))
    assert float(same.all(1).double().mean()) == pytest.approx(0.8, abs=0.03)
    mixed = Classification([[float(i)] for i in range(5)], list(range(5)))
    state = mixed.start(stream(0), 2)
    assert state.order.sort(1).values.tolist() == [[0, 1, 2, 3, 4]] * 2
    assert state.order[0].tolist() != state.order[1].tolist()


def test_learning_the_digits() -> None:
    """Progressive accuracy over one pass: chance is .1."""
    run = simulate(
        Labelled("digits"), LinUCB(0.3), rounds=1797, replications=2, refit=NOW, keep="log"
    )
    late = run.truth.with_columns(time=run.log.frame["time"]).filter(pl.col("time") > 1200)
    assert late["reward"].mean() > 0.75


def test_classification_refuses() -> None:
    with pytest.raises(ConfigError, match="examples have features"):
        Classification([[0.0]], [1, 2])
    with pytest.raises(ConfigError, match="noise is a share"):
        Classification([[0.0]], [1], noise=2.0)
    with pytest.raises(ConfigError, match='order is "shuffled"'):
        Classification([[0.0]], [1], order="sorted")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="rewards are"):
        Classification([[0.0]], [1], rewards=[[0.0], [1.0]])
    with pytest.raises(ConfigError, match="not 'mnist'"):
        Labelled("mnist")  # type: ignore[arg-type]


# ---- replay


def logged(n: int, weights: list[float]) -> Log:
    """Items with mean rewards .2, .5 and .8, drawn by these weights."""
    g = stream(0, "log")
    p = torch.tensor(weights, dtype=torch.float64)
    item = torch.multinomial(p, n, replacement=True, generator=g)
    reward = (torch.rand(n, generator=g) < torch.tensor([0.2, 0.5, 0.8])[item]).double()
    return Log.of({"item": item.numpy(), "reward": reward.numpy(), "propensity": p[item].numpy()})


class Always(Uniform):
    """Shows one item, for sure; the last two alike, half of the time."""

    def probs(self, context: Context) -> Tensor:
        row = torch.tensor([0.0, 0.5, 0.5], dtype=torch.float64)
        return row.expand(len(context), -1)

    act = Policy.act
    propensities = Policy.propensities


@pytest.mark.parametrize("weights", [[1 / 3] * 3, [0.6, 0.3, 0.1]])
def test_b_9_18_replay_is_unbiased_also_on_logs_that_are_not_uniform(weights: list[float]) -> None:
    """Without the rejection, the second log gives (.3 * .5 + .1 * .8) / .4 = .575, not .65."""
    world = Replay(logged(40_000, weights), requests=100)
    run = simulate(world, Always(), rounds=world.rounds, refit=NOW)
    found = replayed(run.truth)
    assert abs(found.value - 0.65) < 4 * found.se
    assert found.accepted == pytest.approx(40_000 * min(weights), rel=0.06)
    known = run.log.frame["reward"].is_not_null()
    assert known.sum() == found.accepted


def test_replay_teaches_only_accepted_rows() -> None:
    log = Log.of({"item": [0, 1], "reward": [1.0, 1.0], "propensity": [0.5, 0.5]})
    run = simulate(Replay(log), LinUCB(), rounds=2, refit=NOW)
    belief = run.state[0].policy.model
    assert int((belief.A - 1).sum()) == run.truth["accepted"].sum()


def test_replay_counts_accepted_rows() -> None:
    truth = pl.DataFrame({"reward": [1.0, float("nan"), 0.0, 0.0], "accepted": [1.0, 0, 1, 1]})
    assert replayed(truth, 2) == (0.5, 0.5, 2)
    with pytest.raises(ConfigError, match="accepted 3 rows, fewer than 4"):
        replayed(truth, 4)
    assert replayed(truth.filter(pl.col("accepted") < 1)).accepted == 0


def test_replay_refuses() -> None:
    log = logged(10, [1 / 3] * 3)
    with pytest.raises(ConfigError, match="the log lasts 3 rounds of 3 rows"):
        simulate(Replay(log, requests=3), Uniform(), rounds=4, refit=NOW)
    with pytest.raises(ConfigError, match="requests is a positive number"):
        Replay(log, requests=0)
    with pytest.raises(ConfigError, match="rows and their propensities"):
        Replay(Log.of({"item": [0], "reward": [1.0]}))
    with pytest.raises(ConfigError, match="some are null"):
        Replay(Log.of({"item": [0], "reward": [1.0], "propensity": [None]}))
    world = Replay(log)
    assert bool(world.values(world.start(stream(0))).isnan().any())
