"""Reward models of scikit-learn: exact where the formula is known, and refused where it must be."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from torch import Tensor

import recfb
from recfb import ConfigError, Log, LogError, UnboundError
from recfb.config import build
from recfb.contracts import Context, Fitted, Model, describe
from recfb.interop import design
from recfb.interop.sklearn import Reward
from recfb.policies import Ranked, Uniform
from recfb.random import stream


def rows_of(n: int = 240, *, features: bool = True, position: bool = True) -> dict[str, Any]:
    g = stream(3, "rows")
    item, place = torch.arange(n) % 4, torch.arange(n) // 4 % 3 + 1
    x = torch.randn(n, 2, generator=g)
    reward = (torch.rand(n, generator=g) < (item + place) / 9).float()
    rows: dict[str, Any] = {"item": item, "reward": reward, "user": torch.arange(n) % 5}
    if features:
        rows["features"] = x
    if position:
        rows["position"] = place
    return rows


def context_of(log: Log) -> Context:
    return next(log.blocks(len(log))).context


def fitted(model: Reward, log: Log) -> Reward:
    return model.bind(log).solve(log)


def at(position: int) -> Context:
    return Context(torch.tensor([0]), position=torch.tensor([position]))


def test_o_linear_without_features_is_the_shrunken_cell_mean() -> None:
    log = Log.of(rows_of(230, features=False), n_items=5)  # item 4 was never shown
    model = fitted(Reward("linear", l2=50.0), log)
    frame = log.frame
    for position in (1, 2, 3):
        here = frame.filter(pl.col("position") == position)
        mean = float(here["reward"].cast(pl.Float64).mean())  # type: ignore[arg-type]
        predicted = model.scores(at(position))[0]
        for item in range(5):
            cell = here.filter(pl.col("item") == item)["reward"].cast(pl.Float64)
            expected = (float(cell.sum()) + 50 * mean) / (len(cell) + 50)
            assert float(predicted[item]) == pytest.approx(expected, abs=1e-10)
    overall = float(frame["reward"].cast(pl.Float64).mean())  # type: ignore[arg-type]
    for unseen in (at(9), Context(torch.tensor([0]))):
        assert model.scores(unseen)[0].tolist() == pytest.approx([overall] * 5, abs=1e-10)


def test_o_a_saturated_linear_model_is_the_cell_mean() -> None:
    log = Log.of(rows_of(features=False))
    model = fitted(Reward("linear", l2=1e-12), log)
    means = log.frame.group_by("position", "item").agg(pl.col("reward").cast(pl.Float64).mean())
    for position, item, mean in means.iter_rows():
        assert float(model.scores(at(position))[0, item]) == pytest.approx(mean, abs=1e-10)


def test_o_linear_with_features_is_a_ridge_for_each_item() -> None:
    log = Log.of(rows_of(position=False))
    model = fitted(Reward("linear", l2=2.0), log)
    x = log.tensor("features").double()
    x = (x - x.mean(0)) / x.std(0, correction=0)
    x = torch.cat([torch.ones(len(x), 1), x], 1)
    reward, item = log.tensor("reward").double(), log.tensor("item")
    for k in range(4):
        mine, y = x[item == k], reward[item == k] - reward.mean()
        gram = mine.T @ mine + 2 * torch.eye(3, dtype=torch.float64)
        expected = reward.mean() + x @ torch.linalg.solve(gram, mine.T @ y)
        predicted = model.scores(context_of(log))[:, k]
        assert torch.allclose(predicted, expected, rtol=0, atol=1e-9)


def test_o_logistic_gives_the_rates_and_stays_in_the_unit_interval() -> None:
    log = Log.of(rows_of(features=False))
    model = fitted(Reward("logistic", l2=1e-4), log)
    means = log.frame.group_by("position", "item").agg(pl.col("reward").cast(pl.Float64).mean())
    for position, item, mean in means.iter_rows():
        assert float(model.scores(at(position))[0, item]) == pytest.approx(mean, abs=2e-3)
    strong = fitted(Reward("logistic", l2=1e6), log).scores(at(1))
    overall = float(log.tensor("reward").mean())
    assert strong[0].tolist() == pytest.approx([overall] * 4, abs=1e-3)


def test_o_logistic_at_the_optimum() -> None:
    """The gradient of the penalised log loss is 0: the mean of an item's residuals is l2 theta."""
    log = Log.of({"item": [0, 0, 0, 1, 1], "reward": [1, 0, 0, 1, 1]})
    rate = fitted(Reward("logistic", l2=2.0), log).scores(Context(torch.tensor([0])))[0]
    logit = torch.logit(rate)  # intercept + theta, with theta_0 + theta_1 = 0
    theta = (logit[0] - logit[1]) / 2
    assert float(1 - 3 * rate[0]) == pytest.approx(2 * float(theta), abs=1e-5)
    assert float(2 - 2 * rate[1]) == pytest.approx(-2 * float(theta), abs=1e-5)


