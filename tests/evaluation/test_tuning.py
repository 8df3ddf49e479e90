"""Shrinkage that is chosen in the pass: scores by hand, the choice, and its interval."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from ope_world import TARGET, Fixed, draw
from scipy.special import stdtrit
from torch import Tensor

from recfb import ConfigError, Evaluation, Meta, estimate, evaluate
from recfb.estimate import GRIDS, UNSHRUNK, Rows, Tuned, average, bias_bound, slope, squared_error
from recfb.estimate.tuning import least
from recfb.evaluation import student
from recfb.evaluation.estimates import BucketEstimates, poisson_counts
from recfb.evaluation.intervals import method
from recfb.evaluation.shape import traits
from recfb.evaluation.terms import Terms, accumulate
from recfb.policies import Uniform
from recfb.random import mix64

F = torch.float64
pytestmark = pytest.mark.filterwarnings("ignore::recfb.errors.OverlapWarning")


def column(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=F)


@pytest.mark.parametrize(
    "value, width, chosen",
    [
        # all agree: the narrowest, wherever it stands
        ([1.0, 1.0, 1.0], [3.0, 2.0, 1.0], 2),
        ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0], 0),
        # |0 - 3.3| > 1 + 1.449 x 1.5: the last is off
        ([0.0, 0.0, 3.3], [2.0, 1.5, 1.0], 1),
        # 2.4 <= 1 + 1.449 x 1, 2.5 is not
        ([0.0, 2.4], [1.0, 1.0], 1),
        ([0.0, 2.5], [1.0, 1.0], 0),
        # after the first that does not agree nothing is accepted
        ([0.0, 9.0, 0.0], [2.0, 1.5, 1.0], 0),
        ([5.0], [1.0], 0),
    ],
)
def test_o_11_2_slope_by_hand(value: list[float], width: list[float], chosen: int) -> None:
    assert slope(column(*value), column(*width)).item() == chosen


def test_o_11_2_slope_of_many_columns_is_that_of_each() -> None:
    g = torch.Generator().manual_seed(0)
    value = torch.rand(6, 50, 3, generator=g, dtype=F)
    width = torch.rand(6, 50, 3, generator=g, dtype=F) / 2
    whole = slope(value, width)
    for i in range(50):
        for k in range(3):
            assert whole[i, k] == slope(value[:, i, k], width[:, i, k])
            assert whole[i, k] == one_by_one(value[:, i, k].tolist(), width[:, i, k].tolist())


def one_by_one(value: list[float], width: list[float]) -> int:
    """The rule as it is written, on one list."""
    order = sorted(range(len(value)), key=lambda k: -width[k])
    accepted = order[:1]
    for i in order[1:]:
        for j in accepted:
            if abs(value[i] - value[j]) > width[i] + (6**0.5 - 1) * width[j]:
                return accepted[-1]
        accepted.append(i)
    return accepted[-1]


def test_o_11_1_scores_by_hand() -> None:
    score = squared_error(column(4.0, 1.0), column(0.1, -0.5), column(100.0, 100.0))
    assert score.tolist() == pytest.approx([0.05, 0.26])
    assert least(score, column(0.1, 0.5)).item() == 0
    bound = bias_bound(column(-0.2), column(2.0), column(1000.0), highest=5.0, delta=0.1)
    log = 2.995732273553991  # log 20
    expected = 0.2 + (2 * 2 * log / 1000) ** 0.5 + 2 * 5 * log / 3000
    assert float(bound) == pytest.approx(expected, rel=1e-12)


def rows_of(n: int, policies: int = 2, seed: int = 0) -> Rows:
    g = torch.Generator().manual_seed(seed)
    p = torch.rand(n, generator=g, dtype=F) * 0.95 + 0.05
    pe = torch.rand(policies, n, generator=g, dtype=F)
    r = (torch.rand(n, generator=g, dtype=F) < 0.3).to(F)
    v, q = torch.rand(policies, n, generator=g, dtype=F), torch.rand(n, generator=g, dtype=F)
    return Rows(r, p, pe, v, q)


TUNABLE = [name for name, f in estimate.ESTIMATORS.items() if f in GRIDS]


@pytest.mark.parametrize("name", TUNABLE)
def test_o_11_1_columns_are_value_square_and_bias_of_every_strength(name: str) -> None:
    rows, f = rows_of(300), estimate.ESTIMATORS[name]
    tuned = Tuned(f, (0.5, 2.0) if 1.0 not in GRIDS[f][1:] else (0.1, 0.4), by="mse")
    value, square, bias, _ = tuned.columns(rows, average)
    for k, strength in enumerate(tuned.strengths):
        one: Any = f
        assert torch.allclose(value[k], one(rows, average, strength), rtol=1e-12)
        gap = one(rows, average, strength) - UNSHRUNK[f](rows, average)
        assert torch.allclose(bias[k], gap, rtol=1e-9)
        term = one(rows, estimate.each, strength)
        assert torch.allclose(square[k] - value[k] ** 2, term.var(-1, correction=0), rtol=1e-9)


def test_o_11_1_the_choice_has_the_least_score() -> None:
    rows = rows_of(400)
    tuned = Tuned(estimate.cips, by="mse")
    score = []
    for lam in tuned.strengths:
        term = rows.w.clamp(max=lam) * rows.r  # (P, n)
        bias = (term - rows.wr).mean(-1)
        score.append(term.var(-1, correction=0) / 400 + bias**2)
    best = torch.stack(score).argmin(0)
    found = tuned(rows, average)
    for k in range(2):
        one = estimate.cips(rows, average, tuned.strengths[int(best[k])])
        assert float(found[k]) == float(one[k])


def test_o_11_1_the_bound_counts_what_the_estimate_of_the_bias_may_miss() -> None:
    rows, grid = rows_of(400), (0.5, 1.0, 2.0, 4.0, 20.0)
    bound = Tuned(estimate.cips, grid, by="mse", highest=20.0)
    n = torch.full((2,), 400.0, dtype=F)
    score = []
    for lam in grid:
        term = rows.w.clamp(max=lam) * rows.r  # (P, n)
        bias = bias_bound((term - rows.wr).mean(-1), rows.ww.mean(-1), n, highest=20.0)
        score.append(term.var(-1, correction=0) / 400 + bias**2)
    best = torch.stack(score).argmin(0)
    assert torch.equal(bound.choice(bound.columns(rows, average), n), best)
    plain = Tuned(estimate.cips, grid, by="mse")
    assert (best >= plain.choice(plain.columns(rows, average), n)).all()  # never more shrinkage


def test_o_11_2_the_choice_by_slope() -> None:
    rows = rows_of(400)
    tuned = Tuned(estimate.dros, by="slope")
    terms = torch.stack(
        [rows.v + estimate.shrink(rows.w, lam) * rows.e for lam in tuned.strengths]
    )  # (G, P, n)
    width = float(stdtrit(399, 0.95)) * terms.std(-1) / 20
    for k in range(2):
        chosen = one_by_one(terms[:, k].mean(-1).tolist(), width[:, k].tolist())
        mine = tuned.choice(tuned.columns(rows, average), torch.full((2,), 400.0, dtype=F))
        assert int(mine[k]) == chosen
        assert float(tuned(rows, average)[k]) == pytest.approx(float(terms[chosen, k].mean()))


@pytest.mark.parametrize("by", ["slope", "mse"])
@pytest.mark.parametrize("name", TUNABLE)
def test_o_11_3_sums_choose_what_rows_choose(name: str, by: Any) -> None:
    rows, tuned = rows_of(500), Tuned(estimate.ESTIMATORS[name], by=by)
    terms = Terms({"it": tuned, "plain": UNSHRUNK[tuned.estimator]}, policies=2)
    bucket = mix64(torch.arange(500)) & 255
    sums = accumulate(terms, rows, bucket, 256)
    made = BucketEstimates("it", terms, sums, 0, (0, 1), (0, 1e9))
    assert torch.allclose(made.value, tuned(rows, average), rtol=1e-12)
    (chosen,) = made.choices(tuned)
    one: Any = tuned.estimator
    for k in range(2):
        strength = tuned.strengths[int(chosen[k])]
        assert float(made.value[k]) == pytest.approx(float(one(rows, average, strength)[k]))
    assert float(made.phi.sum()) == pytest.approx(0, abs=1e-12)


def test_o_11_3_every_replicate_repeats_the_choice() -> None:
    rows, tuned = rows_of(200, seed=3), Tuned(estimate.cips, (0.5, 2.0, 4.0, 8.0, 16.0), by="mse")
    terms = Terms({"it": tuned}, policies=2)
    sums = accumulate(terms, rows, torch.arange(200), 256)
    made = BucketEstimates("it", terms, sums, 0, (0, 1), (0, 1e9))
    drawn, counts = made.replicates(60), poisson_counts(60, 256, 0)
    seen = set()
    for b in range(60):
        again = rows[torch.arange(200).repeat_interleave(counts[b, :200].long())]
        assert torch.allclose(drawn[b], tuned(again, average), rtol=1e-9)
        n = torch.full((2,), float(len(again)), dtype=F)
        seen |= {int(tuned.choice(tuned.columns(again, average), n)[0])}
    assert len(seen) > 1  # so the choice does vary


def test_o_11_3_the_interval_of_a_tuned_estimator_is_the_bootstrap_of_the_whole() -> None:
    log, policies = draw(800, logger=[0.6, 0.3, 0.08, 0.02]), {"t": Fixed(TARGET), "u": Uniform()}
    mine = {"tuned": Tuned(estimate.cips, (1.0, 3.0, 10.0, 30.0), by="mse"), "ips": estimate.ips}
    report = evaluate(log, policies, estimators=mine)
    row = report.table.filter(policy="t", estimator="tuned").to_dicts()[0]
    assert row["method"] == "bootstrap"
    note = next(text for text in report.notes if text.startswith("tuned: shrinkage "))
    assert (
        "; the interval repeats the choice, and knows nothing of the bias" in note
        and " for t, " in note
    )
    forced = evaluate(log, policies, estimators=mine, interval="student")
    assert any("ignores the choice" in text for text in forced.notes)
    assert row["upper"] - row["lower"] > 0
    chosen = float(note.split()[2])
    clipped: Any = estimate.cips
    alone = evaluate(log, policies, estimators={"c": lambda t, mean: clipped(t, mean, chosen)})
    assert row["value"] == pytest.approx(alone.table["value"][0], rel=1e-12)


# ---- chosen on one half, valued on the other


def halves(rows: Rows, tuned: Tuned, size: int) -> BucketEstimates:
    """The rows in `size` buckets, in turn."""
    terms = Terms({"it": tuned, "all": replace(tuned, split=False)}, policies=len(rows.pe))
    sums = accumulate(terms, rows, torch.arange(len(rows)) % size, size)
    return BucketEstimates("it", terms, sums, 0, (0, 1), (0, 1e9))


GRID = (0.5, 2.0, 4.0, 8.0, 16.0)


@pytest.mark.parametrize("by", ["slope", "mse"])
@pytest.mark.parametrize("name", TUNABLE)
def test_o_11_3_a_half_is_valued_with_what_the_other_chose(name: str, by: Any) -> None:
    tuned = Tuned(
        estimate.ESTIMATORS[name], GRID if name in ("cips", "cdr") else (), by, split=True
    )
    rows, one = rows_of(301, seed=3), tuned.estimator
    made = halves(rows, tuned, 64)
    fold = torch.arange(301) % 64 % 2
    parts, shrunk = [rows[fold == k] for k in (0, 1)], []
    for mine, other in (parts, parts[::-1]):
        n = torch.tensor(float(len(other)), dtype=F)
        choice = tuned.choice(tuned.columns(other, average), n)
        value: Any = [one(mine, average, tuned.strengths[int(c)])[k] for k, c in enumerate(choice)]  # type: ignore[call-arg]
        shrunk.append(len(mine) * torch.stack(value))
    assert torch.allclose(made.value, sum(shrunk) / 301, rtol=1e-12)
    assert made.phi.sum(1).tolist() == pytest.approx([0, 0], abs=1e-12)
    differ = int((made.choices(tuned)[0] != made.choices(tuned)[1]).sum())
    assert differ or name != "cips" or by != "mse"  # so the halves do disagree


def test_o_11_3_a_split_that_agrees_is_the_fixed_strength() -> None:
    rows = rows_of(400)
    made = halves(rows, Tuned(estimate.dros, (3.0,), by="mse", split=True), 1024)
    term = rows.v + estimate.shrink(rows.w, 3.0) * rows.e
    assert torch.allclose(made.value, term.mean(-1), rtol=1e-12)
    assert torch.allclose(made.se(), term.std(-1) / 20, rtol=1e-9)
    assert made.se_diff(0)[1] == pytest.approx(float((term[1] - term[0]).std()) / 20, rel=1e-9)


def test_o_11_3_the_influence_of_a_split_is_its_derivative() -> None:
    rows, tuned = rows_of(90, seed=3), Tuned(estimate.cips, GRID, by="mse", split=True)
    made = halves(rows, tuned, 90)
    assert len({tuple(choice.tolist()) for choice in made.choices(tuned)}) == 2
    for bucket in (0, 7, 88, 89):
        sums = made.sums.clone()
        sums[..., bucket] *= 1 + 1e-6
        moved = replace(made, sums=sums).value - made.value
        assert torch.allclose(moved / 1e-6, made.phi[:, bucket], rtol=1e-4, atol=1e-8)


def test_o_11_3_resamples_of_a_split_choose_on_their_own_halves() -> None:
    rows, tuned = rows_of(200, seed=3), Tuned(estimate.cips, GRID, by="mse", split=True)
    made = halves(rows, tuned, 200)
    drawn, pivots = made.replicates(40), made.pivots(40)
    counts = poisson_counts(40, 200, 0)
    for b in range(40):
        there = torch.arange(200).repeat_interleave(counts[b].long())
        terms = Terms({"it": tuned}, policies=2)
        sums = accumulate(terms, rows[there], there, 200)
        again = BucketEstimates("it", terms, sums, 0, (0, 1), (0, 1e9))
        assert torch.allclose(drawn[b], again.value, rtol=1e-9)
        repeated = counts[b].clamp(min=1).double()  # a bucket drawn c times is c buckets
        se = ((again.phi.square() / repeated).sum(1) * (1 + 1 / 199)).sqrt()
        assert torch.allclose(pivots[b], (again.value - made.value) / se, rtol=1e-8)


def test_o_11_3_a_split_is_the_same_for_any_partition() -> None:
    rows, unit = rows_of(900, seed=5), torch.arange(900) // 3
    plan = Evaluation(
        {"a": Uniform(), "b": Uniform()}, estimators=["cips:mse:split", "dros:mse:split"]
    )
    fewer = Evaluation(plan.policies, estimators=plan.estimators, buckets=256)

    def table(plan: Evaluation, cuts: list[int], order: int = 1) -> Any:
        edges = [0, *cuts, 900]
        parts = [
            plan.scan_rows(rows[a:b], unit[a:b], f"rows[{a}:{b}]") for a, b in pairwise(edges)
        ][::order]
        whole = parts[0]
        for part in parts[1:]:
            whole = whole + part
        return plan.report(whole).table.select("value", "se", "lower", "upper")

    assert table(plan, [100, 450, 451]).equals(table(plan, [100, 450, 451], -1))  # to the bit
    for cuts in ([100, 450, 451], [1], [899, 899]):
        for a, b in zip(table(plan, cuts).iter_rows(), table(plan, []).iter_rows(), strict=True):
            assert a == pytest.approx(b, rel=1e-12)
    narrow, wide = table(fewer, [])["value"], table(plan, [])["value"]
    assert narrow.to_list() == pytest.approx(wide.to_list(), rel=1e-12)  # the halves are the same


def test_o_11_3_one_unit_has_no_other_half() -> None:
    log, policies = draw(9, unit=torch.zeros(9, dtype=torch.int64)), {"t": Fixed(TARGET)}
    row = evaluate(log, policies, estimators=["cips:mse:split"]).table.to_dicts()[0]
    assert row["value"] is None and row["reasons"].startswith("not defined on these rows")


def test_o_11_3_a_student_interval_of_a_split_covers_and_of_the_whole_does_not() -> None:
    """A right reward model, so no strength is biased: the choice alone is what can go wrong.

    600 logs of 400 rows, each in the place of a policy.
    """
    slopes = torch.linspace(-1.2, 1.2, 8, dtype=F)
    g = torch.Generator().manual_seed(11)

    def world(*size: int) -> tuple[Tensor, Tensor, Tensor]:
        x = torch.randn(*size, 1, generator=g, dtype=F)
        return (x * slopes).softmax(-1), (-x * slopes).softmax(-1), (slopes + x / 2 - 1).sigmoid()

    _, pi, q = world(1_000_000)
    truth = float((pi * q).sum(1).mean())
    mu, pi, q = world(600, 400)  # (600, 400, 8)
    item = torch.multinomial(mu.flatten(0, 1), 1, generator=g).view(600, 400, 1)
    p, pe, qa = (table.gather(2, item)[..., 0] for table in (mu, pi, q))
    r = (torch.rand(600, 400, generator=g) < qa).to(F)
    rows = Rows(r, p, pe, (pi * q).sum(2), qa)
    made = halves(rows, Tuned(estimate.dros, by="mse", split=True), 400)
    covers = {}
    for name in ("it", "all"):
        lower, upper = student(replace(made, name=name), 0.05)
        covers[name] = float(((lower <= truth) & (truth <= upper)).double().mean())
    assert 0.93 < covers["it"] < 0.97
    assert covers["all"] < covers["it"] - 0.02
    sd = (made.value - truth).square().mean().sqrt()
    assert float(made.se().square().mean().sqrt() / sd) == pytest.approx(1, abs=0.1)


def test_o_11_3_a_split_has_a_student_interval_and_a_note() -> None:
    log, policies = draw(800, logger=[0.6, 0.3, 0.08, 0.02]), {"t": Fixed(TARGET)}
    mine = {"tuned": Tuned(estimate.cips, (1.0, 3.0, 10.0, 30.0), by="mse", split=True)}
    report = evaluate(log, policies, estimators=mine)
    row = report.table.to_dicts()[0]
    assert row["method"] == "student"
    assert row["upper"] - row["lower"] == pytest.approx(2 * 1.96 * row["se"], rel=0.01)
    (note,) = [text for text in report.notes if text.startswith("tuned: shrinkage ")]
    assert " and " in note.split(" for t; ")[0]
    assert "each was chosen on one half of the units for the other; the interval knows" in note
    own = {name: method(f, traits(f), None) for name, f in mine.items()}
    assert own == {"tuned": "student"}
    assert method(Tuned(estimate.cips), traits(Tuned(estimate.cips)), None) == "bootstrap"


# ---- the choice with the bias bounded


def test_o_11_1_the_note_says_what_a_bound_of_the_bias_would_choose() -> None:
    few = {"seed": 1, "logger": [0.6, 0.3, 0.08, 0.02]}
    log = draw(200, **few, meta=Meta(reward_range=(0, 1), floor=0.02))
    grid, policies = (1.0, 3.0, 10.0, 30.0), {"t": Fixed(TARGET)}

    def note(tuned: Tuned, **options: Any) -> str:
        report = evaluate(options.pop("log", log), policies, estimators={"it": tuned}, **options)
        return next(text for text in report.notes if text.startswith("it: "))

    plain, bounded = (
        Tuned(estimate.cips, grid, "mse"),
        Tuned(estimate.cips, grid, "mse", highest=50),
    )
    first, second = (note(tuned).split()[2] for tuned in (plain, bounded))
    assert (first, second) == ("10", "30")  # the bound is larger, so it shrinks less
    assert note(plain).endswith("(gate G14). With the bias bounded it would be 30 for t.")
    assert note(bounded).endswith("(gate G14). With the plain bias it would be 10 for t.")
    modelled = note(Tuned(estimate.cdr, grid, "mse"))
    assert modelled.endswith("With the bias bounded for residuals in [-1, 1] it would be 30 for t.")
    assert note(Tuned(estimate.cips, (30.0,), "mse")).endswith("(gate G14).")  # they agree
    assert note(Tuned(estimate.cips, grid)).endswith("(gate G14).")  # slope bounds nothing
    missing = "A bound of the bias needs the smallest propensity, Meta(floor=...), and |r| <= 1."
    assert note(plain, log=draw(200, **few)).endswith(missing)
    assert note(plain, reward_range=(0, 2)).endswith(missing)
    assert note(plain, reward_range=(-1, 1)).endswith("would be 30 for t.")


def test_o_tuned_estimators_by_name() -> None:
    names = ["dros:slope", "sgips:mse", "dros:mse:split"]
    table = evaluate(draw(500), {"t": Fixed(TARGET)}, estimators=names).table
    assert table["estimator"].to_list() == names
    assert table["value"].null_count() == 0
    match = 'chosen by slope or by mse, as in "dros:slope", or "dros:slope:split"'
    for name in ("dros:best", "dros:split", "dros:mse:halves", "dros:mse:split:split", "dros:"):
        with pytest.raises(ConfigError, match=match):
            evaluate(draw(10), {"t": Fixed(TARGET)}, estimators=[name])
    with pytest.raises(ConfigError, match='as in "cips:slope"'):
        evaluate(draw(10), {"t": Fixed(TARGET)}, estimators=["ips:mse"])


def test_o_gates_see_what_is_tuned() -> None:
    found = traits(Tuned(estimate.dros))
    assert found.unshrunk is estimate.dr and found.models and found.weighs
    report = evaluate(
        draw(4000),
        {"t": Fixed(TARGET)},
        estimators={"tuned": Tuned(estimate.cips, (0.1,), by="mse")},
    )
    assert report.gates.filter(gate="G14")["level"].to_list() == ["fail"]


def test_o_ties_go_to_the_least_biased() -> None:
    rows = rows_of(100)
    wide = Tuned(estimate.cips, (1e9, 1e8), by="mse")  # no weight is so large
    n = torch.full((2,), 100.0, dtype=F)
    assert wide.strengths == (1e8, 1e9)
    assert wide.choice(wide.columns(rows, average), n).tolist() == [1, 1]
    assert Tuned(estimate.ix, (0.0, 0.5)).strengths == (0.5, 0.0)  # there 0 is no shrinkage
    assert torch.equal(wide(rows, average), estimate.ips(rows, average))


def test_o_an_empty_log_has_no_tuned_value() -> None:
    report = evaluate(draw(0), {"t": Fixed(TARGET)}, estimators=["dros:slope", "cips:mse"])
    assert report.exit_code == 4 and set(report.table["reasons"]) == {"no rows"}
