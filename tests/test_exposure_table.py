"""What clicks are worth under an exposure, and whether the exposure is right."""

from __future__ import annotations

import polars as pl
import pytest
import torch
from torch import Tensor

from recfb import Log, exposure_calibration, exposure_table
from recfb.contracts import Batch, Exposure
from recfb.errors import ConfigError, LogError
from recfb.exposures import Given, Logged, Logistic, Popularity, Position
from recfb.measure import exposures as module
from recfb.random import stream

CLICKS = Log.of(
    {
        "user": [0, 0, 1, 2, 2, 2],
        "item": [0, 0, 1, 2, 0, 3],
        "reward": [1, 1, 1, 1, 1, 0],
        "propensity": [0.5, 0.9, 0.25, 0.125, None, 0.5],
        "position": [1, 2, 2, 1, 2, 1],
    },
    n_users=3,
    n_items=5,
)  # 4 distinct clicks: (0, 0), (1, 1), (2, 0), (2, 2)


# ---- the table


def test_the_table_by_hand() -> None:
    table = exposure_table(CLICKS, {"oracle": Given([0.5, 0.1, 0.02, 0.01, 0.01])}, clip=0.05)
    assert table.columns == [
        "exposure",
        "clip",
        "n_clicks",
        "unknown",
        "theta_min",
        "theta_median",
        "clipped",
        "max_weight",
        "ess",
        "ess_share",
    ]
    assert table["clip"].to_list() == [0.025, 0.05, 0.1]  # half, itself, twice
    # theta of the four clicks: 0.5, 0.1, 0.5, 0.02; weights at 0.05: 2, 10, 2, 20
    row = table.row(1, named=True)
    assert row["n_clicks"] == 4 and row["unknown"] == 0
    assert row["theta_min"] == pytest.approx(0.02) and row["theta_median"] == pytest.approx(0.3)
    assert row["clipped"] == 0.25 and row["max_weight"] == pytest.approx(20)
    assert row["ess"] == pytest.approx(34**2 / (4 + 100 + 4 + 400))
    assert row["ess_share"] == pytest.approx(row["ess"] / 4)
    assert table["max_weight"].to_list() == pytest.approx([40, 20, 10])
    exact = exposure_table(CLICKS, {"oracle": Given([0.5, 0.25, 0.125, 0.1, 0.1])}, clip=0.25)
    assert exact["clipped"].to_list() == [0.0, 0.25, 0.5]  # what equals the clip is not clipped


def test_the_clip_of_nothing_and_of_all() -> None:
    exposures = {"items": Given([0.5, 0.1, 0.02, 0.01, 0.01])}
    table = exposure_table(CLICKS, exposures, clip=0)
    assert table.height == 1 and table["max_weight"].item() == pytest.approx(50)
    assert table["clipped"].item() == 0
    table = exposure_table(CLICKS, exposures, clip=0.8)
    assert table["clip"].to_list() == [0.4, 0.8, 1.0]
    assert table["ess"].to_list()[1:] == pytest.approx([4.0, 4.0])  # all clipped: equal weights


def test_exposures_of_rows_read_the_first_row_of_a_click() -> None:
    table = exposure_table(CLICKS, {"logged": Logged(), "slots": Position("slots")}, clip=0.0)
    logged, slots = table.row(0, named=True), table.row(1, named=True)
    # propensities of the clicks: 0.5, 0.25, none, 0.125
    assert (logged["n_clicks"], logged["unknown"]) == (4, 1)
    assert logged["max_weight"] == 8 and logged["theta_median"] == 0.25
    assert logged["ess"] == pytest.approx(14**2 / (4 + 16 + 64))
    assert logged["ess_share"] == pytest.approx(logged["ess"] / 3)
    # 3 rows each, with 2 and 3 clicks: e_1 = 2/3, e_2 = 1; first rows at 1, 2, 2, 1
    assert slots["theta_min"] == pytest.approx(2 / 3)
    assert slots["ess"] == pytest.approx(5**2 / (2 * 2.25 + 2))


def test_pairs_and_estimates_share_one_table() -> None:
    exposures = {
        "pairs": Given(torch.full((3, 5), 0.5)),
        "popularity": Popularity(),
        "shown": Popularity(of="shown"),
        "logistic": Logistic(),
    }
    table = exposure_table(CLICKS, exposures)
    assert table["exposure"].unique(maintain_order=True).to_list() == list(exposures)
    assert table.height == 12
    assert table.filter(pl.col("exposure") == "pairs")["ess"].to_list() == pytest.approx([4.0] * 3)


def test_the_exposures_given_stay_unbound() -> None:
    exposure = Popularity()
    exposure_table(CLICKS, {"popularity": exposure})
    assert not hasattr(exposure, "theta")


def test_a_log_without_clicks_gives_nulls() -> None:
    row = exposure_table(Log.empty(3, 5), {"a": Popularity()}).row(0, named=True)
    assert (row["n_clicks"], row["unknown"]) == (0, 0)
    assert all(row[name] is None for name in ("theta_min", "clipped", "max_weight", "ess"))


