"""Checks of scorers, samplers, exposures, objectives and solvers."""

from __future__ import annotations

import copy
from typing import Any

import polars as pl
import torch

from recfb.contracts import Context, Step
from recfb.data.history import History
from recfb.data.log import Log
from recfb.random import stream
from recfb.testing.outcome import (
    batch_tensors,
    batches_of,
    draw,
    outcome,
    ready,
    same,
    score_of,
)


def check_all_agrees_with_forward(scorer: Any, log: Log) -> None:
    """`all(user)` is `forward` on every item, alone and with a buffer."""
    ready(scorer, log, seed=0)
    user = torch.tensor([3, 0, 3]) % log.n_users
    item = torch.arange(log.n_items).expand(3, -1)  # (3, n_items)
    table = scorer.all(user)
    assert table.shape == (3, log.n_items), f"all(user) has shape {tuple(table.shape)}"
    near = torch.allclose(table, scorer(user, item), rtol=1e-4, atol=1e-6)
    assert near, "all(user) differs from forward(user, every item)"
    buffer = torch.full_like(table, torch.nan)
    assert torch.equal(scorer.all(user, out=buffer), table), "all(user, out=...) differs"
    assert torch.equal(scorer(user, item[:, 2]), scorer(user, item)[:, 2]), "(B,) and (B, C) differ"


def check_row_order(scorer: Any, log: Log) -> None:
    """Permuting users permutes scores: no row looks at another."""
    ready(scorer, log, seed=0)
    order = torch.randperm(log.n_users, generator=stream(0, "order"))
    straight, permuted = scorer.all(torch.arange(log.n_users)), scorer.all(order)
    assert torch.allclose(permuted, straight[order], rtol=1e-5, atol=1e-7), "rows influence rows"


def check_never_clicked_item(scorer: Any, log: Log) -> None:
    """An item and a user without a click have finite scores, and keep their places."""
    wide = Log.of(log.frame, n_users=log.n_users + 1, n_items=log.n_items + 2)
    scores = ready(scorer, wide, seed=0).all(torch.arange(wide.n_users))
    assert scores.shape == (wide.n_users, wide.n_items), f"shape {tuple(scores.shape)}"
    assert bool(torch.isfinite(scores).all()), "scores of what was never clicked are not finite"


def check_top(scorer: Any, log: Log) -> None:
    """`top` gives distinct available items, best first."""
    ready(scorer, log, seed=0)
    available = torch.ones(log.n_users, log.n_items, dtype=torch.bool)
    available[:, 1] = False
    context = Context(torch.arange(log.n_users), available=available)
    pick = scorer.top(context, 3)
    assert bool((pick != 1).all()), "an unavailable item was picked"
    score = scorer.scores(context).gather(1, pick)
    assert bool((score[:, :-1] >= score[:, 1:]).all()), "the picks are not best first"


def check_recommend(model: Any, log: Log) -> None:
    """`recommend` speaks original ids, leaves out what was clicked, and knows strangers."""
    named = Log.of(
        log.decode().with_columns(pl.format("u{}", "user").alias("user")), n_items=log.n_items
    )
    if hasattr(model, "solve"):
        ready(model, named, seed=0)
    else:
        model.bind(named)
        model.reset(stream(0, "reset"))
    model.history, model.vocabulary = History.of(named), named.vocabulary
    table = model.recommend(["u0", "stranger"], 3)
    assert table.columns == ["user", "rank", "item", "by"], f"the columns are {table.columns}"
    mine = set(named.decode().filter(pl.col("user") == "u0", pl.col("reward") > 0)["item"])
    shown = set(table.filter(pl.col("user") == "u0")["item"])
    assert not shown & mine, "an item that the user clicked was recommended"
    by = table.filter(pl.col("user") == "stranger")["by"].unique().to_list()
    assert by == ["popularity"], f"a user without history was ranked by {by}"


def check_epoch(sampler: Any, log: Log) -> None:
    """An epoch has `len` rows, in an order that the generator decides."""
    ready(sampler, log, seed=0)
    rows = sampler.rows(stream(0, "epoch"))
    assert rows.dtype == torch.int64, f"rows are {rows.dtype}"
    assert len(rows) == len(sampler), f"{len(rows)} rows, but len is {len(sampler)}"
    assert torch.equal(rows, sampler.rows(stream(0, "epoch"))), "one seed gave two orders"
    assert not torch.equal(rows, sampler.rows(stream(1, "epoch"))), "another seed changed nothing"


