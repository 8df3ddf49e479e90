"""Weighted fits of reward models: against least squares by hand, the variance of dr, and obp."""

from __future__ import annotations

from typing import Any, Self

import polars as pl
import pytest
import torch
from ope_world import TARGET, Fixed, draw
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsRegressor
from sklearn.tree import DecisionTreeRegressor
from test_gates import run
from torch import Tensor

from recfb import ConfigError, Log, LogError, evaluate
from recfb.contracts import Block, Context, Policy, describe
from recfb.data.door import Problems
from recfb.evaluation import CrossFit
from recfb.evaluation.cell_means import fold_of
from recfb.evaluation.mrdr import variance
from recfb.evaluation.weighting import Weighting, chances, fit_weight
from recfb.interop.sklearn import Reward
from recfb.policies import Uniform

F = torch.float64
KINDS: tuple[Weighting, ...] = ("normal", "iw", "mrdr")
PX = torch.tensor([0.2, 0.1, 0.2, 0.1, 0.2, 0.2], dtype=F)
MU = torch.tensor([[0.4, 0.6], [0.8, 0.2], [0.1, 0.9], [0.5, 0.5], [0.7, 0.3], [0.2, 0.8]], dtype=F)
Q = torch.tensor([[0.1, 0.5], [0.9, 0.3], [0.4, 0.2], [0.6, 0.9], [0.3, 0.1], [0.8, 0.7]], dtype=F)
Q = Q.float().double()  # as a log holds them
SURE = torch.eye(2, dtype=F)[[0, 0, 0, 1, 1, 1]]
ANY = torch.tensor(
    [[0.7, 0.3], [0.1, 0.9], [0.5, 0.5], [0.4, 0.6], [0.8, 0.2], [0.3, 0.7]], dtype=F
)
X, A = (
    grid.reshape(-1) for grid in torch.meshgrid(torch.arange(6), torch.arange(2), indexing="ij")
)


class OfFeature(Policy):
    """Probabilities by the one feature of a request, which is a whole number."""

    def __init__(self, given: Tensor) -> None:
        super().__init__()
        self.given = given

    def probs(self, context: Context) -> Tensor:
        assert context.features is not None
        return self.given[context.features[:, 0].long()]


def population() -> Log:
    """100 rows that are the 6 x 2 world exactly; a reward is its mean, which no line in x gives."""
    count = (100 * PX[X] * MU[X, A]).round().long()
    assert torch.allclose(count.to(F), 100 * PX[X] * MU[X, A])
    x, a = X.repeat_interleave(count), A.repeat_interleave(count)
    rows = {"item": a, "reward": Q[x, a], "features": x[:, None].float(), "propensity": MU[x, a]}
    return Log.of({**rows, "unit": torch.arange(len(x))})


def fitted(kind: Weighting, pi: Tensor, log: Log | None = None) -> Tensor:
    """What a line in x for each item predicts: (6, 2)."""
    target = None if kind == "normal" else OfFeature(pi)
    model = Reward("linear", l2=1e-9, weighting=kind, target=target)
    model.bind(population()).solve(population() if log is None else log)
    return model.scores(Context(torch.zeros(6).long(), features=torch.arange(6.0)[:, None]))


def by_hand(weight: Tensor) -> Tensor:
    """Weighted least squares of the world's cells, item by item: (6, 2)."""
    line = torch.stack([torch.ones(6, dtype=F), torch.arange(6, dtype=F)], 1)  # (6, 2)
    found = []
    for a in range(2):
        root = (PX * MU[:, a] * weight[:, a]).sqrt()[:, None]
        found.append(line @ torch.linalg.lstsq(root * line, root * Q[:, a : a + 1]).solution)
    return torch.cat(found, 1)


def block_of(log: Log) -> Block:
    return next(iter(log.parts())).record(Problems())


