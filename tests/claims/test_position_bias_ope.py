"""W-2.10: which slate estimator fits which way of reading a slate, and which ones must fail."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from math import comb

import polars as pl
import pytest
import torch
from torch import Tensor

from recfb import evaluate
from recfb.contracts import Policy, Scorer
from recfb.data import Log
from recfb.errors import OverlapWarning
from recfb.policies import Ranked, Uniform
from recfb.simulate import Refit, simulate
from recfb.worlds import Tastes
from recfb.worlds.clicks import PBM, Cascade, ClickModel
from recfb.worlds.tastes import TastesState

USERS, ITEMS, K, ROUNDS, SEEDS = 500, 30, 4, 400, 10
MODELS: dict[str, ClickModel] = {"PBM, theta = 1/k": PBM(eta=1.0), "cascade": Cascade()}
FITS = {("PBM, theta = 1/k", "item-position"), ("cascade", "prefix")}
"""Where the estimator's assumption is that of the clicks, and its weights are not hopeless."""
FAILS = {(clicks, "naive") for clicks in MODELS} | {("cascade", "item-position")}
"""What must be biased."""


class Table(Scorer):
    """Scores that were given, for every user and item; nothing is learnt."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = table

    def forward(self, user: Tensor, item: Tensor, batch: object = None) -> Tensor:
        index = item if item.dim() == 2 else item[:, None]
        return self.table[user].gather(1, index).view_as(item)

    def all(self, user: Tensor, out: Tensor | None = None) -> Tensor:
        return self.table[user]

    def update(self, *row: object) -> None:
        """Learns nothing, so that no round is spent on training it."""


ESTIMATORS = {"item-position": "iips", "prefix": "rips", "slate": "sips"}


def uniform_value(clicks: ClickModel, attraction: Tensor) -> Tensor:
    """Exact clicks a request of a uniform slate: (U, n) -> (U,).

    PBM: sum_k theta_k times the mean attraction. Cascade: 1 - P(no click), and the mean of
    prod (1 - a) over the subsets of K items is the elementary symmetric polynomial e_K, divided by
    their number.
    """
    if isinstance(clicks, PBM):
        return clicks.examination(K).to(torch.float64).sum() * attraction.mean(1)
    e = [torch.ones(len(attraction), dtype=torch.float64)] + [0 * attraction[:, 0]] * K
    for skip in (1 - attraction).T:
        e = [e[0]] + [e[j] + skip * e[j - 1] for j in range(1, K + 1)]
    return 1 - e[K] / comb(attraction.shape[1], K)


def value(policy: Ranked, clicks: ClickModel, attraction: Tensor) -> float:
    """Exact clicks a request of an eps-slate policy, over the users."""
    top = policy.model.table.topk(K, dim=1).indices  # (U, K)
    greedy = clicks.marginal(attraction.gather(1, top)).sum(1)
    mixed = (1 - policy.epsilon) * greedy + policy.epsilon * uniform_value(clicks, attraction)
    return float(mixed.mean())


def played(clicks: ClickModel, seed: int) -> tuple[Log, dict[str, Policy], float, float]:
    """The log, the target, and the exact values of target and logger."""
    world = Tastes(USERS, ITEMS, clicks=clicks, offset=-1.3)
    first = simulate(world, Uniform(), rounds=1, slate=K, seed=seed).state[0]
    people = first.world
    assert isinstance(people, TastesState)
    attraction = world.relevance(people).to(torch.float64)  # (U, n)
    noise = torch.randn(attraction.shape, generator=torch.Generator().manual_seed(seed))
    logger = Ranked(Table(attraction.logit() + noise), epsilon=0.5)
    target = Ranked(Table(attraction), epsilon=0.2)
    run = simulate(world, logger, rounds=ROUNDS, slate=K, refit=Refit(warmup=0), seed=seed)
    truth = value(target, clicks, attraction)
    return run.log, {"target": target, "logger": logger}, truth, value(logger, clicks, attraction)


def estimates(log: Log, policies: dict[str, Policy]) -> dict[str, float]:
    """The value of the target by each estimator; naive takes the mean of the log for it, which is
    what every estimator says of the logger, whose weights are 1."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OverlapWarning)
        table = evaluate(log, policies, estimators=list(ESTIMATORS.values())).table
    found = {(row["policy"], row["estimator"]): row["value"] for row in table.to_dicts()}
    naive = {"naive": found["logger", "sips"]}
    return naive | {name: found["target", short] for name, short in ESTIMATORS.items()}


@pytest.fixture(scope="module")
def errors() -> pl.DataFrame:
    """Estimate less exact value: one row a click model, seed and estimator."""
    torch.set_num_threads(1)
    rows = []
    for name, clicks in MODELS.items():
        for seed in range(SEEDS):
            log, policies, truth, logged = played(clicks, seed)
            for key, found in estimates(log, policies).items():
                head = {"clicks": name, "estimator": key, "seed": seed}
                rows.append({**head, "truth": truth, "logged": logged, "error": found - truth})
    return pl.DataFrame(rows)


