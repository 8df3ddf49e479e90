"""Matrix factorisation of rewards as they are."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from recfb.contracts import Batch, Objective, Pairing, Score, Step


def mse(score: Tensor, reward: Tensor) -> Tensor:
    """(s - r)^2: the squared error of a score.

    >>> import torch
    >>> mse(torch.tensor([1.0, 4.0]), torch.tensor([3.0, 4.0])).tolist()
    [4.0, 0.0]
    """
    return (score - reward).square()


class MSE(Objective):
    """Estimates the reward as s: the squared error of every row.

    Koren, Bell and Volinsky, "Matrix factorization techniques for recommender systems" (2009).
    With the ratings of `samplers.Logged` it is right for what the log shows; where people rate what
    they like, that is not what they would say of the rest: see `IPS` and `DR`. Losses are shaped
    like `batch.item`.

    >>> MSE()
    MSE()
    """

    needs: ClassVar[tuple[Pairing, ...]] = (
        "rows",
        "pairs",
        "any_negative",
        "free_negative",
        "shown_negative",
    )

    def forward(self, score: Score, batch: Batch, step: Step = Step()) -> Tensor:
        return mse(score(batch.user, batch.item), batch.reward)  # (B,) | (B, C)
