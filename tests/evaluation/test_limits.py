"""What must not change, what limits must be, and what has no value: through the verb, all forms."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Self

import polars as pl
import pytest
import torch
from ope_world import LOGGER, RATES, TARGET, VALUE, Fixed, draw
from torch import Tensor, nn

from recfb import Log, Meta, evaluate
from recfb.contracts import Context, Policy, Slate, plackett_luce
from recfb.estimate import ESTIMATORS, LOGGERS
from recfb.evaluation import SLATES
from recfb.policies import Uniform
from recfb.random import stream

F = torch.float64
INF = float("inf")
MODEL = [0.45, 0.35, 0.55, 0.4]
SINGLE = [name for name in ESTIMATORS if name not in ("mrdr", "replay")]
RANKED = [name for name in SLATES if not name.startswith("pi_")]
NUMBERS = ("value", "se", "lower", "upper", "ess", "max_weight")
pytestmark = pytest.mark.filterwarnings("ignore::recfb.errors.OverlapWarning")


class Says(nn.Module):
    """A reward model that was fitted elsewhere: of every item its own number."""

    def __init__(self, given: Sequence[float] = MODEL) -> None:
        super().__init__()
        self.given = list(given)
        self.fitted_on = "another log"

    def bind(self, log: Log) -> Self:
        return self

    def scores(self, context: Context) -> Tensor:
        return torch.tensor([self.given], dtype=F).expand(len(context), -1)


class Luce(Fixed):
    """Slates without replacement; at its position an item counts as if drawn alone."""

    def propensities(self, context: Context, item: Tensor) -> Slate:
        p = self.probs(context)
        return Slate(item, p.gather(1, item), p_prefix=plackett_luce(p, item))


Table = dict[str, dict[str, Any]]


def rows_of(log: Log, policy: Policy, estimators: Any, **options: Any) -> Table:
    """The table by estimator, with few buckets, which is quick."""
    options = {"buckets": 256, **options}
    table = evaluate(log, {"t": policy}, estimators=estimators, **options).table
    return {row["estimator"]: row for row in table.to_dicts()}


def single(log: Log, target: Sequence[float] = TARGET, **options: Any) -> Table:
    options = {"reward_model": Says(), "interval": "student", **options}
    return rows_of(log, Fixed(target), SINGLE, **options)


TWO = {0: Fixed(LOGGER), 1: Fixed([0.25] * 4)}


def two_loggers(n: int = 600, m: int = 300) -> Log:
    """n rows of LOGGER and m uniform ones."""
    one, two = draw(n, seed=1), draw(m, seed=2, logger=[0.25] * 4)
    frame = pl.concat([one.frame, two.frame]).with_columns(
        pl.Series("logger", [0] * n + [1] * m, dtype=pl.Int16),
        pl.int_range(pl.len()).alias("unit"),
    )
    return Log.of(frame, n_items=4, meta=one.meta)


def several(log: Log, target: Sequence[float] = TARGET, **options: Any) -> Table:
    options = {"reward_model": Says(), "loggers": TWO, **options}
    return rows_of(log, Fixed(target), list(LOGGERS), **options)


def slates(n: int = 300, size: int = 3, logger: Sequence[float] = LOGGER) -> Log:
    """n slates that Luce(logger) drew; an item's click has its own rate."""
    g = stream(0, "slates")
    p = torch.tensor(logger, dtype=F).expand(n, -1)
    item = torch.multinomial(p, size, generator=g)  # (n, size)
    click = torch.rand(n, size, generator=g) < torch.tensor(RATES)[item]
    columns = {
        "item": item.flatten(),
        "reward": click.flatten().float(),
        "propensity": p.gather(1, item).flatten(),
        "p_prefix": plackett_luce(p, item).flatten(),
        "position": torch.arange(size).repeat(n) + 1,
        "slate": torch.arange(n).repeat_interleave(size),
    }
    return Log.of(columns, n_items=len(logger), meta=Meta(reward_range=(0, size)))


def ranked(log: Log, target: Sequence[float] = TARGET, **options: Any) -> Table:
    return rows_of(log, Luce(target), RANKED, **options)


def agree(a: Table, b: Table, columns: Sequence[str] = NUMBERS, scale: float = 1.0) -> None:
    """Equal to 1e-12, b's numbers of reward being `scale` times a's."""
    assert a.keys() == b.keys()
    for name, row in a.items():
        for column in columns:
            times = 1.0 if column in ("ess", "max_weight") else scale
            expected = None if row[column] is None else times * row[column]
            found = b[name][column]
            assert found == pytest.approx(expected, rel=1e-12, abs=1e-14), (name, column)


