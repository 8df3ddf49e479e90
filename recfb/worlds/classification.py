"""Classification as a bandit: guess the class, and learn only whether the guess was right."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor

from recfb.contracts import Context, Feedback, Slate, Truth, World
from recfb.data import Log, Meta
from recfb.errors import ConfigError
from recfb.random import mix64
from recfb.worlds.contextual import best_slate, with_features


@dataclass(frozen=True, slots=True)
class ClassificationState:
    """The round, and the order in which each replication meets the examples: (R, n)."""

    time: int
    order: Tensor


class Classification(World[ClassificationState]):
    """Every round brings examples; showing item a pays 1 if their class is a, else 0.

    Beygelzimer and Langford, "The offset tree for learning with partial labels", KDD 2009. Classes
    are numbered 0 .. K - 1 in their order. Features are in standard deviations from their mean,
    with a constant 1 after them. Replications meet the examples in orders of their own and begin
    again after the last. `interop.labelled.Labelled` has the data sets of scikit-learn.

    Args:
        features: (n, D).
        labels: (n,) any numbers.
        noise: the share of examples whose label is replaced by a uniform one, the same in every
            replication; the truth knows the replaced one.
        rewards: (n, K) what each item pays for each example, in the place of 1{a = label}.
        order: "shuffled", or "given".
        requests: examples of a round and replication.

    Raises:
        ConfigError: shapes that do not fit, no examples, or a share outside [0, 1].

    >>> world = Classification([[0.0], [1.0]], [3, 7], order="given")
    >>> state = world.start(torch.Generator())
    >>> feedback, _ = world.respond(state, Slate(torch.tensor([[1]])), torch.Generator())
    >>> feedback.reward.tolist()
    [[0.0]]
    """

    vectorised: ClassVar[bool] = True
    informed: ClassVar[bool] = False

    x: Tensor  # (n, D + 1) float32
    pays: Tensor  # (n, K) float32

    def __init__(
        self,
        features: Tensor | list[list[float]],
        labels: Tensor | list[int],
        *,
        noise: float = 0.0,
        rewards: Tensor | list[list[float]] | None = None,
        order: Literal["shuffled", "given"] = "shuffled",
        requests: int = 1,
    ) -> None:
        super().__init__()
        x, y = torch.as_tensor(features, dtype=torch.float32), torch.as_tensor(labels)
        if x.dim() != 2 or y.dim() != 1 or len(x) != len(y) or not len(x):
            raise ConfigError(
                f"examples have features (n, D) and labels (n,), found {tuple(x.shape)} and "
                f"{tuple(y.shape)}."
            )
        if not 0 <= noise <= 1 or requests < 1:
            raise ConfigError(
                f"noise is a share and requests a positive number, found {noise} and {requests}."
            )
        if order not in ("shuffled", "given"):
            raise ConfigError(f'order is "shuffled" or "given", found {order!r}.')
        self.features, self.labels = features, labels
        self.noise, self.rewards, self.order, self.requests = noise, rewards, order, requests
        kinds, y = torch.unique(y, return_inverse=True)
        pays = _payments(y, len(kinds), noise) if rewards is None else torch.as_tensor(rewards)
        if pays.dim() != 2 or len(pays) != len(x):
            raise ConfigError(f"rewards are (n, K) for {len(x)} examples: {tuple(pays.shape)}.")
        spread = x.std(0, correction=0)
        x = (x - x.mean(0)) / torch.where(spread > 0, spread, 1.0)
        ones = torch.ones(len(x), 1)
        self.register_buffer("x", torch.cat([x, ones], 1), persistent=False)
        self.register_buffer("pays", pays.to(torch.float32), persistent=False)
        self.n_users, self.n_items = 1, pays.shape[1]

    def start(self, generator: Generator, replications: int = 1) -> ClassificationState:
        shape, device = (replications, len(self.x)), generator.device
        u = torch.rand(shape, generator=generator, dtype=torch.float64, device=device)
        if self.order == "shuffled":
            return ClassificationState(0, u.argsort(1))
        return ClassificationState(0, torch.arange(shape[1], device=device).repeat(shape[0], 1))

    def opening(self, state: ClassificationState, learners: int, rounds: int) -> Log:
        span = (float(self.pays.min()), float(self.pays.max()))
        meta = Meta(horizon=rounds, learners=learners, reward_range=span, propensity="exact")
        return with_features(Log.empty(1, self.n_items, meta=meta), self.x.shape[1])

    def _rows(self, state: ClassificationState) -> Tensor:
        """This round's examples: (B,), B = R * requests."""
        place = state.time * self.requests + torch.arange(self.requests, device=state.order.device)
        return state.order[:, place % state.order.shape[1]].reshape(-1)

    def observe(self, state: ClassificationState) -> Context:
        x = self.x[self._rows(state)]  # (B, D + 1)
        user = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        return Context(user, time=state.time, features=x)

    def values(self, state: ClassificationState) -> Tensor:
        return self.pays[self._rows(state)]

    def respond(
        self, state: ClassificationState, slate: Slate, generator: Generator
    ) -> tuple[Feedback, Truth]:
        pays = self.values(state)  # (B, K)
        reward = pays.gather(1, slate.item)  # (B, slate)
        best = best_slate(pays, None, slate.item.shape[1])
        return Feedback(reward), {"reward": reward, "value": reward, "best": best}

    def step(
        self, state: ClassificationState, slate: Slate, truth: Truth, generator: Generator
    ) -> ClassificationState:
        return replace(state, time=state.time + 1)


def _payments(label: Tensor, classes: int, noise: float) -> Tensor:
    """1 where the item is the label, of which a share is replaced: (n, K)."""
    draw = mix64(torch.arange(2 * len(label))) & ((1 << 40) - 1)
    u = draw.to(torch.float64) / (1 << 40)
    other = (u[len(label) :] * classes).long()
    label = torch.where(u[: len(label)] < noise, other, label)
    return torch.nn.functional.one_hot(label, classes)
