"""Relevance matrix factorisation: clicks are relevance times exposure."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from recfb.contracts import Batch, Exposure, Objective, Pairing, Score, Step
from recfb.estimate import Mean
from recfb.objectives.ips import weighed

Link = Literal["bce", "sq_sigmoid", "sq_linear"]
Bound = Literal["none", "local", "nnpu"]


def local_losses(score: Tensor, link: Link) -> tuple[Tensor, Tensor]:
    """The losses (d1, d0) of a score as if the pair were relevant, and as if it were not.

    >>> [x.tolist() for x in local_losses(torch.tensor([0.0]), "sq_sigmoid")]
    [[0.25], [0.25]]
    """
    if link == "bce":
        return F.softplus(-score), F.softplus(score)
    q = torch.sigmoid(score) if link == "sq_sigmoid" else score
    return (1 - q).square(), q.square()


def weighted(
    reward: Tensor, d1: Tensor, d0: Tensor, w1: Tensor | float, w0: Tensor | float
) -> Tensor:
    """w1 Y d1 + w0 (1 - Y) d0: the family that naive and weighted factorisations belong to.

    With exposure theta and relevance gamma its mean over all pairs misses the ideal loss
    gamma d1 + (1 - gamma) d0 by gamma (w1 theta - 1) d1 + (w0 (1 - theta gamma) - (1 - gamma)) d0.

    >>> one = torch.ones(1)
    >>> weighted(one, 2 * one, 3 * one, w1=5.0, w0=1.0).tolist()
    [10.0]
    """
    return w1 * reward * d1 + w0 * (1 - reward) * d0


def inverse_exposure(reward: Tensor, exposure: Tensor, clip: float) -> Tensor:
    """Y / max(theta, clip), and exactly 0 without a click, also where theta is 0.

    >>> inverse_exposure(torch.tensor([1.0, 0.0]), torch.tensor([0.25, 0.0]), 0.0).tolist()
    [4.0, 0.0]
    """
    safe = torch.where(reward > 0, exposure.clamp(min=clip), 1.0)
    return reward / safe


def relmf(score: Tensor, reward: Tensor, exposure: Tensor, *, link: Link, clip: float) -> Tensor:
    """w d1 + (1 - w) d0 with w = Y / max(theta, clip): one loss a pair, negative ones included.

    Its expectation over clicks, Y ~ Bernoulli(theta gamma), is the ideal loss
    gamma d1 + (1 - gamma) d0 for clip = 0, and misses it by gamma (theta / clip - 1) (d1 - d0)
    where theta < clip.

    >>> one = torch.ones(1)
    >>> relmf(0 * one, one, 0.5 * one, link="sq_linear", clip=0.0).tolist()
    [2.0]
    """
    w = inverse_exposure(reward, exposure, clip)
    if link == "bce":
        return F.softplus(score) - w * score
    d1, d0 = local_losses(score, link)
    return w * d1 + (1 - w) * d0


def nnpu(
    score: Tensor, reward: Tensor, exposure: Tensor, mean: Mean, *, link: Link, clip: float
) -> Tensor:
    """mean(w d1) + max(0, mean((1 - w) d0)): the mean of `relmf` with no second part below 0.

    Kiryo et al., "Positive-unlabeled learning with non-negative risk estimator" (2017). What pairs
    cost as not relevant is not negative, its estimate may be: it then counts as 0, without
    gradient. Biased upwards.

    >>> from recfb.estimate import average
    >>> one, options = torch.ones(1), {"link": "sq_linear", "clip": 0.0}
    >>> relmf(2 * one, one, 0.5 * one, **options).tolist()
    [-2.0]
    >>> float(nnpu(2 * one, one, 0.5 * one, average, **options))
    2.0
    """
    w = inverse_exposure(reward, exposure, clip)
    d1, d0 = local_losses(score, link)
    return mean(w * d1) + mean((1 - w) * d0).clamp(min=0.0)


class RelMF(Objective):
    """Estimates relevance, not clicks: every click is weighed by one over its exposure.

    Saito et al., "Unbiased recommender learning from missing-not-at-random implicit feedback"
    (2020). It learns from all pairs, so clicked ones must be able to come up as the
    second half of a draw: use `samplers.AllPairs`. Losses are (B,) and may be negative; with
    `nonneg="nnpu"` there is one for the whole batch.

    Args:
        exposure: P(seen) of a pair.
        link: "sq_sigmoid" squared error of sigmoid(s), bounded below; "sq_linear" squared error of
            s, with the closed form of `solvers.RelMF`; "bce" log loss of sigmoid(s), not bounded
            below where exposure is below 1, hence in need of a larger l2 and of early stopping.
        clip: exposures below it count as it. 0 is unbiased; larger values trade bias for variance.
        nonneg: "none" leaves losses as they are: only this one is unbiased. "local" keeps each from
            falling below -beta, where it has no gradient; "nnpu" keeps the mean over the batch of
            what pairs cost as not relevant from falling below 0.
        beta: of "local". 0 keeps every loss from being negative.

    >>> from recfb.exposures import Popularity
    >>> RelMF(Popularity(power=0.5))
    RelMF(Popularity())
    """

    needs: ClassVar[tuple[Pairing, ...]] = ("pairs", "rows")
    monitor: ClassVar[str] = "ndcg@10:snips"  # plain validation clicks reward popularity

    def __init__(
        self,
        exposure: Exposure,
        *,
        link: Link = "sq_sigmoid",
        clip: float = 0.05,
        nonneg: Bound = "none",
        beta: float = 0.0,
    ) -> None:
        super().__init__()
        self.exposure, self.link, self.clip = exposure, link, clip
        self.nonneg, self.beta = nonneg, beta

    def forward(self, score: Score, batch: Batch, step: Step = Step()) -> Tensor:
        s, theta = score(batch.user, batch.item), self.exposure(batch)  # (B,)
        if self.nonneg == "nnpu":
            mean = weighed(batch.weight)
            return nnpu(s, batch.reward, theta, mean, link=self.link, clip=self.clip)  # ()
        loss = relmf(s, batch.reward, theta, link=self.link, clip=self.clip)  # (B,)
        return loss.clamp(min=-self.beta) if self.nonneg == "local" else loss
