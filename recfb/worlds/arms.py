"""K independent arms with fixed means: the stochastic bandit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Generator, Tensor

from recfb.contracts import Context, Feedback, Slate, Truth, World
from recfb.data import Log, Meta
from recfb.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ArmsState:
    """The round, and the means of every replication: (R, K) float64."""

    time: int
    means: Tensor
    user: Tensor  # (R,) zeros


class Arms(World[ArmsState]):
    """K arms, Bernoulli or Gaussian, with the same means in every round; R replications are R rows.

    Robbins, "Some aspects of the sequential design of experiments", 1952. One request a round and
    replication, by user 0. The truth holds `reward`, `value` (the means of what was shown) and
    `best` (the mean of the best slate of that length), so that regret is best - value.

    Args:
        means: the expected reward of each arm; probabilities unless `sd` is given.
        sd: the standard deviation of Gaussian rewards; None means Bernoulli rewards.

    Raises:
        ConfigError: fewer than one arm, or a Bernoulli mean outside [0, 1].

    >>> from recfb.random import stream
    >>> world = Arms([0.2, 0.8])
    >>> state = world.start(stream(0), replications=3)
    >>> shown = Slate(torch.tensor([[0], [1], [1]]))
    >>> _, truth = world.respond(state, shown, stream(1))
    >>> [round(x, 1) for x in truth["value"][:, 0].tolist()]
    [0.2, 0.8, 0.8]
    """

    vectorised: ClassVar[bool] = True
    informed: ClassVar[bool] = False

    def __init__(self, means: Sequence[float], sd: float | None = None) -> None:
        super().__init__()
        self.means = [float(mean) for mean in means]
        self.sd = sd
        if not self.means:
            raise ConfigError("Arms needs at least one mean, found none: Arms([0.4, 0.6])")
        if sd is None and not all(0 <= mean <= 1 for mean in self.means):
            raise ConfigError(
                f"the means of Bernoulli arms are probabilities, found {self.means}. "
                "For Gaussian rewards give their standard deviation: Arms(means, sd=1.0)"
            )
        self.n_users, self.n_items = 1, len(self.means)

    def start(self, generator: Generator, replications: int = 1) -> ArmsState:
        means = torch.tensor(self.means, dtype=torch.float64, device=generator.device)  # (K,)
        return ArmsState(0, means.expand(replications, -1), nobody(means, replications))

    def opening(self, state: ArmsState, learners: int, rounds: int) -> Log:
        span = (0.0, 1.0) if self.sd is None else None
        meta = Meta(horizon=rounds, learners=learners, reward_range=span, propensity="exact")
        return Log.empty(self.n_users, self.n_items, meta=meta)

    def observe(self, state: ArmsState) -> Context:
        return Context(state.user, time=state.time)

    def respond(
        self, state: ArmsState, slate: Slate, generator: Generator
    ) -> tuple[Feedback, Truth]:
        return self.answer(state, slate, self.outcomes(state, generator))

    def answer(self, state: ArmsState, slate: Slate, outcome: Tensor) -> tuple[Feedback, Truth]:
        """What `respond` says where every arm would have paid `outcome`, (R, n_items)."""
        item = slate.item
        reward, value = outcome.gather(1, item), state.means.gather(1, item)  # (R, K)
        best = self.best(state, item.shape[1])
        return Feedback(reward), {"reward": reward, "value": value, "best": best}

    def best(self, state: ArmsState, k: int) -> Tensor:
        """The expected reward of the best slate: (R,)."""
        means = state.means
        return means.amax(1) if k == 1 else means.topk(k, dim=1).values.sum(1)

    def outcomes(self, state: ArmsState, generator: Generator) -> Tensor:
        """What every arm would have paid this round: (R, n_items) float32."""
        means = state.means
        if self.sd is None:
            u = torch.rand(means.shape, generator=generator, device=means.device)  # (R, n_items)
            return (u < means).float()
        z = torch.randn(means.shape, generator=generator, device=means.device)  # (R, n_items)
        return (means + self.sd * z).float()

    def step(self, state: ArmsState, slate: Slate, truth: Truth, generator: Generator) -> ArmsState:
        return replace(state, time=state.time + 1)

    def values(self, state: ArmsState) -> Tensor:
        return state.means


def nobody(means: Tensor, rows: int) -> Tensor:
    """User 0 of every replication: (rows,) int64."""
    return torch.zeros(rows, dtype=torch.int64, device=means.device)
