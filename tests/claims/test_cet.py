"""Relevance from labels of a pool: what coupled estimation wins, and when it cannot win."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar, Self

import polars as pl
import pytest
import torch
from torch import Generator, Tensor

import recfb
from recfb import Log, Recommender, exposures, objectives, optim, samplers, scorers
from recfb.contracts import Batch, Exposure, Objective, Pairing, Score, Step
from recfb.data.attributes import attributes
from recfb.objectives.cet import weighed
from recfb.random import stream

QUERIES, POOL, FRESH, WIDTH = 1500, 60, 20_000, 6
STEPS, RATE, REPEATS = 100, 0.5, 5

SETTING = (
    f"{QUERIES} queries with {POOL} items each, an item twelve standard normal numbers, x_r and "
    "x_s. Relevant with probability sigmoid(a.x_r - 2), judged with probability "
    "sigmoid(c.x_s - .5), |a| = |c| = 1.5; a label is both. One negative a label from the same "
    "query, drawn anew at each step: uniformly, or (hard) in proportion to exp(c.x_s). The scorer "
    f"is linear in x_r and x_s, the selection model in x_s. {STEPS} steps over all labels, rate "
    f"{RATE}. AUC against relevance on {FRESH:,} fresh items; means over {REPEATS} repeats. "
    "`difference` is from naive, repeat by repeat. `best` ranks by a.x_r; `true weights` weighs "
    "negatives by 1 / (1 - P(judged)), which CET estimates: with hard negatives, which correct for "
    "the same thing, it corrects twice. With the scorer's own inputs CET does nothing."
)


class Hard(samplers.Slates):
    """Negatives in proportion to exp of a column of log.items."""

    total: Tensor  # (N + 1,) float64, running sums over `other`

    def __init__(self, column: str, negatives: int = 1) -> None:
        super().__init__(negatives)
        self.column = column

    def bind(self, log: Log) -> Self:
        super().bind(log)
        weight = attributes(log.items, [self.column], "items")[self.item[self.other], 0].exp()
        total = torch.cat([torch.zeros(1), weight]).double().cumsum(0)
        self.register_buffer("total", total, persistent=False)
        return self

    def beside(self, rows: Tensor, generator: Generator) -> Tensor:
        first, last = self.first[rows][:, None], (self.first + self.count)[rows][:, None]  # (B, 1)
        u = torch.rand(
            len(rows), self.negatives, generator=generator, dtype=torch.float64
        )  # (B, S)
        low, high = self.total[first], self.total[last]
        at = torch.searchsorted(self.total, low + u * (high - low), right=True) - 1  # (B, S)
        return self.other[at.clamp(min=first, max=last - 1)]


class Known(Objective):
    """The pair loss with negatives weighed by 1 / (1 - P(selected)), where that is known."""

    needs: ClassVar[tuple[Pairing, ...]] = ("shown_negative",)

    def __init__(self, exposure: Exposure) -> None:
        super().__init__()
        self.exposure = exposure

    def forward(self, score: Score, batch: Batch, step: Step = Step()) -> Tensor:
        weight = 1 / (1 - self.exposure(batch)[:, 1:])  # (B, S)
        return weighed(score(batch.user, batch.item), weight)


def world(seed: int) -> tuple[Log, Tensor]:
    """Labels of the pools, and what is relevant: (n_items,); the last items are never shown."""
    g, n = stream(seed, "cet"), QUERIES * POOL + FRESH
    a, c = (1.5 * v / v.norm() for v in torch.randn(2, WIDTH, generator=g))
    x_r, x_s = torch.randn(2, n, WIDTH, generator=g)
    u = torch.rand(2, n, generator=g)
    relevance, pull = x_r @ a, x_s @ c
    relevant, judged = u[0] < torch.sigmoid(relevance - 2), u[1] < torch.sigmoid(pull - 0.5)
    row = torch.arange(QUERIES * POOL)
    label = (relevant & judged)[: len(row)]
    rows = {"user": row // POOL, "slate": row // POOL, "item": row, "reward": label.float()}
    numbers = pl.Array(pl.Float32, WIDTH)
    items = pl.DataFrame(
        {
            "id": range(n),
            "x_r": pl.Series(x_r.numpy(), dtype=numbers),
            "x_s": pl.Series(x_s.numpy(), dtype=numbers),
            "pull": pull.numpy(),
            "best": relevance.numpy(),
        }
    )
    return Log.of(rows, n_users=QUERIES, n_items=n).with_items(items), relevant


def auc(score: Tensor, relevant: Tensor) -> float:
    rank = score.double().argsort().argsort().double() + 1  # (n,)
    n = int(relevant.sum())
    return float(rank[relevant].sum() - n * (n + 1) / 2) / (n * (len(score) - n))


def methods(log: Log) -> dict[str, Objective]:
    """Names without arguments are the library's defaults."""
    judged = torch.sigmoid(attributes(log.items, ["pull"], "items")[:, 0] - 0.5)
    own, same = ["x_s"], ["x_r", "x_s"]
    return {
        "naive": objectives.BPR(),
        "CET": objectives.CET(exposures.Selection([], items=own)),
        "CET, temperature 1": objectives.CET(exposures.Selection([], items=own), temperature=1.0),
        "CET, posterior": objectives.CET(exposures.Selection([], items=own), mode="posterior"),
        "CET, same inputs": objectives.CET(exposures.Selection([], items=same)),
        "true weights": Known(exposures.Given(judged)),
    }


