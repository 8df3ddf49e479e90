"""Contextual bandits with a known truth: linear, logistic and nonlinear rewards."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import polars as pl
import torch
from torch import Generator, Tensor

from recfb.contracts import Context, Feedback, Slate, Truth, World
from recfb.data import Log, Meta
from recfb.errors import ConfigError

Link = Literal["linear", "logistic", "nonlinear"]
Layout = Literal["shared", "items", "fixed"]
SLOPE = 4.0
"""Of the logit of "logistic", so that probabilities differ."""


@dataclass(frozen=True, slots=True)
class ContextualState:
    """The round, the truth of every replication, and this round's requests."""

    time: int
    theta: Tensor  # (R, n_items, d); (R, 1, d) if features are per item
    x: Tensor  # (B, d) or (B, n_items, d) float32, B = R * requests
    available: Tensor | None  # (B, n_items)


class Contextual(World[ContextualState]):
    """Every round brings requests with features of unit length; R replications are rows.

    With z = x . theta_item, theta ~ N(0, I / dim), the expected reward is

        linear     z                              plus Gaussian noise
        nonlinear  sin(2 pi z) / 2                plus Gaussian noise
        logistic   sigmoid(4 z), Bernoulli

    Chu, Li, Reyzin and Schapire, AISTATS 2011 (the setting). The truth holds `reward`, `value` and
    `best`, the value of the best slate that could have been shown.

    Args:
        n_items: items.
        dim: features.
        link: how features make rewards.
        noise: the standard deviation of Gaussian rewards.
        spread: makes the noise differ by context: times 1 + spread (|x_1| sqrt(dim) - 1).
        requests: requests of a round and replication.
        available: the probability that an item may be shown to a request; one always may.
        layout: "shared" features of the request, a theta an item; "items": features per item, one
            theta; "fixed": one context for ever, where a greedy policy locks in.

    Raises:
        ConfigError: no items, features or requests, a negative noise, a spread or an availability
            out of range.

    >>> from recfb.random import stream
    >>> world = Contextual(3, 2)
    >>> world.values(world.start(stream(0), replications=5)).shape
    torch.Size([5, 3])
    """

    vectorised: ClassVar[bool] = True
    informed: ClassVar[bool] = False

    def __init__(
        self,
        n_items: int = 5,
        dim: int = 8,
        *,
        link: Link = "linear",
        noise: float = 0.3,
        spread: float = 0.0,
        requests: int = 1,
        available: float = 1.0,
        layout: Layout = "shared",
    ) -> None:
        super().__init__()
        if min(n_items, dim, requests) < 1:
            raise ConfigError(
                f"a contextual world has items, features and requests, found n_items={n_items}, "
                f"dim={dim}, requests={requests}."
            )
        if noise < 0 or not 0 <= spread <= 1 or not 0 < available <= 1:
            raise ConfigError(
                f"noise is at least 0, spread in [0, 1] and available in (0, 1], found {noise}, "
                f"{spread} and {available}."
            )
        if link not in ("linear", "logistic", "nonlinear"):
            raise ConfigError(f"link is linear, logistic or nonlinear, found {link!r}.")
        if layout not in ("shared", "items", "fixed"):
            raise ConfigError(f"layout is shared, items or fixed, found {layout!r}.")
        self.n_users, self.n_items, self.dim = 1, n_items, dim
        self.link, self.layout = link, layout
        self.noise, self.spread = noise, spread
        self.requests, self.available = requests, available

    def start(self, generator: Generator, replications: int = 1) -> ContextualState:
        heads = 1 if self.layout == "items" else self.n_items
        theta = torch.randn(
            replications, heads, self.dim, generator=generator, device=generator.device
        )
        theta = theta.to(torch.float64) / self.dim**0.5
        x, available = self._requests(generator, replications * self.requests)
        return ContextualState(0, theta, x, available)

    def _requests(self, generator: Generator, rows: int) -> tuple[Tensor, Tensor | None]:
        shape = (rows, self.n_items, self.dim) if self.layout == "items" else (rows, self.dim)
        x = torch.randn(shape, generator=generator, device=generator.device)
        return x / x.norm(dim=-1, keepdim=True), draw_available(
            generator, rows, self.n_items, self.available
        )

    def opening(self, state: ContextualState, learners: int, rounds: int) -> Log:
        span = (0.0, 1.0) if self.link == "logistic" else None
        meta = Meta(horizon=rounds, learners=learners, reward_range=span, propensity="exact")
        return with_features(Log.empty(1, self.n_items, meta=meta), self.dim)

    def observe(self, state: ContextualState) -> Context:
        user = torch.zeros(len(state.x), dtype=torch.int64, device=state.x.device)
        return Context(user, time=state.time, features=state.x, available=state.available)

    def values(self, state: ContextualState) -> Tensor:
        """(B, n_items) float64."""
        R, d = state.theta.shape[0], state.theta.shape[2]
        x = state.x.to(torch.float64).view(R, -1, d)  # (R, requests [* n_items], d)
        z = x @ state.theta.mT  # (R, requests, n_items), or (R, requests * n_items, 1)
        z = z.reshape(-1, self.n_items)  # (B, n_items)
        if self.link == "linear":
            return z
        return (SLOPE * z).sigmoid() if self.link == "logistic" else (2 * torch.pi * z).sin() / 2

    def respond(
        self, state: ContextualState, slate: Slate, generator: Generator
    ) -> tuple[Feedback, Truth]:
        means = self.values(state)  # (B, n_items)
        reward = self._outcomes(state, means, generator).gather(1, slate.item)  # (B, K)
        best = best_slate(means, state.available, slate.item.shape[1])
        return Feedback(reward), {
            "reward": reward, "value": means.gather(1, slate.item), "best": best,
        }  # fmt: skip

    def _outcomes(self, state: ContextualState, means: Tensor, generator: Generator) -> Tensor:
        """What every item would have paid: (B, n_items) float32."""
        shape, device = means.shape, means.device
        if self.link == "logistic":
            u = torch.rand(shape, generator=generator, dtype=torch.float64, device=device)
            return (u < means).float()
        z = torch.randn(shape, generator=generator, dtype=torch.float64, device=device)
        first = state.x[..., 0].abs().to(torch.float64) * self.dim**0.5  # (B,) or (B, n_items)
        times = 1 + self.spread * (first - 1)
        sd = self.noise * (times if times.dim() == 2 else times[:, None])
        outcome: Tensor = means + sd * z  # (B, n_items)
        return outcome.float()

    def step(
        self, state: ContextualState, slate: Slate, truth: Truth, generator: Generator
    ) -> ContextualState:
        if self.layout == "fixed":
            return replace(state, time=state.time + 1)
        x, available = self._requests(generator, len(state.x))
        return replace(state, time=state.time + 1, x=x, available=available)


def draw_available(generator: Generator, rows: int, n_items: int, share: float) -> Tensor | None:
    """Each item with probability `share`, at least one for each request: (rows, n_items) bool."""
    if share == 1:
        return None
    u = torch.rand(rows, n_items, generator=generator, device=generator.device)
    mask = u < share
    return mask.scatter_(1, u.argmin(1, keepdim=True), True)


def best_slate(means: Tensor, available: Tensor | None, k: int) -> Tensor:
    """The value of the k best available items together: (B,)."""
    if available is not None:
        means = means.masked_fill(~available, -torch.inf)
    return means.topk(k, dim=1).values.sum(1)


def with_features(log: Log, width: int) -> Log:
    """An empty log that says how wide the features of its rows will be."""
    column = pl.Series("features", [], dtype=pl.Array(pl.Float32, width))
    return log.with_frame(log.frame.with_columns(column))
