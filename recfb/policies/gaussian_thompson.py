"""Gaussian Thompson sampling for independent arms."""

from __future__ import annotations

from recfb.beliefs import Linear
from recfb.errors import ConfigError
from recfb.policies.thompson import Thompson


class GaussianThompson(Thompson):
    """Draws N(s / (n + 1), sd^2 / (n + 1)) for every item, and shows the largest.

    Agrawal and Goyal, "Further optimal regret bounds for Thompson sampling", AISTATS 2013: regret
    is of the order sqrt(K T ln T). s sums the n rewards of an item. It is
    `Thompson(Linear(scale=sd))` by name; for rewards that are 0 or 1 see `BetaThompson`.

    Args:
        sd: of a reward; 1/2 is the most for rewards in [0, 1].

    Raises:
        ConfigError: an sd that is not positive.

    >>> GaussianThompson(sd=0.25)
    GaussianThompson(sd=0.25)
    """

    def __init__(self, sd: float = 0.5) -> None:
        if not sd > 0:
            raise ConfigError(f"sd is a positive standard deviation, found {sd}. Try sd=0.5")
        super().__init__(Linear(scale=sd))
        self.sd = sd
