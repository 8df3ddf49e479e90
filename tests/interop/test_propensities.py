"""Estimated propensities: frequencies where they are known, out of fold, and judged by numbers."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import torch
from ope_world import draw
from test_gates import level, run

from recfb import ConfigError, Log, LogError
from recfb.data.door import Problems
from recfb.evaluation.cells import fold_of
from recfb.interop.propensities import balance, calibration, estimate, recalibration


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
               {"kind": "boosting"})  # fmt: skip
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
    assert table["se"][1] == pytest.approx((((4 + 16) / 4 - 1.5**2) / 3) ** 0.5)
    assert table["z"].to_list() == pytest.approx([0.0, 0.5 / table["se"][1]])


def test_o_recalibration_finds_the_slope() -> None:
    g = torch.Generator().manual_seed(0)
    odds = torch.randn(20_000, 1, generator=g, dtype=torch.float64)
    shown = torch.rand(20_000, 1, generator=g, dtype=torch.float64) < torch.sigmoid(odds)
    slope, intercept = recalibration(torch.sigmoid(2 * odds - 1), shown)  # odds = (x + 1) / 2
    assert (slope, intercept) == pytest.approx((0.5, 0.5), abs=0.04)


def test_o_what_cannot_be_estimated() -> None:
    log = draw(300)
    for options in ({"folds": 1}, {"l2": 0.0}):
        with pytest.raises(ConfigError, match="folds is at least 2 and l2 positive"):
            estimate(log, **options)  # type: ignore[arg-type]
    some = Log.of({"item": [0, 1], "reward": [1, 0], "available": [[0, 1], [1]]}, n_items=2)
    with pytest.raises(LogError, match="availability sets"):
        estimate(some)
    with pytest.raises(LogError, match="fewer than two items"):
        estimate(Log.of({"item": [0, 0], "reward": [1, 0]}))
    rare = Log.of({"item": [0, 1] * 50 + [2], "reward": [1] * 101, "unit": range(101)})
    with pytest.raises(LogError, match=r"items \[2\] are shown in one fold only"):
        estimate(rare)
