"""The table of residuals: by hand, in the enumerated world, and as gate G10 reads them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest
import torch
from ope_world import LOGGER, RATES, TARGET, Fixed, draw
from test_gates import Says, run
from torch import Tensor, nn

from recfb import Log, LogError, SupportError, UnboundError
from recfb.contracts import Context
from recfb.evaluation import CrossFit
from recfb.evaluation.calibration import deciles, residuals, weighted_means
from recfb.interop.sklearn import Reward
from recfb.policies import Uniform

F = torch.float64


class Table(nn.Module):
    """A reward model of another log: a value an item."""

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.values = torch.tensor(values, dtype=F)
        self.fitted_on = "another"

    def bind(self, log: Log) -> Table:
        return self

    def scores(self, context: Context) -> Tensor:
        return self.values.expand(len(context), -1)

    score_of = top = None  # type: ignore[assignment]


def population() -> Log:
    """100 rows that are the world of four items exactly."""
    rows = [(a, r) for a in range(4) for r in (0, 1) for _ in range(round(100 * LOGGER[a] * (
        RATES[a] if r else 1 - RATES[a])))]  # fmt: skip
    item = torch.tensor([a for a, _ in rows])
    columns = {"item": item, "reward": [r for _, r in rows], "unit": range(len(rows))}
    return Log.of({**columns, "propensity": torch.tensor(LOGGER, dtype=F)[item]})


def test_o_residuals_of_the_enumerated_world() -> None:
    """A model that is off by b(a) has D = -sum pi b, and the logger's is -sum mu b."""
    log, off = population(), [0.1, -0.05, 0.02, 0.2]
    assert len(log) == 100
    right = residuals(log, {"t": Fixed(TARGET)}, Table(RATES))
    assert right.filter(by="all")["residual"].abs().max() < 1e-12  # type: ignore[operator]
    model = Table([q + b for q, b in zip(RATES, off, strict=True)])
    wrong = residuals(log, {"t": Fixed(TARGET)}, model)
    found = wrong.filter(by="all")["residual"].to_list()
    expected = [-sum(p * b for p, b in zip(law, off, strict=True)) for law in (LOGGER, TARGET)]
    assert found == pytest.approx(expected, abs=1e-12)
    assert wrong["policy"].unique(maintain_order=True).to_list() == [None, "t"]
    cells = wrong.filter(by="decile", policy="t")  # equal predictions are together: one an item
    assert cells["rows"].to_list() == [30, 40, 20, 10]
    assert cells["group"].to_list() == [1, 4, 8, 10]
    assert cells["residual"].to_list() == pytest.approx([0.05, -0.1, -0.02, -0.2], abs=1e-12)
    assert cells["prediction"].to_list() == pytest.approx([0.35, 0.4, 0.52, 0.8], abs=1e-12)


def test_o_a_small_table_by_hand() -> None:
    log = Log.of({
        "item": [0, 1, 0, 1], "reward": [1.0, 0.0, 0.0, 1.0], "propensity": [0.5, 0.5, 0.25, 0.5],
        "position": [1, 1, 2, 2], "unit": [7, 7, 8, 9],
    })  # fmt: skip
    table = residuals(log, {"t": Fixed([0.5, 0.5])}, Table([0.5, 0.25]))
    # residuals .5 -.25 -.5 .75; weights 1 1 2 1
    rows = {(r["policy"], r["by"], r["group"]): r for r in table.to_dicts()}
    whole = rows[None, "all", None]
    assert whole["rows"] == 4 and whole["residual"] == pytest.approx(0.125)
    u = [0.25 - 2 * 0.125, -0.5 - 0.125, 0.75 - 0.125]  # by unit
    assert whole["se"] == pytest.approx((sum(x * x for x in u) * 3 / 2) ** 0.5 / 4)
    assert whole["z"] == pytest.approx(0.125 / whole["se"]) and whole["ess"] == 4
    t = rows["t", "all", None]
    assert t["residual"] == pytest.approx(0) and t["ess"] == pytest.approx(25 / 7)
    u = [0.5 - 0.25, 2 * -0.5, 0.75]
    assert t["se"] == pytest.approx((sum(x * x for x in u) * 3 / 2) ** 0.5 / 5)
    assert t["prediction"] == pytest.approx((0.5 + 0.25 + 1 + 0.25) / 5)
    second = rows["t", "position", 2]
    assert second["residual"] == pytest.approx((2 * -0.5 + 0.75) / 3) and second["rows"] == 2
    alone = rows[None, "position", 1]  # one unit: no error can be told
    assert alone["residual"] == 0.125 and alone["se"] is None and alone["z"] is None
    assert rows[None, "decile", 1]["residual"] == pytest.approx(0.25)  # item 1
    assert rows[None, "decile", 6]["residual"] == pytest.approx(0.0)  # item 0


def test_o_deciles_have_equal_counts_and_keep_ties_together() -> None:
    g = torch.Generator().manual_seed(0)
    q = torch.rand(1000, generator=g)
    bins = deciles(q)
    assert torch.bincount(bins).tolist() == [0] + [100] * 10
    order = q.argsort()
    assert torch.equal(bins[order], bins.sort().values)
    assert deciles(torch.full((50,), 0.3)).tolist() == [1] * 50
    assert deciles(q[:0]).tolist() == []


