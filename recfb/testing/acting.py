"""Checks of policies and worlds."""

from __future__ import annotations

import copy
from dataclasses import fields, is_dataclass, replace
from typing import Any

import polars as pl
import torch
from torch import Tensor

from recfb.contracts import Context, Feedback, Policy, World, informed, plackett_luce
from recfb.data.log import Log
from recfb.random import stream
from recfb.testing.outcome import closed_form, context_of, ready, same, slate_for


def _acting(policy: Policy, log: Log) -> tuple[Any, Context]:
    context = context_of(log)
    made = ready(policy, log, seed=0)
    if type(made).privileged:
        made.look(torch.rand(len(context), log.n_items, generator=stream(0, "values")))
    return made, context


def two_items(log: Log) -> Log:
    """The log with even items as item 0, rejected, and odd ones as item 1, accepted."""
    frame = log.frame.with_columns(pl.col("item") % 2)
    return Log.of(frame, n_users=log.n_users, n_items=2, meta=log.meta)


def check_distribution(policy: Any, log: Log) -> None:
    """Rows of `probs`, or of what is published without it, are float64, not negative, and sum to
    1."""
    policy, context = _acting(policy, log)
    probs = closed_form(policy, context)
    if probs is None:
        probs = policy.act(context, stream(1, "act")).probs
    if probs is None:
        return
    assert probs.shape == (len(context), log.n_items), f"probs has shape {tuple(probs.shape)}"
    assert probs.dtype == torch.float64, f"probs is {probs.dtype}, not float64"
    assert bool((probs >= 0).all()), "a probability is negative"
    off = float((probs.sum(1) - 1).abs().max())
    assert off < 1e-8, f"the sum of a row is off by {off:.2g}"


def check_unavailable(policy: Any, log: Log) -> None:
    """What is not available has probability 0 exactly, and is never shown."""
    policy, context = _acting(policy, log)
    mask = torch.ones(len(context), log.n_items, dtype=torch.bool)
    mask[:, ::3] = False
    limited = replace(context, available=mask)
    probs, k = closed_form(policy, limited), 1
    if probs is not None:
        assert float(probs[~mask].abs().max()) == 0.0, (
            "an unavailable item has positive probability"
        )
        assert float((probs.sum(1) - 1).abs().max()) < 1e-8, "the rest does not sum to 1"
        k = 2 if bool(((probs > 0).sum(1) >= 2).all()) else 1
    shown = policy.act(limited, stream(1, "act"), k=k).item
    assert bool(mask.gather(1, shown).all()), "an unavailable item was shown"


def check_frequencies(policy: Any, log: Log) -> None:
    """Items are drawn as often as `probs` says: 20,000 draws, 5 standard errors.

    A policy that decides all requests of a round together (`joint`) is drawn in 2,000 rounds.
    """
    policy, context = _acting(policy, log)
    if getattr(type(policy), "joint", False):
        _check_rounds(policy, context)
        return
    draws = 20_000
    one = context[torch.zeros(draws, dtype=torch.int64)]
    if type(policy).privileged:
        values = torch.rand(1, log.n_items, generator=stream(0, "values"))
        policy.look(values.expand(draws, -1))
    expected = closed_form(policy, one if type(policy).privileged else one[:1])
    if expected is None:
        return
    drawn = policy.act(one, stream(2, "act")).item[:, 0]
    share = torch.bincount(drawn, minlength=log.n_items) / draws
    spread = (expected[0] * (1 - expected[0]) / draws).sqrt()
    assert bool(((share - expected[0]).abs() <= 5 * spread + 1e-12).all()), (
        f"{share} is not {expected[0]}"
    )


