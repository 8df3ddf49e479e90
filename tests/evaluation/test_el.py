"""Empirical likelihood as an estimator: its dual solved directly, what it does at its limits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ope_world import TARGET, VALUE, Fixed, draw
from torch import Tensor

from recfb import ConfigError, Meta, evaluate
from recfb.estimate import EmpiricalLikelihood, Rows, average, el, likelihood_value, snips
from recfb.evaluation.estimates import BucketEstimates
from recfb.evaluation.intervals import applies, method
from recfb.evaluation.shape import traits
from recfb.evaluation.terms import Terms, accumulate
from recfb.random import stream
from recfb.testing.estimators import check_estimator

F = torch.float64
pytestmark = pytest.mark.filterwarnings("ignore::recfb.errors.OverlapWarning")


def drawn(n: int, seed: int, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Weights of a tail, about `scale` on average, and clicks that go with them."""
    g = stream(seed, "el")
    w = scale * torch.empty(n, dtype=F).log_normal_(-0.5, 1.0, generator=g)
    return w, (torch.rand(n, generator=g) < 0.2 + 0.4 * (w > 1)).to(F)


def rows_of(w: Tensor, r: Tensor) -> Rows:
    return Rows(r, torch.ones_like(r), w[None])


def solved(w: Tensor, r: Tensor, highest: float) -> float:
    """The nearest reweighting from its own equations: least sum (N q - 1)^2 with sum q = 1 and
    sum q w = 1, over the rows and a phantom one, by the Lagrangian's linear system."""
    low = float(w.mean()) < 1
    fake = highest if low else 0.0
    every = torch.cat([w, torch.tensor([fake], dtype=F)])
    n = len(every)
    system = torch.zeros(n + 2, n + 2, dtype=F)
    system[:n, :n] = 2 * n * n * torch.eye(n, dtype=F)
    system[:n, n] = system[n, :n] = 1.0
    system[:n, n + 1] = system[n + 1, :n] = every
    right = torch.cat([torch.full((n,), 2.0 * n, dtype=F), torch.ones(2, dtype=F)])
    q = torch.linalg.solve(system, right)[:n]
    assert float(q.sum()) == pytest.approx(1, abs=1e-9)
    assert float((q * every).sum()) == pytest.approx(1, abs=1e-9)
    return float((q[:-1] * w * r).sum() + max(0.0, float(q[-1]) * fake) * r.mean())


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("n", [1, 2, 17, 60])
def test_o_9_el_is_the_solution_of_its_dual(n: int, scale: float, seed: int) -> None:
    w, r = drawn(n, seed, scale)
    top = max(2.0, 1.5 * float(w.max()))
    value = EmpiricalLikelihood(highest=top)(rows_of(w, r), average)
    assert float(value) == pytest.approx(solved(w, r, top), abs=1e-12)
    if float(w.mean()) >= 1:  # the phantom's weight is 0, whatever could have occurred
        assert float(el(rows_of(w, r), average)) == pytest.approx(float(value), abs=1e-12)


def test_o_9_el_by_hand() -> None:
    # mean w = 1/2 < 1: mean(w r) = 1/4, and half of the mean reward 1/2
    rows = rows_of(torch.tensor([0.5, 0.5], dtype=F), torch.tensor([1.0, 0.0], dtype=F))
    assert float(el(rows, average)) == pytest.approx(0.5, abs=1e-15)
    # w = 1, 3, N = 3, f = 0: a = 4/3, b = 10/3, gam = -9/7, bet = 3/14; (9/7 3 - 3/14 9) / 3
    rows = rows_of(torch.tensor([1.0, 3.0], dtype=F), torch.tensor([0.0, 1.0], dtype=F))
    assert float(el(rows, average)) == pytest.approx((27 / 7 - 27 / 14) / 3, abs=1e-15)
    # f = 4 for mean w = 1/2, N = 3: a = 5/3, b = 33/6, gam = -138/98, bet = 24/98
    rows = rows_of(torch.tensor([0.5, 0.5], dtype=F), torch.tensor([1.0, 0.0], dtype=F))
    gam, bet = -138 / 98, 24 / 98
    first, rest = (-gam / 2 - bet / 4) / 3, 1 + (gam + bet / 2) / 3
    hand = first + rest / 2
    assert float(EmpiricalLikelihood(4.0)(rows, average)) == pytest.approx(hand, abs=1e-15)


def test_o_9_the_phantom_of_an_infinite_weight_is_the_limit() -> None:
    w, r = drawn(40, 0, 0.5)
    assert float(w.mean()) < 1
    far = [float(EmpiricalLikelihood(top)(rows_of(w, r), average)) for top in (1e5, 1e6)]
    value = float(el(rows_of(w, r), average))
    gaps = [abs(x - value) for x in far]
    assert gaps[1] < 0.2 * gaps[0] < 1e-4


