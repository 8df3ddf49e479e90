"""The gate between generations: who is let through, on which rows, and what is logged."""

from __future__ import annotations

import polars as pl
import pytest
import torch
from torch import Tensor

import recfb
from recfb import Recommender, evaluate, objectives, samplers
from recfb.beliefs.linear import Linear
from recfb.beliefs.neural_linear import FeatureNet, NeuralLinear
from recfb.contracts import Context, Feedback, Slate
from recfb.data import Log
from recfb.errors import ConfigError, LogError
from recfb.estimate import Rows
from recfb.interop.sklearn import Reward
from recfb.metrics.generations import by_generation
from recfb.policies import gated
from recfb.policies.epsilon_greedy import EpsilonGreedy
from recfb.policies.gated import Gated, least_gain
from recfb.policies.igw import IGW
from recfb.policies.mixture import Mixture
from recfb.policies.oracle import Oracle
from recfb.policies.thompson import Thompson
from recfb.policies.uniform import Uniform
from recfb.random import stream
from recfb.simulate import simulate
from recfb.testing import check
from recfb.worlds.payments import Payments

ONE = Context(torch.zeros(1, dtype=torch.int64))
GOOD, BAD = [0.8, 0.2, 0.4], [0.2, 0.8, 0.4]
"""What three items pay, and what a poisoned log says of them."""


def rows_of(n: int, time: int, rates: list[float], item: Tensor | None = None) -> dict[str, Tensor]:
    g = stream(7, "rows", time)
    item = torch.randint(3, (n,), generator=g) if item is None else item
    reward = (torch.rand(n, generator=g) < torch.tensor(rates)[item]).float()
    full = torch.full((n,), 1 / 3, dtype=torch.float64)
    return {"item": item, "reward": reward, "propensity": full, "time": torch.full((n,), time)}


def log_of(*parts: dict[str, Tensor]) -> Log:
    return Log.of({name: torch.cat([p[name] for p in parts]) for name in parts[0]}, n_items=3)


def gate(**options: float) -> Gated:
    model = EpsilonGreedy(Reward("linear"), 0.1)
    return Gated(model, **options).bind(Log.empty(1, 3))


def counts(policy: Gated) -> tuple[int, int]:
    return int(policy.taken), int(policy.tried)


# ---- the difference


def test_b_5_7_the_limit_is_that_of_the_paired_difference() -> None:
    """As `evaluate(..., base=...)` has it: half the limits' width apart, for dr of a zero model."""
    g = stream(0)
    n = 4000
    r, p = torch.rand(n, generator=g).double(), 0.2 + 0.8 * torch.rand(n, generator=g).double()
    pe = torch.rand(2, n, generator=g).double()
    q, v = torch.rand(n, generator=g).double(), torch.rand(2, n, generator=g).double()
    d = v[1] - v[0] + (pe[1] - pe[0]) / p * (r - q)
    expected = float(d.mean() - 1.6448536 * d.std() / n**0.5)
    assert least_gain(Rows(r, p, pe, v=v, q=q), 0.05) == pytest.approx(expected, abs=1e-8)
    assert least_gain(Rows(r[:1], p[:1], pe[:, :1], v=v[:, :1], q=q[:1]), 0.05) == -torch.inf


def test_b_5_7_the_difference_is_unbiased_by_enumeration() -> None:
    """Over all items and rewards of one request, whatever the model says: 1e-12."""
    p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    mu = torch.tensor([0.8, 0.2, 0.4], dtype=torch.float64)
    probs = torch.tensor([[0.9, 0.05, 0.05], [0.1, 0.7, 0.2]], dtype=torch.float64)
    f = torch.tensor([0.3, 0.9, 0.1], dtype=torch.float64)
    total = 0.0
    for item in range(3):
        for reward in (0.0, 1.0):
            chance = float(p[item]) * float(mu[item] if reward else 1 - mu[item])
            two = torch.tensor([item, item])  # the same row twice: no spread
            rows = Rows(
                torch.full((2,), reward, dtype=torch.float64), p[two], probs[:, two],
                v=(probs @ f)[:, None].expand(2, 2), q=f[two],
            )  # fmt: skip
            total += chance * least_gain(rows, 0.5)
    assert total == pytest.approx(float((probs[1] - probs[0]) @ mu), abs=1e-12)


# ---- who passes


