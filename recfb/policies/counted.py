"""Pulls and sums of rewards for every learner and item: what index policies for arms know."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Generator, Tensor

from recfb.contracts import Context, Feedback, Policy, Slate, learner_of
from recfb.data import Log


class Counted(Policy):
    """Counts how often each item was shown, and sums its rewards; those that are NaN do not count.

    Sums are kept, so the state does not depend on the order or the batches of the rows.
    """

    vectorised: ClassVar[bool] = True

    pulls: Tensor  # (G, n_items) float64
    total: Tensor  # (G, n_items) float64

    def bind(self, log: Log) -> Self:
        for name in ("pulls", "total"):
            empty = torch.zeros(log.meta.learners, log.n_items, dtype=torch.float64)
            self.register_buffer(name, empty)
        return super().bind(log)

    def reset(self, generator: Generator) -> None:
        super().reset(generator)
        self.pulls.zero_()
        self.total.zero_()

    def update(
        self, context: Context, slate: Slate, feedback: Feedback, generator: Generator
    ) -> None:
        learner = learner_of(context, len(self.pulls))[:, None]  # (B, 1)
        place = (learner * self.n_items + slate.item).flatten()  # (B * K,)
        reward = feedback.reward.flatten().to(torch.float64)  # (B * K,)
        known = (~reward.isnan()).to(torch.float64)
        self.pulls.view(-1).index_add_(0, place, known)
        self.total.view(-1).index_add_(0, place, reward.nan_to_num(nan=0.0))

    def means(self) -> Tensor:
        """Mean rewards, 0 where there are none: (G, n_items)."""
        return self.total / self.pulls.clamp(min=1.0)