def measured(seed: int) -> Iterator[dict[str, object]]:
    log, relevant = world(seed)
    fresh = torch.arange(log.n_items - FRESH, log.n_items)
    best = attributes(log.items, ["best"], "items")[fresh, 0]
    for negatives, sampler in (("uniform", samplers.Slates()), ("hard", Hard("pull"))):
        for name, objective in methods(log).items():
            scorer = scorers.TwoTower(hidden=(), items=["x_r", "x_s"], ids="none", l2=0.0)
            model = Recommender(scorer, objective, sampler, optimizer=optim.SGD(lr=RATE))
            recfb.fit(log, model, batch_size=len(log), max_epochs=STEPS, enable_progress_bar=False)
            with torch.no_grad():
                score = model(torch.zeros(1, dtype=torch.int64), fresh[None])[0]  # (FRESH,)
            value = auc(score, relevant[fresh])
            yield {"repeat": seed, "negatives": negatives, "model": name, "auc": value}
        value = auc(best, relevant[fresh])
        yield {"repeat": seed, "negatives": negatives, "model": "best", "auc": value}


@pytest.mark.claims
def test_cet(page: Callable[..., None]) -> None:
    """Inputs of its own win a hundredth of AUC or more; the scorer's inputs win nothing."""
    runs = pl.DataFrame([row for seed in range(REPEATS) for row in measured(seed)])
    naive = runs.filter(model="naive").select("repeat", "negatives", naive="auc")
    runs = runs.join(naive, on=["repeat", "negatives"], maintain_order="left")
    gain = pl.col("auc") - pl.col("naive")
    table = runs.group_by("negatives", "model", maintain_order=True).agg(
        pl.col("auc").mean(), pl.col("auc").std().alias("sd"), gain.mean().alias("difference"),
        gain.std().alias("difference_sd"), gain.min().alias("least"), gain.max().alias("most"),
    )  # fmt: skip
    page("cet", "CET: relevance from the labels of a pool", {SETTING: table})
    gains = table.select("negatives", "model", "difference").iter_rows()
    won = {(negatives, model): gain for negatives, model, gain in gains}
    for negatives in ("uniform", "hard"):
        assert won[negatives, "CET"] >= 0.01
        assert abs(won[negatives, "CET, same inputs"]) <= 0.002
    assert won["uniform", "true weights"] > won["uniform", "CET, temperature 1"]
    assert won["hard", "true weights"] < 0
