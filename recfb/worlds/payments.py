"""Card payments: which intervention to apply to a transaction, out of those that are eligible."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from recfb.contracts import Context, Feedback, Round, Slate, Truth, World
from recfb.data import Log, Meta
from recfb.errors import ConfigError, UnboundError
from recfb.worlds.contextual import best_slate, draw_available, with_features

CONTEXTS = 4000
"""Of the fixed set on which policies are valued exactly."""


@dataclass(frozen=True, slots=True)
class PaymentsState:
    """The round, the truth, this round's transactions and those of the fixed set."""

    time: int
    common: Tensor  # (d,) u
    slope: Tensor  # (n_items, d) w
    offset: Tensor  # (n_items,) b
    wave: Tensor  # (n_items, d) v
    x: Tensor  # (B, d) float32
    available: Tensor | None  # (B, n_items)
    test_x: Tensor  # (CONTEXTS, d) float32
    test_available: Tensor | None  # (CONTEXTS, n_items)


class Payments(World[PaymentsState]):
    """A payment is authorised or not, given its features and the intervention that was applied.

        P(reward = 1 | x, a) = sigmoid(x . u + x . w_a + b_a + sin(2 x) . v_a / sqrt(d))

    with x ~ N(0, I), u and w_a ~ N(0, I / d), b_a ~ N(base, 1/4), v_a ~ N(0, I / 4): the sine makes
    linear models misspecified. Every intervention is eligible with probability `available`, at
    least one is. A round is a generation of `requests` transactions. After Vangara and Egg,
    "Contextual bandits in payment processing: non-uniform exploration and supervised learning",
    OARS at KDD 2025: a simulation of their mechanism, with numbers of its own. The truth holds
    `reward`, `value` and `best`; `valued` gives exact values on a fixed set of 4,000 transactions.

    Args:
        n_items: interventions.
        dim: features.
        requests: transactions a round.
        base: the mean of b: 1.2 is a success rate of about 0.7.
        available: the share of eligible interventions; 1 is a fixed action set.
        drift: how far w moves each round, in standard deviations of w.
        slow: failures become known so many rounds later; successes at once. 0: all at once.
        lost: the share of rewards that never become known.

    Raises:
        ConfigError: no items, features or transactions, or a share out of range.

    >>> from recfb.random import stream
    >>> world = Payments(requests=10)
    >>> world.values(world.start(stream(0))).shape
    torch.Size([10, 12])
    """

    informed: ClassVar[bool] = False

    def __init__(
        self,
        n_items: int = 12,
        dim: int = 6,
        *,
        requests: int = 4000,
        base: float = 1.2,
        available: float = 0.6,
        drift: float = 0.0,
        slow: int = 0,
        lost: float = 0.0,
    ) -> None:
        super().__init__()
        if min(n_items, dim, requests) < 1:
            raise ConfigError(
                f"payments have items, features and requests, found n_items={n_items}, dim={dim}, "
                f"requests={requests}."
            )
        if not 0 < available <= 1 or not 0 <= drift <= 1 or not 0 <= lost <= 1 or slow < 0:
            raise ConfigError(
                "available is in (0, 1], drift and lost in [0, 1] and slow a number of rounds, "
                f"found available={available}, drift={drift}, lost={lost}, slow={slow}."
            )
        self.n_users, self.n_items, self.dim = 1, n_items, dim
        self.requests, self.base, self.available = requests, base, available
        self.drift, self.slow, self.lost = drift, slow, lost

    def start(self, generator: Generator, replications: int = 1) -> PaymentsState:
        def normal(*shape: int) -> Tensor:
            return torch.randn(
                shape, generator=generator, dtype=torch.float64, device=generator.device
            )

        n, d = self.n_items, self.dim
        common, slope = normal(d) / d**0.5, normal(n, d) / d**0.5
        offset, wave = self.base + normal(n) / 2, normal(n, d) / 2
        test_x, test = self._requests(generator, CONTEXTS)
        x, available = self._requests(generator, self.requests)
        return PaymentsState(0, common, slope, offset, wave, x, available, test_x, test)

    def _requests(self, generator: Generator, rows: int) -> tuple[Tensor, Tensor | None]:
        x = torch.randn(rows, self.dim, generator=generator, device=generator.device)
        return x, draw_available(generator, rows, self.n_items, self.available)

    def opening(self, state: PaymentsState, learners: int, rounds: int) -> Log:
        meta = Meta(
            horizon=rounds, learners=learners, reward_range=(0.0, 1.0), propensity="exact",
            task="decisions",
        )  # fmt: skip
        return with_features(Log.empty(1, self.n_items, meta=meta), self.dim)

    def observe(self, state: PaymentsState) -> Context:
        return _context(state.x, state.available, state.time)

    def values(self, state: PaymentsState) -> Tensor:
        """P(authorised): (B, n_items) float64."""
        return self.rates(state, state.x)

    def rates(self, state: PaymentsState, x: Tensor) -> Tensor:
        """P(authorised) of any transactions: (B, d) -> (B, n_items) float64."""
        x = x.to(torch.float64)
        wave = (2 * x).sin() @ state.wave.T / self.dim**0.5
        logit: Tensor = x @ (state.common + state.slope).T + state.offset + wave
        return logit.sigmoid()

    def respond(
        self, state: PaymentsState, slate: Slate, generator: Generator
    ) -> tuple[Feedback, Truth]:
        means = self.values(state)  # (B, n_items)
        shape, device = (2, *means.shape), means.device
        u = torch.rand(shape, generator=generator, dtype=torch.float64, device=device)
        reward = (u[0] < means).float().gather(1, slate.item)  # (B, K)
        kept = u[1].gather(1, slate.item) >= self.lost
        delay = None
        if self.slow:
            delay = torch.where(reward > 0, 0, self.slow)  # (B, K)
        best = best_slate(means, state.available, slate.item.shape[1])
        truth = {"reward": reward, "value": means.gather(1, slate.item), "best": best}
        return Feedback(reward.where(kept, torch.nan), delay=delay), truth

    def step(
        self, state: PaymentsState, slate: Slate, truth: Truth, generator: Generator
    ) -> PaymentsState:
        x, available = self._requests(generator, self.requests)
        state = replace(state, time=state.time + 1, x=x, available=available)
        if not self.drift:
            return state
        z = torch.randn(
            state.slope.shape, generator=generator, dtype=torch.float64, device=x.device
        )
        away = (1 - self.drift**2) ** 0.5 * state.slope + self.drift * z / self.dim**0.5
        return replace(state, slope=away)

    def test(self, state: PaymentsState) -> tuple[Context, Tensor]:
        """The fixed set of transactions, as requests, and P(authorised): (CONTEXTS, n_items)."""
        context = _context(state.test_x, state.test_available, state.time)
        return context, self.rates(state, state.test_x)