def test_o_weights_by_hand() -> None:
    p, pe = torch.tensor([0.5, 0.25, 1.0], dtype=F), torch.tensor([0.2, 0.75, 1.0], dtype=F)
    assert fit_weight(pe, p, "normal").tolist() == [1.0, 1.0, 1.0]
    assert fit_weight(pe, p, "iw").tolist() == [0.4, 3.0, 1.0]
    assert fit_weight(pe, p, "mrdr").tolist() == pytest.approx([0.4, 9.0, 0.0], abs=1e-15)
    log = draw(5000)  # more rows than a block
    expected = torch.tensor(TARGET, dtype=F)[log.tensor("item")]
    assert torch.equal(chances(block_of(log), Fixed(TARGET)), expected)


@pytest.mark.parametrize("pi", [SURE, ANY], ids=["certain", "any"])
@pytest.mark.parametrize("kind", KINDS)
def test_o_a_weighted_line_is_weighted_least_squares(kind: Weighting, pi: Tensor) -> None:
    seen = pi > 0 if kind != "normal" else torch.ones_like(pi, dtype=torch.bool)
    gap = fitted(kind, pi) - by_hand(fit_weight(pi, MU, kind))
    assert float(gap[seen].abs().max()) < 1e-8


def test_o_a_shrunken_fit_is_the_weighted_cell_mean() -> None:
    """(sum w r + l2 * position mean) / (sum w + l2), the position's mean being weighted too."""
    log = draw(900)
    p, r = log.tensor("propensity"), log.tensor("reward").double()
    w = torch.tensor(TARGET, dtype=F)[log.tensor("item")] / p
    model = Reward("linear", l2=50.0, weighting="iw", target=Fixed(TARGET)).bind(log).solve(log)
    for position in (1, 2, 3):
        here = log.tensor("position") == position
        mean = (w * r)[here].sum() / w[here].sum()
        found = model.scores(Context(torch.tensor([0]), position=torch.tensor([position])))[0]
        for item in range(4):
            cell = here & (log.tensor("item") == item)
            expected = ((w * r)[cell].sum() + 50 * mean) / (w[cell].sum() + 50)
            assert float(found[item]) == pytest.approx(float(expected), abs=1e-10)


def j(q: Tensor, pi: Tensor) -> float:
    """What a model adds to n times the variance of dr in the world, up to a constant."""
    return float((variance(q[X], pi[X], MU[X], A, Q[X, A]) * PX[X] * MU[X, A]).sum())


def test_o_mrdr_is_the_line_of_least_variance_for_a_certain_target() -> None:
    lines = {kind: fitted(kind, SURE) for kind in KINDS}
    assert j(lines["mrdr"], SURE) < j(lines["iw"], SURE) - 0.01
    assert j(lines["mrdr"], SURE) < j(lines["normal"], SURE) - 0.01
    for a in range(2):
        for step in (-0.02, 0.02):
            for slope in (torch.ones(6, dtype=F), torch.arange(6, dtype=F)):
                moved = lines["mrdr"].clone()
                moved[:, a] += step * slope
                assert j(moved, SURE) > j(lines["mrdr"], SURE)


def test_o_iw_is_the_line_nearest_to_the_rewards_of_the_target() -> None:
    def error(q: Tensor) -> float:
        return float((PX[:, None] * ANY * (q - Q).square()).sum())

    errors = {kind: error(fitted(kind, ANY)) for kind in KINDS}
    assert errors["iw"] < min(errors["normal"], errors["mrdr"]) - 1e-4


def test_o_the_standard_error_of_dr_is_smaller() -> None:
    """In a world where lines are wrong, rows are many, and the target is certain."""
    log = population()
    log = log.with_frame(pl.concat([log.frame] * 40).with_columns(unit=pl.int_range(4000)))
    se = {}
    for kind in KINDS:
        target = None if kind == "normal" else OfFeature(SURE)
        model = CrossFit(Reward("linear", l2=1e-6, weighting=kind, target=target))
        report = run_on(log, OfFeature(SURE), reward_model=model)
        se[kind] = float(report["se"][0])
        assert report["value"][0] == pytest.approx(float((PX * (SURE * Q).sum(1)).sum()), abs=0.02)
    assert se["mrdr"] < min(se["iw"], se["normal"])