def _check_rounds(policy: Policy, context: Context) -> None:
    """The same round 2,000 times, each with a generator of its own, every request in it twice."""
    rounds, rows = 2000, 3
    twice = context[torch.arange(rows).repeat(2)]
    slates = [policy.act(twice, stream(2, "act", t)) for t in range(rounds)]
    item = torch.cat([slate.item.view(1, 2, rows) for slate in slates])  # (rounds, 2, rows)
    assert torch.equal(item[:, 0], item[:, 1]), "requests that are alike are decided unlike"
    share = (item[:, 0, :, None] == torch.arange(policy.n_items)).double().mean(0)  # (rows, n)
    expected, spread = closed_form(policy, twice), torch.zeros(())
    if expected is None:  # what is published is an estimate, made of draws of its own
        published = torch.stack([slate.probs for slate in slates if slate.probs is not None])
        expected, spread = published.mean(0), published.std(0)[:rows] / rounds**0.5
    expected = expected[:rows]
    spread = (expected * (1 - expected) / rounds + spread**2).sqrt()
    assert bool(((share - expected).abs() <= 5 * spread + 1e-12).all()), (
        f"{share} is not {expected}"
    )


def check_propensity(policy: Any, log: Log) -> None:
    """The propensity that `act` logs is `probs` of the item, and `propensities` says the same."""
    policy, context = _acting(policy, log)
    slate = policy.act(context, stream(3, "act"))
    if slate.propensity is None:
        return
    probs = policy.probs(context).gather(1, slate.item)
    assert torch.allclose(slate.propensity, probs, rtol=0, atol=1e-12), (
        "act logs another propensity"
    )
    again = policy.propensities(context, slate.item).propensity
    assert again is not None, "propensities has none where act has"
    assert torch.allclose(slate.propensity, again, rtol=0, atol=1e-12), (
        "propensities differs from act"
    )
    one = policy.prob_of(context, slate.item[:, 0])
    assert torch.allclose(one, probs[:, 0], rtol=0, atol=1e-12), "prob_of differs from probs"


def check_draw(policy: Any, log: Log) -> None:
    """`draw` shows what `act` shows with the same generator, and nothing is learnt from what it
    leaves out."""
    policy, context = _acting(policy, log)
    shown, drawn = (way(context, stream(3, "act")) for way in (policy.act, policy.draw))
    assert torch.equal(drawn.item, shown.item), "draw is not act"
    if type(policy).draw is Policy.draw:
        return
    other, reward = copy.deepcopy(policy), (shown.item % 2).float()
    policy.update(context, shown, Feedback(reward), stream(4, "update"))
    other.update(context, drawn, Feedback(reward), stream(4, "update"))
    both = (one.act(context, stream(5, "act")) for one in (policy, other))
    (item, probs), (item_, probs_) = ((slate.item, slate.probs) for slate in both)
    alike = torch.equal(item, item_) and (probs is None or torch.equal(probs, probs_))
    assert alike, "update reads the probabilities that draw leaves out"


def check_slates(policy: Any, log: Log) -> None:
    """Slates have distinct items, and what is logged of them agrees with `propensities`."""
    policy, context = _acting(policy, log)
    probs = closed_form(policy, context)
    few = probs is not None and bool(((probs > 0).sum(1) < 3).any())
    if log.n_items < 3 or (few and type(policy).act is Policy.act):
        return
    slate = policy.act(context, stream(4, "act"), k=3)
    assert slate.item.shape == (len(context), 3), f"a slate has shape {tuple(slate.item.shape)}"
    distinct = slate.item.sort(1).values.diff(dim=1) > 0
    assert bool(distinct.all()), "an item stands twice in a slate"
    again = policy.propensities(context, slate.item)
    for name in ("propensity", "p_prefix", "p_display"):
        mine, theirs = getattr(slate, name), getattr(again, name)
        assert (mine is None) == (theirs is None), (
            f"{name}: only one of act and propensities has it"
        )
        if mine is not None:
            near = torch.allclose(mine, theirs, rtol=1e-9, atol=1e-12)
            assert near, f"{name} differs between act and propensities"
            assert bool(((mine > 0) & (mine <= 1 + 1e-12)).all()), f"{name} is outside (0, 1]"
    if type(policy).act is Policy.act:
        prefix = plackett_luce(policy.probs(context), slate.item)
        assert torch.allclose(again.p_prefix, prefix), "p_prefix is not Plackett-Luce"


