"""Unbiased Bayesian personalised ranking."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from recfb.contracts import Batch, Exposure, Objective, Pairing, Score, Step
from recfb.objectives.bpr import bpr
from recfb.objectives.relmf import inverse_exposure


def ubpr(clicked: Tensor, other: Tensor, weight: Tensor, other_weight: Tensor) -> Tensor:
    """w_i (1 - w_j) * -log sigmoid(s_ui - s_uj) with w = Y / theta, by broadcasting.

    For two items i != j with exposure theta and relevance gamma, and Y ~ Bernoulli(theta gamma),
    its expectation is gamma_i (1 - gamma_j) times the loss.

    >>> import torch
    >>> zero, one = torch.zeros(1), torch.ones(1)
    >>> [round(x, 4) for x in ubpr(zero, zero, 2 * one, 3 * one).tolist()]
    [-2.7726]
    """
    return weight * (1 - other_weight) * bpr(clicked, other)


class UBPR(Objective):
    """Estimates a ranking by relevance, not by clicks: of a clicked item above any other item.

    Saito, "Unbiased pairwise learning from biased implicit feedback" (2020).
    The other item may be a clicked one, with a coefficient 1 - 1 / theta below 0, but never the
    item itself: use `samplers.Clicks(among="any")`. Losses are (B, S).

    Args:
        exposure: P(seen) of a pair.
        beta: losses of pairs below -beta become -beta and have no gradient. 0 keeps them from
            being negative; infinity is unbiased, and bounded below by nothing.
        clip: exposures below it count as it.

    >>> from recfb.exposures import Popularity
    >>> UBPR(Popularity(power=0.5))
    UBPR(Popularity())
    """

    needs: ClassVar[tuple[Pairing, ...]] = ("any_negative",)
    monitor: ClassVar[str] = "ndcg@10:snips"  # plain validation clicks reward popularity

    def __init__(self, exposure: Exposure, *, beta: float = 0.0, clip: float = 0.05) -> None:
        super().__init__()
        self.exposure, self.beta, self.clip = exposure, beta, clip

    def forward(self, score: Score, batch: Batch, step: Step = Step()) -> Tensor:
        s = score(batch.user, batch.item)  # (B, 1 + S)
        w = inverse_exposure(batch.reward, self.exposure(batch), self.clip)  # (B, 1 + S)
        return ubpr(s[:, :1], s[:, 1:], w[:, :1], w[:, 1:]).clamp(min=-self.beta)  # (B, S)
