"""The experiment behind `test_denoising`: a module of its own, so that processes can import it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal, Self

import polars as pl
import torch
from torch import Tensor

import recfb
from recfb import Log, Recommender, Space, objectives, optim, samplers, scorers
from recfb.contracts import Batch, Objective, Sampler, Score, Step, alter
from recfb.data import Pairs
from recfb.measure import Task, rank, task_of
from recfb.metrics.ranking import Metric
from recfb.random import stream

SEEDS = range(5)
BUDGET = 6
RUN = {"max_epochs": 100, "patience": 12, "batch_size": 2048}
METRICS = ("recall@20", "ndcg@20")
TUNE = "recall@20"

# ---- the data


@dataclass(frozen=True)
class Case:
    """A noisy log to learn from, noisy held-out clicks to tune on, and clean later clicks."""

    train: Log
    valid: Log
    test: Log
    noise: Pairs  # which training pairs are mistakes

    @property
    def share(self) -> float:
        """The share of training clicks that are mistakes."""
        return float(self.noise.has(self.train.clicks.key).float().mean())


def core(log: Log) -> Log:
    """Users with at least 10 clicks and films with at least 5, as in the data sets of the papers,
    so that a film at random is not given away by having no other click."""
    frame, size = log.frame, -1
    while frame.height != size:
        size = frame.height
        frame = frame.filter(pl.len().over("user") >= 10).filter(pl.len().over("item") >= 5)
    return Log.of(frame)


def at_random(log: Log) -> tuple[Log, Log, Log]:
    """70 %, 10 % and 20 % of every user's clicks."""
    u = torch.rand(len(log), generator=stream(0, "split"), dtype=torch.float64)
    place = pl.col("draw").rank("ordinal").over("user") - 0.5
    frame = log.frame.with_columns(draw=pl.Series(u.numpy()))
    share = frame.select(place / pl.len().over("user")).to_series()
    sides = share < 0.7, (share >= 0.7) & (share < 0.8), share >= 0.8
    first, second, third = (log.with_frame(log.frame.filter(side)) for side in sides)
    return first, second, third


def injected(rate: float) -> Case:
    """Ratings of 7 and more are clicks; every user also clicks `rate` times as many films that are
    in none of the user's training, validation and test clicks."""
    log = core(recfb.dataset("movietweetings").log.filter(pl.col("reward") >= 7).binarise(at=7))
    train, valid, test = at_random(log)
    count = [(rate * part.clicks.per_user).floor().long() for part in (train, valid)]
    wrong = torch.rand(log.n_users, log.n_items, generator=stream(0, "noise"))
    wrong[log.clicks.user, log.clicks.item] = -1.0
    order = wrong.topk(int((count[0] + count[1]).max()) + 1, dim=1).indices  # (n_users, most)
    rank = torch.arange(order.shape[1])
    of_train = (rank < count[0][:, None]).nonzero()  # (R, 2)
    of_valid = ((rank >= count[0][:, None]) & (rank < (count[0] + count[1])[:, None])).nonzero()
    parts = []
    for part, where in ((train, of_train), (valid, of_valid)):
        user, place = where.T
        more = pl.DataFrame({"user": user.numpy(), "item": order[user, place].numpy()})
        more = more.with_columns(reward=pl.lit(1.0)).cast(
            {name: part.frame.schema[name] for name in ("user", "item", "reward")}
        )
        parts.append(part.with_frame(pl.concat([part.frame, more], how="diagonal")))
    user, place = of_train.T
    noise = Pairs(user, order[user, place], n_users=log.n_users, n_items=log.n_items)
    return Case(parts[0], parts[1], test, noise)


def real() -> Case:
    """Every rating is a click; ratings below 7 are mistakes, and no later click that counts."""
    log = core(recfb.dataset("movietweetings").log)
    before, test = log.split_by_time(0.8)
    train, valid = before.split_by_time(0.875)
    bad = train.filter(pl.col("reward") < 7)
    sizes = {"n_users": log.n_users, "n_items": log.n_items}
    noise = Pairs(bad.tensor("user"), bad.tensor("item"), **sizes)
    return Case(train.binarise(at=0), valid.binarise(at=0), test.binarise(at=7), noise)


# ---- the methods


