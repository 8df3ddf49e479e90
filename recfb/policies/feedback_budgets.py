"""Batched mirror descent by name: one policy for each kind and amount of feedback.

Cheng, Zhou and Ji, ICML 2023, give one framework; the names and learning rates are recfb's own.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Generator, Tensor

from recfb.data import Log
from recfb.errors import ConfigError
from recfb.policies import switching_bounds as bounds
from recfb.policies.batched_omd import BatchedOMD
from recfb.policies.omd import Coupling


class BlockedTsallis(BatchedOMD):
    """Tsallis-INF over blocks of (cost^2 T / (2 K))^(1/3) rounds, for bandit feedback alone.

    Regret with switches is at most about 3.78 (cost K)^(1/3) T^(2/3), the best rate there is.

    Args:
        cost: of one switch.
        horizon: how many rounds; None is what the platform's log says.

    Raises:
        ConfigError: a negative cost, or no horizon.
    """

    def __init__(self, cost: float = 1.0, *, horizon: int | None = None) -> None:
        super().__init__("tsallis", "bandit_mean", cost=cost, horizon=horizon)

    def block_count(self, rounds: int, n_items: int) -> int:
        return bounds.blocks_tsallis(rounds, n_items, self.cost)


class BlockedExp3(BatchedOMD):
    """Exp3 over blocks of (2 cost^2 T / (K ln K))^(1/3) rounds, for bandit feedback alone.

    Arora, Dekel and Tewari, ICML 2012. Regret with switches is at most about
    2.38 (cost K ln K)^(1/3) T^(2/3).

    Args:
        cost: of one switch.
        horizon: how many rounds; None is what the platform's log says.

    Raises:
        ConfigError: a negative cost, or no horizon.
    """

    def __init__(self, cost: float = 1.0, *, horizon: int | None = None) -> None:
        super().__init__("entropy", "bandit_mean", cost=cost, horizon=horizon)

    def block_count(self, rounds: int, n_items: int) -> int:
        return bounds.blocks_exp3(rounds, n_items, self.cost)


class BudgetedBandit(BatchedOMD):
    """One look at the played item a block, for a total budget of few looks.

    Regret with switches is at most 2 sqrt(2) T sqrt(K / B) + B, which is best up to
    B = K^(1/3) T^(2/3). More blocks would only mean more switches, so their number is capped.

    Args:
        total: B, how many outcomes may be asked for.
        capped: whether blocks are at most (2 K)^(1/3) T^(2/3).
        horizon: how many rounds; None is what the platform's log says.

    Raises:
        ConfigError: a budget below 1, or no horizon.
    """

    def __init__(self, total: int, *, capped: bool = True, horizon: int | None = None) -> None:
        super().__init__("tsallis", "bandit_one", horizon=horizon)
        self.total = total
        self.capped = capped
        affords("total", total, 1)

    def block_count(self, rounds: int, n_items: int) -> int:
        return min(self.total, bounds.bandit_cap(rounds, n_items)) if self.capped else self.total


class DartboardFull(BatchedOMD):
    """One look at all items a block, and the shrinking dartboard: looks are bought without
    switches.

    Regret with switches is at most about T sqrt(ln K / (2 N)) + sqrt(8 N ln K) for N blocks. A look
    costs K of a total budget, and K - 1 of an extra one, since the played item is free. Without a
    budget it looks in every round: the shrinking dartboard of Geulen, Vocking and Winkler, COLT
    2010.

    Args:
        extra: how many outcomes beyond those played may be asked for.
        total: how many outcomes at all.
        cost: of one switch.
        horizon: how many rounds; None is what the platform's log says.

    Raises:
        ConfigError: both budgets, one that does not pay for one look, or no horizon.
    """

    def __init__(
        self,
        extra: int | None = None,
        *,
        total: int | None = None,
        cost: float = 1.0,
        horizon: int | None = None,
    ) -> None:
        super().__init__("entropy", "full_one", coupling="dartboard", cost=cost, horizon=horizon)
        if extra is not None and total is not None:
            raise ConfigError(
                f"a budget is extra or total, found extra={extra} and total={total}. Give one."
            )
        self.extra = extra
        self.total = total

    def block_count(self, rounds: int, n_items: int) -> int:
        if self.extra is not None:
            return affords("extra", self.extra, max(1, n_items - 1))
        return rounds if self.total is None else affords("total", self.total, n_items)


class ShrinkingDartboard(DartboardFull):
    """Hedge that keeps its item as long as it can: all rewards known in every round.

    Geulen, Vocking and Winkler, "Regret minimization for online buffering problems using the
    weighted majority algorithm", COLT 2010. Regret with switches is at most 2.12 sqrt(T ln K). It
    is `DartboardFull` without a budget.

    Args:
        cost: of one switch.
        horizon: how many rounds; None is what the platform's log says.

    Raises:
        ConfigError: a negative cost, or no horizon.
    """

    def __init__(self, cost: float = 1.0, *, horizon: int | None = None) -> None:
        super().__init__(cost=cost, horizon=horizon)


class DartboardFlex(BatchedOMD):
    """One look at one item at random a block, and the shrinking dartboard.

    Regret with switches is at most about T sqrt(2 K ln K / B). It shows that looks need not be at
    all items at once: what counts is that they are apart from play.

    Args:
        total: B, how many outcomes may be asked for.
        cost: of one switch.
        horizon: how many rounds; None is what the platform's log says.

    Raises:
        ConfigError: a budget below 1, or no horizon.
    """

    def __init__(self, total: int, *, cost: float = 1.0, horizon: int | None = None) -> None:
        super().__init__("entropy", "flex_one", coupling="dartboard", cost=cost, horizon=horizon)
        self.total = total
        affords("total", total, 1)

    def block_count(self, rounds: int, n_items: int) -> int:
        return self.total


class LabelEfficient(BatchedOMD):
    """Looks at all items at random times, and draws anew in every round: few looks, many switches.

    Cesa-Bianchi, Lugosi and Stoltz, "Minimizing regret with label efficient prediction", IEEE
    Trans. Inf. Theory 2005. A round is looked at with probability q = B / (K T), until the budget
    is spent. The loss of the items is at most T sqrt(2 K ln K / B) above the best; switches grow
    with T.

    Args:
        total: B, how many outcomes may be asked for.
        horizon: how many rounds; None is what the platform's log says.

    Raises:
        ConfigError: a budget below 1 or that does not pay for one look, or no horizon.
    """

    carried: Coupling = "independent"

    spent: Tensor  # (G,) int64, outcomes asked for so far

    def __init__(self, total: int, *, horizon: int | None = None) -> None:
        super().__init__("entropy", "bernoulli_full", coupling=self.carried, horizon=horizon)
        self.total = total
        affords("total", total, 1)

    def bind(self, log: Log) -> Self:
        affords("total", self.total, log.n_items)
        super().bind(log)
        self.register_buffer("spent", torch.zeros_like(self.when))
        return self

    def rate(self, rounds: int, n_items: int) -> float:
        self.query = min(1.0, self.total / (n_items * rounds))
        return super().rate(rounds, n_items)

    def reset(self, generator: Generator) -> None:
        self.spent.zero_()
        super().reset(generator)

    def granted(self, due: Tensor) -> Tensor:
        may = due & (self.spent + self.n_items <= self.total)  # (G,)
        self.spent.add_(may * self.n_items)
        return may


class LabelEfficientDartboard(LabelEfficient):
    """The label-efficient forecaster that keeps its item by the shrinking dartboard: few looks and
    few switches.

    Regret with switches is at most T sqrt(2 K ln K / B) + sqrt(2 B ln K / K).

    Args:
        total: B, how many outcomes may be asked for.
        horizon: how many rounds; None is what the platform's log says.

    Raises:
        ConfigError: a budget below 1 or that does not pay for one look, or no horizon.
    """

    carried: Coupling = "dartboard"


class Constant(BatchedOMD):
    """One item, drawn at random, for good. On hard instances that no one can learn in time, never
    switching is strong.

    Args:
        horizon: how many rounds; None is what the platform's log says.

    Raises:
        ConfigError: no horizon.
    """

    def __init__(self, *, horizon: int | None = None) -> None:
        super().__init__("tsallis", "bandit_mean", blocks=1, horizon=horizon)


def affords(name: str, budget: int, price: int) -> int:
    """How many looks of this price a budget pays for.

    Raises:
        ConfigError: not one.
    """
    if budget < price:
        raise ConfigError(
            f"{name}={budget} does not pay for one look, which costs {price}. Give {name}={price} "
            "or more."
        )
    return budget // price
