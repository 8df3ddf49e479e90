"""Recommenders on a later time of MovieTweetings, by the protocol that every table here uses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

import recfb
from recfb import exposures, objectives, plots, samplers, scorers, solvers

RESULTS = Path(__file__).parents[2] / "docs" / "results"


@pytest.mark.claims
def test_movietweetings(page: Callable[..., None]) -> None:
    """ALS is above popularity on users and items known in training; debiasing is not gated."""
    log = recfb.dataset("movietweetings").log.binarise(at=7)
    train, test = log.split_by_time(0.8)

    def trained(objective: objectives.BPR | objectives.RelMF, sampler: object) -> recfb.Recommender:
        model = recfb.Recommender(scorers.MF(dim=64), objective, sampler)  # type: ignore[arg-type]
        return recfb.fit(train, model, max_epochs=20, enable_progress_bar=False)

    popular = exposures.Popularity(power=0.5)
    models = {
        "random": recfb.fit(train, solvers.Random()),
        "popularity": recfb.fit(train, solvers.Popularity()),
        "als": recfb.fit(train, solvers.ALS(dim=64)),
        "bpr": trained(objectives.BPR(), samplers.Clicks()),
        "rel-mf": trained(objectives.RelMF(popular), samplers.AllPairs(draw="balanced_iw")),
        "rel-mf, closed form": recfb.fit(train, solvers.RelMF(exposures.Popularity(power=0.25))),
    }
    metrics = ["ndcg@10", "recall@10", "coverage@10", "gini@10"]
    known = recfb.measure(test, models, exclude=train, metrics=metrics, base="popularity")
    everyone = recfb.measure(test, models, exclude=train, metrics=metrics, users="all")
    figure = plots.measured(
        known.filter(pl.col("metric").is_in(["ndcg@10", "recall@10"])),
        "MovieTweetings, later time, users and films known in training, 95 % user bootstrap",
    )
    plots.write(figure, RESULTS / "movietweetings.png")
    page(
        "movietweetings",
        "MovieTweetings: a later time",
        {
            "Ratings of 7 and more are clicks. Training: the earliest 80 % of the rows. Test: the "
            "rest. Full ranking; films clicked in training are not ranked again. Users with a "
            "training click and films known in training; differences are paired over users.": known,
            "The same for all test users: most have no training click, so popularity is hard to "
            "beat.": everyone,
        },
        ("movietweetings.png",),
    )
    ndcg = dict(known.filter(metric="ndcg@10").select("recommender", "value").iter_rows())
    assert ndcg["als"] > ndcg["popularity"] > ndcg["random"]
    assert ndcg["rel-mf"] > 3 * ndcg["random"]
