"""Bootstrapped upper confidence bounds: the item whose heads promise the most."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from recfb.beliefs.bootstrap import Bootstrap
from recfb.contracts import Context
from recfb.errors import ConfigError
from recfb.policies.slates import Certain


class BootstrapUCB(Certain):
    """Shows the K items with the largest quantile of their bootstrap heads' scores.

    Hao, Abbasi-Yadkori, Wen and Cheng, "Bootstrapping upper confidence bound", NeurIPS 2019, for
    the idea; here the bound is the quantile of ridge regressions on resamples, as Cortes, "Adapting
    multi-armed bandits policies to contextual bandits scenarios" (2018), has it. Given the heads
    there is no chance in it, so its log supports the evaluation of no other policy.

    Args:
        heads: how many regressions.
        l2: their ridge.
        level: of the quantile, in [0, 1], linear between heads; 0.5 is the median.
        weights: how often a row counts for a head: "poisson" or "gamma" (`Bootstrap`).
        prior: the spread of the heads before data, in units of the reward.

    Raises:
        ConfigError: a level outside [0, 1]; no heads, l2 not positive, a negative prior, or unknown
            weights; a slate longer than the items of a request.

    >>> BootstrapUCB(heads=20)
    BootstrapUCB(heads=20)
    """

    vectorised: ClassVar[bool] = True

    def __init__(
        self,
        heads: int = 10,
        l2: float = 1.0,
        *,
        level: float = 0.8,
        weights: Literal["poisson", "gamma"] = "poisson",
        prior: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0 <= level <= 1:
            raise ConfigError(f"level is in [0, 1], found {level}. For the 80th percentile: 0.8")
        self.model = Bootstrap(heads, l2, weights=weights, prior=prior)
        self.heads = heads
        self.l2 = l2
        self.level = level
        self.weights = weights
        self.prior = prior

    def index(self, context: Context) -> Tensor:
        return self.model.quantile(context, self.level)