def cell(errors: pl.DataFrame, clicks: str, estimator: str) -> Tensor:
    """The errors of the seeds: (SEEDS,)."""
    rows = errors.filter(clicks=clicks, estimator=estimator)
    return rows["error"].to_torch()


def standard_error(error: Tensor) -> float:
    return float(error.std() / len(error) ** 0.5)


@pytest.mark.claims
def test_w_t8_ips_of_slates(page: Callable[..., None], errors: pl.DataFrame) -> None:
    bias = pl.col("error")
    table = errors.group_by("clicks", "estimator", maintain_order=True).agg(
        pl.col("truth", "logged").mean(),
        bias=bias.mean(),
        se=bias.std() / bias.len().sqrt(),
        least=bias.min(),
        most=bias.max(),
    )
    page(
        "slate_clicks",
        "Slates: which inverse propensities fit which clicks",
        {
            f"{ITEMS} items, slates of {K}, {USERS} users with {ROUNDS} requests each, {SEEDS} "
            "seeds, each a world of its own. The logger shows a uniform slate half of the time, "
            "else the best by noisy scores; the target a uniform slate one time in five, else "
            "the best by the truth. `truth` and `logged` are their exact clicks a request, `bias` "
            "is the mean of estimate - truth, with its standard error over seeds. Naive takes the "
            "mean of the log. Weights of whole slates reach a million: most logs have none of the "
            "slates that count, so most estimates are too small.": table,
        },
    )
    for clicks, estimator in FITS:
        error = cell(errors, clicks, estimator)
        assert abs(float(error.mean())) < 4 * standard_error(error)
    assert standard_error(cell(errors, "PBM, theta = 1/k", "item-position")) < 0.01
    assert standard_error(cell(errors, "cascade", "prefix")) < 0.15
    for clicks, estimator in FAILS:
        error = cell(errors, clicks, estimator)
        assert abs(float(error.mean())) > 20 * standard_error(error)
        assert (error.sign() == error.sign()[0]).all()
    assert cell(errors, "cascade", "item-position").min() > 0.3  # and upwards
    assert cell(errors, "PBM, theta = 1/k", "naive").max() < -0.2
    for clicks in MODELS:  # the more of a slate a weight is about, the more noise
        noise = [standard_error(cell(errors, clicks, key)) for key in ESTIMATORS]
        assert noise == sorted(noise)
        assert noise[2] > 0.3


def test_the_report_refuses_weights_but_knows_no_clicks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of whole slates whose mean is far from 1 are refused. That users read from the top is
    nothing that weights could tell: the biased item-position estimate looks usable."""
    monkeypatch.setattr(f"{__name__}.ROUNDS", 100)
    log, policies, *_ = played(MODELS["cascade"], 0)
    table = evaluate(log, policies, estimators=["iips", "sips"]).table
    verdict = {(r["policy"], r["estimator"]): r["verdict"] for r in table.to_dicts()}
    assert verdict["target", "sips"] == "do not use"
    assert verdict["target", "iips"] == "usable"


@pytest.mark.claims
def test_click_rates_over_examination_are_attractions() -> None:
    """PBM: clicks at k over theta_k estimate the mean attraction of what was shown there; the raw
    rates do not."""
    clicks = PBM(eta=1.0)
    world = Tastes(USERS, ITEMS, clicks=clicks, offset=-1.3)
    run = simulate(world, Uniform(), rounds=100, slate=K, seed=0)
    rows = run.log.frame.select("position", "reward").with_columns(run.truth["relevance"])
    table = rows.group_by("position").agg(
        pl.col("reward", "relevance").mean(), se=pl.col("reward").std() / pl.len().sqrt()
    )
    for row in table.filter(pl.col("position") > 1).to_dicts():
        theta = 1 / row["position"]
        assert abs(row["reward"] / theta - row["relevance"]) < 4 * row["se"] / theta
        assert abs(row["reward"] - row["relevance"]) > 20 * row["se"]


@pytest.mark.parametrize("clicks", MODELS.values(), ids=MODELS)
def test_w_t8_small(clicks: ClickModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """One seed and a tenth of the requests: the cells that do not need more."""
    monkeypatch.setattr(f"{__name__}.ROUNDS", 40)
    log, policies, truth, logged = played(clicks, 0)
    found = estimates(log, policies)
    assert found["naive"] == pytest.approx(logged, abs=0.03)
    assert truth - found["naive"] > 0.05
    if isinstance(clicks, PBM):
        assert found["item-position"] == pytest.approx(truth, abs=0.05)
    else:
        assert found["item-position"] - truth > 0.3


def test_exact_values_of_uniform_slates() -> None:
    """Against all ordered slates of 2 of 3 items, by hand."""
    a = torch.tensor([[0.5, 0.2, 0.1]], dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{__name__}.K", 2)
        pbm, cascade = (float(uniform_value(MODELS[name], a)) for name in MODELS)
    assert pbm == pytest.approx(1.5 * 0.8 / 3)
    assert cascade == pytest.approx(1 - (0.5 * 0.8 + 0.5 * 0.9 + 0.8 * 0.9) / 3)
