"""The random numbers of a loop: a stream for each of its actors, seeded anew in every round."""

from __future__ import annotations

import torch
from torch import Generator

from recfb.random import derive, splitmix64_run

ACTORS = ("respond", "step", "act", "update")
AHEAD = 256
"""Rounds whose seeds are worked out at once."""


class Streams:
    """Generators that are functions of a seed, an actor's name and the round, so that a run can go
    on from any round and nobody's draws change another's.

    >>> streams = Streams(0)
    >>> first = torch.rand(3, generator=streams("act", 7))
    >>> bool((torch.rand(3, generator=Streams(0)("act", 7)) == first).all())
    True
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        self.bases = {name: derive(seed, name) for name in ACTORS}
        self.generators = {name: torch.Generator(device=device) for name in ACTORS}
        self.seeds: dict[str, list[int]] = {}
        self.block = -1

    def __call__(self, name: str, time: int) -> Generator:
        """The stream of one actor in one round; only until the next is asked for."""
        block, row = divmod(time, AHEAD)
        if block != self.block:
            first = block * AHEAD
            self.seeds = {k: splitmix64_run(v + first, AHEAD) for k, v in self.bases.items()}
            self.block = block
        return self.generators[name].manual_seed(self.seeds[name][row])
