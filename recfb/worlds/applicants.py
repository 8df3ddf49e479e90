"""Applicants for loans or jobs: whether one is good shows only after being accepted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor

from recfb.contracts import Context, Feedback, Slate, Truth, World
from recfb.data import Log, Meta
from recfb.errors import ConfigError
from recfb.worlds.contextual import with_features


@dataclass(frozen=True, slots=True)
class ApplicantsState:
    """The round, and the features of its applicants: (B, D + 1 or 2) float32, B = R * requests."""

    time: int
    x: Tensor


@dataclass(frozen=True)
class Minority:
    """A group of applicants, known by a feature that is 1 for them and 0 for others.

    Args:
        share: which part of the applicants they are.
        shift: what is added to their w . x + bias: another base rate.
        telling: how much their features count, times w: 0 tells nothing, 1 as much as for others.

    Raises:
        ConfigError: a share outside [0, 1].
    """

    share: float = 0.2
    shift: float = 0.0
    telling: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ConfigError(f"a minority has a share in [0, 1], found {self.share}. Try 0.2.")


class Applicants(World[ApplicantsState]):
    """Every round brings applicants x ~ N(0, I); item 0 rejects one, item 1 accepts.

    An applicant is good, y = 1, with probability

        threshold  1 - noise where w . x + bias > 0, else noise
        logistic   sigmoid(w . x + bias)

    To accept pays `gain` for a good one and -`loss` for another; to reject pays 0, and so tells
    nothing. Helmbold, Littlestone and Long, "Apple tasting", 2000 (the feedback). With gain and
    loss 1, regret counts mistakes beyond those of the best decisions. The features are followed by
    membership in the minority, where there is one, and a constant 1. The truth holds `reward`,
    `value`, `best`, `label` (y) and `mistake`: rejecting a good one, or accepting another.

    Args:
        weights: w, one a feature.
        bias: of the label.
        link: how features make labels.
        noise: the share of labels that are flipped, with "threshold".
        requests: applicants of a round and replication.
        gain: what a good accepted applicant pays.
        loss: what another costs.
        minority: a group of which features tell something else.

    Raises:
        ConfigError: no features or applicants, a share or an amount out of range.

    >>> world = Applicants([1.0], noise=0.0, requests=2)
    >>> state = ApplicantsState(0, torch.tensor([[0.5, 1.0], [-0.5, 1.0]]))
    >>> world.values(state).tolist()
    [[0.0, 1.0], [0.0, -1.0]]
    """

    vectorised: ClassVar[bool] = True
    informed: ClassVar[bool] = False

    def __init__(
        self,
        weights: Sequence[float] = (0.3, 0.2, 0.1, 1.0),
        *,
        bias: float = 0.0,
        link: Literal["threshold", "logistic"] = "threshold",
        noise: float = 0.05,
        requests: int = 4,
        gain: float = 1.0,
        loss: float = 1.0,
        minority: Minority | None = None,
    ) -> None:
        super().__init__()
        if not len(weights) or requests < 1 or not 0 <= noise <= 0.5 or min(gain, loss) <= 0:
            raise ConfigError(
                "applicants have features, come at least one a round, noise is in [0, 0.5], gain "
                f"and loss are positive; found {len(weights)} weights, requests={requests}, "
                f"noise={noise}, gain={gain}, loss={loss}."
            )
        if link not in ("threshold", "logistic"):
            raise ConfigError(f"link is threshold or logistic, found {link!r}.")
        self.n_users, self.n_items = 1, 2
        self.weights = [float(w) for w in weights]
        self.bias, self.link, self.noise = bias, link, noise
        self.requests, self.gain, self.loss = requests, gain, loss
        self.minority = minority

    def start(self, generator: Generator, replications: int = 1) -> ApplicantsState:
        return ApplicantsState(0, self._come(generator, replications * self.requests))

    def _come(self, generator: Generator, rows: int) -> Tensor:
        shape = (rows, len(self.weights))
        x = torch.randn(shape, generator=generator, device=generator.device)
        parts = [x, torch.ones_like(x[:, :1])]
        if self.minority is not None:
            u = torch.rand(rows, 1, generator=generator, device=generator.device)
            parts.insert(1, (u < self.minority.share).to(x))
        return torch.cat(parts, 1)  # (B, D + 1), or (B, D + 2) with a minority

    def opening(self, state: ApplicantsState, learners: int, rounds: int) -> Log:
        meta = Meta(
            horizon=rounds, learners=learners, reward_range=(-self.loss, self.gain),
            propensity="exact",
        )  # fmt: skip
        width = len(self.weights) + 1 + (self.minority is not None)
        return with_features(Log.empty(1, 2, meta=meta), width)

    def observe(self, state: ApplicantsState) -> Context:
        user = torch.zeros(len(state.x), dtype=torch.int64, device=state.x.device)
        return Context(user, time=state.time, features=state.x)

    def good(self, state: ApplicantsState) -> Tensor:
        """P(y = 1 | x) of every applicant: (B,) float64."""
        x = state.x.to(torch.float64)
        z = x[:, : len(self.weights)] @ x.new_tensor(self.weights)  # (B,)
        if self.minority is not None:
            member = x[:, -2]  # (B,)
            z = z * (1 + (self.minority.telling - 1) * member) + self.minority.shift * member
        z = z + self.bias
        if self.link == "logistic":
            return z.sigmoid()
        return torch.where(z > 0, 1 - self.noise, self.noise).to(torch.float64)

    def values(self, state: ApplicantsState) -> Tensor:
        p = self.good(state)
        pays = self.gain * p - self.loss * (1 - p)
        return torch.stack([torch.zeros_like(pays), pays], 1)  # (B, 2)

    def labels(self, state: ApplicantsState, generator: Generator) -> Tensor:
        """y of every applicant: (B,) bool."""
        p = self.good(state)
        u = torch.rand(len(p), generator=generator, dtype=torch.float64, device=p.device)
        return u < p

    def outcomes(self, state: ApplicantsState, generator: Generator) -> Tensor:
        """What either decision would pay: (B, 2) float32."""
        good = self.labels(state, generator)  # (B,)
        pays = torch.where(good, self.gain, -self.loss).float()
        return torch.stack([torch.zeros_like(pays), pays], 1)

    def respond(
        self, state: ApplicantsState, slate: Slate, generator: Generator
    ) -> tuple[Feedback, Truth]:
        return self.answer(state, slate, self.outcomes(state, generator))

    def answer(
        self, state: ApplicantsState, slate: Slate, outcome: Tensor
    ) -> tuple[Feedback, Truth]:
        """What `respond` says where either decision would have paid `outcome`, (B, 2)."""
        good = outcome[:, 1] > 0  # (B,)
        reward = outcome.gather(1, slate.item)  # (B, K)
        means = self.values(state)  # (B, 2)
        best = means.topk(slate.item.shape[1], dim=1).values.sum(1)  # (B,)
        mistake = (slate.item[:, 0] == 1) != good
        return Feedback(reward), {
            "reward": reward, "value": means.gather(1, slate.item), "best": best,
            "label": good.to(torch.float64), "mistake": mistake.to(torch.float64),
        }  # fmt: skip

    def step(
        self, state: ApplicantsState, slate: Slate, truth: Truth, generator: Generator
    ) -> ApplicantsState:
        return replace(state, time=state.time + 1, x=self._come(generator, len(state.x)))
