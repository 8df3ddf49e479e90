"""Training on clicks with mistakes among them: MovieTweetings with injected and with real noise."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import polars as pl
import pytest
from noisy_clicks import BUDGET, CASES, play

from recfb.measure import Bootstrap

ABOUT = (
    "MovieTweetings, users with at least 10 clicks and films with at least 5. Injected: ratings of "
    "7 and more are clicks, 70 % of each user's for training, 10 % for validation, 20 % for the "
    "test; each user also clicks this share of the first two at random among all other films. "
    "Real: every rating is a click, those below 7 are mistakes, and the test is the latest 20 % of "
    "the ratings, those of 7 and more, of known users and films. Matrix factorisation, d = 64; "
    f"each method had {BUDGET} trials on noisy validation clicks (Recall@20), then 5 seeds; sd is "
    "between seeds. The clean oracle is BPR that is told which clicks are mistakes."
)

GAIN = (
    "Recall@20 less that of BPR, a mean over seeds, with paired 95 % intervals over users. They "
    "hold for these trials and seeds; others move the differences too, so read those below .01 as "
    "no difference. At .5 tuning on noisy clicks gave BPR an l2 of .05, which also keeps mistakes "
    "out, and PLD .007. On real noise the best weights of T-CE and PLD are those of the first "
    "epoch, in which neither leaves out anything yet."
)
LEARNED = (
    "The share of mistakes: in the log, and in what was learned from over all epochs. PLD draws "
    "users uniformly, and so does BPR here."
)


@pytest.mark.claims
def test_denoising(page: Callable[..., None]) -> None:
    """At injected noise .3 PLD learns from a smaller share of mistakes than BPR does."""
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        outcomes = dict(zip(CASES, pool.map(play, CASES), strict=True))
    gaps, learned = [], []
    for name, found in outcomes.items():
        draw = Bootstrap(found.user, 0.05, 0)
        for method in ("t-ce", "r-ce", "pld", "nbpo", "clean oracle"):
            value, lower, upper = draw(found.users[method] - found.users["bpr"])
            row = {"noise": name, "method": method, "gain": value, "lower": lower}
            gaps.append(row | {"upper": upper, "n_users": len(found.user)})
        learned.append(
            {
                "noise": name,
                "of the training clicks": found.share,
                "BPR learned from": found.shares["bpr"],
                "PLD learned from": found.shares["pld"],
            }
        )
    table = pl.concat(found.table for found in outcomes.values())
    page(
        "denoising",
        "Clicks with mistakes among them: MovieTweetings",
        {
            ABOUT: table.drop("setting"),
            GAIN: pl.DataFrame(gaps),
            LEARNED: pl.DataFrame(learned),
            "What tuning chose:": table.select("noise", "method", "setting"),
        },
    )
    shares = {name: found.shares for name, found in outcomes.items()}
    assert shares["injected 0.3"]["pld"] < shares["injected 0.3"]["bpr"]
    assert shares["injected 0.0"]["pld"] == 0.0
