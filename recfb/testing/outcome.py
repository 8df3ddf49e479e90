"""What a component computes on a log, as tensors that can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import polars as pl
import torch
from torch import Tensor

from recfb.contracts import (
    Batch,
    Context,
    Exposure,
    Objective,
    Policy,
    Sampler,
    Score,
    Scorer,
    Slate,
    Step,
    World,
    cat,
)
from recfb.data.log import Log
from recfb.data.vocabulary import Vocabulary
from recfb.errors import ConfigError
from recfb.random import stream

FEATURES = torch.rand(12, 3, generator=stream(0, "features"))
"""What is known of the users of the example log: (12, 3)."""


def ready(thing: Any, log: Log, *, seed: int) -> Any:
    """Bound, reset and, where it has `solve`, solved."""
    if isinstance(thing, World):
        return thing
    thing.bind(log)
    thing.reset(stream(seed, "reset"))
    model: Any = getattr(thing, "model", None) if isinstance(thing, Policy) else thing
    if hasattr(model, "solve"):
        model.solve(log)
    return thing


def outcome(thing: Any, log: Log, *, seed: int) -> list[Tensor]:
    """What a ready component computes."""
    if isinstance(thing, Scorer):
        return [thing.scores(context_of(log)), torch.as_tensor(thing.penalty(rows_of(log)))]
    if isinstance(thing, Sampler):
        return batch_tensors(draw(thing, log, seed))
    if isinstance(thing, Exposure):
        return [thing(rows_of(log))]
    if isinstance(thing, Objective):
        steps = step_at(3, 0, seed), step_at(5, 1, seed)  # schedules: before and after some change
        batches = batches_of(log)[thing.needs[0]]
        return [thing(in_training(log, batch), batch, step) for step in steps for batch in batches]
    if isinstance(thing, Policy):
        context = context_of(log)
        if type(thing).privileged:
            thing.look(torch.rand(len(context), log.n_items, generator=stream(0, "values")))
        probs, slate = closed_form(thing, context), thing.act(context, stream(seed, "act"))
        return [x for x in (slate.item, slate.probs if probs is None else probs) if x is not None]
    if isinstance(thing, World):
        return trajectory(thing, seed)
    parts = [outcome(part, log, seed=seed) for _, part in thing.parts()]
    return [tensor for part in parts for tensor in part]


def same(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    """Equal to the bit; NaN equals NaN."""
    pairs = zip(a, b, strict=True)
    return all(x.shape == y.shape and torch.allclose(x, y, 0, 0, equal_nan=True) for x, y in pairs)


def closed_form(policy: Policy, context: Context) -> Tensor | None:
    """`probs`, or None of a policy whose probabilities have no closed form."""
    try:
        return policy.probs(context)
    except ConfigError as error:
        if "closed form" not in str(error):
            raise
        return None


def rows_of(log: Log) -> Batch:
    """The log's rows as a batch."""
    columns = {
        name: log.tensor(name) if name in log.columns else None
        for name in ("propensity", "time", "position", "history")
    }
    return Batch(log.tensor("user"), log.tensor("item"), log.tensor("reward"), **columns)


def batches_of(log: Log) -> dict[str, list[Batch]]:
    """A batch of each kind that samplers give."""
    rows = rows_of(log)
    unseen = replace(rows[::3], reward=torch.full((len(rows[::3]),), torch.nan))
    shown = cat([rows, replace(unseen, item=(unseen.item + 1) % log.n_items)])
    clicked = rows[rows.reward > 0]
    other = log.clicks.negatives(clicked.user, 2, stream(0, "negatives"))  # (B, 2)
    item = torch.cat([clicked.item[:, None], other], 1)  # (B, 3)
    reward = torch.zeros(item.shape)
    reward[:, 0] = 1.0
    free = Batch(clicked.user, item, reward, history=clicked.history)
    item = (clicked.item[:, None] + torch.tensor([0, 3, 4])) % log.n_items  # (B, 3)
    label = log.clicks.label(clicked.user, item)
    any_item = Batch(clicked.user, item, label, history=clicked.history)
    return {
        "pairs": [rows],
        "shown_pairs": [shown],
        "rows": [rows],
        "any_negative": [any_item],
        "free_negative": [free],
        "shown_negative": [free],
    }


def score_of(user: Tensor, item: Tensor) -> Tensor:
    """A fixed score function: different for every pair, between -2 and 2."""
    owner = user[:, None] if item.dim() > user.dim() else user
    return 2 * torch.sin(1.0 + owner.float() * 1.3 + item.float() * 0.7)


