"""Weights by classification: exact for the Bayes classifier, and what a fitted one says."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from ope_world import TARGET, VALUE, Fixed, draw
from sklearn.linear_model import LogisticRegression
from test_gates import level
from torch import Tensor, nn

from recfb import ConfigError, Log, LogError, SupportError, evaluate
from recfb.contracts import Context, Policy, sample_cdf
from recfb.data.door import Problems
from recfb.evaluation.cell_means import fold_of
from recfb.interop.classifier import odds, weights
from recfb.interop.sklearn import Reward
from recfb.policies import Uniform
from recfb.random import stream

F = torch.float64
PX = torch.tensor([0.5, 0.3, 0.2], dtype=F)
MU = torch.tensor(
    [[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]], dtype=F
)  # (3, 4)
PI = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1], [0.05, 0.05, 0.1, 0.8]], dtype=F)
Q = torch.tensor([[0.2, 0.9, 0.4, 0.6], [0.3, 0.5, 0.1, 0.8], [0.7, 0.2, 0.5, 0.35]], dtype=F)


class OfFeature(Policy):
    """Probabilities by the one feature of a request, which is a whole number."""

    def __init__(self, given: Tensor) -> None:
        super().__init__()
        self.given = given

    def probs(self, context: Context) -> Tensor:
        assert context.features is not None
        return self.given[context.features[:, 0].long()]


class Bayes(nn.Module):
    """P(drawn | request, item) where both probabilities are known."""

    def __init__(self, pi: Tensor = PI) -> None:
        super().__init__()
        self.c = pi / (pi + MU)

    def bind(self, log: Log) -> Bayes:
        return self

    def solve(self, log: Log) -> Bayes:
        return self

    def scores(self, context: Context) -> Tensor:
        assert context.features is not None
        return self.c[context.features[:, 0].long()]


def population() -> Log:
    """2,000 rows that are the 3 x 4 world with binary rewards exactly, without propensities."""
    chance = (PX[:, None] * MU)[:, :, None] * torch.stack([1 - Q, Q], 2)  # (3, 4, 2)
    count = (2000 * chance).round().long()
    assert torch.allclose(count.to(F), 2000 * chance, atol=1e-9)
    x, a, r = (count >= 0).nonzero().repeat_interleave(count.flatten(), 0).T
    return Log.of({"item": a, "reward": r, "features": x[:, None].float(), "unit": range(len(x))})


def test_o_the_bayes_classifier_gives_the_weights_exactly() -> None:
    log = population()
    made = weights(log, {"t": OfFeature(PI)}, Bayes())
    x, a = log.tensor("features")[:, 0].long(), log.tensor("item")
    assert float((made.values[0] - PI[x, a] / MU[x, a]).abs().max()) < 1e-12
    row = made.report().table.to_dicts()[0]
    assert row["value"] == pytest.approx(float((PX[:, None] * PI * Q).sum()), abs=1e-12)
    assert row["estimator"] == "snips" and row["n"] == 2000
    assert float(made.values.mean()) == pytest.approx(1, abs=1e-12)


def test_o_odds_by_hand() -> None:
    c = torch.tensor([0.0, 0.2, 0.9, 0.999, 1.0, -0.1, 1.2], dtype=F)
    expected = [0.0, 0.25, 9.0, 99.0, 99.0, 0.0, 99.0]  # at most 1 - 1/100
    assert odds(c, 100).tolist() == pytest.approx(expected)


def test_o_a_fitted_classifier_is_that_of_scikit_learn_fold_by_fold() -> None:
    """And the value is the balanced estimate, sum w r / sum w of the clipped weights."""
    log = draw(600)
    log = log.with_frame(log.frame.drop("position", "propensity"))
    block = next(iter(log.parts())).record(Problems())
    item, fold = log.tensor("item"), fold_of(block.unit, 3, 0)
    pi = torch.tensor(TARGET, dtype=F).expand(600, -1)
    drawn = sample_cdf(pi, stream(0, "classifier"))[:, 0]
    hot = torch.nn.functional.one_hot
    made = weights(log, {"t": Fixed(TARGET)}, Reward(LogisticRegression(C=0.7)))
    for k in range(3):
        some = fold != k
        x = torch.cat([hot(item[some], 4), hot(drawn[some], 4)]).double()
        x = torch.cat([torch.ones(len(x), 1), x], 1).numpy()  # no position: a constant
        y = torch.arange(2).repeat_interleave(int(some.sum())).numpy()
        model = LogisticRegression(C=0.7).fit(x, y)
        own = torch.cat([torch.ones(600, 1), hot(item, 4)], 1)[~some].double().numpy()
        c = torch.as_tensor(model.predict_proba(own)[:, 1])
        assert torch.allclose(made.values[0, ~some], c / (1 - c), rtol=0, atol=1e-10)
    w, r = made.values[0], log.tensor("reward").double()
    assert made.report().table["value"].item() == pytest.approx(float((w * r).sum() / w.sum()))


class Tilted(Policy):
    """Two items by a feature x, P(item 0) = sigmoid(power x)."""

    def __init__(self, power: float) -> None:
        super().__init__()
        self.power = power

    def probs(self, context: Context) -> Tensor:
        assert context.features is not None
        p = torch.sigmoid(self.power * context.features[:, 0].double())
        return torch.stack([p, 1 - p], 1)


def test_o_weights_come_near_those_of_the_logger() -> None:
    """Where the log of pi / mu is linear in the feature, as the classifier takes it to be."""
    n, g = 6000, stream(2, "rows")
    x = torch.randn(n, 1, generator=g)
    logger, target = Tilted(1.0), Tilted(-1.0)
    mu = logger.probs(Context(torch.zeros(n).long(), features=x))
    item = torch.multinomial(mu, 1, generator=g)  # (n, 1)
    reward = (torch.rand(n, generator=g) < torch.sigmoid(x[:, 0] * (1 - 2 * item[:, 0]))).float()
    rows = {"item": item[:, 0], "reward": reward, "features": x, "unit": torch.arange(n)}
    log = Log.of({**rows, "propensity": mu.gather(1, item)[:, 0]})
    made = weights(log, {"t": target})
    truth = (1 - mu).gather(1, item)[:, 0] / mu.gather(1, item)[:, 0]
    assert float((made.values[0] - truth).abs().mean()) < 0.1
    assert float((1 - truth).abs().mean()) > 0.6
    best = evaluate(log, {"t": target}, estimators=["snips"]).table.to_dicts()[0]
    row = made.report().table.to_dicts()[0]
    assert row["value"] == pytest.approx(best["value"], abs=2 * best["se"])
    assert abs(float(reward.double().mean()) - best["value"]) > 8 * best["se"]


def test_o_gates_know_that_weights_are_estimated() -> None:
    log = draw(3000)
    policies = {"t": Fixed(TARGET), "u": Uniform()}
    made = weights(log.with_frame(log.frame.drop("propensity")), policies)
    report = made.report(base="u")
    assert made.values.shape == (2, 3000)
    for name in policies:
        found = report.gates.filter(gate="G7", policy=name)
        assert found["level"].to_list() == ["warn"]
    assert report.table["verdict"].to_list() == ["usable with care"] * 2
    assert report.table["method"].to_list() == ["bootstrap"] * 2
    assert report.table["value"][0] == pytest.approx(VALUE, abs=0.05)
    assert report.compare["policy"].to_list() == ["t"]
    likely = made.report(interval="likelihood", alpha=0.1).table
    assert likely["method"].to_list() == ["likelihood"] * 2
    assert likely["lower"].null_count() == 0
    same = weights(log, policies)  # propensities are not read
    assert torch.equal(same.values, made.values)


def test_o_what_was_never_logged_is_told() -> None:
    log = draw(2000, logger=[0.5, 0.3, 0.2])
    wide = Log.of(log.frame.drop("unit"), n_items=4)
    report = weights(wide, {"t": Fixed([0.2, 0.2, 0.2, 0.4])}).report()
    assert level(report, "G5", "snips") == "fail"
    text = report.gates.filter(gate="G5")["evidence"].item()
    assert text.startswith("40.0% of the target's choices were never logged")


def test_o_an_item_that_is_never_played_weighs_nothing() -> None:
    log = draw(900)
    made = weights(log, {"t": Fixed([0.0, 0.5, 0.5, 0.0])})
    away = (log.tensor("item") == 0) | (log.tensor("item") == 3)
    assert bool((made.values[0][away] == 0).all()) and bool((made.values[0][~away] > 0).all())
    assert level(made.report(), "G5", "snips") == ""  # the logger was never certain


def test_o_a_unit_never_changes_its_own_weight() -> None:
    log = draw(300, unit=torch.arange(300) // 5)
    block = next(iter(log.parts())).record(Problems())
    fold, mine = fold_of(block.unit, 3, 0), block.unit == 3
    item = torch.where(mine, 3 - log.tensor("item"), log.tensor("item"))
    other = log.with_frame(log.frame.with_columns(item=pl.Series(item.numpy(), dtype=pl.Int32)))
    one, two = (weights(each, {"t": Fixed(TARGET)}).values[0] for each in (log, other))
    same = (fold == fold[mine][0]) & ~mine
    assert torch.equal(one[same], two[same])
    assert not torch.equal(one[~same & ~mine], two[~same & ~mine])


def test_o_rows_without_a_reward_teach_and_are_counted() -> None:
    log = draw(900)
    hole = pl.when(pl.int_range(900) % 5 > 0).then(pl.col("reward"))
    holes = log.with_frame(log.frame.with_columns(reward=hole))
    whole, made = weights(log, {"t": Fixed(TARGET)}), weights(holes, {"t": Fixed(TARGET)})
    assert torch.equal(whole.values, made.values)
    report = made.report()
    assert report.table["n"].item() == 720 and level(report, "G12", "snips") == "warn"
    known = torch.arange(900) % 5 > 0
    w, r = made.values[0][known], log.tensor("reward")[known].double()
    assert report.table["value"].item() == pytest.approx(float((w * r).sum() / w.sum()))


def test_o_parts_threads_folds_seed_and_unit(tmp_path: Path) -> None:
    log = draw(300, user=torch.arange(300) % 30)
    for k, (a, b) in enumerate([(0, 1), (1, 140), (140, 300)]):
        log.frame.slice(a, b - a).write_parquet(tmp_path / f"part-{k}.parquet")
    base = weights(log, {"t": Fixed(TARGET)}).values
    scanned = Log.scan(tmp_path, n_items=4, n_users=30)
    with ThreadPoolExecutor(3) as executor:
        parts = weights(scanned, {"t": Fixed(TARGET)}, executor=executor)
    assert torch.equal(parts.values, base)
    changes: list[dict[str, Any]] = [{"folds": 4}, {"seed": 1}, {"unit": "user"}]
    for change in changes:
        assert not torch.equal(weights(log, {"t": Fixed(TARGET)}, **change).values, base)


def test_o_states_of_two_logs_add_up() -> None:
    one, two = (weights(draw(800, seed=k), {"t": Fixed(TARGET)}) for k in (0, 1))
    both = one.plan.report(one.state + two.state).table
    assert both["n"].item() == 1600
    w = torch.cat([one.values[0], two.values[0]])
    r = torch.cat([draw(800, seed=k).tensor("reward") for k in (0, 1)]).double()
    assert both["value"].item() == pytest.approx(float((w * r).sum() / w.sum()))


def test_o_what_cannot_be_classified() -> None:
    with pytest.raises(LogError, match="no rows to learn from"):
        weights(draw(0), {"t": Fixed(TARGET)})
    with pytest.raises(SupportError, match=r"policies\['t'\]\.probs has 30 rows that do not sum"):
        weights(draw(30), {"t": Fixed([0.5, 0.1, 0.1, 0.1])})
    with pytest.raises(SupportError, match=r"expected \(30, 4\)"):
        weights(draw(30), {"t": Fixed([0.5, 0.5])})
    with pytest.raises(ConfigError, match="folds is at least 2"):
        weights(draw(30), {"t": Fixed(TARGET)}, folds=1)
