"""The multi-scale random walk: the hard instance of bandits with switching costs."""

from __future__ import annotations

from dataclasses import dataclass
from math import cbrt, log2, pi, sqrt
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from recfb.contracts import Slate, Truth
from recfb.data import Log
from recfb.errors import ConfigError
from recfb.worlds.arms import Arms, ArmsState, nobody
from recfb.worlds.gaps import best_arms


def parent(t: int) -> int:
    """The round whose walk round t goes on from: t less the largest power of two that divides it.

    >>> [parent(t) for t in range(1, 9)]
    [0, 0, 2, 0, 4, 4, 6, 0]
    """
    return t & (t - 1)


def canonical_sigma(horizon: int) -> float:
    """The step of the walk that keeps it in [0, 1]: 1 / (9 log2 T).

    >>> round(canonical_sigma(2**10), 6)
    0.011111
    """
    return 1 / (9 * log2(horizon))


def canonical_gap(horizon: int, n_items: int) -> float:
    """By how much the best arm is better: K^(1/3) T^(-1/3) / (9 log2 T).

    >>> round(canonical_gap(2**12, 8), 6)  # (2 / 16) / 108
    0.001157
    """
    return benchmark_gap(horizon, n_items) * 2 * canonical_sigma(horizon)


def benchmark_gap(horizon: int, n_items: int) -> float:
    """A gap that matters at horizons one can run: K^(1/3) T^(-1/3) / 2.

    >>> round(benchmark_gap(2**12, 8), 6)
    0.0625
    """
    return 0.5 * cbrt(n_items / horizon)


def budget_gap(sigma: float, horizon: int, n_items: int, budget: int) -> float:
    """The gap that a budget of outcomes is hard for, next to walks and noise of this sigma:
    sigma min((K / T)^(1/3), sqrt(K / budget)).

    >>> round(budget_gap(0.1, 1000, 8, 800), 6)
    0.01
    """
    return sigma * min(cbrt(n_items / horizon), sqrt(n_items / max(1, budget)))


def clipped_mean(mean: Tensor, sd: Tensor) -> Tensor:
    """E of a Gaussian variable clipped to [0, 1], float64; sd 0 clips the mean.

    >>> clipped_mean(torch.tensor([0.5, 2.0]), torch.tensor([0.25, 0.0])).tolist()
    [0.5, 1.0]
    """
    mean, sd = mean.to(torch.float64), sd.to(torch.float64).clamp(min=1e-12)
    low, high = -mean / sd, (1 - mean) / sd
    below: Tensor = torch.special.ndtr(low)
    above: Tensor = torch.special.ndtr(-high)
    density = (-0.5 * low**2).exp() - (-0.5 * high**2).exp()
    return mean * (1 - below - above) + sd * density / sqrt(2 * pi) + above


def multi_scale(first: Tensor, steps: Tensor) -> Tensor:
    """W_j = W_parent(j) + step_j for j = 1..L - 1, L a power of two, from W_0: (R,), (L, R) ->
    (L, R).

    >>> multi_scale(torch.tensor([8.0]), torch.tensor([[0.0], [1.0], [2.0], [4.0]]))[:, 0].tolist()
    [8.0, 9.0, 10.0, 14.0]
    """
    walk, j = first.expand_as(steps).clone(), torch.arange(len(steps), device=steps.device)
    for bit in range(len(steps).bit_length() - 1):
        on = j[(j >> bit & 1) == 1]
        walk[on] += steps[on >> bit << bit]
    return walk


class Instance(NamedTuple):
    """What a replication's walk is made of."""

    offset: Tensor  # (R, n_items) 1/2, and the gap on the best arm
    sigma: Tensor  # (R,)
    noise: Tensor  # (R, 1)


class Ahead(NamedTuple):
    """L rounds that are drawn at once, since nothing that is shown changes a walk."""

    means: tuple[Tensor, ...]  # L times (R, n_items), expected rewards
    best: tuple[Tensor, ...]  # L times (R,), the largest of them
    outcome: tuple[Tensor, ...]  # L times (R, n_items) float32, what each arm pays
    levels: tuple[Tensor, ...]  # (R,) each: the walk at the last starts, by depth in the tree


@dataclass(frozen=True, slots=True)
class WalkState(ArmsState):
    """Expected rewards of the round, what its arms pay, and what the next ones come from."""

    best: Tensor  # (R,) the largest expected reward
    outcome: Tensor  # (R, n_items) float32
    ahead: Ahead
    instance: Instance