class FixedScorer:
    """Scores by a table (n_users, n_items); with the fixed vectors of items and of their rewrites
    that an objective may ask a scorer of histories for."""

    def __init__(self, table: Tensor) -> None:
        self.table = table
        shape = (2, table.shape[1], 4)
        self.vectors, self.rewrites = torch.randn(shape, generator=stream(0, "vectors"))

    def __call__(self, user: Tensor, item: Tensor, batch: Batch | None = None) -> Tensor:
        return self.table[user[:, None] if item.dim() > user.dim() else user, item]

    def user_vectors(self, history: Tensor, swapped: Tensor | None = None) -> Tensor:
        """(B, H) -> (B, d); where `swapped`, texts are read as their rewrites."""
        x = self.vectors[history]  # (B, H, d)
        if swapped is not None:
            x = torch.where(swapped[:, :, None], self.rewrites[history], x)
        user: Tensor = x.mean(1)
        return user


def in_training(log: Log, batch: Batch, table: Tensor | None = None) -> Score:
    """What an objective is given: a scorer that has the batch. Scores are those of `score_of`, or
    of a table (n_users, n_items)."""
    if table is None:
        item = torch.arange(log.n_items).expand(log.n_users, -1)  # (n_users, n_items)
        table = score_of(torch.arange(log.n_users), item)
    return partial(FixedScorer(table), batch=batch)


def step_at(index: int, epoch: int, seed: int) -> Step:
    """A step of a training of ten, with draws of its own."""
    return Step(index, epoch, 10, stream(seed, "step"))


def draw(sampler: Sampler, log: Log, seed: int, step: Step | None = None) -> Batch:
    """One epoch of a sampler as one batch."""
    rows = sampler.rows(stream(seed, "rows"))
    batch: Batch = sampler(rows, score_of, step or step_at(5, 1, seed))
    return batch


def batch_tensors(batch: Batch) -> list[Tensor]:
    """The tensors of a batch that are there."""
    values = (getattr(batch, name) for name in Batch.__dataclass_fields__)
    return [value for value in values if isinstance(value, Tensor)]


def context_of(log: Log) -> Context:
    """A request of every user, with features for those who want them, and with the user's last
    history where the log has histories."""
    user = torch.arange(log.n_users)
    features = FEATURES[user % len(FEATURES)]
    return Context(user, 0, features=features, history=last_histories(log))


def last_histories(log: Log) -> Tensor | None:
    """The history in the last row of each user, -1 of users without a row: (n_users, H)."""
    if "history" not in log.columns:
        return None
    row = torch.full((log.n_users,), -1)
    row = row.scatter_reduce(0, log.tensor("user"), torch.arange(len(log)), "amax")  # (n_users,)
    return log.tensor("history")[row].masked_fill(row[:, None] < 0, -1)


def widened(log: Log, users: int, items: int) -> Log:
    """The log with further users and items, without rows, of whom as much is known as of the
    first."""
    tables = [
        pl.concat([known, known.head(more)]).with_columns(id=pl.int_range(pl.len()))
        for known, more in ((log.users, users), (log.items, items))
    ]
    return Log(log.frame, Vocabulary(*tables), log.meta)


def trajectory(world: World[Any], seed: int, rounds: int = 3) -> list[Tensor]:
    """Rewards and expected values over some rounds of slates that go round the catalogue."""
    state = world.start(stream(seed, "start"), 2 if world.vectorised else 1)
    seen = []
    for t in range(rounds):
        slate, context = slate_for(world, state, t), world.observe(state)
        feedback, truth = world.respond(state, slate, stream(seed, "respond", t))
        asked = (context.user, context.available, context.candidates, context.history)
        seen += [x for x in asked if x is not None]
        seen += [feedback.reward, world.values(state)]
        seen += [x for x in (feedback.delay, feedback.cost, feedback.extra) if x is not None]
        seen += [truth[name].double() for name in sorted(truth)]
        state = world.step(state, slate, truth, stream(seed, "step", t))
    return seen


def slate_for(world: World[Any], state: Any, shift: int) -> Slate:
    """Two items a request (one, in a world of one item), moved on by `shift`, of the candidates
    where there are any; all outcomes are asked for."""
    context = world.observe(state)
    rows, k = len(context), min(2, world.n_items)
    item = (torch.arange(rows)[:, None] + torch.arange(k) + shift) % world.n_items  # (B, K)
    if context.candidates is not None:
        place = (torch.arange(k) + shift) % context.candidates.shape[1]  # (K,)
        item = context.candidates[:, place]  # (B, K)
    share = torch.full(item.shape, 1.0 / world.n_items, dtype=torch.float64)
    return Slate(item, propensity=share, observe=torch.ones(rows, world.n_items, dtype=torch.bool))
