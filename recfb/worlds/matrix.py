"""A fully observed matrix of rewards as a world."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Generator, Tensor

from recfb.contracts import Context, Feedback, Slate, Truth, World
from recfb.data import Log, Meta
from recfb.errors import ConfigError
from recfb.worlds.clicks import ClickModel


@dataclass(frozen=True, slots=True)
class MatrixState:
    """The round; rewards do not change."""

    time: int


class Matrix(World[MatrixState]):
    """Every user's reward for every item is known, so any policy can be played, not only those a
    log supports.

    As KuaiRec's small matrix: Gao et al., CIKM 2022. Each user asks once a round. Without a click
    model the reward of a shown item is its entry; with one, entries are attractions, and clicks
    follow. The truth holds `reward`, `relevance` (the entries) and `value`, and without a click
    model `best`, the sum of the best entries of the user.

    Args:
        rewards: (n_users, n_items), without holes.
        clicks: a click model over entries in [0, 1]; default none.

    Raises:
        ConfigError: not a matrix of finite numbers, or attractions outside [0, 1].

    >>> world = Matrix(torch.tensor([[0.0, 3.0], [2.0, 1.0]]))
    >>> feedback, truth = world.respond(
    ...     MatrixState(0), Slate(torch.tensor([[1], [1]])), torch.Generator()
    ... )
    >>> feedback.reward.tolist(), truth["best"].tolist()
    ([[3.0], [1.0]], [3.0, 2.0])
    """

    informed: ClassVar[bool] = False

    def __init__(
        self, rewards: Tensor | list[list[float]], clicks: ClickModel | None = None
    ) -> None:
        super().__init__()
        rewards = torch.as_tensor(rewards, dtype=torch.float32)
        if rewards.dim() != 2 or not bool(rewards.isfinite().all()):
            holes = int((~rewards.isfinite()).sum())
            raise ConfigError(
                "a matrix world needs a finite reward for every user and item, found shape "
                f"{tuple(rewards.shape)} with {holes} holes. Fill them, or leave out their users "
                "and items."
            )
        if clicks is not None and not bool(((rewards >= 0) & (rewards <= 1)).all()):
            raise ConfigError("with a click model the entries are probabilities, in [0, 1].")
        self.register_buffer("rewards", rewards)
        self.clicks = clicks
        self.n_users, self.n_items = rewards.shape

    rewards: Tensor  # (n_users, n_items)

    @classmethod
    def of(cls, log: Log, clicks: ClickModel | None = None) -> Self:
        """The mean reward of every pair of a log that has all pairs.

        Raises:
            ConfigError: a pair is missing.
        """
        key = log.tensor("user") * log.n_items + log.tensor("item")  # (rows,)
        size = log.n_users * log.n_items
        reward = log.tensor("reward").to(torch.float64)
        total = torch.bincount(key, weights=reward, minlength=size)
        mean = total / torch.bincount(key, minlength=size)
        return cls(mean.view(log.n_users, log.n_items), clicks)

    def start(self, generator: Generator, replications: int = 1) -> MatrixState:
        return MatrixState(0)

    def opening(self, state: MatrixState, learners: int, rounds: int) -> Log:
        span = (float(self.rewards.min()), float(self.rewards.max()))
        if self.clicks is not None:
            span = (0.0, 1.0)
        meta = Meta(horizon=rounds, learners=learners, reward_range=span, propensity="exact")
        return Log.empty(self.n_users, self.n_items, meta=meta)

    def observe(self, state: MatrixState) -> Context:
        return Context(torch.arange(self.n_users, device=self.rewards.device), time=state.time)

    def respond(
        self, state: MatrixState, slate: Slate, generator: Generator
    ) -> tuple[Feedback, Truth]:
        entry = self.rewards.gather(1, slate.item)  # (U, K)
        if self.clicks is None:
            best = self.rewards.topk(entry.shape[1], dim=1).values.sum(1)  # (U,)
            return Feedback(entry), {
                "reward": entry, "relevance": entry, "value": entry, "best": best,
            }  # fmt: skip
        click, examined, p_examine = self.clicks.sample(entry, generator)
        truth = {
            "reward": click,
            "relevance": entry,
            "examined": examined,
            "p_examine": p_examine,
            "value": self.clicks.marginal(entry),
        }
        return Feedback(click), truth

    def step(
        self, state: MatrixState, slate: Slate, truth: Truth, generator: Generator
    ) -> MatrixState:
        return replace(state, time=state.time + 1)

    def values(self, state: MatrixState) -> Tensor:
        return self.rewards