class MultiScaleWalk(Arms):
    """All arms follow one random walk whose steps are long and few; the best is better by a gap.

    Dekel, Ding, Koren and Peres, "Bandits with switching costs: T^(2/3) regret", STOC 2014. The
    loss of arm k in round t = 1, 2, ... is W_t + 1/2 - gap 1{k is the best}, clipped to [0, 1],
    where W_t = W_parent(t) + N(0, sigma^2): any algorithm has an expected regret with switches of
    at least K^(1/3) T^(2/3) / (50 log2 T) in the canonical instance. With noise, N(0, noise^2) is
    added for every arm and round; without it, two outcomes of one round tell the arms apart.
    Replication r has the r-th gap, sigma and noise of the lists, modulo their lengths.

    Args:
        n_items: how many arms.
        horizon: how many rounds the instance is made for.
        gap: by how much the best arm is better; None is canonical.
        sigma: the standard deviation of a step; None is canonical.
        noise: the standard deviation of each arm's own noise.

    Raises:
        ConfigError: fewer than two arms, a horizon below 2, or a negative number.

    >>> from recfb.random import stream
    >>> world = MultiScaleWalk(2, horizon=8, gap=0.25, sigma=0.0)
    >>> world.start(stream(0)).means.sort().values.tolist()
    [[0.5, 0.75]]
    """

    def __init__(
        self,
        n_items: int = 2,
        horizon: int = 1024,
        *,
        gap: float | list[float] | None = None,
        sigma: float | list[float] | None = None,
        noise: float | list[float] = 0.0,
    ) -> None:
        if n_items < 2 or horizon < 2:
            raise ConfigError(
                "a walk needs two arms and two rounds or more, found "
                f"n_items={n_items}, horizon={horizon}."
            )
        super().__init__([0.5] * n_items)
        self.horizon = horizon
        self.gap, self.sigma, self.noise = gap, sigma, noise
        self.noisy = any(_listed(noise))
        for name, value in (("gap", gap), ("sigma", sigma), ("noise", noise)):
            if value is not None and not all(x >= 0 for x in _listed(value)):
                raise ConfigError(
                    f"{name} is at least 0, found {value}. For the default: no {name}"
                )

    def start(self, generator: Generator, replications: int = 1) -> WalkState:
        size, n = replications, self.n_items
        default = canonical_gap(self.horizon, n), canonical_sigma(self.horizon)
        gap, sigma, noise = (
            _on_rows(value if value is not None else other, size, generator.device)
            for value, other in zip(
                (self.gap, self.sigma, self.noise), (*default, 0.0), strict=True
            )
        )  # (R,) each
        best = best_arms(generator, size, n)  # (R, 1)
        half = torch.full((size, n), 0.5, dtype=torch.float64, device=best.device)
        offset = half.scatter(1, best, 0.5 + gap[:, None])  # (R, n_items)
        instance = Instance(offset, sigma, noise[:, None])
        return self._at(0, self._draw(0, (), instance, generator), instance, nobody(half, size))

    def opening(self, state: ArmsState, learners: int, rounds: int) -> Log:
        if rounds > self.horizon:
            raise ConfigError(
                f"this walk is made for {self.horizon} rounds, found {rounds}. Make it longer: "
                f"MultiScaleWalk({self.n_items}, horizon={rounds})"
            )
        return super().opening(state, learners, rounds)

    def outcomes(self, state: WalkState, generator: Generator) -> Tensor:  # type: ignore[override]
        return state.outcome

    def best(self, state: WalkState, k: int) -> Tensor:  # type: ignore[override]
        return state.best if k == 1 else super().best(state, k)

    def step(  # type: ignore[override]
        self, state: WalkState, slate: Slate, truth: Truth, generator: Generator
    ) -> WalkState:
        time, ahead, instance = state.time + 1, state.ahead, state.instance
        number, row = divmod(time + 1, len(ahead.means))
        if row == 0:
            ahead = self._draw(number, ahead.levels, instance, generator)
        return self._at(time, ahead, instance, state.user)

    def _at(self, time: int, ahead: Ahead, instance: Instance, user: Tensor) -> WalkState:
        """Round `time`, from 0, which is step time + 1 of the walk."""
        row = (time + 1) % len(ahead.means)
        means, best, outcome = ahead.means[row], ahead.best[row], ahead.outcome[row]
        return WalkState(time, means, user, best, outcome, ahead, instance)

    def _draw(
        self, number: int, levels: tuple[Tensor, ...], instance: Instance, generator: Generator
    ) -> Ahead:
        """Steps number x L .. number x L + L - 1. Their starts are visited in preorder of the tree,
        so the last one that is a level up is the parent."""
        offset, sigma, noise = instance
        shape, depth = (length_ahead(offset.numel()), *offset.shape), number.bit_count()
        z = torch.randn(
            (*shape[:2], 1 + shape[2] * self.noisy), generator=generator, dtype=torch.float64,
            device=offset.device,
        )  # fmt: skip
        steps = sigma * z[:, :, 0]  # (L, R)
        first = levels[depth - 1] + steps[0] if number else torch.zeros_like(sigma)  # (R,)
        reward = offset - multi_scale(first, steps)[:, :, None]  # (L, R, n_items)
        mean = clipped_mean(reward, noise) if self.noisy else reward.clamp(0, 1)
        pays = (reward + noise * z[:, :, 1:]).clamp_(0, 1) if self.noisy else mean
        best = mean.amax(2).unbind()
        return Ahead(mean.unbind(), best, pays.float().unbind(), (*levels[:depth], first))


def length_ahead(numbers: int) -> int:
    """How many rounds are drawn at once: a power of two from 2 to 256, with about 2^22 numbers.

    >>> length_ahead(64), length_ahead(2**20)
    (256, 4)
    """
    return 1 << min(8, max(1, 22 - (numbers - 1).bit_length()))


def _listed(value: float | list[float]) -> list[float]:
    return value if isinstance(value, list) else [value]


def _on_rows(value: float | list[float], rows: int, device: torch.device) -> Tensor:
    """A grid over replications: (R,) float64."""
    grid = torch.tensor(_listed(value), dtype=torch.float64, device=device)
    return grid[torch.arange(rows, device=device) % len(grid)]
