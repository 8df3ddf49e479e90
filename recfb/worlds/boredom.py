"""Users who tire of a topic, and come back to it."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from recfb.contracts import Component
from recfb.errors import ConfigError

Memory = tuple[Tensor, ...]
"""What a boredom remembers of each user and topic; the first two axes are (U, C)."""


class Boredom(Component, ABC):
    """Clicks on a topic so far -> what they add to the utility of its items."""

    @abstractmethod
    def begin(self, n_users: int, topics: int, device: torch.device) -> Memory:
        """The memory before round 0."""

    @abstractmethod
    def effect(self, memory: Memory) -> Tensor:
        """Added to the utility of a topic's items, -inf where nothing is clicked: (U, C)."""

    @abstractmethod
    def step(self, memory: Memory, clicks: Tensor) -> Memory:
        """The memory after a round with these clicks on each topic, (U, C)."""


def topic_clicks(click: Tensor, topic: Tensor, topics: int) -> Tensor:
    """Clicks of each user on each topic: (U, K) clicks, (U, K) topics shown -> (U, C) float32.

    >>> topic_clicks(torch.tensor([[1.0, 0.0, 1.0]]), torch.tensor([[2, 1, 2]]), 3).tolist()
    [[0.0, 0.0, 2.0]]
    """
    count = torch.zeros(len(click), topics, device=click.device)
    return count.scatter_add(1, topic, (click > 0).to(count.dtype))


def leaky(count: Tensor, strength: float, novelty: float, scale: float) -> Tensor:
    """What n remembered clicks add to the utility, shaped like `count`:

        -strength log(1 + n) + novelty n exp(-n / scale)

    The second part first rises, then falls. Its peak, at n = scale, is novelty scale / e.

    >>> leaky(torch.tensor([0.0, 1.0]), 1.0, 0.0, 1.0).tolist()
    [0.0, -0.6931471824645996]
    """
    return -strength * count.log1p() + novelty * count * (-count / scale).exp()


class Leaky(Boredom):
    """A count of clicks that leaks, n <- decay n + clicks, lowers the utility of its topic.

    Args:
        decay: what is left of the count after a round, in [0, 1].
        strength: of the penalty, strength log(1 + n).
        novelty: of the interest that first rises with n; 0 for none.
        scale: the n at which that interest is largest.

    Raises:
        ConfigError: a decay outside [0, 1], or a scale that is not positive.
    """

    def __init__(
        self,
        decay: float = 0.9,
        strength: float = 0.3,
        *,
        novelty: float = 0.0,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0 <= decay <= 1 or scale <= 0:
            raise ConfigError(
                "a leaky boredom has a decay in [0, 1] and a positive scale, found "
                f"decay={decay} and scale={scale}."
            )
        self.decay = decay
        self.strength = strength
        self.novelty = novelty
        self.scale = scale

    def begin(self, n_users: int, topics: int, device: torch.device) -> Memory:
        return (torch.zeros(n_users, topics, device=device),)

    def effect(self, memory: Memory) -> Tensor:
        return leaky(memory[0], self.strength, self.novelty, self.scale)

    def step(self, memory: Memory, clicks: Tensor) -> Memory:
        return (self.decay * memory[0] + clicks,)


class Threshold(Boredom):
    """`clicks` on a topic within `window` rounds make it dead for the user for `rounds` rounds.

    Nothing of the topic is clicked then; after it the count starts anew. With `whole`, any dead
    topic kills all of them: the user is gone and returns.

    Args:
        clicks: how many make a user tired.
        window: the last rounds in which they count, this one among them.
        rounds: how long the topic is dead.
        whole: whether all topics are dead with one.

    Raises:
        ConfigError: a number below 1.
    """

    def __init__(
        self, clicks: int = 5, window: int = 5, *, rounds: int = 5, whole: bool = False
    ) -> None:
        super().__init__()
        if min(clicks, window, rounds) < 1:
            raise ConfigError(
                "clicks, window and rounds of a threshold are at least 1, found "
                f"clicks={clicks}, window={window}, rounds={rounds}."
            )
        self.clicks = clicks
        self.window = window
        self.rounds = rounds
        self.whole = whole

    def begin(self, n_users: int, topics: int, device: torch.device) -> Memory:
        recent = torch.zeros(n_users, topics, self.window, device=device)
        return recent, torch.zeros(n_users, topics, dtype=torch.int64, device=device)

    def effect(self, memory: Memory) -> Tensor:
        dead = memory[1] > 0  # (U, C)
        if self.whole:
            dead = dead.any(1, keepdim=True).expand_as(dead)
        return torch.zeros_like(memory[0][:, :, 0]).masked_fill(dead, -torch.inf)

    def step(self, memory: Memory, clicks: Tensor) -> Memory:
        recent, left = memory  # (U, C, W), (U, C)
        recent = torch.cat([recent[:, :, 1:], clicks[:, :, None]], 2)
        tired = recent.sum(2) >= self.clicks  # (U, C)
        left = torch.where(tired, self.rounds, (left - 1).clamp(min=0))
        return recent.masked_fill(tired[:, :, None], 0.0), left
