"""Requests and what was shown, as the rows that beliefs learn from."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from torch import Generator, Tensor

from recfb.contracts import Context, Feedback, Slate, learner_of
from recfb.data import Log

BLOCK = 1 << 14
"""Rows that are learned at once from a log."""


class Sized(Protocol):
    """What has learners and items."""

    n_items: int
    learners: int


def features_of(context: Context) -> Tensor:
    """The features as float64, (B, D) or (B, n_items, D); without features x = 1, (B, 1).

    >>> features_of(Context(torch.tensor([3, 4]))).tolist()
    [[1.0], [1.0]]
    """
    if context.features is None:
        return torch.ones(len(context), 1, dtype=torch.float64, device=context.user.device)
    return context.features.to(torch.float64)


def shown_features(context: Context, item: Tensor) -> Tensor:
    """The features of given items: (B, M) -> (B, M, D)."""
    x = features_of(context)
    if x.dim() == 2:
        return x[:, None].expand(-1, item.shape[1], -1)
    return x.gather(1, item[:, :, None].expand(-1, -1, x.shape[2]))


def learned(
    belief: Sized,
    context: Context,
    slate: Slate,
    feedback: Feedback,
    weight: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The rows with a known reward: (learner, item) number, features, reward, weight.

    (N,), (N, D), (N,), (N,) of the B * K shown items, float64; a (learner, item) number is
    learner * n_items + item.
    """
    rows, k = slate.item.shape
    learner = learner_of(context, belief.learners)[:, None].expand(rows, k)  # (B, K)
    head = (learner * belief.n_items + slate.item).reshape(-1)  # (B * K,)
    x = shown_features(context, slate.item).flatten(0, 1)  # (B * K, D)
    reward = feedback.reward.reshape(-1).to(torch.float64)  # (B * K,)
    if weight is not None:
        weight = weight.reshape(-1).to(torch.float64)
    known = ~reward.isnan()
    if bool(known.all()):
        return head, x, reward, weight
    return head[known], x[known], reward[known], None if weight is None else weight[known]


@runtime_checkable
class Learner(Sized, Protocol):
    """A belief: it forgets in `reset` and learns in `update`."""

    def reset(self, generator: Generator) -> None: ...

    def update(
        self, context: Context, slate: Slate, feedback: Feedback, generator: Generator
    ) -> None: ...


def learn(belief: Learner, log: Log, generator: Generator) -> None:
    """Forget, then learn all rows of a log; its `replication`s are learners where there are
    several.

    >>> from recfb.beliefs import Linear
    >>> from recfb.random import stream
    >>> log = Log.of({"item": [0, 1, 1], "reward": [1.0, 0.0, 1.0]})
    >>> belief = Linear(l2=1.0).bind(log)
    >>> learn(belief, log, stream(0))
    >>> belief.scores(Context(torch.tensor([0]))).round(decimals=6).tolist()
    [[0.5, 0.333333]]
    """
    belief.reset(generator)
    several = belief.learners > 1 and "replication" in log.columns
    learner = log.tensor("replication").to(torch.int64) if several else None
    start = 0
    for block in log.blocks(BLOCK):
        rows = slice(start, start + len(block))
        own = torch.zeros(len(block), dtype=torch.int64) if learner is None else learner[rows]
        context = replace(block.context, learner=own)
        belief.update(context, block.slate, block.feedback, generator)
        start += len(block)
