"""The echo chamber of sources, played on several seeds: worlds, models and what the probe saw."""

from __future__ import annotations

from typing import Any

import polars as pl
import torch
from torch import Tensor

from recfb import Log, Recommender, fit, objectives, optim, simulate
from recfb.beliefs import Retrained
from recfb.contracts import Objective
from recfb.objectives.source_consistency import SourceConsistency
from recfb.policies import Ranked
from recfb.random import stream
from recfb.samplers.visits import Among, Visits
from recfb.scorers.history import HistoryScorer
from recfb.scorers.history_mean import HistoryMean
from recfb.simulate import Refit
from recfb.solvers.direct import Direct
from recfb.worlds.copies import Copies
from recfb.worlds.sources import Sources, echo_of, echoed
from recfb.worlds.texts import DrawnTexts

BASE, STRONG = Copies(), Copies(0.95, 0.6, 0.5)
LOOPS = 8


def recommender(
    scorer: HistoryScorer | None = None,
    objective: Objective | None = None,
    among: Among = "others",
    lr: float = 0.02,
) -> Recommender:
    """The reference model: a linear map of the mean of the history, Adam at .02."""
    return Recommender(
        scorer or HistoryMean(rewrite=["rewrite"]),
        objective or objectives.BPR(),
        Visits(among=among, human=True),
        optimizer=optim.Adam(lr),
    )


def debiased(alpha: float) -> Recommender:
    return recommender(objective=SourceConsistency(alpha, 0.01, concentration=0.0))


def world(copies: Copies = BASE, *, jitter: float = 0.0, rotate: bool = False, **more: Any) -> Any:
    return Sources(DrawnTexts(copies=copies, jitter=jitter, rotate=rotate), **more)


def played(
    name: str,
    place: Sources,
    model: Recommender,
    seeds: int,
    *,
    rounds: int = LOOPS,
    window: int | None = 1,
    slate: int = 10,
) -> pl.DataFrame:
    """The published loop: clicks on all candidates of one half of the users' items are what the
    model of the next round is trained on, from the same first weights."""
    policy = Ranked(Retrained(Direct(model, epochs=10, batch_size=500), window=window))
    runs = [
        simulate(
            place, policy, rounds=rounds, slate=slate, refit=Refit(warmup=0), probes=[echoed],
            seed=seed, keep="metrics",
        ).probes.with_columns(replication=pl.lit(seed), policy=pl.lit(name))
        for seed in range(seeds)
    ]  # fmt: skip
    return pl.concat(runs)


def values(table: pl.DataFrame, name: str) -> Tensor:
    """(seeds, rounds)."""
    rounds = table["round"].n_unique()
    return table.sort("replication", "round")[name].to_torch().view(-1, rounds)


def begun(place: Sources, seed: int) -> tuple[Any, Log]:
    """A world before the loop: its state and the log of human clicks."""
    state = place.start(stream(seed, "start"))
    return state, place.opening(state, 1, 1)


def first(
    place: Sources,
    model: Recommender,
    seed: int,
    *,
    log: Log | None = None,
    epochs: int = 10,
    ratio: float | None = None,
) -> dict[str, float]:
    """Source bias of a model trained on a log, else on human clicks, histories mixed at a ratio."""
    state, human = begun(place, seed)
    direct = fit(human if log is None else log, Direct(model, epochs=epochs), seed=seed)
    return {k: float(v) for k, v in echo_of(place, state, direct, ratio).items()}


def mean_of(rows: list[dict[str, float]]) -> dict[str, float]:
    return {k: float(torch.tensor([row[k] for row in rows]).mean()) for k in rows[0]}
