"""Tsallis-Switch: blocks that grow, so no horizon is needed."""

from __future__ import annotations

from bisect import bisect_right
from math import ceil, sqrt
from typing import Self

from torch import Tensor

from recfb.data import Log
from recfb.errors import ConfigError
from recfb.policies.blocked import Blocked, Span
from recfb.policies.omd import importance, tsallis_solve


class TsallisSwitch(Blocked):
    """Tsallis-INF over blocks of length ceil(3/2 cost sqrt(n / K)), n = 1, 2, ...

    Rouyer, Seldin and Cesa-Bianchi, "An algorithm for stochastic and adversarial bandits with
    switching costs", ICML 2021. With a_n = 3/2 cost sqrt(n / K), not rounded, the learning rate is
    (2 / (a_n + 1)) sqrt(2 / n), and the block's losses are summed. Regret with switches is at most
    5.25 (cost K)^(1/3) T^(2/3) + 6.4 sqrt(K T) against an adversary, and of the order
    (cost K)^(2/3) T^(1/3) / gap where means are fixed.

    Args:
        cost: of one switch.

    Raises:
        ConfigError: a negative cost, slates of several items, or delayed feedback.

    >>> from recfb.data import Log
    >>> policy = TsallisSwitch(cost=2.0).bind(Log.empty(1, 4))  # a_n = 3/2 sqrt(n)
    >>> [policy.span(t).number for t in range(10)]
    [0, 0, 1, 1, 1, 2, 2, 2, 3, 3]
    """

    starts: list[int]  # of the blocks so far; as many as were asked for

    def __init__(self, cost: float = 1.0) -> None:
        super().__init__()
        if cost < 0:
            raise ConfigError(f"a switch costs at least 0, found {cost}. For one reward: cost=1.0")
        self.cost = cost

    def bind(self, log: Log) -> Self:
        self.starts = [0]
        return super().bind(log)

    def scale(self, number: int) -> float:
        """a_n of block number n - 1."""
        return 1.5 * self.cost * sqrt((number + 1) / self.n_items)

    def rate(self, number: int) -> float:
        """eta_n of block number n - 1."""
        return 2 / (self.scale(number) + 1) * sqrt(2 / (number + 1))

    def span(self, time: int) -> Span:
        while self.starts[-1] <= time:
            self.starts.append(self.starts[-1] + max(1, ceil(self.scale(len(self.starts) - 1))))
        number = bisect_right(self.starts, time) - 1
        return Span(number, self.starts[number], self.starts[number + 1])

    def estimate(self, item: Tensor, span: Span) -> Tensor:
        return importance(self.lost(span), item, self.weight, self.n_items)

    def renewed(self, number: int) -> Tensor:
        return tsallis_solve(self.loss, self.rate(number))