def run_on(log: Log, policy: Policy, **options: Any) -> pl.DataFrame:
    return evaluate(log, {"t": policy}, estimators=["dr"], **options).table


# ---- obp fits the same models


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "base",
    [LinearRegression(), Ridge(alpha=2.0), LogisticRegression(C=0.5), DecisionTreeRegressor()],
    ids=lambda model: type(model).__name__,
)
def test_o_obp_gives_the_same_predictions(kind: Weighting, base: Any) -> None:
    """Fold by fold; obp's inputs are [context, item one-hot], ours with a constant context."""
    ope = pytest.importorskip("obp.ope")
    log = draw(400, position=torch.ones(400).long())
    log = log.with_frame(log.frame.drop("position"))
    block, target = block_of(log), None if kind == "normal" else Fixed(TARGET)
    ours = CrossFit(Reward(base, weighting=kind, target=target)).bind(log).solve(log).predict(block)
    fold = fold_of(block.unit, 3, 0).numpy()
    rows = arrays(log)
    for k in range(3):
        theirs = ope.RegressionModel(base, n_actions=4, fitting_method=kind)
        theirs.fit(**{name: column[fold != k] for name, column in rows.items()})
        known = theirs.predict(rows["context"][fold == k])[:, :, 0]
        assert abs(ours[fold == k].numpy() - known).max() < 1e-8


