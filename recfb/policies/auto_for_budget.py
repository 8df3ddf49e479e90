"""Which policy for how much feedback: the least of the closed-form bounds."""

from __future__ import annotations

from recfb.contracts import Policy
from recfb.errors import ConfigError
from recfb.policies import switching_bounds as bounds
from recfb.policies.feedback_budgets import (
    BlockedTsallis,
    BudgetedBandit,
    DartboardFlex,
    DartboardFull,
)


def auto_for_budget(
    rounds: int,
    n_items: int,
    *,
    extra: int | None = None,
    total: int | None = None,
    cost: float = 1.0,
) -> Policy:
    """The policy with the least bound for this budget.

    With an extra budget, `BlockedTsallis` or `DartboardFull`; with a total one, `BudgetedBandit`,
    `DartboardFull` or `DartboardFlex`. Bounds are known up to constants, so where it changes over
    need not be where it would pay; and `DartboardFull` makes no use of the free rewards, which is
    best in rate but not in small samples.

    Raises:
        ConfigError: both budgets, or none.

    >>> auto_for_budget(2**16, 4, extra=64), auto_for_budget(2**16, 4, extra=8192)
    (BlockedTsallis(horizon=65536), DartboardFull(extra=8192, horizon=65536))
    """
    found: list[tuple[float, Policy]] = []
    T, K = rounds, n_items
    if (extra is None) == (total is None):
        raise ConfigError(
            f"a budget is extra or total, found extra={extra} and total={total}. Give one."
        )
    if extra is not None:
        found = [(bounds.blocked_tsallis(T, K, cost), BlockedTsallis(cost, horizon=T))]
        looks = extra // max(1, K - 1)
        if looks:
            full = DartboardFull(extra, cost=cost, horizon=T)
            found.append((bounds.dartboard_full(T, K, looks, cost), full))
    elif total is not None:
        blocks = max(1, min(total, bounds.bandit_cap(T, K)))
        bandit, flex = BudgetedBandit(total, horizon=T), DartboardFlex(total, cost=cost, horizon=T)
        found = [
            (bounds.budgeted_bandit(T, K, blocks, cost), bandit),
            (bounds.dartboard_flex(T, K, total, cost), flex),
        ]
        if total >= K:
            full = DartboardFull(total=total, cost=cost, horizon=T)
            found.append((bounds.dartboard_full(T, K, total // K, cost), full))
    return min(found, key=lambda pair: pair[0])[1]
