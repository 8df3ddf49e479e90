"""Users who come, leave when they are not satisfied, and return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from recfb.contracts import Context, Feedback, Slate, Truth, World
from recfb.errors import ConfigError
from recfb.random import spawn
from recfb.worlds.arrivals import arrival_rounds
from recfb.worlds.switching import Beside, Counting


@dataclass(frozen=True, slots=True)
class Presence:
    """The round, who is there, how satisfied everyone is, and when users come first."""

    time: int
    here: Tensor  # (U,) bool
    mood: Tensor  # (U,) moving average of the clicks a request
    arrives: Tensor  # (U,) int64

    @property
    def rows(self) -> Tensor:
        """The users who ask in this round, in the order of their ids: (B,) int64."""
        return self.here.nonzero()[:, 0]


def churn_hazard(mood: Tensor, base: float, slope: float) -> Tensor:
    """P(a user leaves after a round) = sigmoid(base - slope mood): (U,) -> (U,).

    >>> churn_hazard(torch.tensor([0.0, 2.0]), 0.0, 100.0).tolist()
    [0.5, 0.0]
    """
    return (base - slope * mood).sigmoid()


def transitions(hazard: Tensor, back: float) -> Tensor:
    """P(next | now) of each user; 0 is away, 1 is here: (U,) -> (U, 2, 2), the last axis is next.

    >>> transitions(torch.tensor([0.25]), 0.5).tolist()
    [[[0.5, 0.5], [0.25, 0.75]]]
    """
    away = torch.full_like(hazard, back)
    each = torch.stack([away, 1 - hazard], 1)  # (U, 2) P(here next | now)
    return torch.stack([1 - each, each], 2)


class Churn(Counting):
    """Only users who are there ask. Those without enough clicks leave, and some return.

    After each round a user who asked moves the mood, mood <- decay mood + (1 - decay) clicks of the
    request, and leaves with probability sigmoid(base - slope mood). Someone who left returns with
    probability `back` a round, with the mood of the last request; moods begin at `mood`. All users
    are drawn at the start: `first` are there in round 0 and `rate` more come each round, in the
    order of their ids. What a user does not see moves no taste by clicks. The world inside draws
    for all users, so random numbers do not depend on who is there.

    Args:
        world: the world inside, one request a user and round.
        base: the log-odds of leaving at mood 0.
        slope: how much a click a request lowers them.
        decay: how long moods last, in [0, 1).
        mood: of a new user.
        back: the probability of returning in a round; 0 for never.
        first: users of round 0; None for all.
        rate: how many come in every further round.

    Raises:
        ConfigError: a share or a number out of range, or a world whose rows are no users.

    >>> from recfb.random import stream
    >>> from recfb.worlds.tastes import Tastes
    >>> world = Churn(Tastes(5, 4), first=2, rate=1)
    >>> world.observe(world.start(stream(0))).user.tolist()
    [0, 1]
    """

    def __init__(
        self,
        world: World,  # type: ignore[type-arg]
        base: float = -2.0,
        *,
        slope: float = 1.0,
        decay: float = 0.8,
        mood: float = 0.5,
        back: float = 0.0,
        first: int | None = None,
        rate: int = 0,
    ) -> None:
        super().__init__(world)
        if world.vectorised:
            raise ConfigError(
                f"Churn needs a world in which every row is a user, found {world}. Wrap Tastes or "
                "Matrix."
            )
        if not 0 <= decay < 1 or not 0 <= back <= 1:
            raise ConfigError(
                f"decay is in [0, 1) and back in [0, 1], found decay={decay} and back={back}."
            )
        if not 1 <= (self.n_users if first is None else first) <= self.n_users or rate < 0:
            raise ConfigError(
                f"between 1 and {self.n_users} users are there first, and a rate of at least 0 "
                f"comes, found first={first} and rate={rate}."
            )
        self.base, self.slope, self.decay, self.mood = base, slope, decay, mood
        self.back, self.first, self.rate = back, first, rate

    def start(self, generator: Generator, replications: int = 1) -> Beside:
        n, device = self.n_users, generator.device
        per_round = torch.full((n,), self.rate, device=device)
        arrives = arrival_rounds(n, n if self.first is None else self.first, per_round)
        mood = torch.full((n,), self.mood, device=device)
        inner = self.world.start(generator, replications)
        return Beside(inner, Presence(0, arrives == 0, mood, arrives))

    def observe(self, state: Beside) -> Context:
        return super().observe(state)[state.beside.rows]

    def values(self, state: Beside) -> Tensor:
        return super().values(state)[state.beside.rows]

    def respond(self, state: Beside, slate: Slate, generator: Generator) -> tuple[Feedback, Truth]:
        rows = state.beside.rows  # (B,)
        full = Slate(self._all(slate.item, rows))
        feedback, truth = self.world.respond(state.world, full, generator)
        return feedback[rows], {name: x[rows] for name, x in truth.items()}

    def step(self, state: Beside, slate: Slate, truth: Truth, generator: Generator) -> Beside:
        now, rows = state.beside, state.beside.rows
        full: Mapping[str, Tensor] = {name: self._all(x, rows) for name, x in truth.items()}
        inner = self.world.step(state.world, Slate(self._all(slate.item, rows)), full, generator)
        clicks = full["reward"].sum(1)  # (U,)
        mood = self.decay * now.mood + (1 - self.decay) * clicks
        mood = torch.where(now.here, mood, now.mood)
        chance = transitions(churn_hazard(mood, self.base, self.slope), self.back)  # (U, 2, 2)
        mine = chance[torch.arange(len(mood), device=mood.device), now.here.long(), 1]  # (U,)
        u = torch.rand(len(mood), generator=spawn(generator, "Churn"), device=mood.device)
        new = now.arrives == now.time + 1
        here = new | ((now.arrives <= now.time) & (u < mine))
        return Beside(inner, Presence(now.time + 1, here, mood, now.arrives))

    def _all(self, x: Tensor, rows: Tensor) -> Tensor:
        """Rows of those who ask, 0 for the others: (B, ...) -> (U, ...)."""
        full = torch.zeros(self.n_users, *x.shape[1:], dtype=x.dtype, device=x.device)
        return full.index_copy(0, rows, x)