def _context(x: Tensor, available: Tensor | None, time: int) -> Context:
    user = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    return Context(user, time=time, features=x, available=available)


def valued(done: Round) -> Mapping[str, Tensor]:
    """A probe: how good this round's policy and its model are, by the truth of `Payments`.

    - `value`: the policy's expected reward on the fixed set; `greedy`: that of its model's best
      items;
    - `rmse`: the model's error over all items that may be shown, on the fixed set; `rmse_logged`:
      over the items that were shown this round. The gap between them is what a log that lacks the
      poor items does to the next model.

    NaN while the policy has not been trained, and for the last three without a model.
    """
    none = torch.full((), torch.nan, dtype=torch.float64)
    found = dict.fromkeys(("value", "greedy", "rmse", "rmse_logged"), none)
    context, rates = done.world.test(done.state)
    policy: Any = done.policy
    try:
        found["value"] = (policy.probs(context) * rates).sum(1).mean()
        while hasattr(policy, "policy"):  # inside a mixture
            policy = policy.policy
        if not hasattr(policy, "model"):
            return found
        f = policy.model.scores(context)  # (CONTEXTS, n_items)
    except UnboundError:
        return found
    live = torch.ones_like(rates, dtype=torch.bool)
    if context.available is not None:
        live = context.available
    best = f.masked_fill(~live, -torch.inf).argmax(1, keepdim=True)
    shown = policy.model.score_of(done.context, done.slate.item)  # (B, K)
    found["greedy"] = rates.gather(1, best).mean()
    found["rmse"] = (f - rates)[live].square().mean().sqrt()
    found["rmse_logged"] = (shown - done.truth["value"]).square().mean().sqrt()
    return found