def test_bad_arguments_of_the_table() -> None:
    with pytest.raises(ConfigError, match=r"found 1\.5\. Try 0\.05"):
        exposure_table(CLICKS, {"a": Popularity()}, clip=1.5)
    with pytest.raises(ConfigError, match="give a name for each exposure"):
        exposure_table(CLICKS, {})
    with pytest.raises(ConfigError, match="'a' is a Tensor, not an exposure"):
        exposure_table(CLICKS, {"a": torch.ones(5)})


# ---- calibration


def test_calibration_by_hand() -> None:
    """4 users, 4 items: the exposed half of the catalogue, and the other."""
    rows = {"user": [0, 1, 2, 3, 0], "item": [0, 0, 1, 1, 2], "reward": [1] * 5}
    log = Log.of(rows, n_users=4, n_items=5)
    item = [0, 0, 1, 1, 2, 2, 3, 3, 3, 3]
    reward = [1, 1, 1, 0, 1, 0, 0, 0, None, None]
    test = Log.of({"user": [0, 1] * 5, "item": item, "reward": reward}, n_users=4, n_items=5)
    given = Given([0.8, 0.8, 0.2, 0.2, 0.2])
    table = exposure_calibration(log, {"oracle": given}, test, deciles=2)
    low, high = table.rows(named=True)
    assert (low["decile"], high["decile"]) == (1, 2)
    assert (low["pairs"], low["clicks"], low["randomised"]) == (12, 1, 4)  # items 2, 3, 4
    assert (high["pairs"], high["clicks"], high["randomised"]) == (8, 4, 4)
    assert (low["relevance"], high["relevance"]) == (0.25, 0.75)
    assert low["implied"] == pytest.approx(1 / 12 / 0.25)
    assert high["implied"] == pytest.approx(4 / 8 / 0.75)
    assert (low["theta"], high["theta"]) == pytest.approx((0.2, 0.8))
    scale = 5 / (12 * 0.25 * 0.2 + 8 * 0.75 * 0.8)  # predicts five clicks
    assert (low["scaled"], high["scaled"]) == pytest.approx((0.2 * scale, 0.8 * scale))
    assert high["ratio"] == pytest.approx(high["implied"] / high["scaled"])
    assert table.schema == pl.Schema(module._CALIBRATION)
    # a constant factor changes theta, and nothing else
    half = exposure_calibration(log, {"oracle": Given(0.5 * given.theta)}, test, deciles=2)
    assert half["ratio"].to_list() == pytest.approx(table["ratio"].to_list())
    assert half["theta"].to_list() == pytest.approx((0.5 * table["theta"]).to_list())


def test_groups_without_randomised_rows_or_clicks_are_null() -> None:
    rows = {"user": [0, 1, 0, 1], "item": [0, 0, 1, 2], "reward": [1] * 4}
    log = Log.of(rows, n_users=2, n_items=3)
    test = Log.of({"user": [0, 1, 1], "item": [0, 0, 1], "reward": [1, 1, 0]}, like=log)
    table = exposure_calibration(log, {"a": Given([0.9, 0.5, 0.1])}, test, deciles=3)
    assert table["randomised"].to_list() == [0, 1, 2]
    assert table["relevance"].to_list() == [None, 0.0, 1.0]
    assert table["implied"].to_list() == [None, None, 1.0]
    assert table["scaled"].to_list()[2] == pytest.approx(3 / 2)  # 3 clicks, 2 pairs, both known


def test_equal_values_stay_together() -> None:
    log = Log.of({"user": [0, 1], "item": [0, 1], "reward": [1, 1]}, n_users=2, n_items=10)
    test = Log.of({"user": [0, 1], "item": [0, 1], "reward": [1, 1]}, like=log)
    theta = Given([1.0] + [0.5] * 8 + [0.25])
    table = exposure_calibration(log, {"a": theta}, test)
    assert table["decile"].to_list() == [1, 6, 10]  # the middles of 2, 16 and 2 of 20 pairs
    assert table["pairs"].to_list() == [2, 16, 2]


