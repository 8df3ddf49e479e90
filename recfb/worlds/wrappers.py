"""Worlds around worlds: the only holders of what is hidden from the platform."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from recfb.contracts import Context, Feedback, Slate, Truth, World
from recfb.data import Log
from recfb.errors import ConfigError
from recfb.random import spawn


class Wrapper(World[Any]):
    """Passes everything on to the world inside; a subclass changes what is fed back.

    Noise of its own comes from `spawn(generator, name)`, so the world inside draws as it would
    alone.
    """

    def __init__(self, world: World) -> None:  # type: ignore[type-arg]
        super().__init__()
        self.world = world
        self.n_users, self.n_items = world.n_users, world.n_items

    @property
    def vectorised(self) -> bool:  # type: ignore[override]
        """As the world inside."""
        return self.world.vectorised

    def start(self, generator: Generator, replications: int = 1) -> Any:
        return self.world.start(generator, replications)

    def opening(self, state: Any, learners: int, rounds: int) -> Log:
        return self.world.opening(state, learners, rounds)

    def observe(self, state: Any) -> Context:
        return self.world.observe(state)

    def respond(self, state: Any, slate: Slate, generator: Generator) -> tuple[Feedback, Truth]:
        return self.world.respond(state, slate, generator)

    def step(self, state: Any, slate: Slate, truth: Truth, generator: Generator) -> Any:
        return self.world.step(state, slate, truth, generator)

    def values(self, state: Any) -> Tensor:
        return self.world.values(state)


class OneSided(Wrapper):
    """The reward is revealed only where a revealing item was shown: of a loan that was granted.

    Helmbold, Littlestone and Long, "Apple tasting", 2000. The truth keeps every reward.

    Args:
        world: the world inside.
        revealing: the items whose reward is revealed.

    Raises:
        ConfigError: an item that the world does not have.

    >>> from recfb.worlds.arms import Arms
    >>> world = OneSided(Arms([1.0, 1.0]), revealing=[1])
    >>> state, shown = world.start(torch.Generator(), 2), Slate(torch.tensor([[0], [1]]))
    >>> world.respond(state, shown, torch.Generator())[0].reward.tolist()
    [[nan], [1.0]]
    """

    informed: ClassVar[bool] = False

    shown: Tensor  # (n_items,) bool

    def __init__(
        self,
        world: World,  # type: ignore[type-arg]
        revealing: Sequence[int] = (1,),
    ) -> None:
        super().__init__(world)
        self.revealing = tuple(revealing)
        wrong = [item for item in self.revealing if not 0 <= item < world.n_items]
        if wrong:
            raise ConfigError(
                f"revealing items are 0..{world.n_items - 1} in this world, found {wrong}."
            )
        mask = torch.zeros(world.n_items, dtype=torch.bool)
        mask[list(self.revealing)] = True
        self.register_buffer("shown", mask, persistent=False)

    def respond(self, state: Any, slate: Slate, generator: Generator) -> tuple[Feedback, Truth]:
        feedback, truth = self.world.respond(state, slate, generator)
        reward = feedback.reward.where(self.shown[slate.item], torch.nan)  # (B, K)
        return replace(feedback, reward=reward), truth


class Delayed(Wrapper):
    """The reward becomes known later, or never.

    Joulani, Gyorgy and Szepesvari, ICML 2013. Each reward waits `rounds` + floor(Exp(mean)) rounds
    and is lost with probability `lost`; the truth keeps it. `simulate` delivers what is due.

    Args:
        world: the world inside.
        rounds: the least delay.
        mean: the mean of the exponential part.
        lost: the share of rewards that never come.

    Raises:
        ConfigError: a negative delay, or a share outside [0, 1].

    >>> from recfb.worlds.arms import Arms
    >>> world = Delayed(Arms([1.0]), rounds=3)
    >>> state, shown = world.start(torch.Generator()), Slate(torch.tensor([[0]]))
    >>> world.respond(state, shown, torch.Generator())[0].delay.tolist()
    [[3]]
    """

    informed: ClassVar[bool] = False

    def __init__(
        self,
        world: World,  # type: ignore[type-arg]
        rounds: int = 1,
        *,
        mean: float = 0.0,
        lost: float = 0.0,
    ) -> None:
        super().__init__(world)
        if rounds < 0 or mean < 0 or not 0 <= lost <= 1:
            raise ConfigError(
                "a delay has rounds and mean of at least 0 and a lost share in [0, 1], found "
                f"rounds={rounds}, mean={mean}, lost={lost}."
            )
        self.rounds = rounds
        self.mean = mean
        self.lost = lost

    def respond(self, state: Any, slate: Slate, generator: Generator) -> tuple[Feedback, Truth]:
        feedback, truth = self.world.respond(state, slate, generator)
        own, shape = spawn(generator, "Delayed"), (2, *slate.item.shape)
        u = torch.rand(shape, generator=own, dtype=torch.float64, device=slate.item.device)
        delay = self.rounds + (-self.mean * (1 - u[0]).log()).floor().to(torch.int64)  # (B, K)
        if feedback.delay is not None:
            delay = delay + feedback.delay
        reward = feedback.reward.where(u[1] >= self.lost, torch.nan)  # (B, K)
        return replace(feedback, reward=reward, delay=delay), truth