WORLDS = {
    "single": (lambda: draw(500), single),
    "several": (two_loggers, several),
    "ranked": (slates, ranked),
}


@pytest.fixture(params=list(WORLDS))
def world(request: pytest.FixtureRequest) -> tuple[Log, Any]:
    make, run = WORLDS[request.param]
    return make(), run


# ---- 15.6: what must not change


def test_o_t6_the_order_of_the_rows(world: tuple[Log, Any]) -> None:
    log, run = world
    frame = log.frame
    if "slate" in log.columns:
        turned = frame.sort(pl.col("slate").hash(seed=1), "position")  # whole slates
    else:
        turned = frame.sample(fraction=1, shuffle=True, seed=1)
    assert not turned.equals(frame)
    agree(run(log), run(log.with_frame(turned)))


def test_o_t6_the_names_of_the_items(world: tuple[Log, Any]) -> None:
    log, run = world
    turned = log.with_frame(log.frame.with_columns((-pl.col("item") + 3).cast(pl.Int32)))
    options: dict[str, Any] = {}
    if run is not ranked:
        options["reward_model"] = Says(MODEL[::-1])
    if run is several:
        options["loggers"] = {0: Fixed(LOGGER[::-1]), 1: TWO[1]}
    agree(run(log), run(turned, TARGET[::-1], **options))


def test_o_t6_the_scale_of_the_rewards(world: tuple[Log, Any]) -> None:
    log, run = world
    high = 4 * log.meta.reward_range[1]  # type: ignore[index]
    larger = log.with_frame(
        log.frame.with_columns(pl.col("reward") * 4), Meta(reward_range=(0, high))
    )
    options = {} if run is ranked else {"reward_model": Says([4 * x for x in MODEL])}
    plain, scaled = run(log, interval="student"), run(larger, interval="student", **options)
    agree(plain, scaled, scale=4.0)
    assert [row["verdict"] for row in plain.values()] == [row["verdict"] for row in scaled.values()]


@pytest.mark.parametrize("kind", ["single", "several"])  # a slate may show both twins
def test_o_t6_twins_of_an_item(kind: str) -> None:
    """Item 0 is split into two that are alike: half of its rows, of its probability each."""
    make, run = WORLDS[kind]
    log = make()
    half = (pl.col("item") == 0) & (pl.int_range(pl.len()) % 2 == 0)
    frame = log.frame.with_columns(
        pl.when(half).then(4).otherwise(pl.col("item")).alias("item").cast(pl.Int32),
        pl.when(pl.col("item") == 0).then(pl.col("propensity") / 2).otherwise(pl.col("propensity"))
        .alias("propensity"),
    )  # fmt: skip

    def twins(given: Sequence[float]) -> list[float]:
        return [given[0] / 2, *given[1:], given[0] / 2]

    options: dict[str, Any] = {"reward_model": Says([*MODEL, MODEL[0]])}
    if run is several:
        options["loggers"] = {0: Fixed(twins(LOGGER)), 1: Fixed(twins([0.25] * 4))}
    split = Log.of(frame, n_items=5, meta=log.meta)
    found, plain = run(split, twins(TARGET), **options), run(log)
    gamma = {"ix"}  # it adds to the propensity itself
    agree(*({k: v for k, v in x.items() if k not in gamma} for x in (plain, found)))


def test_o_t6_the_target_is_the_logger() -> None:
    log = draw(500)
    mean = float(log.tensor("reward").double().mean())
    found = single(log, LOGGER)
    for name in ("ips", "snips", "cips", "sgips", "cvips"):
        assert found[name]["value"] == pytest.approx(mean, abs=1e-14), name
        assert found[name]["ess"] == pytest.approx(500, rel=1e-12)
        assert found[name]["max_weight"] == 1
    both = two_loggers()
    mixture = [2 / 3 * p + 1 / 3 * 0.25 for p in LOGGER]
    balanced = several(both, mixture)["balanced_ips"]
    assert balanced["value"] == pytest.approx(float(both.tensor("reward").double().mean()))
    assert balanced["ess"] == pytest.approx(900, rel=1e-9)
    shown = slates()
    whole = float(shown.tensor("reward").double().sum()) / 300
    for name, row in ranked(shown, LOGGER).items():
        assert row["value"] == pytest.approx(whole, rel=1e-12), name
        assert row["ess"] == pytest.approx(300, rel=1e-12)