@pytest.mark.parametrize("reward", [0.0, 1.0])
def test_o_one_reward_only(reward: float) -> None:
    log = Log.of({**rows_of(), "reward": [reward] * 240})
    for estimator in ("logistic", "linear", "boosting", DecisionTreeClassifier()):
        predicted = fitted(Reward(estimator), log).scores(context_of(log))
        assert torch.allclose(predicted, torch.full_like(predicted, reward), atol=1e-9)


def crossing() -> Log:
    """The reward is 1 where the sign of x says so for the item: no additive formula knows it."""
    n = 400
    item = torch.arange(n) % 2
    x = (torch.arange(n) // 2 % 3 == 0).float() * 2 - 1
    return Log.of(
        {"item": item, "reward": ((x > 0) == (item == 0)).float(), "features": x[:, None]}
    )


@pytest.mark.parametrize(
    "estimator", ["linear", "logistic", "boosting", DecisionTreeRegressor(random_state=0)]
)
def test_o_what_suits_whom_is_learnt(estimator: Any) -> None:
    log = crossing()
    model = fitted(Reward(estimator, l2=0.01), log)
    asked = Context(torch.tensor([0, 0]), features=torch.tensor([[1.0], [-1.0]]))
    expected = torch.eye(2, dtype=torch.float64)
    assert torch.allclose(model.scores(asked), expected, atol=0.05)


def test_o_items_are_categories_of_trees() -> None:
    log = Log.of(rows_of())
    order = torch.tensor([2, 0, 3, 1])
    renamed = Log.of({**rows_of(), "item": order[log.tensor("item")]})
    one = fitted(Reward(), log).scores(context_of(log))
    other = fitted(Reward(), renamed).scores(context_of(log))
    assert torch.allclose(one, other[:, order], atol=1e-9)
    assert not torch.allclose(one[:, 0], one[:, 3])


def test_o_an_estimator_is_cloned_and_a_classifier_gives_the_expected_class() -> None:
    log = Log.of({"item": [0, 0, 0, 1, 1], "reward": [1, 3, 5, 2, 2]})
    given = DecisionTreeClassifier(random_state=0)
    model = fitted(Reward(given), log)
    assert model.scores(Context(torch.tensor([0])))[0].tolist() == pytest.approx([3.0, 2.0])
    assert not hasattr(given, "classes_") and model.estimator is given
    plain = fitted(Reward(LinearRegression()), log)
    assert plain.scores(Context(torch.tensor([0])))[0].tolist() == pytest.approx([3.0, 2.0])


@pytest.mark.parametrize("estimator", ["linear", "boosting", LinearRegression()])
def test_o_columns_describe_items_that_were_never_shown(estimator: Any) -> None:
    n = 200
    rows = {"item": torch.arange(n) % 4, "reward": (torch.arange(n) % 4 % 2).float()}
    about = pl.DataFrame({"id": range(5), "odd": [0.0, 1.0, 0.0, 1.0, 1.0]})
    log = Log.of(rows, n_items=5).with_items(about)
    model = fitted(Reward(estimator, items=["odd"], l2=1e-6), log)
    expected = [0.0, 1.0, 0.0, 1.0, 1.0]
    assert model.scores(Context(torch.tensor([0])))[0].tolist() == pytest.approx(expected, abs=1e-3)


def test_o_columns_of_users() -> None:
    rows = {"user": [0, 1] * 50, "item": [0] * 100, "reward": [0.0, 1.0] * 50}
    log = Log.of(rows).with_users(pl.DataFrame({"id": [0, 1], "new": [False, True]}))
    model = fitted(Reward("linear", users=["new"], l2=1e-6), log)
    assert model.scores(Context(torch.tensor([0, 1])))[:, 0].tolist() == pytest.approx(
        [0, 1], abs=1e-6
    )


@pytest.mark.parametrize("estimator", ["linear", "logistic", "boosting", LogisticRegression()])
def test_o_one_answer_in_every_form(estimator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log.of(rows_of())
    model, context = fitted(Reward(estimator), log), context_of(log)
    assert isinstance(model, Model) and isinstance(model, Fitted)
    whole = model.scores(context)
    item = torch.arange(len(log)) % 4
    assert torch.allclose(model.score_of(context, item), whole.gather(1, item[:, None])[:, 0])
    pairs = torch.stack([item, (item + 1) % 4], 1)
    assert torch.allclose(model.score_of(context, pairs), whole.gather(1, pairs))
    some = Context(context.user, features=context.features, position=context.position,
                   candidates=pairs)  # fmt: skip
    assert torch.allclose(model.scores(some), whole.gather(1, pairs))
    assert torch.equal(model.top(context, 2)[:, 0], whole.argmax(1))
    assert torch.allclose(model.scores(context[torch.tensor([7, 3])]), whole[[7, 3]])
    monkeypatch.setattr(design, "MOST_CELLS", 100)
    assert torch.allclose(model.scores(context), whole)
    assert model.scores(context[:0]).shape == (0, 4)


def test_o_unknown_rewards_are_left_out() -> None:
    rows = rows_of()
    half = Log.of({**rows, "reward": [r if k % 2 else None for k, r in enumerate(rows["reward"])]})
    known = half.filter(pl.col("reward").is_not_null())
    one, other = fitted(Reward("linear"), half), fitted(Reward("linear"), known)
    assert torch.equal(one.scores(context_of(half)), other.scores(context_of(half)))


def test_o_fit_recommend_and_a_policy() -> None:
    log = Log.of(rows_of(features=False))
    model = recfb.fit(log, Reward("linear"))
    assert model.fitted_on == log.name
    top = model.recommend([0, 1], k=2)
    assert top["by"].to_list() == ["model"] * len(top)
    seen = model.history.seen
    for row in top.to_dicts():
        assert not bool(seen.has(torch.tensor([row["user"] * 4 + row["item"]])))
    policy = Ranked(model, epsilon=0.2)
    policy.n_items = 4
    assert policy.probs(context_of(log)).sum(1).tolist() == pytest.approx([1.0] * 240)


def test_o_configuration_and_saving(tmp_path: Path) -> None:
    model = Reward("linear", l2=3.0)
    assert repr(model) == "Reward(estimator='linear', l2=3.0)"
    page = describe(model)
    assert page["class_path"] == "recfb.interop.sklearn.Reward"
    assert describe(build(Fitted, page)) == page
    with pytest.raises(ConfigError, match="LinearRegression cannot be written"):
        describe(Reward(LinearRegression()))
    log = Log.of(rows_of())
    with pytest.raises(ConfigError, match="reading it back would run code"):
        recfb.save(recfb.fit(log, model), tmp_path / "model")
    twin = copy.deepcopy(model)
    assert torch.equal(twin.scores(context_of(log)), model.scores(context_of(log)))


@pytest.mark.parametrize("estimator", ["linear", "logistic", "boosting"])
def test_o_the_ridge_changes_something(estimator: Any) -> None:
    log = Log.of(rows_of())
    one, other = fitted(Reward(estimator), log), fitted(Reward(estimator, l2=30.0), log)
    assert not torch.allclose(one.scores(context_of(log)), other.scores(context_of(log)))


def test_o_refusals() -> None:
    with pytest.raises(ConfigError, match="estimator is one of"):
        Reward("forest")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="l2 is positive, found 0"):
        Reward(l2=0.0)
    log = Log.of(rows_of())
    with pytest.raises(UnboundError, match=r"recfb\.fit\(log, model\)"):
        Reward().bind(log).scores(context_of(log))
    half = Log.of({**rows_of(), "reward": [0.5] * 240})
    for estimator in ("logistic", DecisionTreeClassifier()):
        with pytest.raises(LogError, match=r"found 0\.5"):
            fitted(Reward(estimator), half)
    with pytest.raises(LogError, match="no known reward"):
        fitted(Reward(), Log.of({"item": [0], "reward": [None]}, n_items=2))
    wide = Log.of({"item": [0, 1], "reward": [0, 1]}, n_items=256)
    with pytest.raises(ConfigError, match="trees tell at most 255 items apart"):
        fitted(Reward(), wide)
    fitted(Reward(), Log.of({"item": [0, 254] * 30, "reward": [0, 1] * 30}, n_items=255))
    model = fitted(Reward("linear"), log)
    with pytest.raises(ConfigError, match="with 2 features, the request has 0"):
        model.scores(Context(torch.tensor([0])))
    with pytest.raises(ConfigError, match=r"columns of log\.items"):
        model.scores(Context(torch.tensor([0]), features=torch.zeros(1, 4, 2)))
    with pytest.raises(ConfigError, match="no column 'price'"):
        Reward(items=["price"]).bind(log)


def test_o_positions_are_told_apart() -> None:
    context = Context(torch.zeros(4, dtype=torch.int64), position=torch.tensor([1, 2, 3, 7]))
    users = torch.zeros(1, 0, dtype=torch.float64)
    inputs = design.Inputs.of(context[:3], users)
    expected: Tensor = torch.tensor([[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0]])
    assert torch.equal(inputs.table(context), expected.double())


# ---- weights that are cut


def test_a_cap_cuts_the_weights() -> None:
    """Weights 1 / (2 p) are .625, .625 and 2.5; cut at 1 the cell means have weights 1 at most."""
    log = Log.of(
        {"item": [0, 0, 0, 1], "reward": [1.0, 0.0, 0.0, 1.0], "propensity": [0.8, 0.8, 0.2, 0.2]}
    )

    def mean(cap: float | None) -> float:
        model = Reward("linear", l2=1e-9, weighting="iw", target=Uniform(), cap=cap)
        return float(fitted(model, log).scores(at(1))[0, 0])

    assert mean(None) == pytest.approx(0.625 / 3.75, abs=1e-6)
    assert mean(50.0) == pytest.approx(0.625 / 3.75, abs=1e-6)
    assert mean(1.0) == pytest.approx(0.625 / 2.25, abs=1e-6)
    assert mean(0.1) == pytest.approx(1 / 3, abs=1e-6)


def test_a_cap_is_for_weights() -> None:
    for options in ({"cap": 50.0}, {"weighting": "iw", "target": Uniform(), "cap": 0.0}):
        with pytest.raises(ConfigError, match="with a positive cap or none"):
            Reward("linear", **options)  # type: ignore[arg-type]
