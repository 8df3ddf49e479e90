"""Arrivals at random ranks: what is new, where it goes, and what is left to the policy."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from recfb.contracts import Context, Feedback, Slate
from recfb.data import Log
from recfb.errors import ConfigError
from recfb.policies import Interleaved, Oracle
from recfb.random import stream

VALUES = torch.tensor([[0.9, 0.8, 0.7, 0.6, 0.5, 0.4]])


def requests(rows: int, *shown: int) -> Context:
    available = torch.zeros(1, 6, dtype=torch.bool)
    available[0, list(shown)] = True
    return Context(torch.arange(rows), available=available)


def made(share: float, rows: int = 1, known: tuple[int, ...] = (0, 1, 2)) -> Interleaved:
    """A policy that has seen a round with the known items."""
    policy = Interleaved(Oracle(), share).bind(Log.empty(rows, 6))
    policy.look(VALUES.expand(rows, -1))
    if known:
        context, nothing = requests(rows, *known), torch.zeros(rows, 1)
        policy.update(context, Slate(nothing.long()), Feedback(nothing), stream(0))
    return policy


def show(policy: Interleaved, context: Context, k: int) -> Tensor:
    return policy.act(context, stream(1), k=k).item


def test_the_first_catalogue_is_not_new() -> None:
    policy, context = made(1.0, known=()), requests(1, 0, 1, 2)
    slate = policy.act(context, stream(1), k=2)
    assert slate.item.tolist() == [[0, 1]]
    assert slate.propensity is not None and slate.propensity.tolist() == [[1.0, 1.0]]


def test_new_items_come_first_where_every_coin_says_so() -> None:
    item = show(made(1.0, 200), requests(200, 0, 1, 2, 4, 5), 3)
    assert set(map(tuple, item.tolist())) == {(4, 5, 0), (5, 4, 0)}
    assert abs(float((item[:, 0] == 4).double().mean()) - 0.5) < 0.15


def test_the_policy_ranks_what_is_not_new_even_where_new_items_are_better() -> None:
    item = show(made(0.0, known=(3, 4, 5)), requests(1, 0, 3, 4, 5), 2)
    assert item.tolist() == [[3, 4]]


def test_an_item_is_new_for_one_round() -> None:
    policy, context = made(1.0), requests(1, 0, 1, 2, 5)
    shown = policy.act(context, stream(1), k=1)
    assert shown.item.tolist() == [[5]] and shown.propensity is None
    policy.update(context, shown, Feedback(torch.zeros(1, 1)), stream(0))
    assert show(policy, context, 1).tolist() == [[0]]
    policy.reset(stream(0))
    policy.update(requests(1, 0, 1, 2), shown, Feedback(torch.zeros(1, 1)), stream(0))
    assert show(policy, context, 1).tolist() == [[5]]  # everything is forgotten


def test_every_request_has_its_own_new_items() -> None:
    available = torch.tensor([[1, 1, 1, 1, 0, 1], [1, 1, 1, 0, 0, 1], [1, 1, 1, 0, 0, 0]]).bool()
    context = replace(requests(300), available=available.repeat(100, 1))
    policy = made(1.0, 300)
    item = show(policy, context, 3)
    assert set(map(tuple, item[::3].tolist())) == {(3, 5, 0), (5, 3, 0)}
    assert set(map(tuple, item[1::3].tolist())) == {(5, 0, 1)}
    assert set(map(tuple, item[2::3].tolist())) == {(0, 1, 2)}
    said = policy.probs(context)[:3].tolist()
    assert said == [[0, 0, 0, 0.5, 0, 0.5], [0, 0, 0, 0, 0, 1], [1, 0, 0, 0, 0, 0]]


def test_first_positions_are_as_likely_as_probs_say() -> None:
    n = 20_000
    policy, context = made(0.3, n), requests(n, 0, 1, 2, 4, 5)
    said = policy.probs(context)[0]
    assert said.tolist() == pytest.approx([0.7, 0.0, 0.0, 0.0, 0.15, 0.15])
    item = show(policy, context, 2)
    share = torch.bincount(item[:, 0], minlength=6) / n
    assert torch.allclose(share.double(), said, atol=4 * (0.25 / n) ** 0.5)
    both = float(((item == 4) | (item == 5)).all(1).double().mean())
    assert both == pytest.approx(0.09, abs=4 * (0.09 * 0.91 / n) ** 0.5)
    assert policy.propensities(context, item).propensity is None


def test_candidates_and_worlds_without_arrivals_are_the_policys() -> None:
    policy = made(1.0)
    listed = Context(torch.tensor([0]), candidates=torch.tensor([[5, 3]]))
    assert show(policy, listed, 1).tolist() == [[3]]
    assert show(policy, Context(torch.tensor([0])), 1).tolist() == [[0]]


def test_a_slate_has_room_for_what_is_not_new_alone() -> None:
    with pytest.raises(ConfigError, match=r"slate of 4 items .* only 3 items"):
        show(made(1.0), requests(1, 0, 1, 2, 4, 5), 4)


def test_a_share_is_a_probability() -> None:
    with pytest.raises(ConfigError, match=r"share is a probability, found 1.5"):
        Interleaved(Oracle(), 1.5)
