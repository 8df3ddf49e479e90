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


HARMONIC = (PI / MU) / (1 - 0.3 + 0.3 * PI / MU)


def strong(f: estimate.Estimator, strength: float) -> estimate.Estimator:
    return lambda t, mean: f(t, mean, strength)  # type: ignore[call-arg]


def test_o_t1_sub_gaussian_ips_bias_formula() -> None:
    bias = float((PX[:, None] * MU * (HARMONIC - PI / MU) * Q).sum())
    assert bias < -0.05
    assert expected(strong(estimate.sgips, 0.3)) - V == pytest.approx(bias, abs=1e-12)


def test_o_t1_implicit_exploration_bias_formula() -> None:
    gamma = 0.05
    bias = -float((PX[:, None] * PI * gamma / (MU + gamma) * Q).sum())
    assert bias < -0.05
    assert expected(strong(estimate.ix, gamma)) - V == pytest.approx(bias, abs=1e-12)


@pytest.mark.parametrize("name", ["cdr", "sgdr"])
def test_o_t1_more_shrunk_dr_bias_formula(name: str) -> None:
    lam, w = (1.3 if name == "cdr" else 0.3), PI / MU
    h = w.clamp(max=lam) if name == "cdr" else HARMONIC
    bias = float((PX[:, None] * MU * (h - w) * (Q - WRONG)).sum())
    assert abs(bias) > 0.005
    found = expected(strong(estimate.ESTIMATORS[name], lam)) - V
    assert found == pytest.approx(bias, abs=1e-12)


def covariance(a: Tensor, b: Tensor, chance: Tensor) -> float:
    return float((a * b * chance).sum() - (a * chance).sum() * (b * chance).sum())


def test_o_t1_sndr_bias_is_minus_the_covariance_of_its_correction_with_the_mean_weight() -> None:
    rows, chance = logs_of_two()
    correction = average(rows.we) / average(rows.w)  # (576,)
    cov = covariance(correction, average(rows.w), chance)
    assert abs(cov) > 0.005
    assert expected(estimate.sndr) - V == pytest.approx(-cov, abs=1e-12)
    assert expected(estimate.sndr, model=Q) - V == pytest.approx(
        -covariance(*_of_true_model(), logs_of_two()[1]), abs=1e-12
    )


def _of_true_model() -> tuple[Tensor, Tensor]:
    rows, _ = logs_of_two(model=Q)
    return average(rows.we) / average(rows.w), average(rows.w)


def test_o_t1_control_variate_bias_is_minus_the_covariance_of_its_coefficient() -> None:
    rows, chance = logs_of_two()
    w, wr = rows.w, rows.wr
    spread = w.var(-1, correction=0)
    cov = ((w - average(w)[:, None]) * (wr - average(wr)[:, None])).mean(-1)
    b = torch.where(spread > 1e-9, cov / spread.clamp(min=1e-9), 0.0)  # (576,)
    expectation = covariance(b, average(w), chance)
    assert abs(expectation) > 0.005
    assert expected(estimate.cvips) - V == pytest.approx(-expectation, abs=1e-12)


def test_o_control_variate_has_no_more_variance_than_ips_to_first_order() -> None:
    rows, chance = outcomes()
    w, wr = rows.w, rows.wr
    b = covariance(wr, w, chance) / covariance(w, w, chance)
    assert covariance(wr - b * w, wr - b * w, chance) < covariance(wr, wr, chance)
    equal = Rows(rows.r, rows.p, 2 * rows.p)  # all weights are 2
    assert float(estimate.cvips(equal, average)) == float(estimate.ips(equal, average))


def test_o_t1_mrdr_is_unbiased_with_a_wrong_model() -> None:
    rows, chance = logs_of_two()
    robust = Rows(rows.r, rows.p, rows.pe, vm=rows.v, qm=rows.q)
    value = float((estimate.mrdr(robust, average) * chance).sum())
    assert value == pytest.approx(V, abs=1e-12)
    with pytest.raises(TypeError, match="reads a reward model"):
        estimate.mrdr(rows, average)


