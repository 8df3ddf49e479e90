"""Hoeffding, empirical Bernstein, Clopper-Pearson: hand numbers, exact coverage, what they need."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import polars as pl
import pytest
import torch
from interval_world import F64, estimates_of, rows_of
from ope_world import TARGET, Fixed, draw
from scipy import stats
from torch import Tensor, nn

from recfb import ConfigError, Evaluation, Log, Meta, evaluate
from recfb.contracts import Context
from recfb.estimate import Rows, dr
from recfb.evaluation import State
from recfb.evaluation.bounds import (
    OF_MATCHES,
    OF_MODELS,
    OF_WEIGHTS,
    Bounded,
    bernstein,
    clopper_pearson,
    doubly,
    hoeffding,
)
from recfb.evaluation.estimates import BucketEstimates
from recfb.evaluation.terms import Terms, accumulate
from recfb.policies import Uniform
from recfb.random import stream

KINDS = list(OF_WEIGHTS)
EXACT = Meta(reward_range=(0, 1), propensity="exact", floor=0.1)
pytestmark = pytest.mark.filterwarnings("ignore::recfb.errors.OverlapWarning")


def bounded(x: Sequence[float], top: float = 1.0) -> Bounded:
    x_ = torch.tensor(x, dtype=F64)
    n = torch.tensor([float(len(x))], dtype=F64)
    return Bounded(n, x_.mean()[None], x_.square().mean()[None], top)


def limits(kind: str, w: Sequence[float], r: Sequence[float], **more: Any) -> list[float]:
    ends = OF_WEIGHTS[kind](estimates_of(rows_of(w, r), **more), 0.05)
    return [float(end[0]) for end in ends]


def test_o_t9_hoeffding_by_hand() -> None:
    # log(2 / 0.05) = 3.688879; 2 sqrt(3.688879 / 800) = 0.135810
    lower, upper = hoeffding(bounded([0.0, 2.0] * 200, top=2.0), 0.05)
    assert float(lower) == pytest.approx(1 - 0.1358101, abs=1e-6)
    assert float(upper) == pytest.approx(1 + 0.1358101, abs=1e-6)


def test_o_t9_bernstein_by_hand() -> None:
    x = [0.0, 2.0] * 200
    # with the variance that divides by n - 1: 400 / 399; log(4 / 0.05) = 4.382027
    v, log = 400 / 399, math.log(80)
    half = math.sqrt(2 * v * log / 400) + 7 * 2 * log / (3 * 399)
    assert half == pytest.approx(0.148206 + 0.051252, abs=2e-6)
    lower, upper = bernstein(bounded(x, top=2.0), 0.05)
    assert float(lower) == pytest.approx(1 - half, abs=1e-12)
    assert float(upper) == pytest.approx(1 + half, abs=1e-12)


def test_o_t9_clopper_pearson_is_scipys_exact_interval() -> None:
    for n in (1, 2, 17):
        for k in range(n + 1):
            mine = clopper_pearson(bounded([1.0] * k + [0.0] * (n - k)), 0.05)
            theirs = stats.binomtest(k, n).proportion_ci(0.95, method="exact")
            assert float(mine[0]) == pytest.approx(theirs.low, abs=1e-12)
            assert float(mine[1]) == pytest.approx(theirs.high, abs=1e-12)


@pytest.mark.parametrize("bound", [hoeffding, bernstein, clopper_pearson])
def test_o_t9_coverage_by_enumerating_every_log(bound: Any) -> None:
    # terms 0 or 2: a uniform logger of two items, a policy that always takes one
    for n in (1, 3, 10, 40):
        k = torch.arange(n + 1, dtype=F64)  # (n + 1,) every number of clicks on the policy's item
        lower, upper = bound(Bounded(torch.full_like(k, n), 2 * k / n, 4 * k / n, 2.0), 0.05)
        for value in (0.01, 0.2, 0.5, 0.93, 1.0):
            covered = (lower <= value) & (value <= upper)
            chance = torch.as_tensor(stats.binom.pmf(k.numpy(), n, value / 2))
            assert float(chance[covered].sum()) >= 0.95, (n, value)


@pytest.mark.parametrize("kind", KINDS)
def test_o_t9_largest_weight_and_range_are_declared_not_observed(kind: str) -> None:
    w, r = [0.5, 1.5, 1.0, 1.0] * 100, [1.0, 0.0, 0.0, 1.0] * 100
    narrow, wide = limits(kind, w, r, top=2.0), limits(kind, w, r, top=8.0)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    broad = limits(kind, w, r, top=2.0, reward_range=(0.0, 2.0))
    assert broad[1] - broad[0] > narrow[1] - narrow[0]


@pytest.mark.parametrize("kind", KINDS)
def test_o_t5_adding_to_the_reward_shifts_the_bounds(kind: str) -> None:
    base = draw(1000, meta=EXACT)
    frame = base.frame.with_columns(reward=base.frame["reward"] + 5)
    meta = Meta(reward_range=(5, 6), propensity="exact", floor=0.1)
    moved = base.with_frame(frame, meta)
    a, b = (
        evaluate(x, {"t": Fixed(TARGET)}, estimators=["ips", "snips"], interval=kind).table
        for x in (base, moved)
    )
    for end in ("lower", "upper"):
        assert b[end].to_list() == pytest.approx([x + 5 for x in a[end]], abs=1e-9)
    assert set(a["method"]) == {kind}


def test_o_clopper_pearson_is_exact_for_a_uniform_logger() -> None:
    log = draw(500, logger=[0.25] * 4, meta=Meta(reward_range=(0, 1), floor=0.25))
    row = evaluate(
        log, {"t": Fixed([0, 0, 1, 0])}, estimators=["ips"], interval="clopper_pearson"
    ).table.to_dicts()[0]
    clicks = log.frame.filter((pl.col("item") == 2) & (pl.col("reward") == 1)).height
    ends = stats.binomtest(clicks, 500).proportion_ci(0.95, method="exact")
    assert row["lower"] == pytest.approx(4 * ends.low, abs=1e-12)
    assert row["upper"] == pytest.approx(4 * ends.high, abs=1e-12)
    assert row["method"] == "clopper_pearson"


def test_o_replay_is_bounded_by_the_rows_that_match() -> None:
    log = draw(300, logger=[0.25] * 4, meta=Meta(reward_range=(0, 1)))  # no floor: no weights
    same = log.frame.filter(pl.col("item") == 2)["reward"]
    n, k = len(same), int(same.sum())
    found = {
        kind: evaluate(
            log, {"t": Fixed([0, 0, 1, 0])}, estimators=["replay"], interval=kind
        ).table.to_dicts()[0]
        for kind in KINDS
    }
    ends = stats.binomtest(k, n).proportion_ci(0.95, method="exact")
    exact = found["clopper_pearson"]
    assert exact["lower"] == pytest.approx(ends.low, abs=1e-12)
    assert exact["upper"] == pytest.approx(ends.high, abs=1e-12)
    half = math.sqrt(math.log(40) / (2 * n))
    assert found["hoeffding"]["lower"] == pytest.approx(k / n - half, abs=1e-12)
    assert found["bernstein"]["lower"] < exact["lower"] < k / n < exact["upper"]


def test_o_replay_of_scaled_rewards() -> None:
    rows = rows_of([1.0, 0.0, 1.0, 1.0] * 30, [2.0, 9.0, 3.0, 5.0] * 30)  # pe = 1: a match
    x = [(r - 2) / 8 for r in (2.0, 3.0, 5.0)] * 30
    for kind, bound in (("hoeffding", hoeffding), ("bernstein", bernstein)):
        ends = OF_MATCHES[kind](estimates_of(rows, "replay", reward_range=(2.0, 10.0)), 0.05)
        hand = [float((2 + 8 * end.clamp(0, 1))[0]) for end in bound(bounded(x), 0.05)]
        assert [float(end[0]) for end in ends] == pytest.approx(hand, abs=1e-12)


# ---- dr, by a model that keeps to the range


class Says(nn.Module):
    """A reward model that was fitted elsewhere: of every item its own number."""

    fitted_on = "another log"

    def __init__(self, given: Sequence[float]) -> None:
        super().__init__()
        self.given = list(given)

    def bind(self, log: Log) -> Self:
        return self

    def scores(self, context: Context) -> Tensor:
        return torch.tensor([self.given], dtype=F64).expand(len(context), -1)


def test_o_9_terms_of_dr_fill_their_range_and_never_leave_it() -> None:
    """Every policy on a grid, every propensity down to 1 / W, every prediction and reward."""
    most, share = 5.0, torch.linspace(0, 1, 11, dtype=F64)
    pi = torch.cartesian_prod(share, share)
    pi = pi[pi.sum(1) <= 1 + 1e-9]
    pi = torch.cat([pi, 1 - pi.sum(1, keepdim=True)], 1).clamp(min=0)  # (66, 3)
    q = torch.cartesian_prod(*[torch.tensor([0, 0.3, 1], dtype=F64)] * 3)  # (27, 3)
    v = (pi[:, None] * q).sum(2)[..., None, None]  # (66, 27, 1, 1)
    p = torch.tensor([1 / most, 0.25, 0.5, 1.0], dtype=F64)[:, None]  # (4, 1)
    r = torch.tensor([0.0, 0.4, 1.0], dtype=F64)  # (3,)
    for item in range(3):
        w = pi[:, None, None, None, item] / p  # (66, 1, 4, 1)
        term = v + w * (r - q[:, None, None, item])  # (66, 27, 4, 3)
        assert float(term.min()) == pytest.approx(1 - most, abs=1e-12)
        assert float(term.max()) == pytest.approx(most, abs=1e-12)


def dr_limits(kind: str, rows: Rows, most: float, span: tuple[float, float]) -> list[Tensor]:
    terms = Terms({"dr": dr, "doubly": doubly}, policies=len(rows.pe))
    sums = accumulate(terms, rows, torch.zeros(len(rows), dtype=torch.int64), 1)
    estimates = BucketEstimates("dr", terms, sums, 0, span, (0.0, most))
    return list(OF_MODELS[kind](estimates, 0.05))


@pytest.mark.parametrize("kind", KINDS)
def test_o_9_bounds_of_dr_are_those_of_its_scaled_terms(kind: str) -> None:
    g = stream(3, "rows")
    p, pe, r, v, q = (torch.rand(400, generator=g, dtype=F64) for _ in range(5))
    rows = Rows(2 + 8 * r, 0.25 + 0.75 * p, pe[None], (2 + 8 * v)[None], 2 + 8 * q)
    x = (v + rows.w[0] * (r - q) + 3) / 7  # W = 4: from [-3, 4] to [0, 1]
    bound: Any = {"hoeffding": hoeffding, "bernstein": bernstein}.get(kind, clopper_pearson)
    hand = [2 + 8 * (7 * end - 3).clamp(0, 1) for end in bound(bounded(x.tolist()), 0.05)]
    found = dr_limits(kind, rows, 4.0, (2.0, 10.0))
    assert [float(x) for x in found] == pytest.approx([float(x) for x in hand], abs=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_o_9_bounds_of_dr_cover(kind: str) -> None:
    """1,000 logs of 500 rows, each in the place of a policy; a model that is wrong everywhere."""
    g = stream(0, "logs")
    mu, target = (
        torch.tensor([0.5, 0.25, 0.25], dtype=F64),
        torch.tensor([0.1, 0.2, 0.7], dtype=F64),
    )
    rates, q = torch.tensor([0.1, 0.5, 0.05], dtype=F64), torch.tensor([0.6, 0.0, 1.0], dtype=F64)
    item = torch.multinomial(mu, 500_000, replacement=True, generator=g).view(1000, 500)
    r = (torch.rand(1000, 500, generator=g) < rates[item]).to(F64)
    v = float((target * q).sum()) + 0 * r
    lower, upper = dr_limits(kind, Rows(r, mu[item], target[item], v, q[item]), 4.0, (0.0, 1.0))
    truth = float((target * rates).sum())
    assert float(((lower <= truth) & (truth <= upper)).double().mean()) >= 0.95
    assert float((upper < 1).double().mean()) > 0.9  # and say something


def test_o_9_dr_by_name_with_a_model_of_another_log() -> None:
    log, policies = draw(3000, meta=EXACT), {"t": Fixed(TARGET)}
    model = Says([0.3, 0.4, 0.5, 0.6])
    table = evaluate(log, policies, estimators=["dr"], reward_model=model, interval="bernstein")
    row = table.table.to_dicts()[0]
    assert row["method"] == "bernstein" and row["lower"] < row["value"] < row["upper"]
    t = evaluate(log, policies, estimators=["dr"], reward_model=model).table.to_dicts()[0]
    assert row["upper"] - row["lower"] > 2 * (t["upper"] - t["lower"])
    assert not any("cross-fitted" in note for note in table.notes)
    cells = evaluate(log, policies, estimators=["dr"], interval="bernstein")
    assert "terms of dr count as independent; with a cross-fitted model only" in cells.notes[-2]
    both = evaluate(
        log, {**policies, "u": Uniform()}, estimators=["dr"], interval="hoeffding", base="u"
    )
    assert both.compare["p"].item() is None  # the union bound, as of the others


def test_o_9_dr_is_not_bounded_beyond_the_range_of_its_model() -> None:
    match = r"all predicted rewards lie in \(0, 1\), and those of 300 rows do not"
    for odd in (1.2, -0.1):
        model = Says([0.3, 0.4, 0.5, odd])
        options: Any = {"estimators": ["dr"], "interval": "bernstein", "reward_model": model}
        refusal(draw(300, meta=EXACT), match, **options)
        wide = Meta(reward_range=(-1, 2), floor=0.1)
        table = evaluate(draw(300, meta=wide), {"t": Fixed(TARGET)}, **options).table
        assert table["method"].to_list() == ["bernstein"]
    plan = Evaluation({"t": Fixed(TARGET)}, estimators=["dr"], interval="bernstein")
    one = torch.full((9,), 0.5, dtype=F64)
    rows = Rows(one, one, one[None], one[None], one)
    with pytest.raises(ConfigError, match="needs the largest weight"):
        plan.report(plan.scan_rows(rows, torch.arange(9), "part"))
    facts = replace(plan.scan_rows(rows, torch.arange(9), "part").facts, floor=1e-9)
    state = replace(plan.scan_rows(rows, torch.arange(9), "part"), facts=facts)
    with pytest.raises(ConfigError, match="rows that were reduced elsewhere do not say"):
        plan.report(state)


def test_o_9_which_predictions_lie_beyond_adds_up_and_is_kept(tmp_path: Path) -> None:
    model, policies = Says([0.3, 0.4, 0.5, 1.2]), {"t": Fixed(TARGET)}
    plan = Evaluation(policies, estimators=["dr"], reward_model=model, by="position")
    log = draw(90, meta=EXACT)
    state = plan.fit(log).scan(log)
    assert [cell.beyond for cell in state.groups().values()] == [30, 30, 30]
    ready = plan.fit(log)
    both = ready.scan(log) + ready.scan(draw(30, seed=1, meta=EXACT))
    assert [cell.beyond for cell in both.groups().values()] == [40, 40, 40]
    kept = State.load(state.save(tmp_path / "state.parquet"))
    assert [cell.beyond for cell in kept.groups().values()] == [30, 30, 30]
    good = Evaluation(policies, estimators=["dr"], reward_model=Says([0.5] * 4))
    assert good.scan(log).groups()[""].beyond == 0
    assert Evaluation(policies, estimators=["ips"]).scan(log).groups()[""].beyond is None


# ---- degenerate


@pytest.mark.parametrize("kind", KINDS)
def test_o_t8_degenerate_logs_have_the_range_or_a_reason(kind: str) -> None:
    def row(log: Log, policy: Any = None) -> Any:
        policies = {"t": policy or Fixed(TARGET)}
        return evaluate(log, policies, estimators=["ips"], interval=kind).table.to_dicts()[0]

    empty = row(draw(0, meta=EXACT))
    assert empty["lower"] is None and empty["reasons"] == "no rows"
    one = row(draw(1, meta=EXACT))
    assert (one["lower"], one["upper"]) == (0, 1) if kind != "clopper_pearson" else True
    assert 0 <= one["lower"] < one["upper"] <= 1
    away = row(draw(200, logger=[0.5, 0.5, 0, 0], meta=EXACT), Fixed([0, 0, 0.5, 0.5]))
    assert away["lower"] == 0 < away["upper"] and away["verdict"] == "do not use"
    sure = row(draw(500, rates=[1.0] * 4, meta=EXACT))
    assert sure["lower"] < 1 and sure["upper"] == 1
    assert row(draw(300, rates=[0.0] * 4, meta=EXACT))["lower"] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_o_t8_replay_without_a_match_has_no_bounds(kind: str) -> None:
    ends = OF_MATCHES[kind](estimates_of(rows_of([0.5] * 5, [1.0] * 5), "replay"), 0.05)
    assert ends[0].isnan().all() and ends[1].isnan().all()
    lower, upper = OF_MATCHES["bernstein"](
        estimates_of(rows_of([1.0, 0.0], [1.0, 0.0]), "replay"), 0.05
    )
    assert (float(lower), float(upper)) == (0, 1)  # one match says nothing
    for end in OF_WEIGHTS[kind](estimates_of(rows_of([1.0], [1.0]), reward_range=None), 0.05):
        assert end.isnan().all()


# ---- what they need


def refusal(log: Log, match: str, **options: Any) -> None:
    with pytest.raises(ConfigError, match=match):
        evaluate(log, {"t": Fixed(TARGET)}, **{"estimators": ["ips"], **options})


@pytest.mark.parametrize("kind", KINDS)
def test_o_bounds_are_refused_without_a_declared_floor(kind: str) -> None:
    refusal(draw(50), r"largest weight .*Meta\(floor=0.01\)", interval=kind)
    low = Meta(reward_range=(0, 1), floor=0.2)
    refusal(draw(50, meta=low), "0.2 is declared and 0.1 was logged", interval=kind)


@pytest.mark.parametrize("kind", [*KINDS, "likelihood", "betting", "gamma_exponential"])
def test_o_bounds_are_refused_without_a_range_of_rewards(kind: str) -> None:
    log = draw(100, reward=torch.arange(100) % 5, meta=Meta(floor=0.1))
    refusal(log, r"60 rows lie outside \(0, 1\) and none is declared", interval=kind)
    evaluate(log, {"t": Fixed(TARGET)}, interval=kind, reward_range=(0, 4))


@pytest.mark.parametrize("kind", [*KINDS, "likelihood", "betting", "gamma_exponential"])
def test_o_bounds_are_refused_for_estimators_of_something_else(kind: str) -> None:
    match = r"for \['ips', 'snips', 'el'.*found estimators \['sndr', 'cips'\]"
    refusal(draw(50, meta=EXACT), match, interval=kind, estimators=["sndr", "cips"])
    if kind not in OF_MODELS:
        refusal(draw(50, meta=EXACT), "found estimators", interval=kind, estimators=["dr"])


def test_o_a_floor_that_the_log_contradicts_bounds_no_weight() -> None:
    log = draw(400, meta=Meta(reward_range=(0, 1), floor=0.3))
    free = draw(400, meta=Meta(reward_range=(0, 1)))
    a, b = (evaluate(x, {"t": Fixed(TARGET)}, estimators=["ips"]).table for x in (log, free))
    assert a["lower"].item() == b["lower"].item() and a["upper"].item() == b["upper"].item()


def test_o_other_estimators_keep_their_own_interval_and_the_report_says_so() -> None:
    log = draw(400, meta=EXACT)
    report = evaluate(log, {"t": Fixed(TARGET)}, interval="betting")
    assert dict(report.table.select("estimator", "method").iter_rows()) == {
        "snips": "betting",
        "dr": "student",
    }
    said = "dr: not what betting bounds, so they keep their own interval."
    assert said in report.notes
    assert said not in evaluate(log, {"t": Fixed(TARGET)}, interval="bootstrap").notes


def test_o_the_report_says_what_is_assumed() -> None:
    def notes(log: Log, **options: Any) -> str:
        return "\n".join(evaluate(log, {"t": Fixed(TARGET)}, estimators=["ips"], **options).notes)

    clustered = notes(draw(100, meta=EXACT), interval="hoeffding")
    assert "hoeffding: rows count as independent; too narrow if those of a unit" in clustered
    assert "rewards are taken to lie" not in clustered
    alone = notes(draw(100, meta=Meta(floor=0.1), unit=False), interval="hoeffding")
    assert "independent" not in alone
    assert "hoeffding: rewards are taken to lie in (0, 1)" in alone
    assert "independent" not in notes(draw(100, meta=EXACT), interval="student")
    assert "likelihood: rows count as independent" in notes(draw(100, meta=EXACT))


def test_o_matches_must_be_summed_in_the_pass() -> None:
    log, policies = draw(200, meta=EXACT), {"t": Fixed([0, 1, 0, 0])}
    plan = Evaluation(policies, estimators=["replay", "ips"])
    state = plan.scan(log)
    with pytest.raises(ConfigError, match=r"Evaluation\(\.\.\., interval='hoeffding'\)"):
        plan.report(state, interval="hoeffding")
    with_it = Evaluation(policies, estimators=["replay", "ips"], interval="hoeffding")
    with pytest.raises(ConfigError, match="different evaluations"):
        state + with_it.scan(log)
    other = with_it.report(with_it.scan(log), interval="bernstein")
    assert set(other.table["method"]) == {"bernstein"}
    plain = Evaluation(policies, estimators=["ips"])
    report = plain.report(plain.scan(log), interval="hoeffding")
    assert report.table["method"].to_list() == ["hoeffding"]


def test_o_g3_is_silent_beside_an_interval_that_holds_anyway() -> None:
    log = draw(3000, rates=[0.002] * 4, meta=EXACT)

    def gates(kind: str) -> set[str]:
        report = evaluate(log, {"t": Fixed(TARGET)}, estimators=["ips"], interval=kind)
        return set(report.gates["gate"])

    assert "G3" in gates("student")
    for kind in KINDS:
        assert "G3" not in gates(kind)


def test_o_differences_of_bounded_intervals_take_the_union_bound() -> None:
    log, policies = draw(2000, meta=EXACT), {"t": Fixed(TARGET), "u": Uniform()}
    options = {"estimators": ["ips"], "interval": "bernstein"}
    row = evaluate(log, policies, base="u", **options).compare.to_dicts()[0]
    half: list[dict[str, Any]] = evaluate(log, policies, alpha=0.025, **options).table.to_dicts()
    assert row["lower"] == pytest.approx(half[0]["lower"] - half[1]["upper"], abs=1e-12)
    assert row["upper"] == pytest.approx(half[0]["upper"] - half[1]["lower"], abs=1e-12)
    assert row["p"] is None and row["p_adjusted"] is None and row["method"] == "bernstein"
    paired = evaluate(log, policies, base="u", estimators=["ips"]).compare.to_dicts()[0]
    assert paired["method"] == "student" and paired["p"] is not None


def _ends(kind: str, w: Tensor, r: Tensor) -> list[float]:
    ends = OF_WEIGHTS[kind](estimates_of(rows_of(w, r), top=4.0), 0.05)
    return [float(x) for end in ends for x in end]


@pytest.mark.parametrize("kind", KINDS)
def test_o_t6_order_of_rows_changes_nothing(kind: str) -> None:
    w, r = torch.tensor([0.5, 2.0, 1.5, 0.25] * 20), torch.tensor([1.0, 0.0, 0.0, 1.0] * 20)
    there = torch.randperm(80, generator=torch.Generator().manual_seed(0))
    assert _ends(kind, w, r) == pytest.approx(_ends(kind, w[there], r[there]), rel=1e-12)
