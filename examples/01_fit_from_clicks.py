"""From a click log in a file to recommendations: read, fit, measure, save, recommend."""

from __future__ import annotations

import tempfile
from pathlib import Path

import recfb
from recfb import exposures, objectives, samplers, scorers, solvers

with tempfile.TemporaryDirectory() as folder:
    # A file as you may have it: other column names, text ids, ratings.
    rows = recfb.dataset("movietweetings").log.decode()
    rows = rows.rename({"user": "member", "item": "film", "reward": "stars", "time": "ts"})
    rows.write_parquet(Path(folder) / "ratings.parquet")

    # Map its columns once; everything after this speaks of users, items and rewards.
    path = Path(folder) / "ratings.parquet"
    log = recfb.Log.read(path, user="member", item="film", reward="stars", time="ts")
    print(log)
    train, test = log.binarise(at=7).split_by_time(0.8)

    # Clicks are relevance x exposure. Rel-MF divides an estimate of exposure out of every click.
    model = recfb.Recommender(
        scorers.MF(dim=64),
        objectives.RelMF(exposures.Popularity(power=0.5)),
        samplers.AllPairs(draw="balanced_iw"),
    )
    recfb.fit(train, model, max_epochs=10, enable_progress_bar=False)
    baseline = recfb.fit(train, solvers.Popularity())
    table = recfb.measure(test, {"popularity": baseline, "rel-mf": model}, exclude=train)
    print(table.select("recommender", "metric", "value", "lower", "upper"))

    # A saved model is a folder of weights, configuration, vocabulary and checksums.
    recfb.save(model, Path(folder) / "model")
    again = recfb.load(Path(folder) / "model")
    print(again.recommend([3, 5], k=3))  # `by` says who has no clicks and gets what is popular