def test_b_5_7_the_first_training_is_taken() -> None:
    policy = gate()
    policy.refit(log_of(rows_of(30, 0, BAD)), recfb.fit)
    assert counts(policy) == (1, 1)
    assert int(policy.probs(ONE).argmax()) == 1


def test_b_5_7_a_challenger_of_poisoned_rows_is_refused() -> None:
    """It is trained on 3,000 poisoned old rows, and judged on what it has not seen."""
    policy = gate()
    policy.refit(log_of(rows_of(300, 1, GOOD)), recfb.fit)
    before = policy.probs(ONE)
    assert int(before.argmax()) == 0
    policy.refit(log_of(rows_of(3000, 0, BAD), rows_of(300, 2, GOOD)), recfb.fit)
    assert counts(policy) == (1, 2)
    assert torch.equal(policy.probs(ONE), before)


def test_b_5_7_a_better_challenger_is_taken() -> None:
    policy = gate()
    policy.refit(log_of(rows_of(300, 0, BAD)), recfb.fit)
    policy.refit(log_of(rows_of(300, 1, GOOD)), recfb.fit)
    assert counts(policy) == (2, 2)
    assert int(policy.probs(ONE).argmax()) == 0


def test_b_5_7_one_that_does_the_same_is_refused() -> None:
    policy = gate()
    for time in range(3):
        policy.refit(log_of(rows_of(600, time, GOOD)), recfb.fit)
    assert counts(policy) == (1, 3)


def test_b_5_7_no_better_ones_pass_no_more_often_than_alpha() -> None:
    """Both items pay .5, the challenger prefers one by chance: 400 gates at alpha = .2."""
    passed = 0
    g = stream(3)
    for _ in range(400):
        item = torch.randint(2, (200,), generator=g)
        r = (torch.rand(200, generator=g) < 0.5).double()
        pe = torch.where(item == 0, torch.tensor([[0.9], [0.1]]), torch.tensor([[0.1], [0.9]]))
        zero = torch.zeros(200, dtype=torch.float64)
        half = torch.full((200,), 0.5, dtype=torch.float64)
        passed += least_gain(Rows(r, half, pe.double(), v=zero, q=zero), 0.2) > 0
    assert abs(passed / 400 - 0.2) < 4 * (0.16 / 400) ** 0.5


# ---- on which rows


def test_b_5_7_the_rows_that_decide_were_seen_by_neither() -> None:
    """Of the rows after the last training about half decide, and the fit is not given those."""
    seen: list[Log] = []

    def fit(log: Log, model: Reward) -> Reward:
        seen.append(log)
        return recfb.fit(log, model)

    judged: list[Log] = []
    policy = gate(holdout=0.25)
    plain = policy._rows
    policy._rows = lambda log, other: judged.append(log) or plain(log, other)  # type: ignore[method-assign,func-returns-value]
    policy.refit(log_of(rows_of(400, 0, GOOD)), fit)
    assert len(seen[0]) == 400 and not judged
    policy.refit(log_of(rows_of(400, 0, GOOD), rows_of(800, 1, GOOD)), fit)
    assert len(seen[1]) + len(judged[0]) == 1200
    assert judged[0].tensor("time").unique().tolist() == [1]
    assert abs(len(judged[0]) - 200) < 4 * (800 * 3 / 16) ** 0.5
    assert int((seen[1].tensor("time") == 0).sum()) == 400


def test_unknown_rewards_do_not_decide_and_without_any_nothing_changes() -> None:
    policy = gate()
    policy.refit(log_of(rows_of(300, 0, GOOD)), recfb.fit)
    log = log_of(rows_of(3000, 0, BAD), rows_of(300, 1, BAD))
    known = pl.when(pl.col("time") == 0).then(pl.col("reward"))
    policy.refit(log.with_frame(log.frame.with_columns(reward=known)), recfb.fit)
    assert counts(policy) == (1, 2)
    assert int(policy.probs(ONE).argmax()) == 0


def test_known_rewards_decide_beside_unknown_ones() -> None:
    policy = gate()
    policy.refit(log_of(rows_of(300, 0, BAD)), recfb.fit)
    log = log_of(rows_of(600, 1, GOOD))
    every_second = pl.when(pl.int_range(pl.len()) % 2 == 0).then(pl.col("reward"))
    policy.refit(log.with_frame(log.frame.with_columns(reward=every_second)), recfb.fit)
    assert counts(policy) == (2, 2)


