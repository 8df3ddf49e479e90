"""Any recommender in the loop: users with the tastes of a real log, and seven that learn from
them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

import recfb
from recfb import exposures, objectives, plots, samplers, scorers, solvers
from recfb.contracts import Policy
from recfb.data import Log
from recfb.policies import Oracle, Ranked, Uniform
from recfb.simulate import Refit, simulate
from recfb.worlds import PBM, Factors, Tastes

RESULTS = Path(__file__).parents[2] / "docs" / "results"
METRICS = ["clicks_so_far", "relevance", "coverage", "gini_shown"]
SEEDS, DIM = 4, 16


def most_active(n_users: int, n_items: int) -> Log:
    """The films with most ratings in MovieTweetings, and the users with most ratings of them."""
    rows = recfb.dataset("movietweetings").log.binarise(at=7).frame
    for column, n in (("item", n_items), ("user", n_users)):
        count = rows.group_by(column).len().sort(["len", column], descending=[True, False])
        rows = rows.join(count.head(n).select(column), on=column, how="semi")
    dense = [(pl.col(column).rank("dense") - 1).cast(pl.Int64) for column in ("user", "item")]
    return Log.of(rows.select(*dense, "reward"))


def world(n_users: int, n_items: int) -> Tastes:
    log = most_active(n_users, n_items)
    people = Factors.of(log, DIM, missing=0.0, spread=1.5)
    return Tastes(log.n_users, log.n_items, population=people, clicks=PBM(eta=1.0), base_rate=0.15)


def recommender(
    scorer: scorers.MF | scorers.LightGCN, sampler: samplers.Clicks | samplers.PLD
) -> Policy:
    return Ranked(recfb.Recommender(scorer, objectives.BPR(), sampler), 0.1)


def policies() -> dict[str, Policy]:
    return {
        "random": Uniform(),
        "popular": Ranked(solvers.Popularity(), 0.1),
        "ALS": Ranked(solvers.ALS(dim=DIM), 0.1),
        "Rel-MF": Ranked(solvers.RelMF(exposures.Popularity(power=0.5), dim=DIM), 0.1),
        "BPR": recommender(scorers.MF(dim=DIM), samplers.Clicks()),
        "PLD": recommender(scorers.MF(dim=DIM), samplers.PLD()),
        "LightGCN": recommender(scorers.LightGCN(dim=DIM, layers=2), samplers.Clicks()),
        "oracle": Oracle(),
    }


def played(place: Tastes, rounds: int, seed: int) -> pl.DataFrame:
    return pl.concat(
        simulate(
            place, policy, rounds=rounds, slate=10, refit=Refit(every=1, warmup=1),
            metrics=METRICS, seed=seed,
        ).metrics.with_columns(policy=pl.lit(name), replication=pl.lit(seed))
        for name, policy in policies().items()
    )  # fmt: skip


def check(metrics: pl.DataFrame, least: float) -> None:
    """In every run, what learns shows better items than chance, fewer of them, and the oracle's
    are better still."""
    last = metrics.filter(pl.col("round") == pl.col("round").max())
    for _, run in last.group_by("replication"):
        found = {row["policy"]: row for row in run.to_dicts()}
        for name in set(found) - {"random", "oracle"}:
            assert found[name]["relevance"] > found["random"]["relevance"] + least, name
            assert found[name]["relevance"] < found["oracle"]["relevance"], name
            assert found[name]["gini_shown"] > found["random"]["gini_shown"], name


def test_every_kind_of_recommender_goes_round_the_loop() -> None:
    check(played(world(150, 100), rounds=6, seed=0), 0.02)


@pytest.mark.claims
def test_recommenders_among_users_of_movietweetings(page: Callable[..., None]) -> None:
    place = world(1000, 600)
    metrics = pl.concat([played(place, 20, seed) for seed in range(SEEDS)])
    picture = plots.by_round(metrics, METRICS, "Recommenders among users of MovieTweetings")
    plots.write(picture, RESULTS / "real_tastes.png")
    last = metrics.filter(pl.col("round") == pl.col("round").max())
    means = last.group_by("policy", maintain_order=True).agg(pl.col(METRICS).mean())
    page(
        "real_tastes",
        "Recommenders among users with real tastes",
        {
            f"After 20 rounds, means of {SEEDS} seeds. 1,000 users and 600 films of MovieTweetings:"
            f"\ntheir tastes are {DIM} factors of who rated what with 7 or more, stretched to a"
            "\nstandard deviation of 1.5. Every policy but the first and the last shows a uniform"
            "\nslate one time in ten, and is trained anew after each round, with the library's"
            "\ndefaults: nothing was tuned, so who is ahead of whom says little.": means,
        },
        ("real_tastes.png",),
    )
    check(metrics, 0.05)
