"""What is computed from a log: estimators, intervals and gates, and what they are given.

An estimator is a function of (rows, mean). An interval and a gate are functions too; what they
need beyond the estimate they ask of `Estimates.stat`, with any of the functions in
`recfb.evaluation.moments`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from recfb.estimate import Estimator, Mean, Rows

Level = Literal["note", "warn", "fail"]
Verdict = Literal["usable", "usable with care", "do not use"]


class Estimates(Protocol):
    """One estimator's values for P policies on one log, with what their uncertainty is made of."""

    @property
    def name(self) -> str:
        """The estimator's name."""

    @property
    def n(self) -> int:
        """Rows with a known reward."""

    @property
    def reward_range(self) -> tuple[float, float] | None:
        """As declared; None where it was not and rewards lie outside [0, 1]."""

    @property
    def weight_range(self) -> tuple[float, float]:
        """The weights that the two policies could produce, not those that occurred."""

    @property
    def value(self) -> Tensor:
        """(P,) the estimates; NaN where there is none."""

    @property
    def phi(self) -> Tensor:
        """(P, H) influence by hash bucket of the unit; its outer product is the covariance."""

    @property
    def df(self) -> int:
        """Degrees of freedom: independent buckets of units, less one."""

    @property
    def sequence(self) -> Tensor | None:
        """(2, P, k) what the plan's confidence sequence has summed; None without one."""

    def se(self) -> Tensor:
        """(P,) standard errors, clustered by unit."""

    def se_diff(self, base: int) -> Tensor:
        """(P,) standard errors of the paired differences from one policy."""

    def replicates(self, draws: int) -> Tensor:
        """(draws, P) the estimator on Poisson bootstraps of the buckets."""

    def pivots(self, draws: int) -> Tensor:
        """(draws, P) how far each replicate lies from the value, in its own standard errors."""

    def stat(self, statistic: Estimator) -> Tensor:
        """Another statistic of the same pass: (P,) or what it stacks, (k, P); NaN if not summed."""

    def about(self, statistic: Estimator) -> Estimates | None:
        """Another statistic of the same pass, with its own standard errors."""


Interval = Callable[[Estimates, float], tuple[Tensor, Tensor]]
"""(estimates, alpha) -> lower and upper limits (P,), NaN where there are none."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one gate says of one policy's estimate."""

    gate: str
    policy: int
    level: Level
    evidence: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Traits:
    """What an estimator reads of the rows, found by running it."""

    fields: frozenset[str]  # of the rows: r, p, pe, v, q and so on
    equivariant: bool  # whether adding a constant to all rewards adds it to the estimate
    unshrunk: Estimator | None = None  # the unbiased form that a shrunk one comes from
    view: str = ""  # the view of the rows that has its weights, such as "mixed"; "": themselves

    @property
    def weighs(self) -> bool:
        """Whether it divides by the logged propensity."""
        return bool(self.fields & {"p", "pbar", "at", "prefix"})

    @property
    def models(self) -> bool:
        """Whether it reads a reward model."""
        return bool(self.fields & {"v", "q", "vm", "qm"})

    @property
    def weighs_only(self) -> bool:
        """The weighting forms: ips, snips and their like."""
        return self.weighs and not self.models


@dataclass(frozen=True, slots=True)
class ItemTable:
    """What a pass knows of every item at every position; line 0 is for rows without a position.

    Sums over rows with a known reward, but for `gone`.
    """

    seen: Tensor  # (L, K) rows that show the item
    could: Tensor  # (L, K) rows in which it could be shown
    odds: Tensor  # (L, K) of 1 / p over the rows that show it
    square: Tensor  # (L, K) of 1 / p^2
    gone: Tensor  # (L, K) rows that show it and have no known reward
    rarest: Tensor  # (L, K) the largest 1 / p, no sum
    mass: Tensor  # (P, L, K) of the target's probability of it
    w: Tensor  # (P, L, K) of the weights of the rows that show it
    wr: Tensor  # (P, L, K) of their weighted rewards


@dataclass(frozen=True, slots=True)
class Strata:
    """What a pass knows of S strata: rounds or days, positions, loggers."""

    kind: Tensor  # (S,) 0 a round, 1 a position, 2 a logger, 3 a day
    key: Tensor  # (S,) which; of rounds and days, in units of `span`
    n: Tensor  # (S,) rows with a known reward
    gone: Tensor  # (S,) rows without
    r: Tensor  # (S,) sum of rewards
    rr: Tensor  # (S,) of their squares
    w: Tensor  # (P, S) of weights
    ww: Tensor  # (P, S) of their squares
    span: int  # rounds or days that are counted together


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a gate may look at: one estimator's results for all policies, and facts of the pass."""

    estimates: Estimates
    traits: Traits
    method: str  # the interval that is shown
    limits: tuple[Tensor, Tensor]  # (P,) its ends
    items: ItemTable | None  # None: too many of them, or rows that do not name one
    strata: Strata | None
    certain: Tensor  # (P,) target mass where the logging policy was certain of another item
    clustered: Tensor  # (P,) standard error / that of rows as independent; NaN without clusters
    absent: bool  # whether the log has no propensities
    source: Literal["exact", "simulated", "estimated"] | None  # of the propensities
    draws: int | None  # of simulated propensities
    below: int  # rows whose propensity is below 1 / draws
    lowest: str  # the smallest propensity and its row
    model: Literal["none", "cross-fitted", "other log", "same log", "unknown"]
    largest: Tensor  # (P, T) the largest weights, largest first, -inf where there are fewer
    missing: float  # the share of rows without a known reward
    called: Callable[[int], str]  # the name of an item by its number


Gate = Callable[[Evidence], Iterable[Finding]]

__all__ = [
    "Estimates",
    "Estimator",
    "Evidence",
    "Finding",
    "Gate",
    "Interval",
    "ItemTable",
    "Level",
    "Mean",
    "Rows",
    "Strata",
    "Traits",
    "Verdict",
]