def test_o_t6_the_log_twice_halves_every_variance() -> None:
    """Exactly: n units once have the factor n / (n - 1), twice 2n / (2n - 1)."""
    n, log = 40, draw(40)
    more = log.frame.with_columns(unit=pl.col("unit") + 1_000_003)
    twice = log.with_frame(pl.concat([log.frame, more]))
    options = {"buckets": 1 << 14}  # so many that no two units share one
    one, two = single(log, **options), single(twice, **options)
    del one["el"], two["el"]  # its phantom row stays one
    exact = 0.5 * (2 * n / (2 * n - 1)) / (n / (n - 1))
    agree(one, two, ("value", "max_weight"))
    for name, row in one.items():
        assert (two[name]["se"] / row["se"]) ** 2 == pytest.approx(exact, rel=1e-9), name
        assert two[name]["ess"] == pytest.approx(2 * row["ess"], rel=1e-12), name


# ---- 15.7: limits

SURE = [0.5, 0.0, 0.5, 0.0]
"""A target that gives two items no probability: half of its weights are 0."""


@pytest.mark.parametrize(
    ("name", "lam", "limit"),
    [
        ("cips", INF, "ips"),
        ("cips", 0.0, None),
        ("cdr", INF, "dr"),
        ("cdr", 0.0, "dm"),
        ("switch", INF, "dr"),
        ("switch", 0.0, "dm"),
        ("dros", INF, "dr"),
        ("dros", 0.0, "dm"),
        ("sgips", 0.0, "ips"),
        ("sgdr", 0.0, "dr"),
        ("ix", 0.0, "ips"),
        ("ix", INF, None),
    ],
)
@pytest.mark.parametrize("target", [TARGET, SURE], ids=["everywhere", "zeros"])
def test_o_t7_strengths_at_their_ends(
    name: str, lam: float, limit: str | None, target: list[float]
) -> None:
    keyword = "gamma" if name == "ix" else "lam"
    shrunk = functools.partial(ESTIMATORS[name], **{keyword: lam})
    log, options = draw(400), {"reward_model": Says(), "interval": "student"}
    plain = {} if limit is None else {limit: ESTIMATORS[limit]}
    found = rows_of(log, Fixed(target), {"it": shrunk, **plain}, **options)
    if limit is None:
        assert found["it"]["value"] == found["it"]["se"] == 0
        return
    for column in ("value", "se"):
        assert found["it"][column] == pytest.approx(found[limit][column], abs=1e-15), column


@pytest.mark.parametrize("name", ["sgips", "sgdr"])
def test_o_t7_the_last_sub_gaussian_weight_is_one_or_nothing(name: str) -> None:
    """h = w / w where the target may choose the item, 0 elsewhere."""
    log = draw(400)
    last = functools.partial(ESTIMATORS[name], lam=1.0)
    found = rows_of(log, Fixed(SURE), {"it": last}, reward_model=Says())["it"]["value"]
    item, r = log.tensor("item"), log.tensor("reward").double()
    model, pi = torch.tensor(MODEL, dtype=F), torch.tensor(SURE, dtype=F)
    on = (pi[item] > 0).to(F)
    by_hand = on * r if name == "sgips" else pi @ model + on * (r - model[item])
    assert found == pytest.approx(float(by_hand.mean()), rel=1e-12)


def test_o_t7_a_slate_of_one_is_a_single_item() -> None:
    log = slates(400, size=1)
    plain = log.with_frame(log.frame.drop("slate", "p_prefix"))
    shown = ranked(log, interval="student")
    alone = rows_of(plain, Fixed(TARGET), ["ips", "snips"], interval="student")
    for name in RANKED:
        other = alone["snips" if name.startswith("sn") else "ips"]
        for column in ("value", "ess", "max_weight", "n"):
            assert shown[name][column] == pytest.approx(other[column], rel=1e-12), (name, column)
        assert shown[name]["se"] == pytest.approx(other["se"], rel=0.1)


