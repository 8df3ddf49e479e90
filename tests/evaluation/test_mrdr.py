"""The reward model of least variance: exact in the enumerated world, fitted by cells."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ope_world import LOGGER, RATES, TARGET, Fixed, draw
from torch import Tensor

from recfb import ConfigError, Log, LogError, evaluate
from recfb.data.door import Problems
from recfb.evaluation import mrdr
from recfb.evaluation.mrdr import CellMRDR, equations, normal_equations, variance
from recfb.policies import Uniform

F = torch.float64
PX = torch.tensor([0.5, 0.3, 0.2], dtype=F)
MU = torch.tensor(
    [[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]], dtype=F
)  # (3, 4)
PI = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1], [0.05, 0.05, 0.1, 0.8]], dtype=F)
Q = torch.tensor([[0.2, 0.9, 0.4, 0.6], [0.3, 0.5, 0.1, 0.8], [0.7, 0.2, 0.5, 0.35]], dtype=F)
ONE = torch.tensor([[0.9, -0.1, 2.0, 0.3], [0.1, 0.6, 0.0, 0.2], [1.5, 0.4, 0.2, 0.9]], dtype=F)
TWO = torch.tensor([[0.0, 0.5, 0.3, 0.1], [0.8, 0.1, 0.4, 0.9], [0.5, 0.5, 0.1, -0.6]], dtype=F)


def population(pi: Tensor = PI) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Contexts, items, rewards and probabilities of the 24 outcomes."""
    x, a, r = (
        i.reshape(-1)
        for i in torch.meshgrid(torch.arange(3), torch.arange(4), torch.arange(2), indexing="ij")
    )
    return x, a, r.to(F), PX[x] * MU[x, a] * torch.where(r == 1, Q[x, a], 1 - Q[x, a])


def exact_variance(model: Tensor, pi: Tensor = PI) -> float:
    """The variance of one DR term, by enumeration."""
    x, a, r, chance = population(pi)
    term = (pi * model).sum(1)[x] + pi[x, a] / MU[x, a] * (r - model[x, a])
    return float((term**2 * chance).sum() - (term * chance).sum() ** 2)


def objective(model: Tensor, pi: Tensor = PI) -> float:
    x, a, r, chance = population(pi)
    return float((variance(model[x], pi[x], MU[x], a, r) * chance).sum())


@pytest.mark.parametrize("pi", [PI, torch.eye(4, dtype=F)[[1, 3, 0]]], ids=["any", "certain"])
def test_o_t1_the_objective_is_the_variance_up_to_a_constant(pi: Tensor) -> None:
    gap = exact_variance(ONE, pi) - exact_variance(TWO, pi)
    assert abs(gap) > 0.02
    assert objective(ONE, pi) - objective(TWO, pi) == pytest.approx(gap, abs=1e-12)


def test_o_the_usual_weights_are_right_for_certain_targets_only() -> None:
    def usual(model: Tensor, pi: Tensor) -> float:
        x, a, r, chance = population(pi)
        weight = pi[x, a] * (1 - MU[x, a]) / MU[x, a] ** 2
        return float((weight * (r - model[x, a]) ** 2 * chance).sum())

    sure = torch.eye(4, dtype=F)[[1, 3, 0]]
    for pi, same in ((sure, True), (PI, False)):
        gap = exact_variance(ONE, pi) - exact_variance(TWO, pi)
        assert (abs(usual(ONE, pi) - usual(TWO, pi) - gap) < 1e-12) is same


def test_o_normal_equations_are_those_of_the_objective() -> None:
    x, a, r, chance = population()
    count = 1000 * chance  # as if outcome i had occurred so often
    total_a, total_b = torch.zeros(4, 4, dtype=F), torch.zeros(4, dtype=F)
    for i in range(24):
        one = slice(i, i + 1)
        made = normal_equations(PI[x][one], MU[x][one], a[one], r[one])
        total_a, total_b = total_a + count[i] * made[0], total_b + count[i] * made[1]
    theta = torch.randn(4, generator=torch.Generator().manual_seed(0), dtype=F)
    form = float(theta @ total_a @ theta - 2 * total_b @ theta) / 1000
    assert form == pytest.approx(objective(theta.expand(3, 4)), abs=1e-12)
    best = torch.linalg.solve(total_a, total_b)
    least = exact_variance(best.expand(3, 4))
    for k in range(4):
        for step in (-0.05, 0.05):
            moved = best + step * torch.eye(4, dtype=F)[k]
            assert exact_variance(moved.expand(3, 4)) > least