def arrays(log: Log) -> dict[str, Any]:
    """obp's names; the context is constant."""
    n = len(log)
    return {
        "context": torch.ones(n, 1).numpy(),
        "action": log.tensor("item").numpy(),
        "reward": log.tensor("reward").double().numpy(),
        "pscore": log.tensor("propensity").numpy(),
        "action_dist": torch.tensor(TARGET, dtype=F)[None, :, None].repeat(n, 1, 1).numpy(),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_o_obp_gives_the_same_predictions_with_features(kind: Weighting) -> None:
    """Least squares does not see in which units a feature is measured."""
    ope = pytest.importorskip("obp.ope")
    log = population()
    log = log.with_frame(log.frame.with_columns(reward=pl.col("reward").shuffle(seed=0)))
    block, target = block_of(log), None if kind == "normal" else OfFeature(ANY)
    model = Reward(LinearRegression(), weighting=kind, target=target)
    ours = CrossFit(model).bind(log).solve(log).predict(block)
    fold = fold_of(block.unit, 3, 0).numpy()
    x = log.tensor("features").double().numpy()
    dist = ANY[log.tensor("features")[:, 0].long()][:, :, None].numpy()
    rows = {**arrays(log), "context": x, "action_dist": dist}
    for k in range(3):
        theirs = ope.RegressionModel(LinearRegression(), n_actions=2, fitting_method=kind)
        theirs.fit(**{name: column[fold != k] for name, column in rows.items()})
        known = theirs.predict(x[fold == k])[:, :, 0]
        assert abs(ours[fold == k].numpy() - known).max() < 1e-8


@pytest.mark.parametrize("kind", KINDS)
def test_o_obp_fits_a_model_for_each_position(kind: Weighting) -> None:
    ope = pytest.importorskip("obp.ope")
    log, target = draw(600), None if kind == "normal" else Fixed(TARGET)
    rows = arrays(log)
    dist = rows.pop("action_dist").repeat(3, axis=2)
    theirs = ope.RegressionModel(Ridge(), n_actions=4, len_list=3, fitting_method=kind)
    position = log.tensor("position").numpy() - 1
    theirs.fit(**rows, position=position, action_dist=dist)
    known = theirs.predict(rows["context"][:1])  # (1, 4, 3)
    for k in range(3):
        here = log.filter(pl.col("position") == k + 1)
        here = here.with_frame(here.frame.drop("position"))
        ours = Reward(Ridge(), weighting=kind, target=target).bind(here).solve(here)
        found = ours.scores(Context(torch.tensor([0])))[0].numpy()
        assert abs(found - known[0, :, k]).max() < 1e-8


# ---- the target is a given


def test_o_a_target_is_bound_once_and_never_again() -> None:
    class Counts(Fixed):
        bound = 0

        def bind(self, log: Log) -> Self:
            type(self).bound += 1
            assert not len(log)  # to sizes, not to rows
            return super().bind(log)

    log = draw(300)
    model = Reward("linear", weighting="iw", target=Counts(TARGET)).bind(log).solve(log)
    assert Counts.bound == 1
    ready = Counts(TARGET).bind(Log.empty(1, 4))
    again = Reward("linear", weighting="iw", target=ready).bind(log).solve(log)
    assert Counts.bound == 2 and not list(model.parts())
    context = block_of(log).context
    assert torch.equal(model.scores(context), again.scores(context))


def test_o_a_report_says_whom_the_model_serves() -> None:
    log, model = draw(600), Reward("linear", weighting="mrdr", target=Uniform())
    report = run(log, reward_model=CrossFit(model), estimators=["dr"])
    assert "Reward(estimator='linear', weighting='mrdr', target=Uniform())" in report.notes[-1]
    page = describe(model)["init_args"]
    assert page["weighting"] == "mrdr" and page["target"]["class_path"] == "recfb.policies.Uniform"


@pytest.mark.parametrize("kind", ["logistic", "boosting", "linear"])
def test_o_rows_that_the_target_never_plays_are_left_out(kind: Any) -> None:
    log = draw(900)
    sure = [0.0, 0.5, 0.5, 0.0]
    model = Reward(kind, weighting="iw", target=Fixed(sure)).bind(log).solve(log)
    reward = 1 - log.tensor("reward")
    away = (log.tensor("item") == 0) | (log.tensor("item") == 3)
    flipped = torch.where(away, reward, log.tensor("reward"))
    other = log.with_frame(log.frame.with_columns(reward=pl.Series(flipped.numpy())))
    again = Reward(kind, weighting="iw", target=Fixed(sure)).bind(other).solve(other)
    context = block_of(log).context
    assert torch.equal(model.scores(context), again.scores(context))
    plain = Reward(kind).bind(log).solve(log)
    assert not torch.equal(model.scores(context), plain.scores(context))


def test_o_one_reward_where_the_target_plays() -> None:
    log = draw(300)
    reward = pl.when(pl.col("item").is_in([1, 2])).then(1.0).otherwise(pl.col("reward") * 0.0)
    log = log.with_frame(log.frame.with_columns(reward=reward.cast(pl.Float32)))
    model = Reward("logistic", weighting="iw", target=Fixed([0.0, 0.5, 0.5, 0.0]))
    found = model.bind(log).solve(log).scores(block_of(log).context)
    assert bool((found == 1).all())  # the other rows tell nothing of what it plays


def test_o_what_cannot_be_weighed() -> None:
    log, target = draw(300), Fixed(TARGET)
    with pytest.raises(ConfigError, match=r"weighting is one of .* Did you mean 'mrdr'"):
        Reward(weighting="mrd", target=target)  # type: ignore[arg-type]
    for options in ({"weighting": "iw"}, {"target": target}):
        with pytest.raises(ConfigError, match="a weighted fit is for one policy"):
            Reward(**options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"KNeighborsRegressor\.fit takes no sample_weight"):
        Reward(KNeighborsRegressor(), weighting="iw", target=target).bind(log).solve(log)
    never = Fixed([0.0, 0.0, 0.0, 0.0, 1.0])
    wide = Log.of(log.frame.drop("unit"), n_items=5)
    with pytest.raises(LogError, match="gives every row the weight 0"):
        Reward(weighting="iw", target=never).bind(wide).solve(wide)
    blind = log.with_frame(log.frame.drop("propensity"))
    hole = pl.when(pl.col("item") > 0).then(pl.col("propensity"))
    holes = log.with_frame(log.frame.with_columns(propensity=hole))
    gone = int((log.tensor("item") == 0).sum())
    for bad, count in ((blind, 300), (holes, gone)):
        with pytest.raises(LogError, match=rf"and {count} of 300 rows have none in \(0, 1\]"):
            Reward(weighting="iw", target=target).bind(bad).solve(bad)
