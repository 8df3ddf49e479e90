"""Estimated propensities: frequencies where they are known, out of fold, and judged by numbers."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import NormalDist
from typing import Any

import polars as pl
import pytest
import torch
from ope_world import draw
from test_gates import level, run

from recfb import ConfigError, Log, LogError
from recfb.data.door import Problems
from recfb.errors import RecfbWarning
from recfb.evaluation.cell_means import fold_of
from recfb.interop.calibration import (
    balance,
    by_isotonic,
    by_temperature,
    calibration,
    cross_calibrated,
    logistic,
    recalibration,
    temperature,
)
from recfb.interop.propensities import compare, estimate
from recfb.random import stream


def fold(log: Log, folds: int = 3, seed: int = 0) -> torch.Tensor:
    return fold_of(next(iter(log.parts())).record(Problems()).unit, folds, seed)


def softmax_log(n: int = 3000) -> tuple[Log, torch.Tensor]:
    """A logger that looks at features; its probabilities (n, 3)."""
    g = torch.Generator().manual_seed(2)
    x = torch.randn(n, 2, generator=g)
    mu = (x.double() @ torch.tensor([[1.0, 0.0, -1.0], [0.0, 1.0, 0.5]]).double()).softmax(1)
    item = torch.multinomial(mu, 1, generator=g)[:, 0]
    rows = {"item": item, "reward": (item == 1).float(), "features": x, "unit": torch.arange(n)}
    return Log.of(rows), mu


def test_o_a_saturated_model_gives_the_frequencies_of_the_other_folds() -> None:
    log = draw(900)
    made, own = estimate(log, l2=1e-6).log, fold(log)
    item, position = log.tensor("item"), log.tensor("position")
    for row in range(0, 900, 53):
        others = (own != own[row]) & (position == position[row])
        share = float((item[others] == item[row]).double().mean())
        assert float(made.frame["propensity"][row]) == pytest.approx(share, abs=1e-4)


@pytest.mark.parametrize("kind", ["logistic", "boosting"])
def test_o_a_unit_never_changes_its_own_model(kind: str) -> None:
    log = draw(300, unit=torch.arange(300) // 5)
    own = fold(log)
    mine = log.tensor("unit") == 3
    item = torch.where(mine, 3 - log.tensor("item"), log.tensor("item"))
    other = log.with_frame(log.frame.with_columns(item=pl.Series(item.numpy(), dtype=pl.Int32)))
    one, two = (estimate(each, kind=kind).log.tensor("propensity") for each in (log, other))  # type: ignore[arg-type]
    same = (own == own[mine][0]) & ~mine
    assert torch.equal(one[same], two[same])
    assert not torch.equal(one[~same & ~mine], two[~same & ~mine])


def test_o_what_the_logger_looked_at_is_found() -> None:
    log, mu = softmax_log()
    made = estimate(log)
    truth = mu.gather(1, log.tensor("item")[:, None])[:, 0]
    assert float((made.log.tensor("propensity") - truth).abs().mean()) < 0.02
    assert made.calibrated and made.slope == pytest.approx(1, abs=0.1) and made.error < 0.03
    assert made.items["z"].abs().max() < 4  # type: ignore[operator]
    blind = estimate(log.with_frame(log.frame.drop("features")))
    wrong = (blind.log.tensor("propensity") - truth).abs().mean()
    assert float(wrong) > 0.1


def test_o_gate_g7_warns_of_estimates() -> None:
    made = estimate(draw(2000)).log
    assert made.meta.propensity == "estimated" and made.meta.reward_range == (0, 1)
    report = run(made, estimators=["snips", "dm"])
    assert level(report, "G7", "snips") == "warn" and level(report, "G7", "dm") == ""


def test_o_parts_do_not_matter(tmp_path: Path) -> None:
    log = draw(300)
    for k, (a, b) in enumerate([(0, 1), (1, 140), (140, 300)]):
        log.frame.slice(a, b - a).write_parquet(tmp_path / f"part-{k}.parquet")
    scanned = estimate(Log.scan(tmp_path, n_items=4))
    assert torch.equal(scanned.log.tensor("propensity"), estimate(log).log.tensor("propensity"))


def test_o_folds_users_ridge_and_seed_matter() -> None:
    users = pl.DataFrame({"id": range(7), "age": [1.0, 5.0, 2.0, 8.0, 3.0, 9.0, 4.0]})
    log = draw(300, user=torch.arange(300) % 7).with_users(users)
    base = estimate(log).log.tensor("propensity")
    changes = ({"folds": 4}, {"seed": 1}, {"l2": 50.0}, {"users": ["age"]}, {"unit": "user"},
               {"kind": "boosting"}, {"calibrate": "temperature"},
               {"calibrate": "isotonic"})  # fmt: skip
    for change in changes:
        assert not torch.equal(base, estimate(log, **change).log.tensor("propensity"))  # type: ignore[arg-type]


def test_o_calibration_by_hand() -> None:
    chance = torch.tensor([[0.1, 0.9], [0.2, 0.8], [0.3, 0.7]], dtype=torch.float64)
    shown = torch.tensor([[False, True], [True, False], [False, True]])
    rows = calibration(chance, shown, bins=3).rows()
    flat = [(0.15, 0.5, 2), (0.5, 0.5, 2), (0.85, 0.5, 2)]
    assert [row for mine in rows for row in mine] == pytest.approx([x for row in flat for x in row])
    log = Log.of({"item": [0, 1, 0, 1], "reward": [1] * 4})
    table = balance(torch.tensor([0.5, 0.5, 0.5, 0.25]).double(), torch.tensor([0, 1, 0, 1]), log)
    assert table["mean"].to_list() == [1.0, 1.5]  # (2 + 2) / 4, (2 + 4) / 4
    assert table["se"].to_list() == pytest.approx([(1 / 4) ** 0.5, ((20 / 6 - 1) / 4) ** 0.5])
    assert table["z"].to_list() == pytest.approx([0.0, 0.5 / table["se"][1]])
    assert table["p"].to_list() == [None, None]  # rows that count as 2 and 1.8: not tested
    assert table["rejected"].to_list() == [False, False]


def test_o_wrong_items_are_rejected() -> None:
    """One logged propensity in four is half of what it was."""
    log = draw(4000)
    item, own = log.tensor("item"), log.tensor("propensity").double()
    assert not balance(own, item, log)["rejected"].any()
    table = balance(torch.where(item == 3, own / 2, own), item, log)
    assert table["rejected"].to_list() == [False, False, False, True]
    z = float(table["z"][3])
    assert table["p"][3] == pytest.approx(2 * NormalDist().cdf(-abs(z)), rel=1e-6)
    assert table["mean"][3] == pytest.approx(2, abs=0.2)


def test_o_right_propensities_with_a_heavy_tail_are_not_rejected() -> None:
    """Without the rule on single rows, nearly every one of these logs has rejected items."""
    g, items = stream(0, "tail"), 10
    names, alarms = Log.of({"item": range(items), "reward": [0] * items}), 0
    for _ in range(40):
        x, theta = (torch.randn(*shape, generator=g).double() for shape in ((2000, 3), (3, items)))
        mu = (1.5 * x @ theta).softmax(1)
        item = torch.multinomial(mu, 1, generator=g)
        alarms += balance(mu.gather(1, item)[:, 0], item[:, 0], names)["rejected"].any()
    assert alarms <= 1
    light = draw(4000)  # and where the tail is light, both signs of an error are found
    item, own = light.tensor("item"), light.tensor("propensity").double()
    twice = balance(torch.where(item == 0, 2 * own, own), item, light)
    assert twice["rejected"].to_list() == [True, False, False, False] and twice["z"][0] < 0


def test_o_recalibration_where_nothing_is_to_be_told() -> None:
    p = torch.full((400,), 0.25, dtype=torch.float64)
    y = torch.arange(400) % 3 == 0
    slope, intercept = recalibration(p, y)  # one probability: only its level can be judged
    share = 134 / 400
    assert math.isnan(slope)
    assert intercept == pytest.approx(math.log(share / (1 - share)) + math.log(3), abs=1e-9)
    g = torch.Generator().manual_seed(3)
    near = p + 0.002 * torch.rand(400, generator=g, dtype=torch.float64)
    assert math.isnan(recalibration(near, y)[0])
    sure = torch.tensor([[0.1, 0.9]] * 50, dtype=torch.float64)
    slope, intercept = recalibration(sure, sure > 0.5)  # always right: steeper than any slope
    assert slope > 5 and abs(intercept) < 1e-6
    far = torch.tensor([-20.0, -20, 20, 20], dtype=torch.float64)  # Newton would jump by 1e8
    beta, _ = logistic(torch.ones(4, 1).double(), torch.tensor([1.0, 1, 0, 1]).double(), far)
    assert float(torch.sigmoid(far + beta).sum()) == pytest.approx(3, abs=1e-6)
    none = recalibration(torch.full((9,), 0.25, dtype=torch.float64), torch.zeros(9))
    assert math.isnan(none[0]) and -1e3 < none[1] < -20
    assert recalibration(sure, sure) == pytest.approx((1, 0), abs=1e-9)  # a share as the outcome


def test_o_recalibration_finds_the_slope() -> None:
    g = torch.Generator().manual_seed(0)
    odds = torch.randn(20_000, 1, generator=g, dtype=torch.float64)
    shown = torch.rand(20_000, 1, generator=g, dtype=torch.float64) < torch.sigmoid(odds)
    slope, intercept = recalibration(torch.sigmoid(2 * odds - 1), shown)  # odds = (x + 1) / 2
    assert (slope, intercept) == pytest.approx((0.5, 0.5), abs=0.04)


def test_o_temperature_is_found_again() -> None:
    p = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]], dtype=torch.float64)
    item = torch.tensor(
        [0] * 5 + [1] * 3 + [2] * 2 + [0] + [1] + [2] * 8
    )  # in exactly those shares
    rows = p.repeat_interleave(10, 0)
    for t in (0.25, 1.0, 2.0, 5.0):
        changed = (rows.log() * t).softmax(1)  # too sure by the factor t in log-odds
        assert temperature(changed, item) == pytest.approx(t, abs=1e-8)
        assert torch.allclose(by_temperature(changed, item)(changed), rows, rtol=0, atol=1e-8)
    even = torch.full((4, 2), 0.5, dtype=torch.float64)
    assert temperature(even, torch.tensor([0, 0, 0, 1])) == 1.0
    sure = torch.tensor([[0.4, 0.6]] * 5, dtype=torch.float64)
    assert temperature(sure, torch.tensor([1] * 5)) == pytest.approx(1 / 16, rel=1e-3)
    assert temperature(sure, torch.tensor([0] * 5)) == pytest.approx(16, rel=1e-3)
    part = torch.tensor([[0.25, 0.75, 0.0]], dtype=torch.float64)  # an item that was never shown
    assert by_temperature(rows, item)(part)[0, 2] == 0
    assert math.isfinite(temperature(part.repeat(4, 1), torch.tensor([0, 1, 1, 1])))


def test_o_isotonic_by_hand() -> None:
    chance = torch.tensor([[0.3, 0.7]] * 10 + [[0.6, 0.4]] * 10, dtype=torch.float64)
    item = torch.tensor([1] * 9 + [0] + [0] * 5 + [1] * 5)
    made = by_isotonic(chance, item)(chance)
    assert made[0].tolist() == pytest.approx([0.1, 0.9])  # .3 -> .1, .4 -> .5, .6 -> .5, .7 -> .9
    assert made[10].tolist() == pytest.approx([0.5, 0.5])
    turned = by_isotonic(chance, 1 - item)(chance)  # against the order: all pooled into one step
    assert turned.flatten().tolist() == pytest.approx([0.5] * 40)


def test_o_isotonic_never_says_never() -> None:
    chance = torch.tensor([[0.1, 0.9, 0.0]] * 9, dtype=torch.float64)
    made = by_isotonic(chance, torch.ones(9).long())(chance)
    assert made[0].tolist() == pytest.approx([0.05 / 1.05, 1 / 1.05, 0.0])  # half of 1 in 9 + 1


def test_o_a_row_is_in_no_map_of_its_own() -> None:
    g = torch.Generator().manual_seed(0)
    chance = torch.rand(90, 3, generator=g, dtype=torch.float64).softmax(1)
    item, own = torch.randint(3, (90,), generator=g), torch.arange(90) % 3
    other = torch.where(own == 1, 2 - item, item)
    for fit in (by_temperature, by_isotonic):
        one, two = (cross_calibrated(chance, each, own, fit) for each in (item, other))
        assert torch.equal(one[own == 1], two[own == 1])
        assert not torch.equal(one[own == 0], two[own == 0])
        assert torch.allclose(one.sum(1), torch.ones(90, dtype=torch.float64))


@pytest.mark.parametrize("calibrate", ["temperature", "isotonic"])
def test_o_calibrating_mends_a_model_that_is_too_sure(calibrate: Any) -> None:
    log, mu = softmax_log(1500)
    truth = mu.gather(1, log.tensor("item")[:, None])[:, 0]
    raw, made = estimate(log, kind="boosting"), estimate(log, kind="boosting", calibrate=calibrate)
    assert raw.slope < 0.7 and not raw.calibrated
    assert made.slope == pytest.approx(1, abs=0.15) and made.calibrated
    assert made.error < raw.error / 2
    off = [float((each.log.tensor("propensity") - truth).abs().mean()) for each in (raw, made)]
    assert off[1] < off[0]
    again = estimate(log, kind="boosting", calibrate=calibrate)
    assert torch.equal(made.log.tensor("propensity"), again.log.tensor("propensity"))


# ---- logged propensities that are wrong


def logged(log: Log, p: torch.Tensor) -> Log:
    return log.with_frame(log.frame.with_columns(propensity=pl.Series(p.numpy())))


def test_o_right_propensities_agree() -> None:
    log, mu = softmax_log()
    item = log.tensor("item")[:, None]
    made = compare(logged(log, mu.gather(1, item)[:, 0]))
    assert made.agrees and made.slope == pytest.approx(1, abs=0.1)
    assert made.intercept == pytest.approx(0, abs=0.1) and not made.items["rejected"].any()
    uniform = compare(draw(3000, logger=[0.25] * 4))
    assert uniform.agrees and math.isnan(uniform.slope)


@pytest.mark.parametrize("power, slope", [(2.0, 0.5), (0.5, 2.0)])
def test_o_propensities_of_another_temperature_are_found(power: float, slope: float) -> None:
    log, mu = softmax_log()
    item = log.tensor("item")[:, None]
    wrong = logged(log, (mu.log() * power).softmax(1).gather(1, item)[:, 0])
    with pytest.warns(RecfbWarning, match="do not fit the log: slope"):
        made = compare(wrong)
    assert made.slope == pytest.approx(slope, rel=0.2) and not made.agrees


def test_o_a_wrong_item_is_found_by_name() -> None:
    log = draw(4000)
    half = torch.where(log.tensor("item") == 3, 0.5, 1.0) * log.tensor("propensity")
    with pytest.warns(RecfbWarning, match=r"less often than they say: \[3\]"):
        made = compare(logged(log, half), estimate(log))
    assert made.items["rejected"].to_list() == [False, False, False, True]


def test_o_a_blind_estimate_says_less_than_right_propensities() -> None:
    """What the page says of it: a slope below 1 need not be the fault of what was logged."""
    log, mu = softmax_log()
    right = logged(log, mu.gather(1, log.tensor("item")[:, None])[:, 0])
    blind = estimate(log.with_frame(log.frame.drop("features")))
    with pytest.warns(RecfbWarning, match="slope"):
        made = compare(right, blind)
    assert made.slope < 0.3 and not made.items["rejected"].any()


def test_o_what_cannot_be_compared() -> None:
    log = draw(300)
    with pytest.raises(LogError, match="'propensity'"):
        compare(log.with_frame(log.frame.drop("propensity")))
    holes = log.frame.with_columns(pl.when(pl.col("item") > 0).then("propensity"))
    with pytest.raises(LogError, match=r"of 300 rows have no propensity to compare"):
        compare(log.with_frame(holes.with_columns(propensity=holes["propensity"])))
    with pytest.raises(LogError, match="of other rows than the log"):
        compare(log, estimate(draw(300, seed=1)))


def test_o_what_cannot_be_estimated() -> None:
    log = draw(300)
    for options in ({"folds": 1}, {"l2": 0.0}):
        with pytest.raises(ConfigError, match="folds is at least 2 and l2 positive"):
            estimate(log, **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"calibrate is one of .* Did you mean 'isotonic'"):
        estimate(log, calibrate="isotone")  # type: ignore[arg-type]
    some = Log.of({"item": [0, 1], "reward": [1, 0], "available": [[0, 1], [1]]}, n_items=2)
    with pytest.raises(LogError, match="availability sets"):
        estimate(some)
    with pytest.raises(LogError, match="fewer than two items"):
        estimate(Log.of({"item": [0, 0], "reward": [1, 0]}))
    rare = Log.of({"item": [0, 1] * 50 + [2], "reward": [1] * 101, "unit": range(101)})
    with pytest.raises(LogError, match=r"items \[2\] are shown in one fold only"):
        estimate(rare)
