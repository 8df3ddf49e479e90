"""Rewards that are fixed before the first round, whatever is played: the oblivious adversary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Generator, Tensor

from recfb.contracts import Slate, Truth
from recfb.data import Log
from recfb.errors import ConfigError
from recfb.worlds.arms import Arms, ArmsState, nobody


class Fixed(Arms):
    """Every round's rewards are given in advance.

    Auer, Cesa-Bianchi, Freund and Schapire, "The nonstochastic multiarmed bandit problem", SIAM J.
    Comput. 2002. `best` in the truth is what the item earns in this round that earns most over all
    rounds, so that regret after the last round is against the best item in hindsight; before, it
    can be negative.

    Args:
        rewards: (T, n_items), in [0, 1].
        bernoulli: they are probabilities of a reward of 1.

    Raises:
        ConfigError: rewards of another shape or outside [0, 1], or more rounds than there are.

    >>> from recfb.policies import Uniform
    >>> from recfb.simulate import simulate
    >>> run = simulate(Fixed([[1.0, 0.0], [1.0, 0.5]]), Uniform(), rounds=2, metrics=["regret"])
    >>> run.truth["best"].to_list()
    [1.0, 1.0]
    """

    rewards: Tensor  # (T, n_items) float64
    order: Tensor  # (n_items,) items by all they earn, best first

    def __init__(
        self, rewards: Tensor | Sequence[Sequence[float]], *, bernoulli: bool = False
    ) -> None:
        given = torch.as_tensor(rewards, dtype=torch.float64)
        if given.dim() != 2 or not given.numel() or not bool(((given >= 0) & (given <= 1)).all()):
            raise ConfigError(
                "fixed rewards are a table of rounds and items in [0, 1], found shape "
                f"{tuple(given.shape)}. Try Fixed([[1.0, 0.0], [0.0, 1.0]])."
            )
        super().__init__([0.5] * given.shape[1])
        self.bernoulli = bernoulli
        self.register_buffer("rewards", given, persistent=False)
        order = given.sum(0).argsort(descending=True, stable=True)
        self.register_buffer("order", order, persistent=False)

    def start(self, generator: Generator, replications: int = 1) -> ArmsState:
        means = self.rewards[0].expand(replications, -1)
        return ArmsState(0, means, nobody(means, replications))

    def opening(self, state: ArmsState, learners: int, rounds: int) -> Log:
        if rounds > len(self.rewards):
            raise ConfigError(
                f"there are rewards of {len(self.rewards)} rounds, found rounds={rounds}."
            )
        return super().opening(state, learners, rounds)

    def outcomes(self, state: ArmsState, generator: Generator) -> Tensor:
        return super().outcomes(state, generator) if self.bernoulli else state.means.float()

    def best(self, state: ArmsState, k: int) -> Tensor:
        """The reward of the slate that is best over all rounds: (R,)."""
        return state.means[:, self.order[:k]].sum(1)

    def step(self, state: ArmsState, slate: Slate, truth: Truth, generator: Generator) -> ArmsState:
        time = state.time + 1
        means = self.rewards[min(time, len(self.rewards) - 1)].expand_as(state.means)
        return replace(state, time=time, means=means)


def phases(
    means: Sequence[Sequence[float]], lengths: Sequence[int], growth: float, rounds: int
) -> Tensor:
    """Rows of means, one after the other and from the start again, each for its length of rounds;
    lengths grow by a factor from one pass to the next: (rounds, n_items) float64.

    >>> phases([[1.0, 0.0], [0.0, 1.0]], [1, 2], 2.0, 6)[:, 0].tolist()  # 1, 2, then 2, 4
    [1.0, 0.0, 0.0, 1.0, 1.0, 0.0]
    """
    rows, scale = [0] * 0, 1.0
    while len(rows) < rounds:
        for row, length in enumerate(lengths):
            rows += [row] * max(1, round(length * scale))
        scale *= growth
    return torch.tensor(means, dtype=torch.float64)[torch.tensor(rows[:rounds])]


class Phases(Fixed):
    """Bernoulli arms whose means change at known rounds, and come round again.

    Three kinds of adversary are of this form. Change points: as many lengths as the rounds have
    phases. An alternating best: `Phases([[0.6, 0.4], [0.4, 0.6]], [50, 50])`. Stochastically
    constrained, where means move and gaps do not: `Phases([[0.9, 0.8], [0.2, 0.1]], [10, 10],
    growth=1.6)`; Zimmert and Seldin, "Tsallis-INF", JMLR 2021, section 6.

    Args:
        levels: the means, one row a phase.
        lengths: rounds of each phase.
        horizon: how many rounds there are.
        growth: what lengths are multiplied by from one pass to the next.
        bernoulli: whether rewards are drawn; else they are the means.

    Raises:
        ConfigError: means outside [0, 1], another number of lengths than of phases, lengths or
            growth that are not positive.

    >>> Phases([[0.6, 0.4], [0.4, 0.6]], [50, 50], horizon=200).rewards[[0, 50, 100], 0].tolist()
    [0.6, 0.4, 0.6]
    """

    def __init__(
        self,
        levels: Sequence[Sequence[float]],
        lengths: Sequence[int],
        *,
        horizon: int = 1024,
        growth: float = 1.0,
        bernoulli: bool = True,
    ) -> None:
        if len(levels) != len(lengths) or min(*lengths, horizon) < 1 or not growth > 0:
            raise ConfigError(
                "a phase has a row of means and a positive length, found "
                f"{len(levels)} rows, lengths={list(lengths)}, growth={growth}, horizon={horizon}."
            )
        super().__init__(phases(levels, lengths, growth, horizon), bernoulli=bernoulli)
        self.levels = [[float(mean) for mean in row] for row in levels]
        self.lengths = list(lengths)
        self.horizon = horizon
        self.growth = growth