def test_o_9_el_shifts_with_the_reward_and_stays_in_its_range() -> None:
    for scale in (0.4, 1.0, 2.5):
        w, r = drawn(50, 3, scale)
        a, b = (float(el(rows_of(w, r + c), average)) for c in (0.0, 5.0))
        assert b == pytest.approx(a + 5, abs=1e-12)
        constant = rows_of(w, torch.full_like(r, 0.7))
        assert float(el(constant, average)) == pytest.approx(0.7, abs=1e-12)
    found = traits(el)
    assert found.equivariant and found.weighs_only and found.unshrunk is None


def test_o_9_without_any_weight_there_is_no_value() -> None:
    away = draw(200, logger=[0.5, 0.5, 0.0, 0.0])
    row = evaluate(away, {"t": Fixed([0, 0, 0.5, 0.5])}, estimators=["el"]).table.to_dicts()[0]
    assert row["value"] is None and row["reasons"].startswith("no overlap")
    for top in (2.0, float("inf")):
        nothing = likelihood_value(torch.zeros(5, 1, dtype=F), torch.tensor(9.0), highest=top)
        assert bool(nothing.isnan().all())
    empty = evaluate(draw(0), {"t": Fixed(TARGET)}, estimators=["el"]).table.to_dicts()[0]
    assert empty["value"] is None and empty["reasons"] == "no rows"


@pytest.mark.parametrize("highest", [5.0, 40.0, float("inf")])
def test_o_9_el_reads_sums_only(highest: float) -> None:
    estimator = EmpiricalLikelihood(highest)
    check_estimator(estimator)
    w, r = drawn(400, 1, 0.9)
    terms = Terms({"it": estimator}, policies=1)
    assert terms.size == 6  # rows, and the five sums
    sums = accumulate(terms, rows_of(w, r), torch.arange(400) % 64, 64)
    made = BucketEstimates("it", terms, sums, 0, (0, 1), (0, highest))
    assert float(made.value) == pytest.approx(float(estimator(rows_of(w, r), average)), rel=1e-12)
    assert float(made.phi.sum()) == pytest.approx(0, abs=3 / 400)  # the phantom row stays one
    for bucket in (0, 63):
        moved = sums.clone()
        moved[..., bucket] *= 1 + 1e-6
        moved = BucketEstimates("it", terms, moved, 0, (0, 1), (0, highest)).value - made.value
        assert float(moved) / 1e-6 == pytest.approx(float(made.phi[0, bucket]), abs=1e-8)


def test_o_9_el_is_as_precise_as_snips_and_biased_as_little() -> None:
    """1,000 logs of 100 rows, each in the place of a policy."""
    mu, target = (torch.tensor(x, dtype=F) for x in ([0.4, 0.3, 0.2, 0.1], TARGET))
    g = stream(0, "logs")
    item = torch.multinomial(mu, 100_000, replacement=True, generator=g).view(1000, 100)
    rates = torch.tensor([0.3, 0.4, 0.5, 0.6], dtype=F)
    r = (torch.rand(1000, 100, generator=g) < rates[item]).to(F)
    rows = Rows(r, mu[item], target[item])
    gaps = {f: f(rows, average) - VALUE for f in (el, EmpiricalLikelihood(4.0), snips)}
    for f, gap in gaps.items():
        assert abs(float(gap.mean())) < 4 * float(gap.std()) / 1000**0.5 + 0.005, f
        assert float(gap.std()) < 1.02 * float(gaps[snips].std())


def test_o_9_el_by_name_has_the_likelihood_interval() -> None:
    log = draw(400, meta=Meta(reward_range=(0, 1), floor=0.1))
    table = evaluate(log, {"t": Fixed(TARGET)}, estimators=["el", "ips", "snips"]).table
    rows: dict[str, dict[str, Any]] = {row["estimator"]: row for row in table.to_dicts()}
    assert rows["el"]["method"] == "likelihood" == method(el, traits(el), None)
    assert [rows["el"][end] for end in ("lower", "upper")] == pytest.approx(
        [rows["ips"][end] for end in ("lower", "upper")], abs=1e-15
    )
    assert rows["el"]["lower"] < rows["el"]["value"] < rows["el"]["upper"]
    assert rows["el"]["se"] == pytest.approx(rows["snips"]["se"], rel=0.05)
    for kind in ("bernstein", "betting", "student", "likelihood"):
        assert applies(kind, EmpiricalLikelihood(9.0))


def test_o_9_weights_average_1_so_the_largest_is_no_less() -> None:
    for highest in (0.5, float("nan")):
        with pytest.raises(ConfigError, match="Try 1 / the smallest propensity"):
            EmpiricalLikelihood(highest)
