"""`recfb demo`: fit, evaluate and simulate on data that ships with recfb or with obp."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from recfb import exposures, objectives, plots, samplers, scorers, solvers
from recfb.cli.common import parse, parser_of, say, show
from recfb.data.product import atomic_folder
from recfb.errors import OverlapWarning
from recfb.evaluate import evaluate
from recfb.fit import fit
from recfb.measure import measure
from recfb.plots import Figure
from recfb.recommender import Recommender
from recfb.shelf import dataset, simulator

LOOP = {"als": "ALS, greedy", "als_eps1": "ALS, 10 % uniform slates"}


def main(argv: Sequence[str]) -> int:
    """Three short tables on the terminal and three pictures in runs/demo."""
    parser = parser_of("demo", "Fit, evaluate and simulate on shipped data, in about a minute.")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="where pictures go")
    out = parse(parser, argv).out
    start = time.monotonic()
    with atomic_folder(out, replace=True) as folder:
        plots.write(fitted(), folder / "1-recommenders.png")
        plots.write(valued(), folder / "2-policies.png")
        plots.write(looped(), folder / "3-feedback-loop.png")
    pictures = ", ".join(sorted(path.name for path in out.glob("*.png")))
    say(f"{time.monotonic() - start:.0f} seconds. Pictures in {out}: {pictures}")
    return 0


def fitted() -> Figure:
    """Recommenders on MovieTweetings, measured on a later time."""
    say("1. Fit: MovieTweetings, ratings of 7 and more are clicks, trained on the earliest 80 %,")
    say("   measured on the rest (users with a training click, films known in training)\n")
    train, test = dataset("movietweetings").log.binarise(at=7).split_by_time(0.8)
    models = {
        "popularity": fit(train, solvers.Popularity()),
        "als": fit(train, solvers.ALS(dim=64)),
        "bpr": fit(train, Recommender(scorers.MF(dim=64), objectives.BPR(), samplers.Clicks())),
        "rel-mf": fit(
            train,
            Recommender(
                scorers.MF(dim=64),
                objectives.RelMF(exposures.Popularity(power=0.5)),
                samplers.AllPairs(draw="balanced_iw"),
            ),
        ),
    }
    table = measure(test, models, exclude=train)
    wide = table.select("recommender", "metric", "value").pivot("metric", index="recommender")
    show(wide)
    say("")
    shown = table.filter(pl.col("metric").is_in(["ndcg@10", "recall@10"]))
    return plots.measured(shown, "MovieTweetings, later time, full ranking, 95 % user bootstrap")


def valued() -> Figure:
    """Policies on the Open Bandit logs, beside what the other log says they earned."""
    say("2. Evaluate: Open Bandit, clicks a row under a policy that did not log them\n")
    tables = []
    for campaign in ("all", "men", "women"):
        logs = {
            behaviour: dataset(f"open_bandit/{campaign}/{behaviour}")
            for behaviour in ("random", "bts")
        }
        truth = {name: float(data.log.tensor("reward").mean()) for name, data in logs.items()}
        for behaviour, target, other in (
            ("random", "bts@start", "bts"),
            ("bts", "uniform", "random"),
        ):
            data = logs[behaviour]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", OverlapWarning)  # the verdict says it
                report = evaluate(data.log, {target: data.policies[target]})
            log = pl.lit(f"{campaign}/{behaviour}").alias("log")
            tables.append(report.table.with_columns(log, on_policy=pl.lit(truth[other])))
    table = pl.concat(tables)
    columns = [
        "log",
        "policy",
        "estimator",
        "value",
        "lower",
        "upper",
        "on_policy",
        "ess",
        "verdict",
    ]
    show(table.select(columns), digits=5)
    say(
        "\n   on_policy is the mean of the log that the policy (or, for bts@start, its later self) "
        "wrote.\n"
    )
    named = table.with_columns(pl.format("{} on {}", "policy", "log").alias("policy"))
    marks = dict(named.select("policy", "on_policy").iter_rows())
    return plots.evaluated(
        named, "Open Bandit: estimates from the other policy's log; | on-policy mean", marks
    )


def looped() -> Figure:
    """A recommender retrained on its own clicks, with and without random slates."""
    loop = simulator("popularity_loop")
    say(f"3. Simulate: {loop.summary}\n")
    metrics = pl.concat([loop.run(name, seed=0).metrics for name in LOOP])
    names = ["gini", "coverage", "relevance"]
    rounds = pl.col("round").is_in([1, 5, 10, metrics["round"].max()])
    show(metrics.filter(rounds).select("policy", "round", *names))
    say("")
    return plots.by_round(metrics, names, "A loop on its own clicks (one run)", LOOP)
