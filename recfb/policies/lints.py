"""LinTS: Thompson sampling over a ridge regression an item."""

from __future__ import annotations

from recfb.beliefs import Linear
from recfb.policies.thompson import Thompson


class LinTS(Thompson):
    """Shows the items with the largest x . theta, theta ~ N(A^-1 b, v^2 A^-1) an item.

    Agrawal and Goyal, "Thompson sampling for contextual bandits with linear payoffs", ICML 2013. It
    is `Thompson(Linear(l2, scale=v))` by name. Theory asks for v = sd sqrt(9 d ln(t / delta)),
    practice for v = sd, the standard deviation of the noise. Propensities are exact.

    Args:
        v: the scale of the posterior, in units of the reward; 0 is greedy.
        l2: the ridge.

    Raises:
        ConfigError: v is negative, or l2 is not positive.

    >>> LinTS(v=0.3)
    LinTS(v=0.3)
    """

    def __init__(self, v: float = 1.0, l2: float = 1.0) -> None:
        super().__init__(Linear(l2, scale=v))
        self.v = v
        self.l2 = l2
