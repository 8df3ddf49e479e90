"""Static utility less what a user has had enough of."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recfb.contracts import Context, Feedback, Slate
from recfb.data import Log
from recfb.errors import ConfigError
from recfb.policies.novelty import Novelty
from recfb.random import stream

BOTH = Context(torch.tensor([0, 1]))
VALUES = torch.tensor([[0.6, 0.5, 0.4], [0.6, 0.5, 0.4]])


def made(weight: float = 1.0, decay: float = 0.9) -> Novelty:
    policy = Novelty(weight, decay=decay, topic=[0, 0, 1]).bind(Log.empty(2, 3))
    policy.look(VALUES)
    return policy


def click(policy: Novelty, item: list[list[int]], reward: list[list[float]]) -> None:
    policy.update(BOTH, Slate(torch.tensor(item)), Feedback(torch.tensor(reward)), stream(0))


def index(policy: Novelty) -> Tensor:
    return policy.index(BOTH)


def test_the_index_by_hand() -> None:
    """User 0 clicks both items of topic 0, then nothing: n = 2, then 2 x 0.9; user 1 skips."""
    policy = made()
    click(policy, [[0, 1], [0, 1]], [[1.0, 1.0], [0.0, 0.0]])
    assert policy.count.tolist() == [[2.0, 0.0], [0.0, 0.0]]
    click(policy, [[2, 1], [2, 1]], [[0.0, 0.0], [0.0, 0.0]])
    want = VALUES.logit()
    want[0, :2] -= torch.tensor(1 + 2 * 0.9).log()
    assert torch.allclose(index(policy), want)
    assert policy.act(BOTH, stream(0)).item.tolist() == [[2], [0]]


def test_without_weight_it_stays_with_the_first_values() -> None:
    policy = made(weight=0.0)
    assert policy.act(BOTH, stream(0), k=2).item.tolist() == [[0, 1], [0, 1]]
    click(policy, [[0, 1], [0, 1]], [[1.0, 1.0], [1.0, 1.0]])
    policy.look(VALUES.flip(1))
    assert policy.act(BOTH, stream(0), k=2).item.tolist() == [[0, 1], [0, 1]]


def test_users_who_come_later_and_in_another_order_keep_their_own_first_values() -> None:
    policy = Novelty(0.0, topic=[0, 0, 1]).bind(Log.empty(3, 3))
    rounds = [
        ([1], [[0.1, 0.9, 0.2]], [[1]]),
        ([2, 1], [[0.7, 0.1, 0.2], [0.9, 0.1, 0.2]], [[0], [1]]),
        ([0, 1, 2, 1], [[0.1, 0.2, 0.9]] * 4, [[2], [1], [0], [1]]),
    ]
    for user, values, shown in rounds:
        policy.look(torch.tensor(values))
        context = Context(torch.tensor(user))
        assert policy.probs(context).argmax(1, keepdim=True).tolist() == shown
    policy.reset(stream(0))
    policy.look(torch.tensor([[0.9, 0.1, 0.2]]))
    assert policy.act(Context(torch.tensor([1])), stream(0)).item.tolist() == [[0]]


def test_candidates_are_ranked_alone() -> None:
    context = Context(BOTH.user, candidates=torch.tensor([[2, 1], [2, 1]]))
    assert made().act(context, stream(0)).item.tolist() == [[1], [1]]


def test_what_it_refuses() -> None:
    with pytest.raises(ConfigError, match="decay"):
        Novelty(decay=1.5)
    with pytest.raises(ConfigError, match="topic of each of 3 items, found 2"):
        Novelty(topic=[0, 1]).bind(Log.empty(2, 3))
    with pytest.raises(ConfigError, match="found 0"):
        Novelty().bind(Log.empty(2, 3))
    with pytest.raises(ConfigError, match="before it acts"):
        index(Novelty(topic=[0, 0, 1]).bind(Log.empty(2, 3)))