def test_o_t15_7_limits_of_clipped_and_sub_gaussian_dr() -> None:
    rows, _ = outcomes()
    dm, dr = float(estimate.dm(rows, average)), float(estimate.dr(rows, average))
    assert float(estimate.cdr(rows, average, lam=0.0)) == pytest.approx(dm, abs=1e-15)
    assert float(estimate.cdr(rows, average, lam=float("inf"))) == pytest.approx(dr, abs=1e-15)
    assert float(estimate.sgdr(rows, average, lam=0.0)) == pytest.approx(dr, abs=1e-15)
    ips = float(estimate.ips(rows, average))
    assert float(estimate.sgips(rows, average, lam=0.0)) == pytest.approx(ips, abs=1e-15)
    assert float(estimate.ix(rows, average, gamma=0.0)) == pytest.approx(ips, abs=1e-15)
    assert estimate.harmonic(torch.tensor([0.0, 1e12]), 0.1).max() <= 10 * (1 + 1e-6)


def test_o_clipped_and_switched_differ() -> None:
    one = torch.ones(1, dtype=F)
    t = Rows(2 * one, 0.1 * one, one, v=one, q=one)  # w = 10, e = 1
    assert float(estimate.cdr(t, average, lam=4.0)) == 5.0  # the weight becomes 4
    assert float(estimate.switch(t, average, lam=4.0)) == 1.0  # the weight becomes 0