def simulated(theta: Tensor) -> tuple[Log, Log]:
    """A biased log of 1,000 x 200 pairs with this exposure, and a randomised one.

    Better items are more exposed, so that popularity is not exposure.
    """
    generator, (m, n) = stream(0, "calibration"), (1000, 200)
    gamma = torch.linspace(0.1, 0.6, n).expand(m, n)
    seen = torch.rand(m, n, generator=generator) < theta
    click = torch.rand(m, n, generator=generator) < gamma
    user, item = seen.nonzero(as_tuple=True)
    rows = {"user": user, "item": item, "reward": click[seen].float()}
    key = torch.randint(m * n, (100_000,), generator=generator)
    liked = torch.rand(len(key), generator=generator) < gamma.reshape(-1)[key]
    biased = Log.of(rows, n_users=m, n_items=n)
    test = {"user": key // n, "item": key % n, "reward": liked.float()}
    return biased, Log.of(test, like=biased)


def worst(table: pl.DataFrame, name: str) -> float:
    ratio = table.filter(pl.col("exposure") == name)["ratio"]
    assert ratio.null_count() == 0
    return float((ratio - 1).abs().max())


def test_true_exposures_are_calibrated_and_popularity_is_not() -> None:
    theta = torch.linspace(0.05, 0.9, 200)
    biased, test = simulated(theta)
    exposures: dict[str, Exposure] = {
        "oracle": Given(theta),
        "shown": Popularity(1.0, of="shown"),
        "clicks": Popularity(1.0),
        "logistic": Logistic(),
        "none": Given(torch.ones(200)),
    }
    table = exposure_calibration(biased, exposures, test)
    assert table.filter(pl.col("exposure") == "none").height == 1
    assert worst(table, "none") < 1e-6  # the scale alone
    for name in ("oracle", "shown", "logistic"):
        assert worst(table, name) < 0.15, name
        absolute = table.filter(pl.col("exposure") == name).select(
            pl.col("scaled") / pl.col("theta")
        )
        assert abs(float(absolute["scaled"][0]) - 1) < 0.02, name
    assert worst(table, "clicks") > 0.5


def test_exposures_of_pairs_are_calibrated() -> None:
    generator = stream(1)
    theta = torch.rand(1000, 200, generator=generator) * 0.8 + 0.1
    biased, test = simulated(theta)
    wrong = theta[torch.randperm(1000, generator=generator)]  # of other users
    table = exposure_calibration(biased, {"pairs": Given(theta), "wrong": Given(wrong)}, test)
    assert worst(table, "pairs") < 0.1 < 0.5 < worst(table, "wrong")


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    theta = torch.rand(1000, 200, generator=stream(1)) * 0.8 + 0.1
    biased, test = simulated(theta)
    whole = exposure_calibration(biased, {"a": Given(theta)}, test)
    monkeypatch.setattr(module, "_PAIRS", 999)  # four users a block
    assert exposure_calibration(biased, {"a": Given(theta)}, test).equals(whole)


def test_positions_are_calibrated_over_rows() -> None:
    generator, n = stream(2), 100_000
    e = torch.tensor([1.0, 0.5, 0.25, 0.1])
    gamma = torch.linspace(0.05, 0.9, 50)
    item = torch.randint(50, (n,), generator=generator)
    place = (3.99 * (1 - item / 50 + 0.4 * torch.randn(n, generator=generator)).clamp(0, 1)).long()
    click = torch.rand(n, generator=generator) < e[place] * gamma[item]  # better ones stand higher
    rows = {"item": item, "position": place + 1, "reward": click.float()}
    biased = Log.of({**rows, "propensity": 0.5}, n_items=50)
    item, place = (
        torch.randint(49, (n,), generator=generator),
        torch.randint(4, (n,), generator=generator),
    )
    click = torch.rand(n, generator=generator) < e[place] * gamma[item]
    test = Log.of({"item": item, "position": place + 1, "reward": click.float()}, like=biased)
    exposures = {"em": Position("em"), "slots": Position("slots")}
    table = exposure_calibration(biased, exposures, test, deciles=20)
    assert table.group_by("exposure").len()["len"].to_list() == [4, 4]  # one group a position
    assert table["pairs"].sum() == 2 * int((biased.tensor("item") < 49).sum())
    assert table["randomised"].null_count() == 8
    assert worst(table, "em") < 0.1 < 0.3 < worst(table, "slots")


def test_logged_propensities_cannot_be_calibrated() -> None:
    test = Log.of({"user": [0], "item": [0], "reward": [1]}, like=CLICKS)
    with pytest.raises(ConfigError, match=r"'logged' cannot be calibrated.*gates"):
        exposure_calibration(CLICKS, {"logged": Logged()}, test)


def test_bad_arguments_of_the_calibration() -> None:
    test = Log.of({"user": [0], "item": [0], "reward": [None]}, like=CLICKS)
    with pytest.raises(LogError, match="none of the 1 randomised rows"):
        exposure_calibration(CLICKS, {"a": Popularity()}, test)
    strange = Log.of({"user": ["x"], "item": ["y"], "reward": [1]})
    with pytest.raises(LogError, match="ids are"):
        exposure_calibration(CLICKS, {"a": Popularity()}, strange)
    with pytest.raises(ConfigError, match="deciles is a number of groups, found 0"):
        exposure_calibration(CLICKS, {"a": Popularity()}, CLICKS, deciles=0)
    with pytest.raises(ConfigError, match="give a name"):
        exposure_calibration(CLICKS, {}, CLICKS)


def test_an_exposure_of_your_own_is_called_on_ids_alone() -> None:
    class Half(Exposure):
        def forward(self, batch: Batch) -> Tensor:
            assert batch.position is None
            return torch.full(batch.item.shape, 0.5)

    table = exposure_calibration(CLICKS, {"half": Half()}, CLICKS)
    assert table["theta"].item() == 0.5
