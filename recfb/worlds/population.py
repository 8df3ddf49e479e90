"""Who the users are and what the items are: the draws at the start of a world."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from recfb.contracts import Component
from recfb.errors import ConfigError
from recfb.random import spawn


@dataclass(frozen=True, slots=True)
class People:
    """The draws of a population."""

    taste: Tensor  # (U, d)
    content: Tensor  # (I, d)
    quality: Tensor  # (I,)
    group: Tensor  # (U,) int64, the user's group or cluster
    topic: Tensor  # (I,) int64, the item's topic: what a user can tire of


class Population(Component, ABC):
    """Draws tastes, contents and qualities."""

    probabilities: ClassVar[bool] = False  # True: taste . content + quality is the relevance itself

    @abstractmethod
    def draw(self, n_users: int, n_items: int, generator: Generator) -> People:
        """A population of these sizes, on the generator's device."""


def normal(generator: Generator, *shape: int) -> Tensor:
    """Standard normal draws on the generator's device."""
    return torch.randn(shape, generator=generator, device=generator.device)


def random_topics(n_items: int, topics: int, generator: Generator) -> Tensor:
    """A topic of each item, uniform; the generator is not advanced: (I,) int64."""
    own, device = spawn(generator, "topics"), generator.device
    return torch.randint(topics, (n_items,), generator=own, device=device)


class Gaussian(Population):
    """taste ~ N(0, I), content ~ N(0, I / dim), quality ~ quality_sd N(0, 1), and two groups.

    The first `minority` share of the users has its first coordinate moved by `shift`; the others
    are moved the other way, so that the mean over all users stays 0. Group 1 is the minority.

    Args:
        dim: the number of true factors.
        quality: the standard deviation of item quality.
        minority: the share of the smaller group.
        shift: how far its first coordinate is moved.
        topics: how many topics the items have, drawn apart from their content.

    Raises:
        ConfigError: no factors or topics, or a share outside [0, 1).

    >>> from recfb.random import stream
    >>> people = Gaussian(dim=2, minority=0.2, shift=2.0).draw(10, 3, stream(0))
    >>> people.group.tolist()
    [1, 1, 0, 0, 0, 0, 0, 0, 0, 0]
    """

    def __init__(
        self,
        dim: int = 8,
        quality: float = 0.5,
        *,
        minority: float = 0.0,
        shift: float = 0.0,
        topics: int = 1,
    ) -> None:
        super().__init__()
        if dim < 1 or topics < 1 or not 0 <= minority < 1:
            raise ConfigError(
                f"a population has at least one factor and one topic, and a minority share in "
                f"[0, 1), found dim={dim}, topics={topics} and minority={minority}."
            )
        self.dim = dim
        self.quality = quality
        self.minority = minority
        self.shift = shift
        self.topics = topics

    def draw(self, n_users: int, n_items: int, generator: Generator) -> People:
        device = generator.device
        taste = normal(generator, n_users, self.dim)
        content = normal(generator, n_items, self.dim)
        quality = normal(generator, n_items)
        group = (torch.arange(n_users, device=device) < self.minority * n_users).to(torch.int64)
        other = -self.shift * self.minority / (1 - self.minority)
        taste[:, 0] += torch.where(group == 1, self.shift, other)
        topic = random_topics(n_items, self.topics, generator)
        return People(taste, content / self.dim**0.5, self.quality * quality, group, topic)


def split(n: int, shares: Sequence[float], device: torch.device) -> Tensor:
    """Ids 0..n-1 cut into consecutive groups of these shares, to the nearest id: (n,) int64.

    >>> split(5, [0.6, 0.4], torch.device("cpu")).tolist()
    [0, 0, 0, 1, 1]
    """
    ends = torch.tensor(shares, dtype=torch.float64, device=device).cumsum(0)
    ends = (n * ends / ends[-1]).round()  # (G,)
    return torch.searchsorted(ends, torch.arange(n, dtype=torch.float64, device=device) + 0.5)


class Clustered(Population):
    """Users and items around common centres: taste = sqrt(1 - within) centre + sqrt(within) noise.

    Centres and noise are N(0, I). Contents have the same form, scaled by dim^-1/2, around the
    centre of a topic drawn in proportion to `sizes`. So every coordinate has the variance that it
    has in `Gaussian`, and at within = 1 there are no clusters. Users are cut into clusters in the
    order of their ids.

    Args:
        dim: the number of true factors.
        quality: the standard deviation of item quality.
        sizes: the shares of the clusters.
        within: the share of the variance inside a cluster.

    Raises:
        ConfigError: no factors, no cluster or an empty one, or `within` outside [0, 1].

    >>> from recfb.random import stream
    >>> Clustered(dim=2, sizes=(0.75, 0.25)).draw(4, 3, stream(0)).group.tolist()
    [0, 0, 0, 1]
    """

    def __init__(
        self,
        dim: int = 8,
        quality: float = 0.5,
        *,
        sizes: Sequence[float] = (0.8, 0.2),
        within: float = 0.25,
    ) -> None:
        super().__init__()
        if dim < 1 or not sizes or min(sizes) <= 0 or not 0 <= within <= 1:
            raise ConfigError(
                "clusters have at least one factor, positive sizes and a share of variance "
                f"within in [0, 1], found dim={dim}, sizes={list(sizes)} and within={within}."
            )
        self.dim = dim
        self.quality = quality
        self.sizes = tuple(sizes)
        self.within = within

    def draw(self, n_users: int, n_items: int, generator: Generator) -> People:
        device, a, b = generator.device, (1 - self.within) ** 0.5, self.within**0.5
        centre = normal(generator, len(self.sizes), self.dim)  # (G, d)
        group = split(n_users, self.sizes, device)  # (U,)
        share = torch.tensor(self.sizes, device=device)
        topic = torch.multinomial(share, n_items, replacement=True, generator=generator)  # (I,)
        taste = a * centre[group] + b * normal(generator, n_users, self.dim)  # (U, d)
        content = a * centre[topic] + b * normal(generator, n_items, self.dim)  # (I, d)
        quality = self.quality * normal(generator, n_items)
        return People(taste, content / self.dim**0.5, quality, group, topic)
