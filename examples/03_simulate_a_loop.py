"""What a recommender does to its own data, and whether the logs it leaves can be evaluated."""

from __future__ import annotations

import polars as pl

import recfb
from recfb import policies, solvers, worlds

world = worlds.Tastes(
    n_users=300,
    n_items=200,
    population=worlds.Gaussian(dim=6, quality=0.5),
    clicks=worlds.PBM(eta=1.0),  # the item at rank k is looked at with probability 1 / k
    drift=worlds.Attraction(rate=0.02),  # tastes move towards what was clicked
)
als = solvers.ALS(dim=8)

# Two policies under one seed meet the same users with the same random numbers.
runs = {}
for name, epsilon in {"greedy": 0.0, "10 % random slates": 0.1}.items():
    run = recfb.simulate(
        world,
        policies.Ranked(als, epsilon=epsilon),
        rounds=15,
        slate=8,
        refit=recfb.Refit(every=1, warmup=1),
        metrics=["gini", "coverage", "clicks", "relevance"],
        seed=0,
    )
    runs[name] = run
    print(name)
    print(run.metrics.filter(pl.col("round").is_in([1, 7, 14])).drop("policy", "replication"))

# The log of the second carries exact propensities, so it can tell what a uniform policy would have
# earned; the log of the greedy one cannot, and says so.
for name, run in runs.items():
    report = recfb.evaluate(run.log, {"uniform": policies.Uniform()}, estimators=["snips"])
    print(name, report, sep="\n")
