"""Tsallis-INF: optimal against an adversary and for fixed means alike."""

from __future__ import annotations

from math import sqrt
from typing import Literal

from torch import Tensor

from recfb.policies.exp3 import LossBased
from recfb.policies.omd import importance, tsallis_solve


class TsallisINF(LossBased):
    """Follow the leader regularised by the 1/2-Tsallis entropy, with eta_t = c / sqrt(t).

    Zimmert and Seldin, "Tsallis-INF: an optimal algorithm for stochastic and adversarial bandits",
    JMLR 2021, in their convention: the regulariser is -4 sum sqrt(p) / eta. With the
    importance-weighted estimator ("iw", c = 2) regret is at most 4 sqrt(K T) + 1; with reduced
    variance ("rv", c = 4), where 1/2 is subtracted from losses whose p is at least eta^2, the
    leading term is 2 sqrt(K T). For fixed means both grow as ln T. No horizon is needed.

    Args:
        estimator: how a loss is estimated.

    Raises:
        ConfigError: slates of several items.

    >>> from recfb.data import Log
    >>> TsallisINF("rv").bind(Log.empty(1, 4)).rate(time=3)  # t = 4
    2.0
    """

    def __init__(self, estimator: Literal["iw", "rv"] = "iw") -> None:
        super().__init__()
        self.estimator = estimator
        self.horizon = None

    def rate(self, time: int) -> float:
        """eta of round `time`, from 0."""
        return (2.0 if self.estimator == "iw" else 4.0) / sqrt(time + 1)

    def estimate(self, loss: Tensor, item: Tensor, p: Tensor, law: Tensor, time: int) -> Tensor:
        if self.estimator == "iw":
            return importance(loss, item, p, self.n_items)
        base = law.ge(self.rate(time) ** 2).double().mul_(0.5)  # (B, n_items)
        rest = (loss - base.gather(1, item)) / p  # (B, 1)
        return base.scatter_add_(1, item, rest).masked_fill_(loss.isnan(), 0.0)

    def renewed(self, time: int) -> Tensor:
        return tsallis_solve(self.loss, self.rate(time))
