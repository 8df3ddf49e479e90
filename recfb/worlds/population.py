"""Who the users are and what the items are: the draws at the start of a world."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from recfb.contracts import Component
from recfb.errors import ConfigError


@dataclass(frozen=True, slots=True)
class People:
    """The draws of a population."""

    taste: Tensor  # (U, d)
    content: Tensor  # (I, d)
    quality: Tensor  # (I,)
    group: Tensor  # (U,) int64, 0 majority, 1 minority


class Population(Component, ABC):
    """Draws tastes, contents and qualities."""

    @abstractmethod
    def draw(self, n_users: int, n_items: int, generator: Generator) -> People:
        """A population of these sizes, on the generator's device."""


class Gaussian(Population):
    """taste ~ N(0, I), content ~ N(0, I / dim), quality ~ quality_sd N(0, 1), and two groups.

    The first `minority` share of the users has its first coordinate moved by `shift`; the others
    are moved the other way, so that the mean over all users stays 0.

    Args:
        dim: the number of true factors.
        quality: the standard deviation of item quality.
        minority: the share of the smaller group.
        shift: how far its first coordinate is moved.

    Raises:
        ConfigError: no factors, or a share outside [0, 1).

    >>> from recfb.random import stream
    >>> people = Gaussian(dim=2, minority=0.2, shift=2.0).draw(10, 3, stream(0))
    >>> people.group.tolist()
    [1, 1, 0, 0, 0, 0, 0, 0, 0, 0]
    """

    def __init__(
        self, dim: int = 8, quality: float = 0.5, *, minority: float = 0.0, shift: float = 0.0
    ) -> None:
        super().__init__()
        if dim < 1 or not 0 <= minority < 1:
            raise ConfigError(
                f"a population has at least one factor and a minority share in [0, 1), found "
                f"dim={dim} and minority={minority}."
            )
        self.dim = dim
        self.quality = quality
        self.minority = minority
        self.shift = shift

    def draw(self, n_users: int, n_items: int, generator: Generator) -> People:
        device = generator.device
        taste = torch.randn(n_users, self.dim, generator=generator, device=device)
        content = torch.randn(n_items, self.dim, generator=generator, device=device)
        quality = torch.randn(n_items, generator=generator, device=device)
        group = (torch.arange(n_users, device=device) < self.minority * n_users).to(torch.int64)
        other = -self.shift * self.minority / (1 - self.minority)
        taste[:, 0] += torch.where(group == 1, self.shift, other)
        return People(taste, content / self.dim**0.5, self.quality * quality, group)
