"""Estimators against exact expectations: a world of 3 contexts x 4 actions, enumerated."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recfb import estimate
from recfb.estimate import Rows, average

F = torch.float64
PX = torch.tensor([0.5, 0.3, 0.2], dtype=F)  # (3,)
MU = torch.tensor(
    [[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]], dtype=F
)  # (3, 4)
PI = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1], [0.05, 0.05, 0.1, 0.8]], dtype=F)
Q = torch.tensor([[0.2, 0.9, 0.4, 0.6], [0.3, 0.5, 0.1, 0.8], [0.7, 0.2, 0.5, 0.35]], dtype=F)
WRONG = torch.tensor([[0.9, -0.1, 2.0, 0.3], [0.1, 0.6, 0.0, 0.2], [1.5, 0.4, 0.2, 0.9]], dtype=F)
V = float((PX[:, None] * PI * Q).sum())


def outcomes(mu: Tensor = MU, pi: Tensor = PI, model: Tensor = WRONG) -> tuple[Rows, Tensor]:
    """Every (context, action, reward) as a row, with its probability under the logger: 24 rows."""
    x, a, r = (
        index.reshape(-1)
        for index in torch.meshgrid(
            torch.arange(3), torch.arange(4), torch.arange(2), indexing="ij"
        )
    )
    chance = PX[x] * mu[x, a] * torch.where(r == 1, Q[x, a], 1 - Q[x, a])  # (24,)
    value = (pi * model).sum(1)  # (3,)
    return Rows(r.to(F), mu[x, a], pi[x, a], value[x], model[x, a]), chance


def logs_of_two(**world: Tensor) -> tuple[Rows, Tensor]:
    """Every log of n = 2 rows, as one policy line each, with its probability: 576 logs."""
    rows, chance = outcomes(**world)
    i, j = torch.cartesian_prod(torch.arange(24), torch.arange(24)).T
    both = torch.stack([i, j], dim=1)  # (576, 2)
    return rows[both], chance[i] * chance[j]


def expected(estimator: estimate.Estimator, **world: Tensor) -> float:
    rows, chance = logs_of_two(**world)
    return float((estimator(rows, average) * chance).sum())


def test_o_t1_ips_is_unbiased() -> None:
    assert expected(estimate.ips) == pytest.approx(V, abs=1e-12)


def test_o_t1_dr_is_unbiased_with_a_wrong_model() -> None:
    assert expected(estimate.dr) == pytest.approx(V, abs=1e-12)


def test_o_t1_dr_without_a_model_is_ips_bit_for_bit() -> None:
    rows, _ = logs_of_two(model=torch.zeros(3, 4, dtype=F))
    assert torch.equal(estimate.dr(rows, average), estimate.ips(rows, average))


def test_o_t1_dm_bias_is_that_of_its_model() -> None:
    bias = float((PX[:, None] * PI * (WRONG - Q)).sum())
    assert abs(bias) > 0.1
    assert expected(estimate.dm) - V == pytest.approx(bias, abs=1e-12)
    assert expected(estimate.dm, model=Q) == pytest.approx(V, abs=1e-12)


def test_o_t1_clipped_ips_bias_formula() -> None:
    lam = 1.3
    w = PI / MU
    bias = -float((PX[:, None] * MU * (w - lam).clamp(min=0) * Q).sum())
    assert bias < -0.05
    clipped = expected(lambda t, mean: estimate.cips(t, mean, lam=lam))
    assert clipped - V == pytest.approx(bias, abs=1e-12)


@pytest.mark.parametrize("name", ["dros", "switch"])
def test_o_t1_shrunk_dr_bias_formula(name: str) -> None:
    lam = 1.3
    w = PI / MU
    h = estimate.shrink(w, lam) if name == "dros" else torch.where(w <= lam, w, 0.0)
    bias = float((PX[:, None] * MU * (h - w) * (Q - WRONG)).sum())
    f = estimate.ESTIMATORS[name]
    assert abs(bias) > 0.05
    assert expected(lambda t, mean: f(t, mean, lam=lam)) - V == pytest.approx(bias, abs=1e-12)  # type: ignore[call-arg]


def test_o_t1_snips_bias_is_minus_its_covariance_with_the_mean_weight() -> None:
    rows, chance = logs_of_two()
    snips, weight = estimate.snips(rows, average), average(rows.w)  # (576,)
    mean_snips, mean_weight = (snips * chance).sum(), (weight * chance).sum()
    cov = float((snips * weight * chance).sum() - mean_snips * mean_weight)
    assert float(mean_weight) == pytest.approx(1, abs=1e-12)
    assert abs(cov) > 0.005
    assert float(mean_snips) - V == pytest.approx(-cov, abs=1e-12)


def test_o_t1_dr_variance_identity() -> None:
    rows, chance = outcomes()
    term = rows.v + rows.we
    variance = float((term**2 * chance).sum() - (term * chance).sum() ** 2)
    value = (PI * Q).sum(1)
    over_x = (value**2 * PX).sum() - (value * PX).sum() ** 2
    w = PI / MU
    noise = (PX[:, None] * MU * w**2 * Q * (1 - Q)).sum()
    gap = w * (Q - WRONG)
    over_a = (PX * ((MU * gap**2).sum(1) - (MU * gap).sum(1) ** 2)).sum()
    assert variance == pytest.approx(float(over_x + noise + over_a), abs=1e-12)


def test_o_t1_replay_is_unbiased_under_a_uniform_logger() -> None:
    pi = torch.eye(4, dtype=F)[[1, 3, 0]]  # one item a context
    rows, chance = logs_of_two(mu=torch.full((3, 4), 0.25, dtype=F), pi=pi)
    value = estimate.replay(rows, average)
    match = ~value.isnan()
    assert float(chance[~match].sum()) == pytest.approx(0.75**2, abs=1e-12)
    exact = float((value[match] * chance[match]).sum() / chance[match].sum())
    assert exact == pytest.approx(0.5 * 0.9 + 0.3 * 0.8 + 0.2 * 0.7, abs=1e-12)


def test_o_t15_6_target_equal_to_logger_gives_the_mean_reward() -> None:
    rows, _ = logs_of_two(pi=MU)
    assert torch.equal(estimate.ips(rows, average), rows.r.mean(-1))
    assert torch.equal(estimate.snips(rows, average), rows.r.mean(-1))


def test_o_t15_7_limits_of_the_shrunk_forms() -> None:
    rows, _ = outcomes()
    dm, dr = estimate.dm(rows, average), estimate.dr(rows, average)
    for f in (estimate.dros, estimate.switch):
        assert float(f(rows, average, lam=0.0)) == pytest.approx(float(dm), abs=1e-15)
        assert float(f(rows, average, lam=float("inf"))) == pytest.approx(float(dr), abs=1e-15)
    assert float(estimate.cips(rows, average, lam=float("inf"))) == float(
        estimate.ips(rows, average)
    )


def test_o_shrink_by_hand() -> None:
    w = torch.tensor([0.0, 1.0, 3.0, 1e200], dtype=F)
    assert estimate.shrink(w, 9.0)[:3].tolist() == pytest.approx([0.0, 0.9, 1.5])
    assert estimate.shrink(w, 9.0)[3] == 0  # no overflow to NaN
    assert estimate.shrink(w, 0.5)[1] == pytest.approx(0.5 / 1.5)


def test_o_by_hand() -> None:
    t = Rows(
        torch.tensor([1.0, 0.0, 2.0], dtype=F),
        torch.tensor([0.5, 0.25, 0.1], dtype=F),
        torch.tensor([0.25, 0.5, 0.4], dtype=F),
        v=torch.tensor([1.0, 0.5, 0.0], dtype=F),
        q=torch.tensor([0.5, 0.5, 1.0], dtype=F),
    )  # w = .5, 2, 4
    assert float(estimate.ips(t, average)) == pytest.approx(8.5 / 3)
    assert float(estimate.cips(t, average, lam=3.0)) == pytest.approx(6.5 / 3)
    assert float(estimate.snips(t, average)) == pytest.approx(8.5 / 6.5)
    assert float(estimate.dm(t, average)) == pytest.approx(0.5)
    assert float(estimate.dr(t, average)) == pytest.approx(0.5 + (0.25 - 1 + 4) / 3)
    assert float(estimate.switch(t, average, lam=2.0)) == pytest.approx(0.5 + (0.25 - 1) / 3)


def test_o_estimators_are_differentiable_objectives() -> None:
    rows, _ = outcomes()
    logits = torch.zeros(24, dtype=F, requires_grad=True)
    pe = torch.sigmoid(logits)
    for f in (estimate.ips, estimate.snips, estimate.dr, estimate.dros, estimate.switch):
        (gradient,) = torch.autograd.grad(
            f(Rows(rows.r, rows.p, pe, pe * rows.q, rows.q), average), logits, retain_graph=True
        )
        assert bool(torch.isfinite(gradient).all()) and float(gradient.abs().sum()) > 0


def test_o_without_a_model_says_what_to_give() -> None:
    rows, _ = outcomes()
    with pytest.raises(TypeError, match="reads a reward model: give Rows"):
        estimate.dm(Rows(rows.r, rows.p, rows.pe), average)
