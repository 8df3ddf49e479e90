"""How tastes move, by what was consumed and by themselves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from recfb.contracts import Component
from recfb.errors import ConfigError
from recfb.random import spawn


@dataclass(frozen=True, slots=True)
class Visit:
    """One round of every user, as it moves tastes."""

    time: int
    shown: Tensor  # (U, K, d) content of the slate
    reward: Tensor  # (U, K) true rewards
    examined: Tensor  # (U, K) bool
    home: Tensor  # (U, d) tastes before round 0

    @property
    def clicked(self) -> Tensor:
        """(U, K) bool."""
        return self.reward > 0

    @property
    def skipped(self) -> Tensor:
        """Looked at and not clicked: (U, K) bool."""
        return self.examined & (self.reward <= 0)


class Drift(Component, ABC):
    """Tastes of the next round from those of this one and what happened."""

    @abstractmethod
    def forward(self, taste: Tensor, visit: Visit, generator: Generator) -> Tensor:
        """(U, d) -> (U, d). Draws the same numbers whatever happened."""


class Drifts(Drift):
    """Several drifts, one after the other. Each has random numbers of its own, under the name of
    its class, so that adding one changes no other's.

    Args:
        drifts: in the order in which they move tastes.

    >>> len(Drifts([Attraction(rate=0.1), RandomWalk(sd=0.01)]).drifts)
    2
    """

    def __init__(self, drifts: Sequence[Drift]) -> None:
        super().__init__()
        self.drifts = nn.ModuleList(drifts)

    def forward(self, taste: Tensor, visit: Visit, generator: Generator) -> Tensor:
        for drift in self.drifts:
            taste = drift(taste, visit, spawn(generator, type(drift).__name__))
        return taste


def share(value: float, name: str) -> float:
    """The value, if it is in [0, 1]."""
    if not 0 <= value <= 1:
        raise ConfigError(f"{name} is in [0, 1], found {value}. For 2 %: {name}=0.02")
    return value


def mean_where(shown: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
    """The mean over the items of a slate that are marked: (U, K, d), (U, K) -> (U, d), (U, 1) bool
    whether there are any; 0 where there are none.

    >>> mean_where(torch.tensor([[[1.0, 3.0], [5.0, 5.0]]]), torch.tensor([[True, False]]))
    (tensor([[1., 3.]]), tensor([[True]]))
    """
    count = where.sum(1, keepdim=True)  # (U, 1)
    total = (where.to(shown.dtype)[:, :, None] * shown).sum(1)  # (U, d)
    return total / count.clamp(min=1), count > 0


def rescale(x: Tensor, like: Tensor) -> Tensor:
    """x with the lengths of `like`; rows of length 0 stay 0: (U, d), (U, d) -> (U, d).

    >>> rescale(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 1.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929]]
    """
    length = x.norm(dim=1, keepdim=True)  # (U, 1)
    tiny = torch.finfo(x.dtype).tiny
    scale: Tensor = like.norm(dim=1, keepdim=True) / length.clamp(min=tiny)  # (U, 1)
    return x * scale


class Stepwise(Drift):
    """A drift by small steps: `rate`, in [0, 1]."""

    def __init__(self, rate: float = 0.02) -> None:
        super().__init__()
        self.rate = share(rate, "rate")


class Attraction(Stepwise):
    """Mere exposure: the taste of a user with clicks moves towards what was clicked.

    Zajonc, "Attitudinal effects of mere exposure", 1968. With m the mean content of the clicked
    items, scaled to the length of the taste: taste <- (1 - rate) taste + rate m |taste| / |m|.
    Users without clicks stay.

    Args:
        rate: the step, in [0, 1]; 0 leaves tastes as they are, bit by bit.

    Raises:
        ConfigError: the rate is outside [0, 1].

    >>> visit = Visit(0, torch.tensor([[[0.0, 2.0]]]), torch.ones(1, 1), ..., ...)
    >>> Attraction(rate=0.5)(torch.tensor([[1.0, 0.0]]), visit, torch.Generator()).tolist()
    [[0.5, 0.5]]
    """

    def forward(self, taste: Tensor, visit: Visit, generator: Generator) -> Tensor:
        click = visit.clicked.to(taste.dtype)  # (U, K)
        mean = (click[:, :, None] * visit.shown).sum(1)  # (U, d), up to the length
        goal = rescale(mean, taste)  # (U, d)
        moved = (1 - self.rate) * taste + self.rate * goal
        return torch.where(mean.norm(dim=1, keepdim=True) > 0, moved, taste)


class Repulsion(Stepwise):
    """Negative feedback: a taste moves away from what was looked at and not clicked.

        taste <- taste - rate m,   m = mean content of the skipped items

    and then back to its length. Users who skipped nothing stay.

    Args:
        rate: the step, in [0, 1].

    Raises:
        ConfigError: the rate is outside [0, 1].
    """

    def forward(self, taste: Tensor, visit: Visit, generator: Generator) -> Tensor:
        mean, some = mean_where(visit.shown, visit.skipped)  # (U, d), (U, 1)
        return torch.where(some, rescale(taste - self.rate * mean, taste), taste)


class BiasedAssimilation(Stepwise):
    """What agrees with a taste draws it nearer, what disagrees pushes it away.

        taste <- taste + rate (taste . content) content,   the mean over the clicked items

    and then back to its length. Dean and Morgenstern, "Preference dynamics under personalized
    recommendations", EC 2022, where tastes have length 1.

    Args:
        rate: the step, in [0, 1].

    Raises:
        ConfigError: the rate is outside [0, 1].
    """

    def forward(self, taste: Tensor, visit: Visit, generator: Generator) -> Tensor:
        along = visit.shown @ taste[:, :, None]  # (U, K, 1)
        pull, some = mean_where(along * visit.shown, visit.clicked)  # (U, d), (U, 1)
        return torch.where(some, rescale(taste + self.rate * pull, taste), taste)


class Reinforcement(Drift):
    """Every click adds to the interest in an item, and every skip takes the same away.

        taste <- taste + step (sum of clicked contents - sum of skipped contents)

    With `Interests` this is per-item interest, mu_ui +- step: Jiang et al., "Degenerate feedback
    loops in recommender systems", AIES 2019.

    Args:
        step: what one click or skip changes.
    """

    def __init__(self, step: float = 0.01) -> None:
        super().__init__()
        self.step = step

    def forward(self, taste: Tensor, visit: Visit, generator: Generator) -> Tensor:
        sign = visit.clicked.to(taste.dtype) - visit.skipped.to(taste.dtype)  # (U, K)
        return taste + self.step * (sign[:, :, None] * visit.shown).sum(1)


class RandomWalk(Drift):
    """Tastes change by themselves: taste <- taste + sd N(0, I), each user's own.

    Args:
        sd: the standard deviation of a round's step; sd sqrt(dt) for rounds of length dt.

    Raises:
        ConfigError: sd is negative.
    """

    def __init__(self, sd: float = 0.05) -> None:
        super().__init__()
        if sd < 0:
            raise ConfigError(f"sd is not negative, found {sd}. For no walk: sd=0.0")
        self.sd = sd

    def forward(self, taste: Tensor, visit: Visit, generator: Generator) -> Tensor:
        step = torch.randn(
            taste.shape, generator=generator, dtype=taste.dtype, device=taste.device
        )  # (U, d)
        return taste + self.sd * step


class Reversion(Drift):
    """Tastes return to where they began: taste <- taste + rate (home - taste).

    With `RandomWalk`, an Ornstein-Uhlenbeck process in discrete time: Uhlenbeck and Ornstein, 1930.

    Args:
        rate: the share of the way in a round, in [0, 1].

    Raises:
        ConfigError: the rate is outside [0, 1].
    """

    def __init__(self, rate: float = 0.1) -> None:
        super().__init__()
        self.rate = share(rate, "rate")

    def forward(self, taste: Tensor, visit: Visit, generator: Generator) -> Tensor:
        return taste + self.rate * (visit.home - taste)


class Shock(Drift):
    """At the end of given rounds a random share of the users gets another taste.

    The new taste is the one with which a random user began, so the population as a whole stays what
    it was. `Reversion` goes on pulling towards the user's own first taste.

    Args:
        at: the rounds after which it happens, from 0: a shock at 9 is seen first in round 10.
        users: the share of users, in [0, 1].

    Raises:
        ConfigError: the share is outside [0, 1].
    """

    def __init__(self, at: Sequence[int] = (10,), users: float = 0.5) -> None:
        super().__init__()
        self.at = tuple(at)
        self.users = share(users, "users")

    def forward(self, taste: Tensor, visit: Visit, generator: Generator) -> Tensor:
        if visit.time not in self.at:
            return taste
        u = torch.rand(2, len(taste), generator=generator, device=taste.device)
        other = (u[0] * len(taste)).long().clamp(max=len(taste) - 1)  # (U,)
        return torch.where(u[1, :, None] < self.users, visit.home[other], taste)
