"""Checks of scorers, samplers, exposures, objectives and solvers."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import polars as pl
import torch

from recfb.contracts import Batch, Step
from recfb.data.history import History
from recfb.data.log import Log
from recfb.data.vocabulary import Vocabulary
from recfb.errors import RecfbError
from recfb.random import stream
from recfb.testing.outcome import (
    batch_tensors,
    batches_of,
    context_of,
    draw,
    in_training,
    outcome,
    ready,
    same,
    score_of,
    step_at,
    widened,
)


def check_all_agrees_with_forward(scorer: Any, log: Log) -> None:
    """Scores of requests are `forward` on every item, and so is `all(user)` of users alone, also
    with a buffer; what needs histories has no scores of users alone."""
    ready(scorer, log, seed=0)
    context = context_of(log)[torch.tensor([3, 0, 3]) % log.n_users]
    user, item = context.user, torch.arange(log.n_items).expand(3, -1)  # (3, n_items)
    known = {"features": context.features, "history": context.history}
    batch = Batch(user, item, torch.zeros(item.shape), **known)
    scores = scorer(user, item, batch)  # (3, n_items)

    def agrees(name: str, found: torch.Tensor, expected: torch.Tensor) -> None:
        assert found.shape == expected.shape, f"{name} has shape {tuple(found.shape)}"
        near = torch.allclose(found, expected, rtol=1e-4, atol=1e-6)
        assert near, f"{name} differs from forward(user, every item)"

    agrees("scores(request)", scorer.scores(context), scores)
    some = replace(context, candidates=item[:, [2, 0]])
    agrees("scores(request with candidates)", scorer.scores(some), scores[:, [2, 0]])
    agrees("score_of(request, items)", scorer.score_of(context, item), scores)
    assert torch.equal(scorer(user, item[:, 2], batch), scores[:, 2]), "(B,) and (B, C) differ"
    if context.history is None:
        table = scorer.all(user)
        agrees("all(user)", table, scorer(user, item))
        buffer = torch.full_like(table, torch.nan)
        assert torch.equal(scorer.all(user, out=buffer), table), "all(user, out=...) differs"


def check_row_order(scorer: Any, log: Log) -> None:
    """Permuting requests permutes scores: no row looks at another."""
    ready(scorer, log, seed=0)
    context, order = context_of(log), torch.randperm(log.n_users, generator=stream(0, "order"))
    straight, permuted = scorer.scores(context), scorer.scores(context[order])
    assert torch.allclose(permuted, straight[order], rtol=1e-5, atol=1e-7), "rows influence rows"


def check_never_clicked_item(scorer: Any, log: Log) -> None:
    """An item and a user without a click have finite scores, and keep their places."""
    wide = widened(log, users=1, items=2)
    scores = ready(scorer, wide, seed=0).scores(context_of(wide))
    assert scores.shape == (wide.n_users, wide.n_items), f"shape {tuple(scores.shape)}"
    assert bool(torch.isfinite(scores).all()), "scores of what was never clicked are not finite"


def check_top(scorer: Any, log: Log) -> None:
    """`top` gives distinct available items, best first."""
    ready(scorer, log, seed=0)
    available = torch.ones(log.n_users, log.n_items, dtype=torch.bool)
    available[:, ::3] = False
    context = replace(context_of(log), available=available)
    pick = scorer.top(context, 3)
    assert bool(available.gather(1, pick).all()), "an unavailable item was picked"
    score = scorer.scores(context).gather(1, pick)
    assert bool((score[:, :-1] >= score[:, 1:]).all()), "the picks are not best first"


def check_recommend(model: Any, log: Log) -> None:
    """`recommend` speaks original ids, leaves out what was clicked, and knows strangers. What ranks
    requests by their histories refuses, since `recommend` has none."""
    users = log.users.with_columns(id=pl.format("u{}", "id"))
    named = Log(log.frame, Vocabulary(users, log.items), log.meta)
    ready(model, named, seed=0)
    model.history, model.vocabulary = History.of(named), named.vocabulary
    try:
        table = model.recommend(["u0", "stranger"], 3)
    except RecfbError as error:
        if "history" not in log.columns or "history" not in str(error):
            raise
        return
    assert table.columns == ["user", "rank", "item", "by"], f"the columns are {table.columns}"
    mine = set(named.decode().filter(pl.col("user") == "u0", pl.col("reward") > 0)["item"])
    shown = set(table.filter(pl.col("user") == "u0")["item"])
    assert not shown & mine, "an item that the user clicked was recommended"
    assert len(shown) == 3, f"{len(shown)} items were recommended, not 3"
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
        return batch_tensors(sampler(rows, score_of, step_at(5, 1, seed)))

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
    losses = objective(in_training(log, batch, weight), batch, step_at(5, 1, 0))
    by_row = losses.shape[:1] in (batch.user.shape, ())
    assert by_row, f"losses have shape {tuple(losses.shape)}"
    assert bool(torch.isfinite(losses).all()), "a loss is not finite"
    losses.sum().backward()
    assert weight.grad is not None, "no gradient reaches the scores"
    assert bool(weight.grad.abs().sum() > 0), "the gradient is zero everywhere"


def check_losses_by_row(objective: Any, log: Log) -> None:
    """Permuting the rows of a batch permutes the losses. Where rows have draws of their own, which
    stay with their places, the rows of the first half stay and keep their losses."""
    ready(objective, log, seed=0)
    batch = batches_of(log)[objective.needs[0]][0]

    def losses(batch: Batch) -> tuple[torch.Tensor, bool]:
        generator = stream(0, "step")
        found = objective(in_training(log, batch), batch, Step(5, 1, 10, generator))
        return found, not torch.equal(generator.get_state(), stream(0, "step").get_state())

    straight, draws = losses(batch)
    kept = len(batch) // 2 if draws else 0
    order = kept + torch.randperm(len(batch) - kept, generator=stream(0, "order"))
    order = torch.cat([torch.arange(kept), order])
    permuted, _ = losses(batch[order])
    if straight.dim():
        rows = slice(kept) if draws else slice(None)
        straight, permuted = straight[order][rows], permuted[rows]
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
FITTED = [check_top, check_recommend]
SAMPLER = [check_epoch, check_batch, check_gives, check_another_step]
EXPOSURE = [check_probability]
OBJECTIVE = [check_losses, check_losses_by_row]
