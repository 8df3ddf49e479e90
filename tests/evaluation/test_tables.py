"""What a pass keeps beside its sums: items, strata, the sketch of weights, the rows that carry."""

from __future__ import annotations

import itertools
from functools import reduce

import polars as pl
import pytest
import torch
from ope_world import LOGGER, TARGET, Fixed, draw

from recfb import Evaluation, Log, evaluate
from recfb.contracts.evaluating import ItemTable, Strata
from recfb.data import blocks
from recfb.estimate import Rows
from recfb.evaluation.cell import Cell, merge
from recfb.evaluation.drivers import KEPT, Driver, drivers, largest
from recfb.evaluation.gates.support import odds_z, rejected, weight_z
from recfb.evaluation.sketch import quantiles, sketch, zero_share
from recfb.evaluation.tables import PERIODS, add_strata, of_items, of_strata
from recfb.policies import Uniform
from recfb.random import stream

DAY = 86_400_000_000
EVERY = 10  # rows without a reward, and other marks


def marked(n: int = 900, **more: object) -> Log:
    """Rows of three days and two loggers, every tenth without a reward."""
    log = draw(n, **more)
    row = pl.int_range(n)
    return log.with_frame(
        log.frame.with_columns(
            reward=pl.when(row % EVERY > 0).then(pl.col("reward")),
            time=(19_000 + row * 3 // n) * DAY + row,
            logger=row % 2,
        )
    )


def cell_of(log: Log, by: str | None = None) -> dict[str, Cell]:
    plan = Evaluation({"t": Fixed(TARGET), "uniform": Uniform()}, by=by)
    return plan.scan(log).groups()


def items_of(cell: Cell) -> ItemTable:
    found = of_items(cell.items)
    assert found is not None
    return found


def strata_of(cell: Cell) -> Strata:
    found = of_strata(cell.strata, cell.span)
    assert found is not None
    return found


def test_o_12_1_items_by_position_are_counted() -> None:
    log = marked()
    items = items_of(cell_of(log)[""])
    known = log.frame.filter(pl.col("reward").is_not_null())
    for position, item in itertools.product(range(1, 4), range(4)):
        mine = known.filter(pl.col("position") == position, pl.col("item") == item)
        p = mine["propensity"]
        assert items.seen[position, item] == mine.height
        assert items.could[position, item] == known.filter(position=position).height
        assert float(items.odds[position, item]) == pytest.approx((1 / p).sum())
        assert float(items.square[position, item]) == pytest.approx((1 / p**2).sum())
        assert items.rarest[position, item] == (1 / p).max()
        gone = log.frame.filter(pl.col("reward").is_null(), position=position, item=item)
        assert items.gone[position, item] == gone.height
        w = TARGET[item] / p
        assert float(items.w[0, position, item]) == pytest.approx(w.sum())
        assert float(items.wr[0, position, item]) == pytest.approx((w * mine["reward"]).sum())
    assert float(items.mass[0].sum()) == pytest.approx(known.height)
    assert float(items.mass[1, 1, 0]) == pytest.approx(known.filter(position=1).height / 4)


def test_o_12_3_what_could_be_shown_follows_availability() -> None:
    rows = {"item": [0, 1, 1, 2], "reward": [1, 0, 1, 0], "propensity": [0.5, 0.5, 1.0, 1 / 3]}
    log = Log.of({**rows, "available": [[0, 1], [0, 1], [1], [0, 1, 2]]}, n_items=3)
    plan = Evaluation({"uniform": Uniform()}, estimators=["ips"])
    items = items_of(plan.scan(log).groups()[""])
    assert items.could[0].tolist() == [3, 4, 1]
    assert items.odds[0].tolist() == pytest.approx([2, 3, 3])


def test_o_2_5_strata_are_days_positions_and_loggers() -> None:
    log = marked()
    strata = strata_of(cell_of(log)[""])
    keys = zip(strata.kind, strata.key, strict=True)
    lines = {(int(k), int(key)): i for i, (k, key) in enumerate(keys)}
    assert set(lines) == {(3, 19_000 + d) for d in range(3)} | {(1, p) for p in (1, 2, 3)} | {
        (2, 0),
        (2, 1),
    }
    frame = log.frame.with_columns(day=pl.col("time") // DAY, w=0.25 / pl.col("propensity"))
    for column, kind in (("day", 3), ("position", 1), ("logger", 2)):
        for (key,), mine in frame.group_by(column):
            at, known = lines[kind, int(key)], mine.filter(pl.col("reward").is_not_null())
            assert strata.n[at] == known.height and strata.gone[at] == mine.height - known.height
            assert float(strata.r[at]) == known["reward"].sum()
            assert float(strata.rr[at]) == known["reward"].sum()  # 0 or 1
            assert float(strata.w[1, at]) == pytest.approx(known["w"].sum())
            assert float(strata.ww[1, at]) == pytest.approx((known["w"] ** 2).sum())


def test_o_2_5_groups_have_tables_of_their_own() -> None:
    log = marked()
    parts, whole = cell_of(log, by="logger"), cell_of(log)[""]
    assert list(parts) == ["0", "1"]
    added = reduce(merge, parts.values())
    assert whole.items is not None and added.items is not None
    torch.testing.assert_close(added.items, whole.items)
    assert added.strata is not None and whole.strata is not None
    torch.testing.assert_close(added.strata, whole.strata)
    assert added.sketch is not None and whole.sketch is not None
    torch.testing.assert_close(added.sketch, whole.sketch)
    assert added.drivers == whole.drivers
    assert parts["0"].missing == 90 and parts["1"].missing == 0  # every tenth row is an even one
    half = strata_of(parts["0"])
    assert half.key[half.kind == 2].tolist() == [0]


def test_o_2_5_groups_have_their_own_numbers() -> None:
    log = marked()
    policies = {"t": Fixed(TARGET)}
    report = evaluate(log, policies, estimators=["ips"], by="logger")
    for logger in (0, 1):
        alone = evaluate(log.filter(pl.col("logger") == logger), policies, estimators=["ips"])
        mine = report.table.filter(logger=str(logger))
        assert mine["value"].item() == pytest.approx(alone.table["value"].item(), rel=1e-12)
        assert mine["max_weight"].item() == alone.table["max_weight"].item()


def test_o_2_5_a_position_of_which_no_reward_is_known() -> None:
    log = draw(300)
    last = pl.col("position") == 3
    log = log.with_frame(log.frame.with_columns(reward=pl.when(~last).then(pl.col("reward"))))
    items = items_of(cell_of(log)[""])
    assert items.seen.shape == (4, 4) and float(items.gone[3].sum()) == 100
    assert float(items.seen[3].sum()) == 0


def test_o_12_3_weights_below_one_have_a_variance_too() -> None:
    w, n = torch.tensor([[900.0]]).double(), torch.tensor([1000.0]).double()
    ww = torch.tensor([[820.0]]).double()  # sum w^2 < sum w: the ratio form would be negative
    one = torch.ones(1)
    z = weight_z(Strata(one, one, n, one, one, one, w, ww, 1), torch.ones(1).double())
    assert float(z) == pytest.approx(-100 / (820 - 810) ** 0.5)


def test_o_2_5_many_groups_are_not_described() -> None:
    log = draw(8000)
    log = log.with_frame(log.frame.with_columns(area=pl.int_range(8000) % 20))
    cells = cell_of(log, by="area")
    assert len(cells) == 20
    for cell in cells.values():
        assert cell.sketch is None and cell.strata is None and not cell.drivers
        assert cell.items is not None and cell.sums.shape[-1] == 256
    report = evaluate(log, {"t": Fixed(TARGET)}, by="area")
    assert report.weights["quantiles"].null_count() == 20 and report.drivers.height == 0


@pytest.mark.parametrize("many", [PERIODS, PERIODS + 1, 5 * PERIODS])
def test_o_2_5_long_logs_have_longer_periods(many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "PART", 700)
    log = draw(4000)
    log = log.with_frame(log.frame.with_columns(time=pl.int_range(4000) * many // 4000))
    plan = Evaluation({"t": Fixed(TARGET)}, estimators=["ips"]).fit(log)
    parts = [plan.scan(log, part) for part in log.parts()]
    states = [reduce(lambda a, b: a + b, some) for some in (parts, parts[::-1])]
    for state in states:
        cell = state.groups()[""]
        strata = strata_of(cell)
        rounds = strata.kind == 0
        assert cell.span == {PERIODS: 1, PERIODS + 1: 2, 5 * PERIODS: 8}[many]
        assert int(rounds.sum()) == -(-many // cell.span)
        assert int(strata.n[rounds].sum()) == 4000
    assert plan.report(states[0]).table.equals(plan.report(states[1]).table)


def test_o_2_5_periods_of_other_lengths_merge() -> None:
    g = stream(0)
    keys = torch.randint(10_000, (40, 60), generator=g)
    parts = [
        (torch.stack([torch.zeros(60), k.double(), torch.ones(60)], 1).double(), 1) for k in keys
    ]
    left, right = reduce(add_strata, parts), reduce(add_strata, parts[::-1])
    assert left[1] == right[1] > 1 and left[0] is not None and right[0] is not None
    assert torch.equal(left[0], right[0]) and float(left[0][:, 2].sum()) == 2400
    assert len(left[0]) <= PERIODS


def test_o_2_5_sketch_adds_and_its_quantiles_are_near() -> None:
    g = stream(0)
    w = torch.randn(2, 5000, generator=g).double().mul(2).exp() * (
        torch.rand(2, 5000, generator=g) > 0.2
    )
    r = torch.rand(5000, generator=g).double()
    whole = sketch(w, r)
    parts = [sketch(w[:, k], r[k]) for k in torch.arange(5000).split(700)]
    torch.testing.assert_close(torch.stack(parts).sum(0), whole)
    assert torch.equal(whole[:, 0].sum(1), torch.full((2,), 5000.0).double())
    torch.testing.assert_close(whole[:, 1].sum(1), w.sum(1))
    torch.testing.assert_close(whole[:, 2].sum(1), (w * r).sum(1))
    assert torch.equal(zero_share(whole), (w == 0).double().mean(1))
    shares = [0.1, 0.25, 0.5, 0.9, 0.99, 0.999]
    exact = w.sort(1).values[:, [int(5000 * s + 0.999999) - 1 for s in shares]]
    torch.testing.assert_close(quantiles(whole, shares), exact, rtol=0.0051, atol=0)


def test_o_2_5_sketch_takes_every_weight() -> None:
    w = torch.tensor([[0.0, 1e-12, 1e12, float("nan"), 1.0]]).double()
    found = sketch(w, torch.ones(5).double())
    assert found[0, 0].sum() == 4 and found[0, 0, 0] == 1 and found[0, 0, 1] == 1
    assert found[0, 0, -1] == 1 and float(found[0, 1].sum()) == pytest.approx(1e12 + 1)


def rows_of(w: torch.Tensor, r: torch.Tensor) -> Rows:
    return Rows(r, torch.ones_like(r), w[None])


def test_o_12_1_drivers_are_the_largest_whatever_the_cut() -> None:
    g = stream(0)
    w, r = torch.rand(1000, generator=g).double().round(decimals=2), torch.ones(1000).double()
    r[::3] = -1
    place = torch.arange(1000)
    (whole,) = drivers(rows_of(w, r), "log", place, place % 7, place % 3)
    order = sorted(range(1000), key=lambda k: (-float(w[k]), k))[:KEPT]
    assert [d.row for d in whole] == order  # of equal ones the first rows
    assert all(d.weight * d.reward == d.size * (-1) ** (d.row % 3 == 0) for d in whole)
    assert all(d.item == d.row % 7 and d.position == d.row % 3 for d in whole)
    parts = [drivers(rows_of(w[k], r[k]), "log", k, k % 7, k % 3)[0] for k in place.split(64)]
    assert largest(itertools.chain(*parts)) == largest(itertools.chain(*parts[::-1])) == whole


def test_o_12_1_rows_that_earn_nothing_drive_nothing() -> None:
    zero = torch.zeros(5).double()
    assert drivers(rows_of(zero + 1, zero), "log", torch.arange(5), None, None) == [()]
    (few,) = drivers(rows_of(zero + 2, zero + 1), "log", torch.arange(5), None, None)
    assert few[0] == Driver(2.0, "log", 0, 2.0, 1.0, -1, -1) and len(few) == 5


def test_o_12_1_report_names_rows_and_items() -> None:
    log = marked(600)
    named = Log.of(
        log.frame.with_columns(item=pl.col("item").replace_strict(dict(enumerate("abcd")))),
        meta=log.meta,
    )
    report = evaluate(named, {"t": Fixed(TARGET)}, estimators=["ips", "snips"])
    first = report.drivers.row(0, named=True)
    assert first["weight"] == pytest.approx(4.0) and first["item"] == "d"
    row = named.frame.row(first["row"], named=True)
    assert row["reward"] == 1 and row["item"] == 3 and first["position"] == row["position"]
    total = report.table["value"][0] * report.table["n"][0]
    assert first["share"] == pytest.approx(4.0 / total)
    assert float(report.items["share"].sum()) == pytest.approx(1)
    assert float(report.items["mass"].sum()) == pytest.approx(1)
    assert set(report.items["item"]) == set("abcd")
    grouped = evaluate(named, {"t": Fixed(TARGET)}, estimators=["ips"], by="logger")
    assert grouped.items.columns[0] == grouped.drivers.columns[0] == "logger"


def table_of(p: torch.Tensor, shown: torch.Tensor, claimed: torch.Tensor) -> ItemTable:
    """One position, two items: rows (R, n) of whether item 0 is shown."""
    odds = torch.where(shown, 1 / claimed, 1 / (1 - claimed))
    lines = torch.zeros(9, 1, 2, dtype=torch.float64)
    for item, mine in enumerate((shown, ~shown)):
        x = odds * mine
        lines[:4, 0, item] = torch.stack(
            [mine.sum().double(), torch.tensor(len(p)).double(), x.sum(), x.square().sum()]
        )
        lines[5, 0, item] = x.max()
    found = of_items(lines)
    assert found is not None
    return found


def test_o_12_3_z_is_a_standard_score_where_propensities_are_right() -> None:
    g, found, wrong = stream(0), [], []
    for _ in range(400):
        p = 0.1 + 0.3 * torch.rand(2000, generator=g).double()
        shown = torch.rand(2000, generator=g).double() < p
        found.append(odds_z(table_of(p, shown, p))[0])
        wrong.append(odds_z(table_of(p, shown, p / 2))[0])
    z = torch.stack(found)
    assert z.mean(0).abs().max() < 4 / 400**0.5 and (z.std(0) - 1).abs().max() < 0.15
    assert (torch.stack(wrong)[:, 0] > 4).double().mean() > 0.95


def test_o_12_3_too_few_rows_are_not_tested() -> None:
    log = draw(600)
    items = items_of(cell_of(log)[""])
    enough = (items.odds.square() >= 30 * items.square) & (items.seen > 0)
    assert bool(enough.any()) and not bool(enough.all())
    assert bool(odds_z(items)[~enough].isnan().all())
    strata = strata_of(cell_of(draw(150))[""])
    small = strata.w.square() < 30 * strata.ww
    light = torch.full((2,), 1e-9).double()
    assert bool(small.any()) and torch.equal(weight_z(strata, light).isnan(), small)


def test_o_12_3_weights_of_a_stratum_are_a_standard_score() -> None:
    found = []
    for seed in range(200):
        strata = strata_of(cell_of(marked(600, seed=seed))[""])
        found.append(weight_z(strata, torch.ones(2).double())[0])
    z = torch.stack(found)
    assert z.mean(0).abs().max() < 4 / 200**0.5 and (z.std(0) - 1).abs().max() < 0.2


@pytest.mark.parametrize("n_items, n, scale", [(10, 1000, 1.0), (50, 2000, 1.5), (2, 1000, 2.0)])
def test_o_g6_heavy_tails_of_right_propensities_are_no_fault(
    n_items: int, n: int, scale: float
) -> None:
    alarms = 0
    for seed in range(40):
        g = stream(seed, "heavy", n_items)
        x = torch.randn(n, 3, generator=g).double()
        mu = torch.softmax(scale * x @ torch.randn(3, n_items, generator=g).double(), 1)
        item = torch.multinomial(mu, 1, generator=g)
        rows = {"item": item[:, 0], "propensity": mu.gather(1, item)[:, 0]}
        more = {"reward": torch.ones(n), "time": torch.arange(n) * 7 // n}
        log = Log.of(rows | more, n_items=n_items)
        cell = Evaluation({"u": Uniform()}, estimators=["ips"]).scan(log).groups()[""]
        strata = weight_z(strata_of(cell), cell.hi[0])
        alarms += bool(rejected(odds_z(items_of(cell))).any() or rejected(strata).any())
    assert alarms <= 2


def test_o_13_rows_as_independent_are_the_sandwich() -> None:
    log = draw(3000, unit=torch.arange(3000))
    plan = Evaluation({"t": Fixed(TARGET)}, estimators=["snips", "dr"], buckets=1 << 16)
    report = plan.report(plan.scan(log))
    items, p = log.tensor("item"), log.tensor("propensity")
    w, r = torch.tensor(TARGET)[items] / p, log.tensor("reward")
    phi = w * (r - (w * r).sum() / w.sum()) / w.sum()
    cell = report.state.groups()[""]
    assert cell.squares is not None and cell.squares.shape[0] == 1
    assert report.table["se"][0] == pytest.approx(float(phi.square().sum().sqrt()), rel=1e-2)
    assert not report.gates.filter(gate="G13").height
    assert LOGGER != TARGET