def test_o_t7_a_slot_that_only_some_slates_have() -> None:
    """Slot by slot: the share of the slates with it, times the ratio over these slates."""
    log = slates(300)
    short = log.filter((pl.col("slate") % 3 > 0) | (pl.col("position") == 1))
    found = ranked(short)
    item, r, p = (log.tensor(c).view(300, 3) for c in ("item", "reward", "propensity"))
    pi = torch.tensor(TARGET, dtype=F).expand(300, -1)
    here = torch.ones(300, 3, dtype=torch.bool)
    here[torch.arange(300) % 3 == 0, 1:] = False
    at = pi.gather(1, item) / p
    prefix = plackett_luce(pi, item) / log.tensor("p_prefix").view(300, 3)
    for name, w in {"sniips": at, "snrips": prefix}.items():
        by_hand = 0.0
        for k in range(3):
            on = here[:, k]
            mine, reward = w[on, k], r[on, k].double()
            by_hand += float(on.double().mean() * (mine * reward).sum() / mine.sum())
        assert found[name]["value"] == pytest.approx(by_hand, rel=1e-12), name


def test_o_t7_one_logger_is_the_plain_estimator() -> None:
    log = draw(400, logger=LOGGER)
    own = log.with_frame(log.frame.with_columns(pl.lit(0, dtype=pl.Int16).alias("logger")))
    found = several(own, loggers={0: TWO[0]}, interval="student")
    plain = rows_of(log, Fixed(TARGET), ["ips", "dr"], reward_model=Says(), interval="student")
    for name in LOGGERS:
        other = plain[name.partition("_")[2]]
        for column in ("value", "ess", "max_weight", "n"):
            assert found[name][column] == pytest.approx(other[column], rel=1e-12), (name, column)
        assert found[name]["se"] == pytest.approx(other["se"], rel=1e-9), name


# ---- 15.8: degenerate logs


def test_o_t8_no_weight_at_all() -> None:
    """Of every form: a value that is right without weights, or null and why; never NaN."""
    away = [0.0, 0.0, 0.5, 0.5]
    log = draw(200, logger=[0.5, 0.5, 0.0, 0.0])
    model = 0.5 * (MODEL[2] + MODEL[3])
    for name, row in single(log, away).items():
        if name in ("snips", "el", "sndr"):
            assert row["value"] is None and row["reasons"].startswith("no overlap"), name
        else:
            weighs_only = name in ("ips", "cips", "sgips", "ix", "cvips")
            expected = 0.0 if weighs_only else model
            assert row["value"] == pytest.approx(expected, abs=1e-15), name
        if name != "dm":
            assert row["verdict"] == "do not use", name
    shown = ranked(slates(200, logger=[0.4, 0.3, 0.3, 0.0]), [0.0, 0.0, 0.0, 1.0])
    for name, row in shown.items():
        assert (row["value"] is None) == name.startswith("sn"), name
        assert row["value"] in (None, 0.0) and row["verdict"] == "do not use"


def test_o_t8_one_slate_and_one_item() -> None:
    for name, row in ranked(slates(1)).items():
        assert row["value"] is not None and row["n"] == 1, name
        assert row["se"] is None and row["lower"] is None, name
        assert "no interval: fewer than two units" in row["reasons"], name
    only = slates(300, size=1, logger=[1.0])
    mean = float(only.tensor("reward").double().mean())
    for name, row in ranked(only, [1.0]).items():
        assert row["value"] == pytest.approx(mean, rel=1e-12), name
    one = Log.of({"item": [0], "reward": [1.0], "propensity": [0.4], "logger": [0]}, n_items=4)
    for name, row in several(one).items():
        assert row["value"] is not None and row["se"] is None, name


def test_o_t8_constant_rewards() -> None:
    """Ratios say the constant exactly, whatever the weights; an interval has no width."""
    log = draw(300, rates=[1.0] * 4)
    for kind in ("student", "bootstrap", "basic"):
        for name, row in rows_of(log, Fixed(TARGET), ["snips", "cvips"], interval=kind).items():
            for column in ("value", "lower", "upper"):
                assert row[column] == pytest.approx(1, abs=1e-9), (name, kind, column)
    shown = slates(300)
    ones = shown.with_frame(shown.frame.with_columns(pl.lit(1.0, pl.Float32).alias("reward")))
    for name, row in ranked(ones).items():
        if name.startswith("sn"):
            assert row["value"] == pytest.approx(3, rel=1e-12) and row["se"] < 1e-9, name


