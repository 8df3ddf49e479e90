"""Upper bounds of the expected regret with switches of `BatchedOMD`, in closed form.

Each is the bound of mirror descent over N blocks times their length T / N, plus the cost of the
expected switches. Losses are in [0, 1], T is the number of rounds, K of items.
"""

from __future__ import annotations

from math import cbrt, ceil, log, sqrt


def blocks_tsallis(rounds: int, n_items: int, cost: float = 1.0) -> int:
    """The number of blocks that `blocked_tsallis` is least at; a block is ceil((cost^2 T / (2
    K))^(1/3)) rounds.

    >>> blocks_tsallis(2**16, 2)
    2521
    """
    length = max(1, ceil(cbrt(cost * cost * rounds / (2 * n_items))))
    return ceil(rounds / length)


def blocked_tsallis(rounds: int, n_items: int, cost: float = 1.0) -> float:
    """2 sqrt(2) (T / N) sqrt(K N) + cost N: about 3.78 (cost K)^(1/3) T^(2/3).

    >>> round(blocked_tsallis(2**16, 4))
    9757
    """
    n = blocks_tsallis(rounds, n_items, cost)
    return budgeted_bandit(rounds, n_items, n, cost)


def blocks_exp3(rounds: int, n_items: int, cost: float = 1.0) -> int:
    """The number of blocks that `blocked_exp3` is least at; a block is ceil((2 cost^2 T / (K ln
    K))^(1/3)) rounds.

    >>> blocks_exp3(2**16, 2)
    1425
    """
    each = max(n_items * log(n_items), 1e-12)
    length = min(rounds, max(1, ceil(cbrt(2 * cost * cost * rounds / each))))
    return ceil(rounds / length)


def blocked_exp3(rounds: int, n_items: int, cost: float = 1.0) -> float:
    """(T / N) sqrt(2 N K ln K) + cost N: about 2.38 (cost K ln K)^(1/3) T^(2/3).

    >>> round(blocked_exp3(2**16, 4))
    6851
    """
    n = blocks_exp3(rounds, n_items, cost)
    return rounds * sqrt(2 * n_items * log(n_items) / n) + cost * n


def budgeted_bandit(rounds: int, n_items: int, blocks: int, cost: float = 1.0) -> float:
    """2 sqrt(2) T sqrt(K / N) + cost N, for one look at the played item in each of N blocks.

    >>> round(budgeted_bandit(1000, 2, 16))
    1016
    """
    return 2 * sqrt(2) * rounds * sqrt(n_items / blocks) + cost * blocks


def bandit_cap(rounds: int, n_items: int) -> int:
    """As many blocks as `budgeted_bandit` can use, ceil((2 K)^(1/3) T^(2/3)): more looks mean more
    switches and more regret.

    >>> bandit_cap(2**15, 4)
    2048
    """
    return ceil(round(cbrt(2 * n_items * rounds * rounds), 6))


def dartboard_full(rounds: int, n_items: int, looks: int, cost: float = 1.0) -> float:
    """2 T sqrt(ln K (1/8 + cost N / T) / N), for one look at all items in each of N blocks: about
    T sqrt(ln K / (2 N)), and 2.12 sqrt(T ln K) with N = T.

    >>> round(dartboard_full(2**16, 2, 2**16))
    452
    """
    n = min(rounds, looks)
    return 2 * rounds * sqrt(log(n_items) * (0.125 + cost * n / rounds) / n)


def dartboard_flex(rounds: int, n_items: int, looks: int, cost: float = 1.0) -> float:
    """2 T sqrt(ln K (K/2 + cost N / T) / N), for one look at one item in each of N blocks: about
    T sqrt(2 K ln K / N).

    >>> round(dartboard_flex(2**16, 4, 2**16))
    1044
    """
    n = min(rounds, looks)
    return 2 * rounds * sqrt(log(n_items) * (0.5 * n_items + cost * n / rounds) / n)


def label_efficient(rounds: int, n_items: int, looks: float) -> float:
    """T sqrt(2 ln K / m) + sqrt(2 m ln K) switches, for m looks at all items at random times.

    >>> round(label_efficient(1000, 4, 100.0))
    183
    """
    n = log(n_items)
    return rounds * sqrt(2 * n / looks) + sqrt(2 * looks * n)


def lazy_leader(rounds: int, n_items: int) -> float:
    """2 sqrt(2 T (1 + ln K)), all losses known in every round.

    >>> round(lazy_leader(2**15, 4))
    791
    """
    return 2 * sqrt(2 * rounds * (1 + log(n_items)))
