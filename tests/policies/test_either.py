"""One coin for a whole slate: exact probabilities, and the limits of its share."""

from __future__ import annotations

import itertools

import pytest
import torch

from recfb.beliefs import Linear
from recfb.contracts import Context
from recfb.data import Log
from recfb.errors import ConfigError
from recfb.policies import Greedy, Oracle, Softmax, Uniform
from recfb.policies.either import Either
from recfb.random import stream

VALUES = torch.tensor([[0.1, 0.9, 0.3, 0.7]])


def either(share: float, rows: int = 1) -> Either:
    policy = Either(Oracle(), share).bind(Log.empty(rows, 4))
    policy.look(VALUES.expand(rows, -1))
    return policy


def test_w_t7_probabilities_of_all_slates_sum_to_one() -> None:
    slates = torch.tensor(list(itertools.permutations(range(4), 2)))  # (12, 2)
    found = either(0.4, 12).propensities(Context(torch.arange(12)), slates)
    assert float(found.p_prefix[:, 1].sum()) == pytest.approx(1, abs=1e-12)
    first = slates[:, 0] == 1
    assert float(found.p_prefix[first, 1].sum()) == pytest.approx(0.6 + 0.1, abs=1e-12)
    best = (slates == torch.tensor([1, 3])).all(1)
    assert float(found.p_prefix[best, 1]) == pytest.approx(0.6 + 0.4 / 12, abs=1e-12)
    assert float(found.p_display[best, 0]) == pytest.approx(0.6 + 0.4 / 2, abs=1e-12)


def test_draws_have_the_probabilities_they_say() -> None:
    """The mean of 1 / p over draws is the number of slates with support, 12."""
    n = 40_000
    slate = either(0.5, n).act(Context(torch.arange(n)), stream(0), k=2)
    weight = 1 / slate.p_prefix[:, 1]
    se = float(weight.std()) / n**0.5
    assert abs(float(weight.mean()) - 12) < 4 * se


def test_a_share_of_0_and_1_are_its_parts() -> None:
    context = Context(torch.arange(50))
    assert either(0.0, 50).act(context, stream(0), k=2).item.tolist() == [[1, 3]] * 50
    item = either(1.0, 50).act(context, stream(0), k=2).item
    assert item.unique().tolist() == [0, 1, 2, 3]
    uniform = Uniform().bind(Log.empty(50, 4)).propensities(context, item)
    found = either(1.0, 50).propensities(context, item)
    assert torch.equal(found.propensity, uniform.propensity)


def test_policies_that_differ_in_the_share_share_their_numbers() -> None:
    context, n = Context(torch.arange(1000)), 1000
    few, many = (either(c, n).act(context, stream(0), k=2).item for c in (0.2, 0.5))
    best = torch.tensor([1, 3])
    explored = (few != best).any(1)
    assert bool((few[explored] == many[explored]).all()) and int(explored.sum()) > 100


def test_parts_without_slate_probabilities_are_refused() -> None:
    policy = Either(Softmax(Linear()), 0.5).bind(Log.empty(1, 4))
    with pytest.raises(ConfigError, match="Softmax"):
        policy.act(Context(torch.tensor([0])), stream(0), k=2)
    with pytest.raises(ConfigError, match="control_share"):
        Either(Greedy(Linear()), 1.5)
