"""SquareCB: inverse-gap weighting over online ridge regression."""

from __future__ import annotations

from recfb.beliefs import Linear
from recfb.policies.igw import IGW


class SquareCB(IGW):
    """Shows items by inverse-gap weighting around a ridge regression that learns every round.

    Foster and Rakhlin, "Beyond UCB: optimal and efficient contextual bandits with regression
    oracles", ICML 2020. It is `IGW(Linear(l2), gamma=scale, power=power)` by name. Theory asks for
    gamma = sqrt(K T / (Reg + ln(2 / delta))); practice takes 10 sqrt(t). Round 0 is uniform.

    Args:
        scale: gamma of round 1, in 1 / reward.
        power: how gamma grows with the rounds.
        l2: the ridge.

    Raises:
        ConfigError: a negative scale or power, or l2 is not positive.

    >>> SquareCB(scale=20.0)
    SquareCB(scale=20.0)
    """

    def __init__(self, scale: float = 10.0, *, power: float = 0.5, l2: float = 1.0) -> None:
        super().__init__(Linear(l2), scale, power=power)
        self.scale = scale
        self.l2 = l2
