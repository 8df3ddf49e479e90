"""Cross-fitted reward models: out of fold, unbiased by enumeration, the same for any parts."""

from __future__ import annotations

import itertools
import multiprocessing
import pickle
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import polars as pl
import pytest
import torch
from ope_world import TARGET, Fixed, draw
from test_gates import Says, level, run
from torch import Tensor, nn

import recfb
from recfb import (
    ConfigError,
    Log,
    LogError,
    Recommender,
    UnboundError,
    evaluate,
    objectives,
    samplers,
    scorers,
    solvers,
)
from recfb.contracts import Block, Context, Model
from recfb.data.blocks import unit_column
from recfb.data.door import Problems
from recfb.estimate import Rows, average, dm, dr
from recfb.evaluate import Evaluation
from recfb.evaluation import CrossFit
from recfb.evaluation.cell_means import fold_of
from recfb.evaluation.crossfit import solved, split
from recfb.evaluation.prepare import Inputs
from recfb.evaluation.report import Report
from recfb.interop.obp import predicted
from recfb.interop.sklearn import Reward

EVERY: dict[str, Any] = {"estimators": ["snips", "dm", "dr"]}


def block_of(log: Log) -> Block:
    return next(iter(log.parts())).record(Problems())


def fitted(model: Any, log: Log, **options: Any) -> CrossFit:
    return CrossFit(model, **options).bind(log).solve(log)


class Mean(nn.Module):
    """The mean reward of each item: a torch module that fits itself, and nothing more."""

    def bind(self, log: Log) -> Self:
        self.n_items = log.n_items
        self.table = nn.Parameter(torch.zeros(log.n_items, dtype=torch.float64))
        return self

    def solve(self, log: Log) -> Self:
        item, reward = log.tensor("item"), log.tensor("reward").double()
        step = torch.optim.SGD([self.table], lr=0.5)
        for _ in range(40):
            step.zero_grad()
            (self.table[item] - reward).square().mean().backward()
            step.step()
        return self

    def scores(self, context: Context) -> Tensor:
        return self.table.expand(len(context), -1)


def with_features(n: int = 900, **more: Any) -> Log:
    g = torch.Generator().manual_seed(5)
    return draw(n, features=torch.randn(n, 2, generator=g), **more)


MODELS = {
    "linear": lambda: Reward("linear"),
    "logistic": lambda: Reward("logistic"),
    "boosting": Reward,
    "torch": Mean,
    "solver": solvers.Popularity,
    "iw": lambda: Reward("linear", weighting="iw", target=Fixed(TARGET)),
    "mrdr": lambda: Reward(weighting="mrdr", target=Fixed(TARGET)),
}


def test_o_cross_fitted_linear_is_the_default_model() -> None:
    """Without features it is the cell mean, fold by fold, so every number is the same to 1e-10."""
    log = draw(900)
    default = evaluate(log, {"t": Fixed(TARGET)}, **EVERY)
    model = CrossFit(Reward("linear", l2=50.0))
    report = evaluate(log, {"t": Fixed(TARGET)}, reward_model=model, **EVERY)
    for column in ("value", "se", "lower", "upper"):
        one, other = default.table[column].to_list(), report.table[column].to_list()
        assert one == pytest.approx(other, abs=1e-10), column
    assert level(report, "G8", "dr") == level(default, "G8", "dr") == ""
    assert report.notes[-1] == (
        "Reward model: cross-fitted Reward(estimator='linear', l2=50.0), 3 folds by unit."
    )
    assert not hasattr(model, "models")  # what was given is left as it was
    with pytest.raises(UnboundError, match="this CrossFit is not fitted"):
        model.bind(log).scores(block_of(log).context)