def test_o_t8_a_weight_of_1e12() -> None:
    """One row that the logger all but never chose, and the target always: finite, and refused."""
    log = draw(400)
    rare = pl.int_range(pl.len()) == 7
    log = log.with_frame(
        log.frame.with_columns(
            propensity=pl.when(rare).then(1e-12).otherwise(pl.col("propensity")),
            item=pl.when(rare).then(0).otherwise(pl.col("item")).cast(pl.Int32),
            reward=pl.when(rare).then(1.0).otherwise(pl.col("reward")).cast(pl.Float32),
        )
    )
    found = single(log, [1.0, 0.0, 0.0, 0.0])
    r, model = 1.0, MODEL[0]
    expected = {
        "ips": 1e12 * r / 400, "snips": r, "dr": 1e12 * (r - model) / 400,
        "sndr": model + (r - model),
    }  # fmt: skip
    for name, row in found.items():
        assert row["value"] is not None and row["se"] is not None, name
        if name in expected:
            assert row["max_weight"] == pytest.approx(1e12, rel=1e-12)
            assert row["ess"] == pytest.approx(1, rel=1e-6)
            assert row["value"] == pytest.approx(expected[name], rel=1e-6), name
    assert found["ips"]["verdict"] == found["snips"]["verdict"] == "do not use"
    for name in ("cips", "cdr", "dros", "switch", "sgips", "sgdr", "ix"):  # which bound it
        assert abs(found[name]["value"]) < 3, name


def test_o_t8_positions_without_rows() -> None:
    """Positions 1 and 3 only; one of them without a known reward; and a log without any column."""
    log = draw(600)
    gap = log.with_frame(log.frame.filter(pl.col("position") != 2))
    alone = gap.with_frame(gap.frame.drop("position"))
    for name in ("ips", "snips", "dr"):
        found, plain = (
            rows_of(x, Fixed(TARGET), [name], reward_model=Says())[name] for x in (gap, alone)
        )
        assert found["value"] == pytest.approx(plain["value"], rel=1e-12), name
    assert evaluate(gap, {"t": Fixed(TARGET)}).exit_code == 0  # cell means over 1 and 3
    hidden = log.with_frame(
        log.frame.with_columns(reward=pl.when(pl.col("position") != 3).then(pl.col("reward")))
    )
    table = evaluate(hidden, {"t": Fixed(TARGET)}, estimators=["dr"], by="position").table
    rows = {row["position"]: row for row in table.to_dicts()}
    assert rows["1"]["n"] == rows["2"]["n"] == 200 and rows["3"]["n"] == 0
    assert rows["3"]["value"] is None and rows["3"]["reasons"] == "no row has a known reward"


def test_o_t8_no_rows_of_any_kind() -> None:
    for found in (single(draw(0)), several(two_loggers(0, 0)), ranked(slates(0))):
        for name, row in found.items():
            assert row["value"] is None and row["reasons"] == "no rows", name
            assert row["verdict"] == "do not use" and row["n"] == 0, name


# ---- 15.10: simulation against truth


def test_o_t10_mean_errors_are_within_three_monte_carlo_errors() -> None:
    """200 logs of 300 rows, one subgroup each; the reward model is wrong and the same for all."""
    logs, n = 200, 300
    log = draw(logs * n, seed=11, replication=torch.arange(logs * n) // n)
    names = ["ips", "snips", "dr"]
    table = evaluate(
        log, {"t": Fixed(TARGET)}, estimators=names, reward_model=Says(), by="replication",
        interval="student",
    ).table  # fmt: skip
    for name in names:
        found = table.filter(estimator=name)
        error = torch.tensor(found["value"].to_list(), dtype=F) - VALUE
        assert len(error) == logs
        assert abs(float(error.mean())) < 3 * float(error.std()) / logs**0.5, name
        said = float((found["se"] ** 2).mean()) ** 0.5  # type: ignore[arg-type, operator]
        assert said == pytest.approx(float(error.std()), rel=0.15), name
        missed = ((found["lower"] > VALUE) | (found["upper"] < VALUE)).sum()
        assert missed <= (0.05 + 3 * (0.05 * 0.95 / logs) ** 0.5) * logs, name


def test_o_t10_a_wrong_propensity_is_found_out() -> None:
    """The same logs with the propensities of a uniform logger: the mean error is not within."""
    logs, n = 50, 300
    log = draw(logs * n, seed=11, replication=torch.arange(logs * n) // n)
    wrong = log.with_frame(log.frame.with_columns(propensity=pl.lit(0.25)))
    table = evaluate(
        wrong, {"t": Fixed(TARGET)}, estimators=["ips"], by="replication", interval="student"
    ).table
    error = torch.tensor(table["value"].to_list(), dtype=F) - VALUE
    assert abs(float(error.mean())) > 10 * float(error.std()) / logs**0.5
    whole = evaluate(wrong, {"t": Fixed(TARGET), "u": Uniform()}, estimators=["ips"]).table
    assert whole.filter(policy="t")["verdict"].item() == "do not use"