class Watched(objectives.BPR):
    """BPR that counts how many of the clicks it learns from are mistakes, and as an "oracle" leaves
    them out: an upper bound, not a method."""

    count: Tensor  # mistakes, clicks

    def __init__(self, noise: Pairs, role: Literal["method", "oracle"] = "method") -> None:
        super().__init__()
        self.noise, self.role = noise, role

    def bind(self, log: Log) -> Self:
        self.register_buffer("count", torch.zeros(2), persistent=False)
        return super().bind(log)

    def forward(self, score: Score, batch: Batch, step: Step = Step()) -> Tensor:
        loss = super().forward(score, batch, step)  # (B, 1)
        key = batch.user * self.noise.n_items + batch.item[:, 0]  # (B,)
        wrong = self.noise.has(key)
        self.count += torch.stack([wrong.sum(), torch.tensor(len(wrong))])
        return loss * (~wrong)[:, None] if self.role == "oracle" else loss


def methods(case: Case) -> dict[str, Space]:
    """A model and a grid each; all draw users uniformly, as PLD does."""
    l2 = [0.005, 0.01, 0.02, 0.05]
    common = {"scorer.l2": l2, "optimizer.lr": [0.05, 0.1, 0.2]}

    def model(objective: Objective, sampler: Sampler | None = None) -> Recommender:
        sampler = samplers.Clicks(by="user") if sampler is None else sampler
        return Recommender(scorers.MF(dim=64), objective, sampler)

    nbpo = Recommender(
        scorers.MF(dim=64),
        objectives.NBPO(l2=1.0),
        samplers.Clicks(by="user", negatives=3),
        optimizer=optim.SGD(lr=0.05, decay=0.99),
    )
    return {
        "bpr": Space(model(Watched(case.noise)), common),
        "t-ce": Space(
            model(objectives.TCE(drop=0.1, ramp=300, form="pairwise")),
            common | {"objective.drop": [0.02, 0.05, 0.1, 0.2]},
        ),
        "r-ce": Space(
            model(objectives.RCE(beta=0.2, form="pairwise")),
            common | {"objective.beta": [0.1, 0.2, 0.5]},
        ),
        "pld": Space(
            model(Watched(case.noise), samplers.PLD()),
            common | {"sampler.temperature": [0.05, 0.1, 0.2, 0.5], "sampler.k": [2, 5, 10]},
        ),
        "nbpo": Space(
            nbpo,
            {"scorer.l2": l2, "objective.l2": [0.1, 0.3, 1.0], "optimizer.lr": [0.02, 0.05, 0.1]},
        ),
        "clean oracle": Space(model(Watched(case.noise, "oracle")), common),
    }


# ---- the experiment


def task(case: Case) -> Task:
    """Later clean clicks of known users and films, none that was clicked or held out before."""
    before = case.train.extend(case.valid).clicks
    return task_of(case.test, exclude=before, known=case.train.clicks, seen=case.train.clicks)


CASES = ("injected 0.0", "injected 0.3", "injected 0.5", "real")


@dataclass(frozen=True)
class Outcome:
    """What one case gives."""

    table: pl.DataFrame  # a row a method
    users: dict[str, Tensor]  # Recall@20 of every user, a mean over seeds
    shares: dict[str, float]  # of mistakes among the clicks that were learned from
    share: float  # of mistakes among the training clicks
    user: Tensor


def case_of(name: str) -> Case:
    """A case by its name."""
    return real() if name == "real" else injected(float(name.split()[1]))


def play(name: str) -> Outcome:
    """Tune every method, fit it with every seed, and measure."""
    torch.set_num_threads(1)
    case = case_of(name)
    spaces = methods(case)
    tuned = recfb.tune(case.train, spaces, valid=case.valid, budget=BUDGET, metric=TUNE, **RUN)
    later, rows, users, shares = task(case), [], {}, {}
    for method, space in spaces.items():
        values: dict[str, list[Tensor]] = {metric: [] for metric in METRICS}
        counts = torch.zeros(2)
        for seed in SEEDS:
            model = alter(space.model, tuned.settings[method])
            options = {**RUN, "enable_progress_bar": False, "monitor": TUNE}
            recfb.fit(case.train, model, valid=case.valid, seed=seed, **options)
            lists = rank(model, later, 20)
            for metric, kept in values.items():
                kept.append(lists.values(Metric.of(metric), later))  # (U,)
            counts += getattr(model.objective, "count", torch.zeros(2))
        by_seed = {metric: torch.stack(kept) for metric, kept in values.items()}  # (seeds, U)
        users[method] = by_seed["recall@20"].mean(0)  # (U,)
        shares[method] = float(counts[0] / counts[1])
        row: dict[str, object] = {"noise": name, "method": method}
        for metric, kept in by_seed.items():
            row |= {metric: float(kept.mean()), f"sd {metric}": float(kept.mean(1).std())}
        row["epochs"] = tuned.epochs[method]
        rows.append(row | {"setting": json.dumps(tuned.settings[method])})
    return Outcome(pl.DataFrame(rows), users, shares, case.share, later.user)
