"""Confidence sequences: martingales by enumeration, reference numbers, merging, ends of ranges."""

from __future__ import annotations

import itertools
import math
import pickle
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import torch
from interval_world import F64, estimates_of, rows_of
from ope_world import LOGGER, TARGET, VALUE, Fixed, draw
from scipy import integrate
from torch import Tensor

from recfb import ConfigError, Evaluation, Log, Meta, evaluate
from recfb.cli import main
from recfb.data import blocks
from recfb.evaluation import State
from recfb.evaluation.collect import pilot_of
from recfb.evaluation.sequences import (
    GRID,
    SEQUENCES,
    Pilot,
    betting,
    bounded_terms,
    candidates,
    gamma_exponential,
    log_wealth,
    mixture,
    running_sums,
    wealth_limit,
)
from recfb.policies import Uniform

KINDS = list(SEQUENCES)
POLICIES = {"t": Fixed(TARGET), "u": Uniform()}
pytestmark = pytest.mark.filterwarnings("ignore::recfb.errors.OverlapWarning")


# of VowpalWabbit/estimators, `bandits.cs`, on `fixed_rows`
REFERENCE = {
    0.05: (0.3587685564475134, 0.6356105634652816),
    0.2: (0.38017216203582643, 0.6139807125017842),
}
SCALED = (0.4350742257900535, 1.5424422538611267)  # on rewards 4 r - 1 in (-1, 3)


def fixed_rows() -> tuple[Tensor, Tensor]:
    i = torch.arange(200)
    return (i * 7 % 11).to(F64) / 5, (i * 3 % 7).to(F64) / 6


def collect(kind: str, x: Tensor) -> Tensor:
    """(2, n) -> (2, 1, k)"""
    return (running_sums(x) if kind == "gamma_exponential" else log_wealth(x, candidates()))[
        :, None
    ]


def limits(
    kind: str, w: Any, r: Any, alpha: float = 0.05, ends: tuple[float, float] = (0.0, 1.0)
) -> list[float]:
    rows = rows_of(w, r)
    seq = collect(kind, bounded_terms(rows.w[0], rows.r, *ends))
    estimates = estimates_of(rows, reward_range=ends, sequence=seq)
    return [float(end[0]) for end in SEQUENCES[kind](estimates, alpha)]


# ---- numbers


def test_o_t9_gamma_exponential_agrees_with_the_public_implementation() -> None:
    w, r = fixed_rows()
    kind = "gamma_exponential"
    assert limits(kind, w, r) == pytest.approx(REFERENCE[0.05], abs=1e-9)
    assert limits(kind, w, r, 0.2) == pytest.approx(REFERENCE[0.2], abs=1e-9)
    assert limits(kind, w, 4 * r - 1, ends=(-1.0, 3.0)) == pytest.approx(SCALED, abs=1e-8)


def test_o_running_sums_by_hand() -> None:
    # X = 1, 0, 2: guesses 1/2, 1.5/2, 1.5/3
    s, q = running_sums(torch.tensor([1.0, 0.0, 2.0], dtype=F64)).tolist()
    assert (s, q) == pytest.approx((3.0, 0.25 + 0.5625 + 2.25))


@pytest.mark.parametrize(("s", "q"), [(0.0, 0.3), (2.5, 1.7), (12.0, 40.0)])
def test_o_the_mixture_is_its_integral(s: float, q: float) -> None:
    def value(theta: float) -> float:
        psi = -math.log1p(-theta) - theta
        return math.exp(theta * s - psi * q - (1 - theta)) / (1 - math.exp(-1))

    direct = math.log(integrate.quad(value, 0, 1, epsabs=1e-13)[0])
    mine = mixture(torch.tensor([s], dtype=F64), torch.tensor([q], dtype=F64))
    assert float(mine) == pytest.approx(direct, abs=1e-9)


