"""Feedback that is missing not at random: 3 users x 4 items to enumerate, 60 x 40 to learn from."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from recfb import Log
from recfb.contracts import Batch, Exposure, Scorer
from recfb.objectives.ips import Loss, error
from recfb.random import stream

F = torch.float64
THETA = torch.tensor([[0.1, 0.25, 0.6, 1.0], [0.9, 0.3, 0.2, 0.5], [0.4, 0.8, 0.15, 0.7]], dtype=F)
WRONG = torch.tensor([[0.4, 0.2, 0.9, 0.5], [0.3, 0.3, 0.8, 0.9], [0.6, 0.1, 0.5, 1.0]], dtype=F)
RATING = torch.tensor([[1.0, 3.0, 2.0, 5.0], [4.0, 1.0, 3.0, 2.0], [5.0, 2.0, 4.0, 3.0]], dtype=F)
REWARD: dict[Loss, Tensor] = {"squared": RATING, "log": (RATING > 2).to(F)}
SCORE = torch.linspace(-1.5, 4.0, 12, dtype=F).view(3, 4)
GUESS = torch.linspace(2.0, -2.0, 12, dtype=F).view(3, 4)  # an imputation's scores, wrong
USER, ITEM = torch.arange(3).repeat_interleave(4), torch.arange(4).repeat(3)  # (12,)
SEEN = torch.tensor(list(itertools.product([False, True], repeat=12)))  # (4096, 12) all patterns
CHANCE = torch.where(SEEN, THETA.view(-1), 1 - THETA.view(-1)).prod(1)  # (4096,)


class Known(Exposure):
    """Exposures by a table (m, n) that is known."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = table

    def forward(self, batch: Batch) -> Tensor:
        return self.table[batch.user, batch.item]


class Table(Scorer):
    """A score for every pair: (m, n)."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(table.clone())

    def forward(self, user: Tensor, item: Tensor, batch: Batch | None = None) -> Tensor:
        return self.table[user, item]


def errors(loss: Loss, score: Tensor = SCORE) -> Tensor:
    """The error of every pair: (12,)."""
    return error(score, REWARD[loss], loss).view(-1)


def batch_of(seen: Tensor, loss: Loss) -> Batch:
    """The 12 pairs of each pattern (..., 12) in one column; NaN rewards where not seen."""
    reward = torch.where(seen, REWARD[loss].view(-1), torch.nan).view(-1)  # (... * 12,)
    times = len(reward) // 12
    return Batch(USER.repeat(times), ITEM.repeat(times), reward)


def score_of(user: Tensor, item: Tensor) -> Tensor:
    """The scores of SCORE."""
    return SCORE[user, item]


def expectation(values: Tensor) -> Tensor:
    """Over all patterns: (4096, ...) -> (...)."""
    return torch.tensordot(CHANCE, values, dims=1)


def ratings(seed: int) -> tuple[Log, Tensor, Tensor]:
    """Ratings 1 to 5 of low rank with noise; the better one is, the likelier it is in the log.

    Returns the log, all ratings (60, 40) and P(in the log) (60, 40).
    """
    generator = stream(seed, "ratings")
    user, item = torch.randn(60, 2, generator=generator), torch.randn(40, 2, generator=generator)
    noise = torch.randn(60, 40, generator=generator)
    rating = (3 + 0.6 * user @ item.T + 0.7 * noise).clamp(1, 5)  # (60, 40)
    theta = torch.sigmoid(2 * (rating - 3.5)).clamp(0.1, 0.9)
    u, i = (torch.rand(60, 40, generator=generator) < theta).nonzero(as_tuple=True)
    log = Log.of({"user": u, "item": i, "reward": rating[u, i]}, n_users=60, n_items=40)
    return log, rating, theta
