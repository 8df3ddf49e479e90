"""Recommenders on a later time of MovieTweetings, by the protocol that every table here uses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

import recfb
from recfb import exposures, objectives, plots, samplers, scorers, solvers

RESULTS = Path(__file__).parents[2] / "docs" / "results"


PROTOCOL = (
    "Ratings of 7 and more are clicks. Training: the earliest 80 % of the rows; test: the rest. "
    "Full ranking; films clicked in training are not ranked again. "
)
METRICS = ["ndcg@10", "recall@10", "coverage@10", "gini@10"]
SEEDS = range(5)


def gradient(name: str) -> recfb.Recommender:
    """The recommenders that are trained by gradient steps, with the library's defaults."""
    if name == "bpr":
        return recfb.Recommender(scorers.MF(dim=64), objectives.BPR(), samplers.Clicks())
    relmf = objectives.RelMF(exposures.Popularity(power=0.5))
    return recfb.Recommender(scorers.MF(dim=64), relmf, samplers.AllPairs(draw="balanced_iw"))


@pytest.mark.claims
def test_movietweetings(page: Callable[..., None]) -> None:
    """ALS is above popularity on users and items known in training; debiasing is not gated."""
    train, test = recfb.dataset("movietweetings").log.binarise(at=7).split_by_time(0.8)
    options = {"max_epochs": 20, "enable_progress_bar": False}
    models = {
        "random": recfb.fit(train, solvers.Random()),
        "popularity": recfb.fit(train, solvers.Popularity()),
        "als": recfb.fit(train, solvers.ALS(dim=64)),
        "bpr": recfb.fit(train, gradient("bpr"), **options),
        "rel-mf": recfb.fit(train, gradient("rel-mf"), **options),
        "rel-mf, closed form": recfb.fit(train, solvers.RelMF(exposures.Popularity(power=0.25))),
    }
    known = recfb.measure(test, models, exclude=train, metrics=METRICS, base="popularity")
    everyone = recfb.measure(test, models, exclude=train, metrics=METRICS, users="all")
    seeds = pl.concat(
        recfb.measure(
            test,
            {name: recfb.fit(train, gradient(name), seed=seed, **options)},
            exclude=train,
            metrics=["ndcg@10", "recall@10"],
        )
        for name in ("bpr", "rel-mf")
        for seed in SEEDS
    )
    value = pl.col("value")
    spread = seeds.group_by("recommender", "metric", maintain_order=True).agg(
        value.mean().alias("mean"), value.std().alias("sd"), value.min().alias("least"),
        value.max().alias("most"), pl.len().alias("seeds"),
    )  # fmt: skip
    figure = plots.measured(
        known.filter(pl.col("metric").is_in(["ndcg@10", "recall@10"])),
        "MovieTweetings, later time, users and films known in training, 95 % user bootstrap",
    )
    plots.write(figure, RESULTS / "movietweetings.png")
    page(
        "movietweetings",
        "MovieTweetings: a later time",
        {
            PROTOCOL + "Users with a training click and films known in training; differences from "
            "popularity are paired over users. The library's defaults were chosen with this split "
            "in view, so the numbers are optimistic; they compare no methods.": known,
            "The same for all test users: most have no training click, so popularity is hard to "
            "beat.": everyone,
            "Training by gradient steps from other seeds, known users: the spread is as large as "
            "the distance from popularity.": spread,
        },
        ("movietweetings.png",),
    )
    ndcg = dict(known.filter(metric="ndcg@10").select("recommender", "value").iter_rows())
    assert ndcg["als"] > ndcg["popularity"] > ndcg["random"]
    lowest = known.filter(recommender="als", metric="ndcg@10")["difference_lower"].item()
    assert lowest > 0
    assert spread["least"].min() > 10 * ndcg["random"]
