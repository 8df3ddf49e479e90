"""Items that come and go, and items that are taken once: what can be shown in a round."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from recfb.contracts import Context, Feedback, Slate, Truth, World
from recfb.errors import ConfigError
from recfb.random import spawn
from recfb.worlds.switching import Beside, Counting

FOREVER = 2**62


@dataclass(frozen=True, slots=True)
class Calendar:
    """The round, and from which round until before which round each item is there."""

    time: int
    arrives: Tensor  # (n_items,) int64
    expires: Tensor  # (n_items,) int64

    @property
    def here(self) -> Tensor:
        """(n_items,) bool."""
        return (self.arrives <= self.time) & (self.time < self.expires)


def arrival_rounds(n: int, first: int, per_round: Tensor) -> Tensor:
    """The round in which each id arrives, in the order of ids: (n,) int64.

    `first` are there in round 0, and `per_round` arrive in rounds 1, 2, ...: (T,) int64. Ids beyond
    them never arrive.

    >>> arrival_rounds(5, 2, torch.tensor([0, 2, 0])).tolist() == [0, 0, 2, 2, FOREVER]
    True
    """
    until = first + per_round.cumsum(0)  # (T,) how many are there after each round
    rank = torch.arange(n, device=per_round.device)
    arrives = torch.searchsorted(until, rank, right=True) + 1
    arrives = arrives.where(rank < until[-1], FOREVER)
    return arrives.where(rank >= first, 0)


def lifetimes(n: int, hazard: float, generator: Generator) -> Tensor:
    """Rounds until an item expires that survives each with probability 1 - hazard: (n,) int64,
    geometric from 1.

    >>> from recfb.random import stream
    >>> lifetimes(2, 1.0, stream(0)).tolist(), lifetimes(1, 0.0, stream(0)).tolist() == [FOREVER]
    ([1, 1], True)
    """
    u = torch.rand(n, generator=generator, dtype=torch.float64, device=generator.device)
    if not hazard:
        return torch.full_like(u, FOREVER, dtype=torch.int64)
    keep = torch.tensor(1 - hazard, dtype=torch.float64, device=u.device)
    return ((1 - u).log() / keep.log()).floor().to(torch.int64) + 1


def aged(quality: Tensor, age: Tensor, rate: float) -> Tensor:
    """quality - rate log(1 + age), ages below 0 as 0: (n,), (n,) -> (n,).

    >>> aged(torch.zeros(2), torch.tensor([-3, 0]), 1.0).tolist()
    [0.0, 0.0]
    """
    return quality - rate * age.clamp(min=0).to(quality.dtype).log1p()


class Arrivals(Counting):
    """Items arrive in the order of their ids, and may expire: only some can be shown in a round.

    All items are drawn at the start and revealed by availability, so ids, shapes and random numbers
    do not depend on the policy. `first` items are there in round 0; every `every` rounds, `rate`
    more, or Poisson(rate) more. The truth adds `age`, the rounds since a shown item arrived.

    Args:
        world: the world inside. A base rate of it is solved over all items.
        first: items of round 0.
        rate: how many arrive at a time.
        every: rounds between arrivals.
        draw: whether exactly `rate` arrive, or a Poisson number.
        life: rounds an item stays; None for ever.
        hazard: the probability of expiring in a round, on top of `life`.
        aging: quality falls by aging log(1 + age); the world inside is `Tastes`.

    Raises:
        ConfigError: a number out of range, or aging in a world without qualities.

    >>> from recfb.worlds.arms import Arms
    >>> world, g = Arrivals(Arms([0.5] * 4), first=1, rate=2, every=1), torch.Generator()
    >>> state = world.start(g)
    >>> for _ in range(3):
    ...     print(world.observe(state).available.long().tolist())
    ...     item = Slate(torch.tensor([[0]]))
    ...     state = world.step(state, item, world.respond(state, item, g)[1], g)
    [[1, 0, 0, 0]]
    [[1, 1, 1, 0]]
    [[1, 1, 1, 1]]
    """

    def __init__(
        self,
        world: World,  # type: ignore[type-arg]
        first: int = 10,
        *,
        rate: float = 1.0,
        every: int = 1,
        draw: Literal["fixed", "poisson"] = "fixed",
        life: int | None = None,
        hazard: float = 0.0,
        aging: float = 0.0,
    ) -> None:
        super().__init__(world)
        whole = draw == "poisson" or rate == int(rate)
        if first < 0 or rate < 0 or every < 1 or not whole:
            raise ConfigError(
                "arrivals have a first number and a rate of at least 0, whole where it is fixed, "
                f"and come every round or more seldom, found first={first}, rate={rate}, "
                f"every={every}, draw={draw!r}."
            )
        if (life is not None and life < 1) or not 0 <= hazard <= 1:
            raise ConfigError(
                f"a life is of a round or more and a hazard in [0, 1], found life={life}, "
                f"hazard={hazard}."
            )
        population = getattr(innermost(world), "population", None)
        if aging and (population is None or population.probabilities):
            raise ConfigError(
                f"aging lowers the log-odds of quality, which {world} does not have. "
                "Leave it out: aging=0.0"
            )
        self.first, self.rate, self.every, self.draw = first, rate, every, draw
        self.life, self.hazard, self.aging = life, hazard, aging

    def start(self, generator: Generator, replications: int = 1) -> Beside:
        inner = self.world.start(generator, replications)
        own, n = spawn(generator, "Arrivals"), self.n_items
        times = n if not self.rate else int(2 * n / self.rate) + 64
        rate = torch.full((times,), float(self.rate), dtype=torch.float64, device=own.device)
        number = torch.poisson(rate, generator=own) if self.draw == "poisson" else rate
        per_round = torch.zeros(times, self.every, dtype=torch.int64, device=own.device)
        per_round[:, -1] = number.to(torch.int64)
        arrives = arrival_rounds(n, self.first, per_round.flatten())
        stay = lifetimes(n, self.hazard, spawn(generator, "expiry"))
        stay = stay.clamp(max=FOREVER if self.life is None else self.life)
        return Beside(inner, Calendar(0, arrives, (arrives + stay).clamp(max=FOREVER)))

    def _inside(self, state: Beside) -> Any:
        """The state inside, with qualities as old as the items are."""
        if not self.aging:
            return state.world
        return _aged_inside(state.world, state.beside, self.aging)

    def observe(self, state: Beside) -> Context:
        return only(super().observe(state), state.beside.here[None])

    def values(self, state: Beside) -> Tensor:
        return self.world.values(self._inside(state))

    def respond(self, state: Beside, slate: Slate, generator: Generator) -> tuple[Feedback, Truth]:
        feedback, truth = self.world.respond(self._inside(state), slate, generator)
        age = state.beside.time - state.beside.arrives[slate.item]  # (B, K)
        return feedback, {**truth, "age": age}

    def step(self, state: Beside, slate: Slate, truth: Truth, generator: Generator) -> Beside:
        inner = self.world.step(state.world, slate, truth, generator)
        return Beside(inner, replace(state.beside, time=state.beside.time + 1))


def innermost(world: Any) -> Any:
    """The world inside all wrappers."""
    while hasattr(world, "world"):
        world = world.world
    return world


def _aged_inside(state: Any, calendar: Calendar, rate: float) -> Any:
    if isinstance(state, Beside):
        return replace(state, world=_aged_inside(state.world, calendar, rate))
    age = calendar.time - calendar.arrives  # (I,)
    return replace(state, quality=aged(state.quality, age, rate))


def only(context: Context, mask: Tensor) -> Context:
    """The requests with fewer available items: (B or 1, n_items) bool."""
    if context.available is not None:
        mask = mask & context.available
    return replace(context, available=mask)


class Once(Counting):
    """What a user has clicked is never shown to that user again.

    A user who has clicked nearly everything has too few items left for a slate, which is an error
    of the policy's slate: make the catalogue large enough. The state has n_users x n_items flags.

    Args:
        world: the world inside.

    >>> from recfb.worlds.matrix import Matrix
    >>> world, g = Once(Matrix([[1.0, 1.0, 0.0]])), torch.Generator()
    >>> state, shown = world.start(g), Slate(torch.tensor([[0, 2]]))
    >>> state = world.step(state, shown, world.respond(state, shown, g)[1], g)
    >>> world.observe(state).available.tolist()
    [[False, True, True]]
    """

    def start(self, generator: Generator, replications: int = 1) -> Beside:
        inner = self.world.start(generator, replications)
        shape, device = (self.n_users, self.n_items), generator.device
        return Beside(inner, torch.zeros(shape, dtype=torch.bool, device=device))

    def observe(self, state: Beside) -> Context:
        context = super().observe(state)
        return only(context, ~state.beside[context.user])

    def step(self, state: Beside, slate: Slate, truth: Truth, generator: Generator) -> Beside:
        user = self.world.observe(state.world).user[:, None].expand_as(slate.item)  # (B, K)
        new = truth["reward"] > 0
        taken = state.beside.index_put((user[new], slate.item[new]), new[new])
        return Beside(self.world.step(state.world, slate, truth, generator), taken)

    def respond(self, state: Beside, slate: Slate, generator: Generator) -> tuple[Feedback, Truth]:
        return self.world.respond(state.world, slate, generator)