@pytest.mark.parametrize("name", MODELS)
def test_o_a_unit_never_changes_its_own_prediction(name: str) -> None:
    log = with_features(300, unit=torch.arange(300) // 5, user=torch.arange(300) % 97)
    block = block_of(log)
    before = fitted(MODELS[name](), log).predict(block)
    mine = block.unit == block.unit[17]
    flipped = torch.where(mine, 1 - log.tensor("reward"), log.tensor("reward"))
    other = log.with_frame(log.frame.with_columns(reward=pl.Series(flipped.numpy())))
    after = fitted(MODELS[name](), other).predict(block)
    fold = fold_of(block.unit, 3, 0)
    same = fold == fold[17]
    assert torch.equal(before[same], after[same])
    for k in range(3):  # and every other fold has learnt from it
        if k != int(fold[17]):
            assert not torch.equal(before[fold == k], after[fold == k])


def test_o_predictions_are_those_of_models_fitted_apart() -> None:
    log = with_features(600)
    block, fold = block_of(log), fold_of(block_of(log).unit, 3, 4)
    found = fitted(Reward("linear"), log, seed=4).predict(block)
    for k in range(3):
        rows = pl.Series((fold != k).numpy())
        apart = Reward("linear").bind(log).solve(log.with_frame(log.frame.filter(rows)))
        mine = fold == k
        assert torch.equal(found[mine], apart.scores(block.context[mine]))


@pytest.mark.parametrize("name, n", [("sums", 4), ("linear", 3), ("mrdr", 3)])
def test_o_cross_fitted_dr_is_unbiased_by_enumeration(name: str, n: int) -> None:
    """All 5^n logs of n rows: two items that pay 0 or 1, and a third that pays nothing."""
    mu, pi, rate = [0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.3, 0.6, 0.0]
    weighed = {"weighting": name, "target": Fixed(pi)} if name == "mrdr" else {}
    make = Sums if name == "sums" else lambda: Reward("linear", **weighed)  # type: ignore[arg-type]
    outcomes = [(i, r) for i in range(3) for r in ((0.0, 1.0) if i < 2 else (0.0,))]
    unit = torch.arange(1, n + 1)
    assert len(fold_of(unit, 2, 0).unique()) == 2
    policy = torch.tensor(pi, dtype=torch.float64)
    mean, naive, total = 0.0, 0.0, 0.0
    for shown in itertools.product(outcomes, repeat=n):
        item = torch.tensor([i for i, _ in shown])
        reward = torch.tensor([r for _, r in shown], dtype=torch.float64)
        chance = 1.0
        for i, r in shown:
            chance *= mu[i] * (rate[i] if r else 1 - rate[i])
        p = torch.tensor(mu, dtype=torch.float64)[item]
        rows = {"item": item, "reward": reward, "unit": unit, "propensity": p}
        log = Log.of(rows, n_items=3)
        block = block_of(log)
        for q, out in ((fitted(make(), log, folds=2).predict(block), True),
                       (make().bind(log).solve(log).scores(block.context), False)):  # fmt: skip
            at = q.gather(1, item[:, None])[:, 0]
            value = float(dr(Rows(reward, p, policy[item], q @ policy, at), average))
            mean, naive = (mean + chance * value, naive) if out else (mean, naive + chance * value)
        total += chance
    truth = sum(a * b for a, b in zip(pi, rate, strict=True))
    assert total == pytest.approx(1, abs=1e-12)
    assert mean == pytest.approx(truth, abs=1e-12)
    assert abs(naive - truth) > 0.01  # fitted on its own rows it is biased


class Sums(nn.Module):
    """An item's sum of rewards over its rows plus 1: shrunk to 0, in one line."""

    def bind(self, log: Log) -> Self:
        self.register_buffer("table", torch.zeros(log.n_items, dtype=torch.float64))
        return self

    def solve(self, log: Log) -> Self:
        item, reward = log.tensor("item"), log.tensor("reward").double()
        total = torch.zeros_like(self.table).index_add_(0, item, reward)
        self.table = total / (torch.bincount(item, minlength=len(total)) + 1)
        return self

    def scores(self, context: Context) -> Tensor:
        return self.table.expand(len(context), -1)


# ---- any cut of the log, any order, any machine


@pytest.mark.parametrize("name", MODELS)
def test_o_files_and_parts_give_the_same_models(name: str, tmp_path: Path) -> None:
    log = with_features(300, user=torch.arange(300) % 7)
    frame = log.frame
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    for folder, cuts in ((whole, [0, 300]), (pieces, [0, 1, 100, 180, 300])):
        folder.mkdir()
        for k in range(len(cuts) - 1):
            rows = frame.slice(cuts[k], cuts[k + 1] - cuts[k])
            rows.write_parquet(folder / f"part-{k}.parquet")
    one, other = (Log.scan(folder, n_items=4, n_users=7) for folder in (whole, pieces))
    assert len(list(other.parts())) == 4
    block = block_of(log)
    found = [fitted(MODELS[name](), each).predict(block) for each in (log, one, other)]
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    reports = [run(each, reward_model=CrossFit(MODELS[name]()), **EVERY) for each in (one, other)]
    values = [report.table["value"].to_list() for report in reports]
    assert values[0] == pytest.approx(values[1], rel=1e-12)


def test_o_states_add_up_in_any_order_and_after_a_journey(tmp_path: Path) -> None:
    log = with_features(300)
    for k in range(4):
        log.frame.slice(75 * k, 75).write_parquet(tmp_path / f"part-{k}.parquet")
    scanned = Log.scan(tmp_path, n_items=4)
    given = Evaluation({"t": Fixed(TARGET)}, reward_model=CrossFit(Reward()), **EVERY)
    plan = given.fit(scanned)
    travelled: Evaluation = pickle.loads(pickle.dumps(plan))
    parts = list(scanned.parts())
    forth, back = plan.scan_part(parts[0]), travelled.scan_part(parts[3])
    for part in parts[1:]:
        forth = forth + plan.scan_part(part)
    for part in parts[2::-1]:
        back = travelled.scan_part(part) + back
    one, other = plan.report(forth), plan.report(back)
    assert one.table.equals(other.table)
    assert one.table.equals(plan.report(plan.scan(scanned)).table)


def test_o_two_models_make_two_plans() -> None:
    log = with_features(300)
    plans = [
        Evaluation({"t": Fixed(TARGET)}, reward_model=CrossFit(model), **EVERY).fit(log)
        for model in (Reward("linear"), Reward())
    ]
    first, second = (plan.scan(log) for plan in plans)
    with pytest.raises(ConfigError, match="different evaluations"):
        _ = first + second


# ---- what can be cross-fitted


def test_o_a_recommender_is_trained_by_fit(small: Log) -> None:
    def once() -> Report:
        model = Recommender(scorers.MF(dim=2), objectives.MSE(), samplers.Logged())
        return run(small, reward_model=CrossFit(model, folds=2), **EVERY)

    one, other = once(), once()
    assert one.table.equals(other.table)
    assert "cross-fitted Recommender(MF(dim=2), MSE(), Logged())" in one.notes[-1]
    default = run(small, **EVERY)
    assert one.table["value"][0] == default.table["value"][0]  # snips reads no model
    assert one.table["value"][2] != default.table["value"][2]


def test_o_a_recommender_is_trained_as_one_likes(small: Log) -> None:
    calls = []

    def short(log: Log, model: Any, seed: int) -> Any:
        calls.append(len(log))
        return recfb.fit(log, model, seed=seed, max_epochs=1, enable_progress_bar=False)

    model = Recommender(scorers.MF(dim=2), objectives.BCE(), samplers.AllPairs())
    with pytest.raises(ConfigError, match=r"CrossFit\(model\)\.refit\(log, "):
        CrossFit(model).bind(small).solve(small)
    trained = CrossFit(model, link="sigmoid").refit(small, short)
    assert len(calls) == 3 and sum(calls) == 2 * len(small)
    assert not hasattr(model, "history")
    report = run(small, reward_model=trained, **EVERY)
    assert len(calls) == 3 and level(report, "G8", "dr") == ""
    found = trained.predict(block_of(small))
    assert bool(((found > 0) & (found < 1)).all())
    assert "under a sigmoid" in report.notes[-1]


def test_o_any_scorer_is_a_reward_model(small: Log) -> None:
    about = pl.DataFrame({"id": range(4), "price": [0.1, 0.9, 0.4, 0.6]})
    people = pl.DataFrame({"id": range(20), "age": [k / 20 for k in range(20)]})
    log = small.with_items(about).with_users(people)
    towers = scorers.TwoTower(users=["age"], items=["price"], dim=4)
    model = CrossFit(Recommender(towers, objectives.MSE(), samplers.Logged()), folds=2)
    report = run(log, reward_model=model, **EVERY)
    assert report.table["value"].null_count() == 0 and level(report, "G8", "dr") == ""
    assert "TwoTower" in report.notes[-1]


# ---- folds side by side


@pytest.mark.parametrize("name", ["linear", "boosting", "iw", "solver"])
def test_o_threads_fit_the_same_models(name: str) -> None:
    log = with_features(300, user=torch.arange(300) % 7)
    block, model = block_of(log), CrossFit(MODELS[name]())
    with ThreadPoolExecutor(3) as executor:
        side = model.refit(log, solved, executor=executor).predict(block)
    assert torch.equal(side, fitted(MODELS[name](), log).predict(block))


def test_o_processes_fit_the_same_models(small: Log) -> None:
    recommender = Recommender(scorers.MF(dim=2), objectives.MSE(), samplers.Logged())
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as executor:
        for model in (Reward(), recommender):
            alone = run(small, reward_model=CrossFit(model), **EVERY)
            side = run(small, reward_model=CrossFit(model), executor=executor, **EVERY)
            assert side.table.equals(alone.table)


def test_o_evaluate_hands_its_executor_on(small: Log) -> None:
    """But what draws from the generator of the process is not trained in threads."""
    main, seen = threading.get_ident(), []

    def train(log: Log, model: Any, seed: int) -> Any:
        seen.append(threading.get_ident())
        return solved(log, model, seed) if hasattr(model, "solve") else Says(0.5)

    with ThreadPoolExecutor(1) as executor:
        for model, own in ((Reward("linear"), False), (Says(0.5), True)):
            seen.clear()
            inputs = Inputs({"dm": dm}, {"t": Fixed(TARGET)}, CrossFit(model), None, None, 0, train)
            inputs.prepare(small, executor)
            assert len(seen) == 3 and {ident == main for ident in seen} == {own}


@pytest.fixture
def small() -> Log:
    n = 160
    return draw(n, user=torch.arange(n) % 20, unit=torch.arange(n) % 20)


def test_o_a_model_of_all_folds() -> None:
    log = with_features(300)
    model, context = fitted(Reward("linear"), log), block_of(log).context
    assert isinstance(model, Model)
    each = torch.stack([part.scores(context) for part in model.models])  # type: ignore[operator]
    assert torch.equal(model.scores(context), each.mean(0))
    item = torch.arange(300) % 4
    expected = each.mean(0).gather(1, item[:, None])[:, 0]
    assert torch.equal(model.score_of(context, item), expected)
    assert torch.equal(model.top(context, 1)[:, 0], each.mean(0).argmax(1))
    pairs = torch.stack([item, 3 - item], 1)
    some = Context(context.user, features=context.features, position=context.position,
                   candidates=pairs)  # fmt: skip
    assert torch.allclose(model.scores(some), each.mean(0).gather(1, pairs))
    assert torch.equal(model.score_of(some, item), expected)


def test_o_fit_save_and_load(tmp_path: Path) -> None:
    log = draw(90, user=torch.arange(90) % 9)
    model = recfb.fit(log, CrossFit(solvers.Popularity()))
    assert model.fitted_on == log.name
    recfb.save(model, tmp_path / "model")
    loaded = recfb.load(tmp_path / "model")
    context = block_of(log).context
    assert torch.equal(loaded.scores(context), model.scores(context))  # type: ignore[attr-defined]
    assert model.recommend([0], k=1)["item"].len() <= 1


def test_o_folds_and_seeds_matter() -> None:
    log, block = with_features(300), block_of(with_features(300))
    base = fitted(Reward("linear"), log).predict(block)
    for options in ({"folds": 4}, {"seed": 1}, {"link": "sigmoid"}):
        assert not torch.equal(base, fitted(Reward("linear"), log, **options).predict(block))


def test_o_a_fold_that_nothing_is_known_of_is_predicted_zero() -> None:
    unit = torch.arange(12)
    fold = fold_of(unit, 2, 0)
    reward = [1.0 if f == 0 else None for f in fold.tolist()]
    log = Log.of({"item": [0, 1] * 6, "reward": reward, "unit": unit})
    found = fitted(Reward("linear"), log, folds=2).predict(block_of(log))
    assert found[fold == 0].eq(0).all() and found[fold == 1].sub(1).abs().max() < 1e-10
    empty = evaluate(draw(0), {"t": Fixed(TARGET)}, reward_model=CrossFit(Reward()), **EVERY)
    assert empty.table["value"].null_count() == 3


def test_o_split_by_hand() -> None:
    log = Log.of({"item": [0, 1, 2, 3], "reward": [1, 0, 1, 0], "unit": [7, 7, 8, 9], "user": 0},
                 user="user")  # fmt: skip
    fold = fold_of(torch.tensor([7, 7, 8, 9]), 2, 3)
    for k, others in enumerate(split(log, 2, 3)):
        rows = [i for i, f in enumerate(fold.tolist()) if f != k]
        assert others.frame["item"].to_list() == rows
    assert unit_column(log) == "unit" and unit_column(log, "user") == "user"
    assert unit_column(Log.of({"item": [0], "reward": [1]})) == ""


def test_o_obp_is_given_the_same_predictions() -> None:
    log = with_features(300)
    block, model = block_of(log), CrossFit(Reward("linear"))
    dense = torch.as_tensor(predicted(log, model))  # (n, n_items, positions)
    assert block.context.position is not None
    at = dense[torch.arange(300), :, block.context.position - 1]
    assert torch.equal(at, fitted(Reward("linear"), log).predict(block))


# ---- gate G8, and what is refused


def test_o_g8_knows_about_cross_fitting() -> None:
    log, other = with_features(300), with_features(300, seed=1)
    alone = Reward("linear").bind(log).solve(log)
    assert level(run(log, reward_model=alone, **EVERY), "G8", "dr") == "fail"
    assert level(run(other, reward_model=alone, **EVERY), "G8", "dr") == ""
    text = run(log, reward_model=alone, **EVERY).gates.filter(gate="G8")["advice"][0]
    assert "CrossFit(model)" in text
    crossed = fitted(Reward("linear"), log)
    for each in (log, other):
        assert level(run(each, reward_model=crossed, **EVERY), "G8", "dr") == ""
    nameless = with_features(300, unit=False)
    assert level(run(nameless, reward_model=CrossFit(Reward("linear")), **EVERY), "G8", "dr") == ""
    crossed = fitted(Reward("linear"), nameless)
    half = nameless.filter(pl.col("item") > 0)
    assert level(run(half, reward_model=crossed, **EVERY), "G8", "dr") == "warn"


def test_o_folds_of_other_units_are_refused() -> None:
    log = with_features(300, user=torch.arange(300) % 30)
    by_user = CrossFit(Reward("linear")).refit(log, solved, unit="user")
    with pytest.raises(ConfigError, match="are of unit='user', the evaluation's clusters of unit"):
        run(log, reward_model=by_user, **EVERY)
    report = run(log, reward_model=by_user, unit="user", **EVERY)
    assert report.notes[-1].endswith("3 folds by user.")
    again = run(log, reward_model=CrossFit(Reward("linear")), unit="user", **EVERY)
    assert report.table.equals(again.table)
    with pytest.raises(LogError, match="'team'"):
        CrossFit(Reward("linear")).refit(log, solved, unit="team")


def test_o_what_cannot_be_cross_fitted() -> None:
    with pytest.raises(ConfigError, match="folds is at least 2, found 1"):
        CrossFit(Mean(), folds=1)

    class Plain:
        pass

    with pytest.raises(ConfigError, match="torch module with bind, solve and scores, found Plain"):
        CrossFit(Plain())  # type: ignore[arg-type]
    log = draw(90)
    with pytest.raises(UnboundError, match="this CrossFit is not fitted"):
        CrossFit(Mean()).predict(block_of(log))
    with pytest.raises(UnboundError, match=r"a Reward that was never fitted.*CrossFit\(model\)"):
        run(log, reward_model=Reward(), **EVERY)
    with pytest.raises(ConfigError, match="Says has no `solve`"):
        solved(log, Says(0.5))

    class Narrow(Mean):
        def scores(self, context: Context) -> Tensor:
            return super().scores(context)[:, :1]

    with pytest.raises(ConfigError, match=r"Narrow\.scores returned shape \(\d+, 1\)"):
        run(log, reward_model=CrossFit(Narrow()), **EVERY)
