"""What the platform knows of its items: their contents, more or less."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import torch
from torch import Generator

from recfb.contracts import Feedback, Slate, Truth, World
from recfb.data import Log
from recfb.errors import ConfigError
from recfb.random import spawn
from recfb.worlds.switching import Beside, Counting


class Described(Counting):
    """The log's items have a column `content`: the true contents plus N(0, noise^2) a coordinate.

    For recommenders that read columns of items, such as `TwoTower(items=["content"])`, which know
    something of an item before anyone has clicked it.

    Args:
        world: a world whose state has `content`, (n_items, d), such as `Tastes`.
        noise: in standard deviations of the contents' coordinates; 0 tells everything.

    Raises:
        ConfigError: negative noise, or a world without contents.

    >>> from recfb.random import stream
    >>> from recfb.worlds.tastes import Tastes
    >>> world = Described(Tastes(3, 5))
    >>> world.opening(world.start(stream(0)), 1, 1).items.columns
    ['id', 'content']
    """

    def __init__(
        self,
        world: World,  # type: ignore[type-arg]
        noise: float = 0.5,
    ) -> None:
        super().__init__(world)
        if noise < 0:
            raise ConfigError(f"noise is at least 0, found {noise}. To tell everything: noise=0.0")
        self.noise = noise

    def start(self, generator: Generator, replications: int = 1) -> Beside:
        inner = self.world.start(generator, replications)
        content = getattr(inner, "content", None)
        if content is None:
            raise ConfigError(
                f"{self.world} has no contents to describe. Put Described around Tastes itself, "
                "and other wrappers around it: Arrivals(Described(Tastes(...)))"
            )
        own = spawn(generator, "Described")
        z = torch.randn(content.shape, generator=own, device=content.device)
        return Beside(inner, content + self.noise * content.std() * z)  # (n_items, d)

    def opening(self, state: Beside, learners: int, rounds: int) -> Log:
        log = super().opening(state, learners, rounds)
        seen = state.beside.to("cpu", torch.float32)
        content = pl.Series("content", seen.numpy(), dtype=pl.Array(pl.Float32, seen.shape[1]))
        ids = pl.Series("id", range(self.n_items), dtype=pl.Int32)
        return log.with_items(pl.DataFrame([ids, content]))

    def respond(self, state: Beside, slate: Slate, generator: Generator) -> tuple[Feedback, Truth]:
        return self.world.respond(state.world, slate, generator)

    def step(self, state: Beside, slate: Slate, truth: Truth, generator: Generator) -> Beside:
        return replace(state, world=self.world.step(state.world, slate, truth, generator))