def by_rows(x: list[float], m: float) -> float:
    """The wealth of one candidate, row by row, with every bet made before its rows."""
    wealth, n, total, square, at = 0.0, 0, 0.0, 0.0, 0
    while at < len(x):
        mean = (0.5 + total) / (n + 1)
        var = (0.25 + sum((y - mean) ** 2 for y in x[:at])) / (n + 1)
        stake = (mean - m) / (var + (mean - m) ** 2)
        stake = min(max(stake, 0.0), 1 / (2 * m))
        size = max(1, min(512, n // 4))
        for y in x[at : at + size]:
            wealth += math.log(1 + stake * (y - m))
            total, square, n = total + y, square + y * y, n + 1
        at += size
    return wealth


def test_o_wealth_is_the_product_row_by_row() -> None:
    w, r = fixed_rows()
    x, m = w * r, torch.tensor([0.01, 0.3, 0.5, 0.9], dtype=F64)
    mine = log_wealth(x[None], m)[0]
    for k, candidate in enumerate(m.tolist()):
        assert float(mine[k]) == pytest.approx(by_rows(x.tolist(), candidate), abs=1e-9)
    sure = log_wealth(torch.full((1, 40), 0.6, dtype=F64), m[1:2])  # the largest bets, 1 / (2 m)
    assert float(sure) == pytest.approx(by_rows([0.6] * 40, 0.3), abs=1e-9)


def test_o_limits_are_rounded_outwards() -> None:
    grid = candidates(4)  # 0.146, 0.5, 0.854, 1
    wealth = torch.tensor([[9.0, 9.0, 1.0, 0.0], [1.0, 9.0, 9.0, 9.0], [9.0] * 4], dtype=F64)
    found = wealth_limit(wealth, 0.05).tolist()
    assert found == pytest.approx([float(grid[1]), 0.0, math.inf])
    assert wealth_limit(wealth * math.nan, 0.05).isnan().all()
    steps = candidates().diff()
    assert len(candidates()) == GRID and steps.max() < 0.0016 and steps.min() < 6e-6


# ---- martingales, by enumerating every log


def worlds(n: int) -> tuple[Tensor, Tensor]:
    """Every log of n terms that are 0, 0.5 or 3, and its chance; their mean is 0.45."""
    support, chance = torch.tensor([0.0, 0.5, 3.0], dtype=F64), [0.6, 0.3, 0.1]
    index = torch.tensor(list(itertools.product(range(3), repeat=n)))  # (3^n, n)
    return support[index], torch.tensor(chance, dtype=F64)[index].prod(1)


MEAN = 0.45


def test_o_t9_wealth_at_the_value_is_a_martingale() -> None:
    x, chance = worlds(8)
    m = torch.tensor([MEAN, 0.7], dtype=F64)
    earned = (log_wealth(x, m).exp() * chance[:, None]).sum(0)
    assert float(earned[0]) == pytest.approx(1, abs=1e-12)
    assert float(earned[1]) < 1  # above the value every bet loses
    parts = log_wealth(x[:, :3], m) + log_wealth(x[:, 3:], m)  # two parts, each from nothing
    assert float((parts.exp() * chance[:, None]).sum(0)[0]) == pytest.approx(1, abs=1e-12)


def test_o_t9_wealth_that_starts_from_a_pilot_is_a_martingale() -> None:
    x, chance = worlds(8)
    m = torch.tensor([MEAN], dtype=F64)
    first = x[:, :5]
    start = Pilot(5, first.sum(1), first.square().sum(1))
    later = log_wealth(x[:, 5:], m, start)
    earned = ((log_wealth(first, m) + later).exp() * chance[:, None]).sum()
    assert float(earned) == pytest.approx(1, abs=1e-12)
    assert float((later - log_wealth(x[:, 5:], m)).abs().max()) > 0.1


@pytest.mark.parametrize("theta", [0.05, 0.3, 0.6, 0.9])
def test_o_t9_exponential_of_merged_sums_is_a_supermartingale(theta: float) -> None:
    x, chance = worlds(8)
    psi = -math.log1p(-theta) - theta
    for cut in (0, 4):
        s, q = (running_sums(x[:, :cut]) + running_sums(x[:, cut:])).unbind(-1)
        earned = (theta * (s - 8 * MEAN) - psi * q).exp()
        assert float((earned * chance).sum()) <= 1 + 1e-12


# ---- merging


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "PART", 300)


def ends(log: Log, kind: str, **options: Any) -> list[tuple[float, float]]:
    report = evaluate(log, POLICIES, estimators=["ips"], interval=kind, **options)
    return list(report.table.select("lower", "upper").iter_rows())


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("kind", KINDS)
def test_o_t3_parts_in_any_order_are_bit_equal(kind: str, tmp_path: Path) -> None:
    log = draw(2000)
    plan = Evaluation(POLICIES, estimators=["ips"], interval=kind).fit(log)
    sent = pickle.loads(pickle.dumps(plan))
    parts = [sent.scan(log, part) for part in log.parts()]
    assert len(parts) == 7
    whole = reduce(lambda a, b: a + b, parts)
    shuffled = [parts[k] for k in (3, 6, 0, 5, 1, 4, 2)]
    other = reduce(lambda a, b: a + b, shuffled[3:]) + reduce(lambda a, b: a + b, shuffled[:3])
    first, second = (state.groups()[""].seq for state in (whole, other))
    assert first is not None and second is not None and torch.equal(first, second)
    with ThreadPoolExecutor(2) as executor:
        threads = evaluate(log, POLICIES, estimators=["ips"], interval=kind, executor=executor)
    table = plan.report(whole).table
    loaded = State.load(other.compact().save(tmp_path / "state.parquet"))
    for state in (other, whole.compact(), loaded, threads.state):
        assert plan.report(state).table.equals(table)
    assert set(table["method"]) == {kind} and table["lower"].null_count() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_o_t3_parts_cost_little_width(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    log = draw(2400)
    (a, b), _ = ends(log, kind)
    monkeypatch.setattr(blocks, "PART", 300)
    (c, d), _ = ends(log, kind)
    assert (a, b) != (c, d) and c < VALUE < d
    assert (d - c) / (b - a) < (1.02 if kind == "gamma_exponential" else 1.1)


@pytest.mark.usefixtures("small_parts")
def test_o_later_parts_start_from_the_first_rows() -> None:
    log = draw(2400)
    plan = Evaluation(POLICIES, estimators=["ips"], interval="betting").fit(log)
    head = log.with_frame(log.frame.head(300))
    assert plan.pilot is not None and plan.pilot.n == 300
    assert float(plan.pilot.total[0, 0]) == pytest.approx(
        300 * evaluate(head, POLICIES, estimators=["ips"]).table["value"][0]
    )
    (a, b), _ = ends(log, "betting")
    plan.pilot = None
    c, d = plan.report(plan.scan(log)).table.select("lower", "upper").row(0)
    assert b - a < 0.95 * (d - c)
    assert pilot_of(head, POLICIES, "betting", (0, 1)) is None
    assert pilot_of(log, POLICIES, "student", (0, 1)) is None


@pytest.mark.parametrize("kind", KINDS)
def test_o_subgroups_are_what_the_filtered_log_says(kind: str) -> None:
    log = draw(1200)
    report = evaluate(log, POLICIES, estimators=["ips"], interval=kind, by="position")
    for position in (1, 2, 3):
        alone = ends(log.filter(log.frame["position"] == position), kind)
        mine = report.table.filter(position=str(position)).select("lower", "upper")
        for there, here in zip(mine.iter_rows(), alone, strict=True):
            assert there == pytest.approx(here, abs=1e-12)


# ---- ends and needs


@pytest.mark.parametrize("kind", KINDS)
def test_o_mirrored_rewards_mirror_the_limits(kind: str) -> None:
    w, r = fixed_rows()
    lower, upper = limits(kind, w, r)
    assert limits(kind, w, 1 - r) == pytest.approx([1 - upper, 1 - lower], abs=1e-9)
    wide = limits(kind, w, 10 * r - 5, ends=(-5.0, 5.0))
    assert wide == pytest.approx([10 * lower - 5, 10 * upper - 5], abs=1e-9)
    assert 0 < lower < upper < 1


@pytest.mark.parametrize("kind", KINDS)
def test_o_t8_degenerate_logs(kind: str) -> None:
    def row(log: Log, policy: Any = None) -> Any:
        policies = {"t": policy or Fixed(TARGET)}
        return evaluate(log, policies, estimators=["ips"], interval=kind).table.to_dicts()[0]

    empty = row(draw(0))
    assert empty["lower"] is None and empty["reasons"] == "no rows"
    one = row(draw(1))
    assert (one["lower"], one["upper"]) == (0, 1)
    away = row(draw(200, logger=[0.5, 0.5, 0, 0]), Fixed([0, 0, 0.5, 0.5]))
    assert (away["lower"], away["upper"]) == (0, 1) and away["verdict"] == "do not use"
    sure = row(draw(500, rates=[1.0] * 4), Fixed(LOGGER))
    assert sure["lower"] > 0.9 and sure["upper"] == 1
    none = row(draw(500, rates=[0.0] * 4), Fixed(LOGGER))
    assert none["lower"] == 0 and none["upper"] < 0.1
    huge = limits(kind, [1.0] * 99 + [1e12], [0.5] * 100)
    assert 0 <= huge[0] < 0.5 < huge[1] <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_o_weights_that_cannot_average_one_leave_no_value(kind: str) -> None:
    # as if the propensities had been logged four times too small
    log = draw(2000)
    frame = log.frame.with_columns(propensity=log.frame["propensity"] / 4)
    report = evaluate(log.with_frame(frame), POLICIES, estimators=["ips"], interval=kind)
    row = report.table.to_dicts()[0]
    assert row["value"] is not None and row["lower"] is None and row["upper"] is None
    assert "no value in the range agrees with these weights" in row["reasons"]
    assert all(math.isnan(end) for end in limits(kind, [3.0] * 500, [1.0] * 500))


def test_o_sequences_must_be_summed_in_the_pass() -> None:
    log = draw(100)
    plan = Evaluation(POLICIES, estimators=["ips"])
    state = plan.scan(log)
    for kind in KINDS:
        with pytest.raises(ConfigError, match=rf"Evaluation\(\.\.\., interval='{kind}'\)"):
            plan.report(state, interval=kind)
        mine = Evaluation(POLICIES, estimators=["ips"], interval=kind)
        with pytest.raises(ConfigError, match="of different evaluations"):
            state + mine.scan(log)
        assert mine.report(mine.scan(log), interval="student").table["method"][0] == "student"
        for end in SEQUENCES[kind](estimates_of(rows_of([1.0], [1.0])), 0.05):
            assert end.isnan().all()  # no statistics
    with pytest.raises(ConfigError, match="Did you mean 'betting'"):
        Evaluation(POLICIES, interval="beting")


def test_o_betting_is_narrower_than_the_mixture_and_both_than_the_range() -> None:
    log = draw(4000, meta=Meta(reward_range=(0, 1)))
    (a, b), (c, d) = ends(log, "betting")[0], ends(log, "gamma_exponential")[0]
    assert b - a < d - c < 0.25
    for function, name in ((betting, "betting"), (gamma_exponential, "gamma_exponential")):
        assert SEQUENCES[name] is function


def test_o_intervals_are_reached_by_name_from_the_command_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["evaluate", "open_bandit/all/random", "--estimators", "[ips]", "--interval"]
    for kind in (*KINDS, "bernstein", "studentised"):
        main([*command, kind])
        assert f"] {kind}" in capsys.readouterr().out
    assert main([*command, "betingg"]) == 1
    assert "Did you mean 'betting'" in capsys.readouterr().err
