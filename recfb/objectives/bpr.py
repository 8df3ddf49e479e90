"""Bayesian personalised ranking."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from recfb.contracts import Batch, Objective, Pairing, Score, Step


def bpr(clicked: Tensor, other: Tensor) -> Tensor:
    """-log sigmoid(s_ui - s_uj) of scores of a clicked and of another item, by broadcasting.

    >>> import torch
    >>> bpr(torch.tensor([0.0]), torch.tensor([0.0]))
    tensor([0.6931])
    """
    return F.softplus(other - clicked)


class BPR(Objective):
    """Estimates a ranking: the log loss of a clicked item being above one that was not clicked.

    Rendle et al., "BPR: Bayesian personalized ranking from implicit feedback" (2009). Losses are
    (B, S), one for each of the S negatives of a click.

    >>> BPR()
    BPR()
    """

    needs: ClassVar[tuple[Pairing, ...]] = ("free_negative", "shown_negative")

    def forward(self, score: Score, batch: Batch, step: Step = Step()) -> Tensor:
        s = score(batch.user, batch.item)  # (B, 1 + S)
        return bpr(s[:, :1], s[:, 1:])  # (B, S)