@pytest.mark.parametrize("name", ["snips", "sndr", "cvips", "replay"])
def test_o_ratios_shift_with_the_reward(name: str) -> None:
    rows, _ = logs_of_two(model=WRONG)
    up = Rows(rows.r + 3, rows.p, rows.pe, rows.v, rows.q)
    f = estimate.ESTIMATORS[name]
    gap = f(up, average) - f(rows, average)
    if name == "cvips":  # whose coefficient is 0 where all weights are equal
        gap = gap[rows.w.var(-1) > 0]
    assert torch.allclose(gap[~gap.isnan()], torch.tensor(3.0, dtype=F), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", [*estimate.ESTIMATORS, *estimate.LOGGERS])
def test_o_t3_every_estimator_reduces_through_mean_alone(name: str) -> None:
    from recfb.testing.estimators import check_estimator

    check_estimator({**estimate.ESTIMATORS, **estimate.LOGGERS}[name])


# ---- several loggers

OTHER = torch.tensor(
    [[0.1, 0.1, 0.1, 0.7], [0.4, 0.2, 0.2, 0.2], [0.6, 0.2, 0.1, 0.1]], dtype=F
)  # the second logger


def of_two_loggers() -> tuple[Rows, Tensor]:
    """Every log of two rows, the first by MU and the second by OTHER: 576 lines."""
    one, p_one = outcomes()
    two, p_two = outcomes(mu=OTHER)
    i, j = torch.cartesian_prod(torch.arange(24), torch.arange(24)).T
    mixed = Rows(
        *(_pair(getattr(one, c)[i], getattr(two, c)[j]) for c in ("r", "p", "pe", "v", "q"))
    )
    half = [(_at(a) + _at(b)) / 2 for a, b in ((MU, OTHER), (MU, OTHER))]
    pbar = _pair(half[0][i], half[1][j])
    logger = torch.eye(2, dtype=F)[:, None, :].expand(2, 576, 2)  # (J, 576, n)
    rows = Rows(mixed.r, mixed.p, mixed.pe, mixed.v, mixed.q, pbar=pbar, logger=logger)
    return rows, p_one[i] * p_two[j]


def _pair(a: Tensor, b: Tensor) -> Tensor:
    return torch.stack([a, b], dim=-1)


def _at(table: Tensor) -> Tensor:
    """A table (3, 4) at the context and item of each of the 24 outcomes."""
    return table.repeat_interleave(2, dim=1).reshape(-1)


@pytest.mark.parametrize("name", ["naive_ips", "balanced_ips", "naive_dr", "balanced_dr"])
def test_o_t1_naive_and_balanced_are_unbiased(name: str) -> None:
    rows, chance = of_two_loggers()
    value = float((estimate.LOGGERS[name](rows, average) * chance).sum())
    assert value == pytest.approx(V, abs=1e-12)


def test_o_balanced_forms_read_the_mixture() -> None:
    rows, _ = of_two_loggers()
    for form in ("ips", "dr"):
        pair = (estimate.LOGGERS[f"{kind}_{form}"](rows, average) for kind in ("naive", "balanced"))
        assert not torch.allclose(*pair)


def exact(name: str) -> tuple[float, Tensor]:
    """The value of an estimator on the whole population, and its terms' variances by logger."""
    (one, p_one), (two, p_two) = outcomes(), outcomes(mu=OTHER)
    columns = (torch.cat([getattr(one, c), getattr(two, c)]) for c in ("r", "p", "pe", "v", "q"))
    share = torch.tensor([0.6, 0.4], dtype=F)
    pbar = 0.6 * _at(MU) + 0.4 * _at(OTHER)
    logger = torch.stack([torch.arange(48) < 24, torch.arange(48) >= 24]).to(F)
    rows = Rows(*columns, pbar=pbar.repeat(2), logger=logger)
    chance = torch.cat([share[0] * p_one, share[1] * p_two])

    def mean(x: Tensor) -> Tensor:
        return (x * chance).sum(-1)

    term = {
        "naive_ips": rows.wr, "weighted_ips": rows.wr, "balanced_ips": rows.mixed.wr,
        "naive_dr": rows.v + rows.we, "weighted_dr": rows.v + rows.we,
        "balanced_dr": rows.v + rows.mixed.we,
    }[name]  # fmt: skip
    first, second = ((logger * term**k * chance).sum(-1) / share for k in (1, 2))
    return float(estimate.LOGGERS[name](rows, mean)), second - first**2


@pytest.mark.parametrize("name", list(estimate.LOGGERS))
def test_o_t1_every_form_of_several_loggers_has_the_value_as_its_limit(name: str) -> None:
    assert exact(name)[0] == pytest.approx(V, abs=1e-12)


@pytest.mark.parametrize("form", ["ips", "dr"])
def test_o_balanced_and_weighted_have_less_variance_than_naive(form: str) -> None:
    share = torch.tensor([0.6, 0.4], dtype=F)
    naive, balanced = (float(share @ exact(f"{k}_{form}")[1]) for k in ("naive", "balanced"))
    weighted = 1 / float((share / exact(f"weighted_{form}")[1]).sum())
    assert balanced < naive and weighted < naive


def test_o_weights_of_loggers_by_hand() -> None:
    r = torch.tensor([1.0, 3.0, 10.0, 20.0, 30.0, 40.0], dtype=F)
    one, own = torch.ones(6, dtype=F), torch.tensor([1, 1, 0, 0, 0, 0], dtype=F)
    t = Rows(r, one, one, logger=torch.stack([own, 1 - own]))  # means 2, 25; variances 1, 125
    lam = [6 / (v * (2 / 1 + 4 / 125)) for v in (1, 125)]
    by_hand = float((torch.tensor([lam[0]] * 2 + [lam[1]] * 4, dtype=F) * r).mean())
    assert float(estimate.weighted_ips(t, average)) == pytest.approx(by_hand, rel=1e-12)
    assert by_hand == pytest.approx((2 * 2 / 1 + 4 * 25 / 125) / (2 / 1 + 4 / 125), rel=1e-12)
    assert float(estimate.naive_ips(t, average)) == pytest.approx(float(r.mean()), rel=1e-12)


def test_o_a_logger_without_variance_does_not_divide_by_zero() -> None:
    r = torch.tensor([0.0, 0.0, 1.0, 3.0], dtype=F)
    own = torch.tensor([1, 1, 0, 0], dtype=F)
    one = torch.ones(4, dtype=F)
    t = Rows(r, one, one, logger=torch.stack([own, 1 - own]))
    assert float(estimate.weighted_ips(t, average)) == pytest.approx(0, abs=1e-11)
    flat = Rows(0 * r + 2, one, one, logger=t.logger)
    assert float(estimate.weighted_ips(flat, average)) == pytest.approx(2, abs=1e-12)


def test_o_t15_7_one_logger_is_the_plain_estimator() -> None:
    rows, _ = outcomes()
    t = Rows(rows.r, rows.p, rows.pe, rows.v, rows.q, pbar=rows.p, logger=torch.ones(1, 24).to(F))
    for name, f in estimate.LOGGERS.items():
        plain = estimate.ESTIMATORS[name.partition("_")[2]]
        assert float(f(t, average)) == pytest.approx(float(plain(t, average)), rel=1e-12)


def test_o_without_loggers_says_what_to_give() -> None:
    rows, _ = outcomes()
    with pytest.raises(TypeError, match="reads several loggers"):
        estimate.naive_ips(rows, average)
