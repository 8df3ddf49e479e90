"""LinUCB: optimism over a ridge regression an item."""

from __future__ import annotations

from recfb.beliefs import Linear
from recfb.policies.ucb import UCB


class LinUCB(UCB):
    """Shows the items with the largest x . theta + alpha sqrt(x' A^-1 x).

    Li, Chu, Langford and Schapire, "A contextual-bandit approach to personalized news article
    recommendation", WWW 2010, algorithm 1 (disjoint models). It is `UCB(Linear(l2), alpha)` by
    name; theory asks for alpha = 1 + sqrt(ln(2 / delta) / 2), practice for 0.3 to 1.

    Args:
        alpha: how many widths are added; 0 is greedy.
        l2: the ridge.

    Raises:
        ConfigError: alpha is negative, or l2 is not positive.

    >>> LinUCB(alpha=0.3)
    LinUCB(alpha=0.3)
    """

    def __init__(self, alpha: float = 1.0, l2: float = 1.0) -> None:
        super().__init__(Linear(l2), alpha)
        self.l2 = l2
