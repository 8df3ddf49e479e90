"""Doubly robust joint learning: errors that are imputed, and corrected where they are observed."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from recfb.contracts import Batch, Exposure, Pairing, Score, Scorer, Step
from recfb.estimate import Mean, Rows, dr, each
from recfb.objectives.ips import IPS, Loss, observed


def misfit(t: Rows, mean: Mean) -> Tensor:
    """mean(w (e - e_hat)^2): how far imputed errors are off, over all pairs.

    The imputation's loss of Wang et al. (2019), o (e - e_hat)^2 / p a pair.

    >>> half, one = torch.tensor([0.5]), torch.ones(1)
    >>> float(misfit(Rows(3 * one, half, one, q=one), each))
    8.0
    """
    return mean(t.w * t.e.square())


def variance(t: Rows, mean: Mean) -> Tensor:
    """mean((w^2 - w) (e - e_hat)^2): estimates the variance of `estimate.dr`, times pairs.

    The imputation's loss of Guo et al. (2021), o (1 - p) (e - e_hat)^2 / p^2 a pair. Its
    expectation is the mean of (1 - p) (e - e_hat)^2 / p, where exposures are right.

    >>> half, one = torch.tensor([0.5]), torch.ones(1)
    >>> float(variance(Rows(3 * one, half, one, q=one), each))
    8.0
    """
    return mean((t.ww - t.w) * t.e.square())


class DR(IPS):
    """Estimates the reward of every pair: imputed errors of all, corrected by the observed ones.

    Wang et al., "Doubly robust joint learning for recommendation on data missing not at random"
    (2019). The scorer learns from `estimate.dr` of the errors e, with imputed errors e_hat that it
    would have if a second scorer were right about rewards: e_hat + o (e - e_hat) / p a pair.
    Unbiased for the error over all pairs if either the exposures or the imputed errors are right.
    In the same step the imputation learns from `misfit`, o (e - e_hat)^2 / p, with the scorer held
    fast; neither loss reaches the other's parameters. Losses are (B,): the sum of the two.

    Args:
        exposure: P(observed) of a pair, as a probability: a constant factor matters.
        imputation: the scorer of imputed rewards, with its own l2; `scorers.MF(dim=8)`, for
            example. Under the log loss its scores are logits.
        loss: "squared" error of s, for any reward; "log" loss of sigmoid(s), for rewards in [0, 1].
        clip: exposures below it count as it.

    Raises:
        ConfigError: on binding a log whose rewards are not in [0, 1], with the log loss.

    >>> from recfb.exposures import Popularity
    >>> from recfb.scorers import MF
    >>> DR(Popularity(), imputation=MF(dim=8))
    DR(Popularity(), MF(dim=8))
    """

    needs: ClassVar[tuple[Pairing, ...]] = ("shown_pairs",)

    def __init__(
        self, exposure: Exposure, *, imputation: Scorer, loss: Loss = "squared", clip: float = 0.05
    ) -> None:
        super().__init__(exposure, loss=loss, clip=clip)
        self.imputation = imputation

    def forward(self, score: Score, batch: Batch, step: Step = Step()) -> Tensor:
        s = score(batch.user, batch.item)  # (B,)
        guess = self.imputation.ready()(batch.user, batch.item, batch)  # (B,)
        guess = torch.sigmoid(guess) if self.loss == "log" else guess
        rows = partial(
            observed,
            reward=batch.reward,
            exposure=self.exposure(batch),
            loss=self.loss,
            clip=self.clip,
        )
        learned = dr(rows(s, imputed=guess.detach()), each)  # (B,)
        return learned + self.imputation_loss(rows(s.detach(), imputed=guess))

    def imputation_loss(self, rows: Rows) -> Tensor:
        """(B,): what the imputation learns from, given errors at scores that are held fast."""
        return misfit(rows, each)


class MRDR(DR):
    """Estimates the reward of every pair as `DR` does, with the imputation of least variance.

    Guo et al., "Enhanced doubly robust learning for debiasing post-click conversion rate
    estimation" (2021): more robust doubly robust. The imputation learns from `variance`,
    o (1 - p) (e - e_hat)^2 / p^2, which estimates the variance of the doubly robust loss: pairs
    that are hardly ever observed count for more than under DR, those always observed for nothing.

    Args:
        exposure: P(observed) of a pair, as a probability: a constant factor matters.
        imputation: the scorer of imputed rewards, with its own l2; `scorers.MF(dim=8)`, for
            example. Under the log loss its scores are logits.
        loss: "squared" error of s, for any reward; "log" loss of sigmoid(s), for rewards in [0, 1].
        clip: exposures below it count as it.

    Raises:
        ConfigError: on binding a log whose rewards are not in [0, 1], with the log loss.

    >>> from recfb.exposures import Popularity
    >>> from recfb.scorers import MF
    >>> MRDR(Popularity(), imputation=MF(dim=8))
    MRDR(Popularity(), MF(dim=8))
    """

    def imputation_loss(self, rows: Rows) -> Tensor:
        """(B,): what the imputation learns from, given errors at scores that are held fast."""
        return variance(rows, each)