def test_what_dr_reads_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The champion's model predicts for both; blocks of two rows."""
    monkeypatch.setattr(gated, "BLOCK", 2)
    policy, other = gate(), gate()
    policy.refit(log_of(rows_of(300, 0, GOOD)), recfb.fit)
    other.refit(log_of(rows_of(300, 0, BAD)), recfb.fit)
    rows = policy._rows(log_of(rows_of(3, 1, GOOD, torch.tensor([2, 0, 1]))), other.policy)
    f = policy.policy.model.scores(ONE)[0]
    probs = torch.cat([policy.probs(ONE), other.probs(ONE)])  # (2, 3)
    assert rows.v is not None and rows.q is not None
    assert torch.allclose(rows.v, (probs @ f)[:, None].expand(2, 3))
    assert torch.allclose(rows.q, f[[2, 0, 1]])
    assert torch.allclose(rows.pe, probs[:, [2, 0, 1]])
    assert rows.p.tolist() == [1 / 3] * 3


# ---- as the policy in charge


def test_the_gate_passes_the_checks() -> None:
    net = Recommender(FeatureNet((4,)), objectives.MSE(), samplers.Logged())
    check(Gated(EpsilonGreedy(NeuralLinear(net), 0.2)))


def test_b_5_7_propensities_are_those_of_the_policy_in_charge() -> None:
    run = simulate(
        Payments(requests=300), Gated(Mixture(IGW(Reward("linear"), 50.0), 0.2)), rounds=5
    )
    policy = run.state[0].policy
    assert int(policy.tried) == 4 and by_generation(run.log, run.truth)["generation"].max() == 4
    log = run.log.with_frame(run.log.frame.filter(time=4))
    block = next(log.blocks(300))
    probs = policy.policy.probs(block.context)
    assert torch.equal(policy.probs(block.context), probs)
    at = probs.gather(1, block.slate.item)
    assert torch.allclose(at, block.slate.propensity, atol=1e-12)  # type: ignore[arg-type]
    assert torch.equal(policy.prob_of(block.context, block.slate.item), at)
    again = policy.propensities(block.context, block.slate.item)
    assert torch.allclose(again.propensity, at, atol=1e-12)  # type: ignore[arg-type]
    shown = torch.bincount(block.slate.item[:, 0], minlength=12).double()
    spread = (probs * (1 - probs)).sum(0).sqrt()
    assert bool(((shown - probs.sum(0)).abs() < 4 * spread + 1).all())


def test_b_5_7_its_log_evaluates_other_policies() -> None:
    run = simulate(
        Payments(requests=2000, n_items=4), Gated(EpsilonGreedy(Reward("linear"), 0.4)), rounds=3
    )
    report = evaluate(run.log, {"uniform": Uniform()}, estimators=["dr"], unit="slate")
    row = report.table.row(0, named=True)
    world = Payments(requests=2000, n_items=4)
    state = run.state[0].world
    context, rates = world.test(state)
    exact = float((Uniform().bind(run.log).probs(context) * rates).sum(1).mean())
    assert abs(row["value"] - exact) < 4 * (row["se"] ** 2 + 0.15**2 / 4000) ** 0.5


def test_the_policy_in_charge_learns_and_is_forgotten_at_a_reset() -> None:
    policy = gate()
    policy.refit(log_of(rows_of(300, 0, GOOD)), recfb.fit)
    policy.update(ONE, Slate(torch.tensor([[0]])), Feedback(torch.ones(1, 1)), stream(0))
    assert counts(policy) == (1, 1)
    policy.reset(stream(0))
    assert counts(policy) == (0, 0) and int(policy.last) == -1
    policy.refit(log_of(rows_of(300, 0, BAD)), recfb.fit)
    assert int(policy.probs(ONE).argmax()) == 1


def test_the_gate_refuses() -> None:
    for options in ({"holdout": 0.0}, {"holdout": 1.0}, {"alpha": 0.0}):
        with pytest.raises(ConfigError, match="holdout and alpha are in"):
            Gated(EpsilonGreedy(Reward("linear"), 0.1), **options)
    sees = Mixture(EpsilonGreedy(Reward("linear"), 0.1), 0.5, control=Oracle())
    for other in (Uniform(), Thompson(Linear()), sees):
        with pytest.raises(ConfigError, match="the gate is for a policy whose model is trained"):
            Gated(other)
    log = log_of(rows_of(30, 0, GOOD))
    with pytest.raises(LogError, match="propensity"):
        gate().refit(log.with_frame(log.frame.drop("propensity")), recfb.fit)