def check_rows_are_requests(policy: Any, log: Log) -> None:
    """Permuting requests permutes rows of `probs`; with several learners, each keeps its own."""
    policy, context = _acting(policy, log)
    if type(policy).privileged:
        return
    order = torch.randperm(len(context), generator=stream(0, "order"))
    straight, permuted = (closed_form(policy, x) for x in (context, context[order]))
    if straight is None or permuted is None:
        return
    assert torch.allclose(permuted, straight[order], atol=1e-12), "rows influence rows"


def check_empty_log(policy: Any, log: Log) -> None:
    """Bound to a log without rows, a policy is its prior."""
    context = context_of(log)
    policy.bind(log.with_frame(log.frame.clear()))
    policy.reset(stream(0, "reset"))
    if type(policy).privileged:
        policy.look(torch.zeros(len(context), log.n_items))
    if getattr(policy, "model", None) is None:
        probs = closed_form(policy, context)
        finite = probs is None or bool(torch.isfinite(probs).all())
        assert finite, "the prior is not finite"


def _tensors(state: Any) -> list[Tensor]:
    if isinstance(state, Tensor):
        return [state]
    if is_dataclass(state) and not isinstance(state, type):
        return [t for field in fields(state) for t in _tensors(getattr(state, field.name))]
    if isinstance(state, dict):
        return [t for value in state.values() for t in _tensors(value)]
    if isinstance(state, (list, tuple)):
        return [t for value in state for t in _tensors(value)]
    return []


def check_state_is_not_written(world: World[Any], log: Log) -> None:
    """observe, values, respond and step leave the state they are given as it was."""
    state = world.start(stream(0, "start"))
    before = copy.deepcopy(_tensors(state))
    world.observe(state)
    world.values(state)
    slate = slate_for(world, state, 0)
    _, truth = world.respond(state, slate, stream(0, "respond"))
    world.step(state, slate, truth, stream(0, "step"))
    after = _tensors(state)
    kept = all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert kept, "a state was changed in place; return a new one from step"


def check_common_random_numbers(world: World[Any], log: Log) -> None:
    """What a request would have clicked does not depend on what else was shown to others."""
    state = world.start(stream(0, "start"))
    slate = slate_for(world, state, 0)
    other = replace(slate, item=slate.item.clone())
    other.item[1:] = (other.item[1:] + 1) % world.n_items
    _, first = world.respond(state, slate, stream(0, "respond"))
    _, second = world.respond(state, other, stream(0, "respond"))
    assert same([first["reward"][:1]], [second["reward"][:1]]), (
        "another request's slate changed this request's response"
    )


def check_opening(world: World[Any], log: Log) -> None:
    """What a platform holds before round 0 has the world's sizes."""
    opening = world.opening(world.start(stream(0, "start")), 1, 5)
    assert opening.n_items == world.n_items, (
        f"{opening.n_items} items, the world has {world.n_items}"
    )
    assert opening.meta.horizon == 5, "meta.horizon is not the number of rounds"


def check_values(world: World[Any], log: Log) -> None:
    """`values` has a row a request and a column an item."""
    state = world.start(stream(0, "start"))
    shape, rows = tuple(world.values(state).shape), len(world.observe(state))
    assert shape == (rows, world.n_items), f"values has shape {shape}"


def check_uninformed(world: World[Any], log: Log) -> None:
    """A world that says it reads no probability of a slate reads none."""
    if informed(world):
        return
    state = world.start(stream(0, "start"))
    bare = replace(slate_for(world, state, 0), propensity=None)
    share = torch.full(bare.item.shape, 1.0 / world.n_items, dtype=torch.float64)
    probs = torch.full((len(bare), world.n_items), 1.0 / world.n_items, dtype=torch.float64)
    full = replace(bare, propensity=share, p_prefix=share, p_display=share, probs=probs)
    told, other = (
        _tensors(world.respond(state, slate, stream(0, "respond"))) for slate in (bare, full)
    )
    assert same(told, other), "informed = False, but it reads probabilities"


POLICY = [
    check_distribution,
    check_unavailable,
    check_frequencies,
    check_propensity,
    check_draw,
    check_slates,
    check_rows_are_requests,
    check_empty_log,
]
WORLD = [
    check_state_is_not_written,
    check_common_random_numbers,
    check_opening,
    check_values,
    check_uninformed,
]