def check_batch(sampler: Any, log: Log) -> None:
    """Batches have users, items and rewards of one shape, inside the vocabulary, without
    gradient."""
    batch = draw(ready(sampler, log, seed=0), log, 0)
    assert batch.user.dim() == 1, f"user has shape {tuple(batch.user.shape)}"
    assert batch.reward.shape == batch.item.shape, "reward is not shaped like item"
    assert len(batch) == len(sampler), "rows were lost"
    assert 0 <= int(batch.item.min()) <= int(batch.item.max()) < log.n_items, (
        "an item id is out of range"
    )
    assert 0 <= int(batch.user.min()) <= int(batch.user.max()) < log.n_users, (
        "a user id is out of range"
    )
    tensors = [value for value in (batch.item, batch.reward, batch.weight) if value is not None]
    assert not any(value.requires_grad for value in tensors), "a batch carries a gradient"
    if batch.weight is not None:
        assert bool((batch.weight > 0).all()), "a weight is not positive"


def check_gives(sampler: Any, log: Log) -> None:
    """The batch is what `gives` promises."""
    batch = draw(ready(sampler, log, seed=0), log, 0)
    label = log.clicks.label(batch.user, batch.item)
    if batch.item.dim() == 1:
        shown = log.shown.label(batch.user, batch.item) > 0
        seen = torch.ones_like(shown) if sampler.gives == "pairs" else shown
        assert torch.equal(seen, ~batch.reward.isnan()), "a reward is known, or NaN, wrongly"
        assert sampler.gives != "rows" or bool(shown.all()), "a row is not in the log"
        click = (batch.reward > 0).to(label.dtype)
        assert torch.equal(click[seen], label[seen]), "rewards are not those of the pairs"
        return
    assert batch.item.dim() == 2, "clicks come with negatives in further columns"
    assert bool((label[:, 0] == 1).all()), "column 0 is not a click of its user"
    if sampler.gives == "free_negative":
        assert bool((label[:, 1:] == 0).all()), "a negative was clicked by its user"
    if sampler.gives == "shown_negative":
        beside = log.shown.label(batch.user, batch.item)[:, 1:]
        assert bool((beside == 1).all()), "a negative was not shown to the user"


def check_another_step(sampler: Any, log: Log) -> None:
    """Draws come from the step's generator, and from nowhere else."""
    ready(sampler, log, seed=0)
    rows = sampler.rows(stream(0, "rows"))

    def at(seed: int) -> Any:
        return batch_tensors(sampler(rows, score_of, Step(5, 1, 10, stream(seed, "step"))))

    assert same(at(1), at(1)), "one generator gave two batches"


def check_probability(exposure: Any, log: Log) -> None:
    """An exposure is a probability in (0, 1], shaped like the items, in rows and in candidates."""
    ready(exposure, log, seed=0)
    for batch in batches_of(log)["pairs"]:
        theta = exposure(batch)
        assert theta.shape == batch.item.shape, f"shape {tuple(theta.shape)}"
        assert bool(((theta > 0) & (theta <= 1)).all()), "a value is outside (0, 1]"


def check_losses(objective: Any, log: Log) -> None:
    """Losses are per row, finite, and have a gradient in the scores."""
    ready(objective, log, seed=0)
    batch = batches_of(log)[objective.needs[0]][0]
    weight = torch.zeros(log.n_users, log.n_items, requires_grad=True)

    def score(user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        owner = user[:, None] if item.dim() > user.dim() else user
        return weight[owner, item]

    losses = objective(score, batch, Step(5, 1, 10))
    by_row = losses.shape[:1] in (batch.user.shape, ())
    assert by_row, f"losses have shape {tuple(losses.shape)}"
    assert bool(torch.isfinite(losses).all()), "a loss is not finite"
    losses.sum().backward()
    assert weight.grad is not None, "no gradient reaches the scores"
    assert bool(weight.grad.abs().sum() > 0), "the gradient is zero everywhere"


def check_losses_by_row(objective: Any, log: Log) -> None:
    """Permuting the rows of a batch permutes the losses."""
    ready(objective, log, seed=0)
    batch = batches_of(log)[objective.needs[0]][0]
    order = torch.randperm(len(batch), generator=stream(0, "order"))

    straight, permuted = (objective(score_of, b, Step(5, 1, 10)) for b in (batch, batch[order]))
    straight = straight[order] if straight.dim() else straight
    assert torch.allclose(permuted, straight, rtol=1e-5), "losses depend on the order of rows"


def check_reset_matters(scorer: Any, log: Log) -> None:
    """Initial values come from `reset`'s generator."""
    if not list(scorer.bind(log).parameters()):
        return
    first, second = (
        outcome(ready(copy.deepcopy(scorer), log, seed=s), log, seed=0) for s in (1, 2)
    )
    assert not same(first, second), "another seed gave the same initial values"


SCORER = [
    check_all_agrees_with_forward,
    check_row_order,
    check_never_clicked_item,
    check_top,
    check_reset_matters,
]
FITTED = [check_recommend]
SAMPLER = [check_epoch, check_batch, check_gives, check_another_step]
EXPOSURE = [check_probability]
OBJECTIVE = [check_losses, check_losses_by_row]
