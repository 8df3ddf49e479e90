"""How tastes move with what was consumed."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Generator, Tensor

from recfb.contracts import Component
from recfb.errors import ConfigError


class Drift(Component, ABC):
    """Tastes of the next round from those of this one and what was shown."""

    @abstractmethod
    def forward(self, taste: Tensor, shown: Tensor, reward: Tensor, generator: Generator) -> Tensor:
        """(B, d) tastes, (B, K, d) content of the slate, (B, K) true rewards -> (B, d)."""


class Attraction(Drift):
    """Mere exposure: the taste of a user with clicks moves towards what was clicked.

    Zajonc, "Attitudinal effects of mere exposure", 1968. With m the mean content of the clicked
    items, scaled to the length of the taste: taste <- (1 - rate) taste + rate m |taste| / |m|.
    Users without clicks stay.

    Args:
        rate: the step, in [0, 1]; 0 leaves tastes as they are, bit by bit.

    Raises:
        ConfigError: the rate is outside [0, 1].

    >>> taste, shown = torch.tensor([[1.0, 0.0]]), torch.tensor([[[0.0, 2.0]]])
    >>> Attraction(rate=0.5)(taste, shown, torch.ones(1, 1), torch.Generator()).tolist()
    [[0.5, 0.5]]
    """

    def __init__(self, rate: float = 0.02) -> None:
        super().__init__()
        if not 0 <= rate <= 1:
            raise ConfigError(f"the rate of drift is in [0, 1], found {rate}. For 2 %: rate=0.02")
        self.rate = rate

    def forward(self, taste: Tensor, shown: Tensor, reward: Tensor, generator: Generator) -> Tensor:
        click = (reward > 0).to(taste.dtype)  # (B, K)
        mean = (click[:, :, None] * shown).sum(1)  # (B, d), up to the length, which is scaled out
        length = mean.norm(dim=1, keepdim=True)  # (B, 1)
        tiny = torch.finfo(taste.dtype).tiny
        goal = mean * (taste.norm(dim=1, keepdim=True) / length.clamp(min=tiny))  # (B, d)
        moved = (1 - self.rate) * taste + self.rate * goal
        return torch.where(length > 0, moved, taste)