def test_o_clipped_and_unsupported_by_hand() -> None:
    pi, mu = torch.tensor([[0.5, 0.5]], dtype=F), torch.tensor([[1.0, 0.0]], dtype=F)
    item, r = torch.tensor([0]), torch.tensor([1.0], dtype=F)
    a, b = normal_equations(pi, mu, item, r)  # w = .5, item 1 has no mass under mu
    assert a.tolist() == [[0.0, -0.125], [-0.125, -0.125]] and b.tolist() == [0.0, -0.25]
    half = normal_equations(pi, mu, item, r, clip=0.25)
    assert torch.equal(half[0], a / 2) and torch.equal(half[1], b / 2)


def known(n: int = 4000, **options: Any) -> Log:
    return draw(n, mu=[LOGGER] * n, **options)


def test_o_fitted_cells_are_cross_fitted_and_near_the_best_ones() -> None:
    log, policies = known(30_000), {"t": Fixed(TARGET), "u": Uniform().bind(draw(1))}
    block = next(iter(log.parts())).record(Problems(), mu=True)
    made = equations(block, policies, folds=3, seed=0, n_items=4)
    model = CellMRDR(decay=1e-6).fit([made])
    assert model.table.shape == (2, 3, 4, 4)  # level 0 is for rows without a position
    vm, qm = model.columns(block, policies)
    w = torch.tensor(TARGET, dtype=F)[block.slate.item[:, 0]] / block.slate.propensity[:, 0]
    r = block.feedback.reward[:, 0].to(F)

    def spread(v: Tensor, q: Tensor) -> float:
        return float((v + w * (r - q)).var())

    rates = torch.tensor(RATES, dtype=F)
    true = spread(float(torch.tensor(TARGET, dtype=F) @ rates), rates[block.slate.item[:, 0]])
    assert spread(vm[0], qm[0]) == pytest.approx(true, rel=0.01)  # one context: the truth is best
    mine = block.unit == block.unit[0]
    changed = block.feedback.reward.clone()
    changed[mine] = 9.0
    other = type(block)(
        block.context, block.slate, type(block.feedback)(changed), block.unit, block.part
    )
    again = CellMRDR(decay=1e-6).fit([equations(other, policies, folds=3, seed=0, n_items=4)])
    pair = model.predict(block)[:, mine], again.predict(other)[:, mine]
    assert torch.allclose(*pair, rtol=0, atol=1e-6)
    assert not torch.allclose(model.table, again.table, rtol=0, atol=1e-6)


def test_o_parts_give_the_same_model_and_positions_may_be_new() -> None:
    log, policies = known(600), {"t": Fixed(TARGET)}
    block = next(iter(log.parts())).record(Problems(), mu=True)
    options = {"folds": 3, "seed": 0, "n_items": 4}
    pieces = [equations(block[:1], policies, **options), equations(block[1:1], policies, **options)]
    assert CellMRDR().fit(pieces).table.shape[2] == 2
    far = next(iter(known(60, position=torch.full((60,), 9)).parts())).record(Problems(), mu=True)
    model = CellMRDR().fit([equations(block, policies, **options)])
    assert bool(model.predict(far).isfinite().all())


def test_o_evaluate_fits_it_by_name() -> None:
    report = evaluate(known(), {"t": Fixed(TARGET), "u": Uniform()}, estimators=["mrdr", "dr"])
    row = report.table.filter(policy="t", estimator="mrdr").to_dicts()[0]
    assert row["value"] == pytest.approx(0.5, abs=0.04) and row["verdict"] == "usable"
    assert row["method"] == "student" and row["ess"] > 1000
    alone = evaluate(known(), {"t": Fixed(TARGET)}, estimators=["mrdr"])
    assert "least variance" in str(alone)
    assert evaluate(known(0), {"t": Fixed(TARGET)}, estimators=["mrdr"]).exit_code == 4


def test_o_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LogError, match="'mu'"):
        evaluate(draw(50), {"t": Fixed(TARGET)}, estimators=["mrdr"])
    with pytest.raises(LogError, match="of 4 items, in their order, in every row; 50 rows"):
        evaluate(draw(50, mu=[[0.5, 0.5]] * 50), {"t": Fixed(TARGET)}, estimators=["mrdr"])
    monkeypatch.setattr(mrdr, "CELLS", 100)
    with pytest.raises(ConfigError, match=r"too many\. Ask for dr"):
        evaluate(known(50), {"t": Fixed(TARGET)}, estimators=["mrdr"])