def test_o_errors_are_those_of_independent_clusters() -> None:
    """Each row twice in its unit has the error of each row once."""
    g = torch.Generator().manual_seed(1)
    e, q = torch.randn(300, generator=g, dtype=F), torch.rand(300, generator=g, dtype=F)
    w = torch.rand(300, generator=g, dtype=F)
    code, unit = torch.randint(3, (300,), generator=g), torch.arange(300)
    once = weighted_means(e, q, w, code, unit)
    twice = weighted_means(*(x.repeat(2) for x in (e, q, w, code, unit)))
    for k in range(4):
        assert torch.allclose(once[k], twice[k], rtol=1e-12)
    rows = weighted_means(*(x.repeat(2) for x in (e, q, w, code)), torch.arange(600))
    assert float((rows[2] / twice[2]).mean()) == pytest.approx(0.5**0.5, rel=0.01)


def test_o_gate_g10_reads_the_same_number() -> None:
    log = draw(3000)
    report = run(log, reward_model=Says(0.3, "another"), estimators=["dm"])
    text = report.gates.filter(gate="G10")["evidence"].item()
    row = residuals(log, {"t": Fixed(TARGET)}, Says(0.3, "another")).filter(policy="t", by="all")
    d, z = float(row["residual"].item()), float(row["z"].item())
    assert f"weighted residual is {d:.3g}" in text
    found = float(text.split(",")[-1].split()[0])
    assert found == pytest.approx(z, rel=0.03)  # there clusters share buckets


@pytest.mark.parametrize("model", [None, CrossFit(Reward("linear")), Says(0.3, "another")])
def test_o_parts_and_threads_do_not_matter(model: object, tmp_path: Path) -> None:
    log = draw(400, user=torch.arange(400) % 40, unit=torch.arange(400) % 40)
    for k, (a, b) in enumerate([(0, 1), (1, 150), (150, 400)]):
        log.frame.slice(a, b - a).write_parquet(tmp_path / f"part-{k}.parquet")
    whole = residuals(log, {"t": Fixed(TARGET), "u": Uniform()}, model)  # type: ignore[arg-type]
    scanned = Log.scan(tmp_path, n_items=4, n_users=40)
    with ThreadPoolExecutor(2) as executor:
        parts = residuals(scanned, {"t": Fixed(TARGET), "u": Uniform()}, model, executor=executor)  # type: ignore[arg-type]
    keys = ["policy", "by", "group", "rows"]
    assert whole.select(keys).equals(parts.select(keys))
    for column in ("prediction", "residual", "se", "ess"):
        one, other = whole[column].to_list(), parts[column].to_list()
        assert one == pytest.approx(other, rel=1e-12, abs=1e-15)


def test_o_cross_fitted_residuals_find_what_the_model_lacks() -> None:
    """A click depends on the position; a model without it is off by position, and not over all."""
    n = 6000
    log = draw(n)
    place = log.tensor("position")
    reward = (torch.rand(n, generator=torch.Generator().manual_seed(1)) < 0.2 * place).float()
    log = log.with_frame(log.frame.with_columns(reward=pl.Series(reward.numpy())))
    blind = Blind(Reward("linear"))
    for model, found in ((CrossFit(blind), True), (CrossFit(Reward("linear")), False)):
        table = residuals(log, {"t": Fixed(TARGET)}, model)
        assert float(table.filter(by="all")["z"].abs().max()) < 3.5  # type: ignore[arg-type]
        z = table.filter(by="position", policy="t")["z"].abs()
        assert (z.max() > 5) is found  # type: ignore[operator]


class Blind(nn.Module):
    """A model that is told no position."""

    def __init__(self, model: Reward) -> None:
        super().__init__()
        self.model = model

    def bind(self, log: Log) -> Blind:
        self.model.bind(log.with_frame(log.frame.drop("position")))
        return self

    def solve(self, log: Log) -> Blind:
        self.model.solve(log.with_frame(log.frame.drop("position")))
        return self

    def scores(self, context: Context) -> Tensor:
        return self.model.scores(Context(context.user))


def test_o_without_propensities_the_logger_alone_is_judged() -> None:
    log = draw(300)
    table = residuals(log.with_frame(log.frame.drop("propensity")), {"t": Fixed(TARGET)})
    assert table.filter(policy="t")["residual"].null_count() == len(table.filter(policy="t"))
    assert table.filter(pl.col("policy").is_null())["residual"].null_count() == 0
    empty = residuals(draw(0), {"t": Fixed(TARGET)})
    assert len(empty) == 0 and empty.columns == table.columns
    none = draw(30).frame.with_columns(reward=pl.lit(None, dtype=pl.Float32))
    assert len(residuals(log.with_frame(none), {"t": Fixed(TARGET)})) == 0


def test_o_rows_that_cannot_be_judged() -> None:
    log = draw(300)
    hole = pl.when(pl.col("item") > 0).then(pl.col("propensity"))
    with pytest.raises(LogError, match="of 300 rows have no propensity, which weights divide by"):
        residuals(log.with_frame(log.frame.with_columns(propensity=hole)), {"t": Fixed(TARGET)})
    with pytest.raises(SupportError, match="300 rows do not sum to 1"):
        residuals(log, {"t": Fixed([0.5, 0.1, 0.1, 0.1])})
    with pytest.raises(UnboundError, match="a Reward that was never fitted"):
        residuals(log, {"t": Fixed(TARGET)}, Reward())
