"""Pulls and sums of rewards for every learner and item: what index policies for arms know."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Generator, Tensor

from recfb.contracts import Context, Feedback, Policy, Slate
from recfb.data import Log
from recfb.policies.drawn import add_shown


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
        reward = feedback.reward.double()  # (B, K)
        known = reward.eq(reward).double()  # 0 where it is NaN
        add_shown(context, self.pulls, slate.item, known)
        add_shown(context, self.total, slate.item, reward.nan_to_num(nan=0.0))

    def means(self) -> Tensor:
        """Mean rewards, 0 where there are none: (G, n_items)."""
        return self.total / self.pulls.clamp(min=1.0)
