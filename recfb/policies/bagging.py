"""Bagging: every item with the share of bootstrap heads that vote for it."""

from __future__ import annotations

from typing import Literal

from recfb.beliefs.bootstrap import Bootstrap
from recfb.policies.thompson import Thompson


class Bagging(Thompson):
    """Shows the best item of one random bootstrap head; propensities are shares of votes.

    Agarwal et al., ICML 2014 (the bag explorer); Eckles and Kaptein, 2014 (bootstrap Thompson
    sampling); Osband and Van Roy, 2015. It is `Thompson(Bootstrap(heads, l2, ...))` by name.

    Args:
        heads: how many regressions.
        l2: their ridge.
        weights: how often a row counts for a head: "poisson" (1 on average, often 0) or "gamma"
            (exponential, smoother).
        prior: the spread of the heads before data, in units of the reward; 0 makes all heads agree
            at the start, so that nothing is explored.
        greedify: head 0 is the plain regression on all rows.

    Raises:
        ConfigError: no heads, l2 not positive, a negative prior, or unknown weights.

    >>> Bagging(heads=20)
    Bagging(heads=20)
    """

    def __init__(
        self,
        heads: int = 10,
        l2: float = 1.0,
        *,
        weights: Literal["poisson", "gamma"] = "poisson",
        prior: float = 1.0,
        greedify: bool = False,
    ) -> None:
        super().__init__(Bootstrap(heads, l2, weights=weights, prior=prior, greedify=greedify))
        self.heads = heads
        self.l2 = l2
        self.weights = weights
        self.prior = prior
        self.greedify = greedify
