"""Inverse-gap weighting: how SquareCB and FALCON explore."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import polars as pl
import torch
from torch import Generator, Tensor

from recfb.contracts import Context, Model, learner_of, trained
from recfb.data import Log
from recfb.errors import ConfigError
from recfb.metrics.generations import effective_size, uniform_weight
from recfb.policies.explore import Explorer, grown


def igw(scores: Tensor, gamma: float | Tensor, best: Tensor, live: Tensor | None = None) -> Tensor:
    """Inverse-gap weighting, float64: (B, n) -> (B, n).

        p(a) = 1 / (K + gamma (f(b) - f(a))) for live a != b,   p(b) = 1 - the sum of the others

    Abe and Long, ICML 1999; Foster and Rakhlin, ICML 2020. Every live item has p > 0, and
    p(b) >= 1 / K. gamma 0 is uniform, gamma -> infinity greedy; it multiplies differences of
    scores, so it has the unit 1 / reward.

    Args:
        scores: (B, n) predicted rewards f.
        gamma: a number or (B, 1).
        best: (B, 1) the live item b of the largest score.
        live: (B, n) which items may be shown, K a row; None: all.

    >>> f = torch.tensor([[0.5, 0.25, 0.5]])
    >>> igw(f, 4.0, torch.tensor([[0]])).round(decimals=6).tolist()
    [[0.416667, 0.25, 0.333333]]
    """
    f = scores.to(torch.float64)
    count: Tensor | int = f.shape[1] if live is None else live.sum(1, keepdim=True)  # (B, 1)
    gap = (f.gather(1, best) - f).clamp(min=0)  # (B, n)
    probs = 1 / (count + gamma * gap)
    if live is not None:
        probs = probs * live
    probs = probs.scatter(1, best, 0.0)
    # exact arithmetic has p(b) >= 1 / K; a rounded sum may not
    least = torch.as_tensor(1 / count, dtype=f.dtype, device=f.device)
    rest = torch.maximum(1 - probs.sum(1, keepdim=True), least)
    return probs.scatter(1, best, rest)


class IGW(Explorer):
    """Shows items by inverse-gap weighting around the model's best; exact probabilities.

        p(a | x) = 1 / (K + gamma_t (f(x, b) - f(x, a))) for a != b,   p(b | x) = the rest

    with f the predicted reward, b its best item, K the items that may be shown, and
    gamma_t = gamma t^power in round t from 0. Its regret is at most of order
    K / gamma + gamma E(f - f*)^2 a round (Foster and Rakhlin, ICML 2020).

    A model that was trained on a nearly greedy log knows little of the items that the log lacks.
    With `cap`, gamma_t is at most cap sqrt(K n), where n is how many uniform rows would say as
    much as the log of the last refit: (sum w)^2 / sum w^2 of the rows with a known reward,
    w = 1 / (K p). Before the first refit it is uniform then.

    Args:
        model: anything whose `scores` are E[reward | x, item].
        gamma: 0 is uniform; with rewards in [0, 1] and gaps of 0.01 to 0.1, 100 is mild and 3,000
            nearly greedy.
        power: how gamma grows with the rounds: 0 not at all, 0.5 as sqrt(t).
        cap: ties gamma to the log, in 1 / reward; None: not at all.

    Raises:
        ConfigError: a negative gamma or power, or a cap that is not positive.
        LogError: a cap, and a log without propensities.

    >>> from recfb.beliefs import Linear
    >>> from recfb.data import Log
    >>> IGW(Linear(), gamma=100.0).bind(Log.empty(1, 4)).probs(Context(torch.tensor([0]))).tolist()
    [[0.25, 0.25, 0.25, 0.25]]
    """

    size: Tensor  # (G,) the effective size of the log of the last refit

    def __init__(
        self, model: Model, gamma: float = 100.0, *, power: float = 0.0, cap: float | None = None
    ) -> None:
        super().__init__(model)
        if gamma < 0 or power < 0 or (cap is not None and not cap > 0):
            raise ConfigError(
                f"gamma and its power are not negative and cap is positive, found gamma={gamma}, "
                f"power={power}, cap={cap}. For uniform: gamma=0.0"
            )
        self.gamma = gamma
        self.power = power
        self.cap = cap

    def bind(self, log: Log) -> Self:
        self.register_buffer("size", torch.zeros(log.meta.learners, dtype=torch.float64))
        return super().bind(log)

    def reset(self, generator: Generator) -> None:
        super().reset(generator)
        self.size.zero_()

    def spread(self, context: Context, scores: Tensor, live: Tensor | None) -> Tensor:
        gamma = grown(self.gamma, self.power, context)
        if self.cap is not None:
            most = self.cap * (scores.shape[1] * self.size).sqrt()  # (G,)
            own = most[learner_of(context, self.learners)][:, None]  # (B, 1)
            gamma = torch.minimum(own, torch.as_tensor(gamma, dtype=own.dtype, device=own.device))
        return igw(scores, gamma, self.best(context, scores, live), live)

    @property
    def retrained(self) -> bool:
        return self.cap is not None or trained(self.model)

    def refit(self, log: Log, fit: Callable[[Log, Any], Any]) -> None:
        super().refit(log, fit)
        if self.cap is None:
            return
        log.require("propensity")
        several = self.learners > 1 and "replication" in log.columns
        learner = pl.col("replication") if several else pl.lit(0).alias("replication")
        table = (
            log.frame.filter(pl.col("reward").is_not_null())
            .group_by(learner)
            .agg(size=effective_size(uniform_weight(log)))
        )
        self.size.zero_()
        place = table["replication"].to_torch().to(torch.int64)
        self.size[place] = table["size"].to_torch().to(self.size)
