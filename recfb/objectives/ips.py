"""Inverse propensity scoring: what was observed stands for what was not."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import torch
from torch import Tensor

from recfb.contracts import Batch, Exposure, Objective, Pairing, Score, Step
from recfb.errors import ConfigError
from recfb.estimate import Mean, Rows, average, each, ips, snips
from recfb.objectives.bce import bce
from recfb.objectives.mse import mse

if TYPE_CHECKING:
    from recfb.data.log import Log

Loss = Literal["squared", "log"]


def error(score: Tensor, reward: Tensor, loss: Loss) -> Tensor:
    """The error of a score against a reward: squared, or the log loss of sigmoid(s).

    >>> error(torch.zeros(1), torch.ones(1), "squared"), error(torch.zeros(1), torch.ones(1), "log")
    (tensor([1.]), tensor([0.6931]))
    """
    return mse(score, reward) if loss == "squared" else bce(score, reward)


def observed(
    score: Tensor,
    reward: Tensor,
    exposure: Tensor,
    *,
    loss: Loss,
    clip: float,
    imputed: Tensor | None = None,
) -> Rows:
    """Errors of pairs as the rows of a log, for `recfb.estimate`.

    A pair is a row whose reward r is its error, logged with p = max(exposure, clip), and pe says
    whether it was: w is 1 / p or 0. Where the reward is NaN, not observed, r is 0 and p is 1
    whatever the exposure, without gradient. `imputed` rewards give v = q, the errors to expect.
    The exposure gets no gradient: a loss over 1 / p would teach it to be 1.

    >>> nan = torch.nan
    >>> two = torch.tensor([2.0, nan]), torch.tensor([0.1, nan])
    >>> rows = observed(torch.ones(2), *two, loss="squared", clip=0.5)
    >>> rows.r.tolist(), rows.w.tolist()
    ([1.0, 0.0], [2.0, 0.0])
    """
    seen = ~reward.isnan()
    r = torch.where(seen, error(score, torch.where(seen, reward, 0.0), loss), 0.0)
    p = torch.where(seen, exposure.detach().clamp(min=clip), 1.0)
    q = None if imputed is None else error(score, imputed, loss)
    return Rows(r, p, seen.to(r.dtype), v=q, q=q)


def weighed(weight: Tensor | None) -> Mean:
    """The mean over a batch whose rows carry these sampling weights, or none.

    >>> weighed(torch.tensor([0.5, 1.5]))(torch.tensor([2.0, 4.0]))
    tensor(3.5000)
    """
    return average if weight is None else lambda x: (x * weight).mean(-1)


class IPS(Objective):
    """Estimates the reward of every pair from the observed ones, each weighed by 1 / exposure.

    Schnabel et al., "Recommendations as treatments: debiasing learning and evaluation" (2016):
    `estimate.ips` of the errors. With `samplers.AllPairs(labels="shown")` an unobserved pair has
    loss 0, and the mean is over all pairs: unbiased for the error over all of them, where exposures
    are right and none is clipped. With `samplers.Logged()` the mean is over observed rows, hence
    larger by the constant pairs / rows, so that another l2 is right. Losses are (B,).

    Args:
        exposure: P(observed) of a pair.
        loss: "squared" error of s, for any reward; "log" loss of sigmoid(s), for rewards in [0, 1].
        clip: exposures below it count as it. 0 is unbiased; larger values trade bias for variance.

    Raises:
        ConfigError: on binding a log whose rewards are not in [0, 1], with the log loss.

    >>> from recfb.exposures import Popularity
    >>> IPS(Popularity(), loss="log")
    IPS(Popularity(), loss='log')
    """

    needs: ClassVar[tuple[Pairing, ...]] = ("shown_pairs", "rows")
    monitor: ClassVar[str] = "ndcg@10:snips"  # plain validation clicks reward popularity

    def __init__(self, exposure: Exposure, *, loss: Loss = "squared", clip: float = 0.05) -> None:
        super().__init__()
        self.exposure, self.loss, self.clip = exposure, loss, clip

    def bind(self, log: Log) -> Self:
        reward = log.tensor("reward")
        reward = reward[torch.isfinite(reward)]
        if self.loss == "log" and len(reward) and not bool(((reward >= 0) & (reward <= 1)).all()):
            raise ConfigError(
                f'loss="log" is for rewards in [0, 1], the log has {float(reward.min()):g} to '
                f'{float(reward.max()):g}. Use loss="squared", or log.binarise(at=...).'
            )
        return super().bind(log)

    def rows(self, score: Score, batch: Batch) -> Rows:
        """The errors of a batch, as `estimate` reads them."""
        s, theta = score(batch.user, batch.item), self.exposure(batch)  # (B,)
        return observed(s, batch.reward, theta, loss=self.loss, clip=self.clip)

    def forward(self, score: Score, batch: Batch, step: Step = Step()) -> Tensor:
        return ips(self.rows(score, batch), each)  # (B,)


class SNIPS(IPS):
    """Estimates the reward of every pair from the observed ones, weights adding up to one.

    Schnabel et al., "Recommendations as treatments: debiasing learning and evaluation" (2016), and
    Swaminathan and Joachims (2015): `estimate.snips` of the errors of a batch, one number. Only
    ratios of exposures matter, and a constant error counts once however few pairs are observed.
    It is a ratio of means, so consistent, not unbiased: with a bias of order 1 / batch, take large
    batches. A batch without an observed pair has loss 0.

    Args:
        exposure: P(observed) of a pair, up to a constant.
        loss: "squared" error of s, for any reward; "log" loss of sigmoid(s), for rewards in [0, 1].
        clip: exposures below it count as it.

    Raises:
        ConfigError: on binding a log whose rewards are not in [0, 1], with the log loss.

    >>> from recfb.exposures import Popularity
    >>> SNIPS(Popularity(power=1.0))
    SNIPS(Popularity(power=1.0))
    """

    def forward(self, score: Score, batch: Batch, step: Step = Step()) -> Tensor:
        rows = self.rows(score, batch)
        some = torch.where(rows.pe.any(), rows.pe, 1.0)  # 0 / 0 would have a gradient of NaN
        return snips(replace(rows, pe=some), weighed(batch.weight))  # ()
