"""Logistic matrix factorisation: clicks as labels."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from recfb.contracts import Batch, Objective, Pairing, Score, Step


def bce(score: Tensor, reward: Tensor) -> Tensor:
    """softplus(s) - y s: the log loss of a label y in [0, 1] at the logit s.

    >>> import torch
    >>> bce(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.0]))
    tensor([0.6931, 2.1269])
    """
    return F.softplus(score) - reward * score


class BCE(Objective):
    """Estimates P(click) as sigmoid(s): the log loss of every row against its reward.

    He et al., "Neural collaborative filtering" (2017), equation 7. Blind to exposure: what was not
    shown counts as not wanted. With S sampled negatives a click the odds are those of the sample.
    Losses are shaped like `batch.item`.

    >>> BCE()
    BCE()
    """

    needs: ClassVar[tuple[Pairing, ...]] = (
        "pairs",
        "rows",
        "any_negative",
        "free_negative",
        "shown_negative",
    )

    def forward(self, score: Score, batch: Batch, step: Step = Step()) -> Tensor:
        return bce(score(batch.user, batch.item), batch.reward)  # (B,) | (B, C)
