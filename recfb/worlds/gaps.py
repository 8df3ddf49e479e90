"""The best arm by a gap, over a grid of gaps on the rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator

from recfb.errors import ConfigError
from recfb.worlds.arms import Arms, ArmsState, nobody

OCTAVES = tuple(2.0**-e for e in range(2, 9))


class Gaps(Arms):
    """Bernoulli arms: one, drawn at random, pays 1/2 + gap/2, the others 1/2 - gap/2. Replication
    r has gap r modulo their number.

    The worst gap of a grid shows the upper rates of bandits, which no single gap does: every
    horizon and budget has a worst gap of its own.

    Args:
        n_items: how many arms.
        gaps: the grid.

    Raises:
        ConfigError: fewer than two arms, no gap, or one outside [0, 1].

    >>> from recfb.random import stream
    >>> Gaps(3, gaps=[0.5, 0.25]).start(stream(0), 4).means.sort().values[:, 1:].tolist()
    [[0.25, 0.75], [0.375, 0.625], [0.25, 0.75], [0.375, 0.625]]
    """

    def __init__(self, n_items: int = 2, gaps: Sequence[float] = OCTAVES) -> None:
        if n_items < 2 or not gaps or not all(0 <= gap <= 1 for gap in gaps):
            raise ConfigError(
                "a grid of gaps needs two arms or more and gaps in [0, 1], found "
                f"n_items={n_items} and gaps={list(gaps)}. For one gap: gaps=[0.1]"
            )
        super().__init__([0.5] * n_items)
        self.gaps = [float(gap) for gap in gaps]

    def start(self, generator: Generator, replications: int = 1) -> ArmsState:
        gap = torch.tensor(self.gaps, dtype=torch.float64, device=generator.device)
        gap = gap[torch.arange(replications, device=gap.device) % len(gap)][:, None]  # (R, 1)
        best = best_arms(generator, replications, self.n_items)  # (R, 1)
        low = (0.5 - gap / 2).expand(-1, self.n_items)  # (R, n_items)
        means = low.scatter(1, best, 0.5 + gap / 2)
        return ArmsState(0, means, nobody(means, replications))


def best_arms(generator: Generator, replications: int, n_items: int) -> torch.Tensor:
    """A uniformly random arm of each replication: (R, 1) int64."""
    shape, device = (replications, 1), generator.device
    return torch.randint(n_items, shape, generator=generator, device=device)
