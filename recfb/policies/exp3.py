"""Exponential weights for bandits: Exp3, its first form with mixing, and Exp3-IX."""

from __future__ import annotations

from abc import abstractmethod
from math import e, sqrt
from math import log as ln
from typing import Self

import torch
from torch import Generator, Tensor

from recfb.contracts import Context, Feedback, Slate
from recfb.data import Log
from recfb.errors import ConfigError
from recfb.policies.drawn import Drawn, by_learner, by_row, played, propensity_of
from recfb.policies.omd import entropy_step, importance


class LossBased(Drawn):
    """Draws from a law of the estimated cumulative losses, renewed after every round.

    Rewards are in [0, 1]; a loss is 1 - reward, and one that is not known is left out.
    """

    loss: Tensor  # (G, n_items) float64, cumulative estimates

    rounds: int | None  # the horizon, where it is known
    horizon: int | None

    def bind(self, log: Log) -> Self:
        super().bind(log)
        self.register_buffer("loss", torch.zeros_like(self.law))
        self.rounds = self.horizon or log.meta.horizon
        return self

    def reset(self, generator: Generator) -> None:
        super().reset(generator)
        self.loss.zero_()

    def update(
        self, context: Context, slate: Slate, feedback: Feedback, generator: Generator
    ) -> None:
        item = played(slate, self)  # (B, 1)
        law = by_row(context, self.law)  # (B, n_items)
        p = propensity_of(slate, law)  # (B, 1)
        loss = torch.rsub(feedback.reward.double(), 1.0)  # (B, 1)
        last = context.time if isinstance(context.time, int) else int(context.time.max())
        guess = self.estimate(loss, item, p, law, last)  # (B, n_items)
        self.loss.add_(by_learner(context, guess, len(self.law)))
        self.law.copy_(self.renewed(last + 1))

    def estimate(self, loss: Tensor, item: Tensor, p: Tensor, law: Tensor, time: int) -> Tensor:
        """Every item's loss from that of one: (B, 1), (B, 1), (B, 1), (B, n_items) ->
        (B, n_items)."""
        return importance(loss, item, p, self.n_items)

    @abstractmethod
    def renewed(self, time: int) -> Tensor:
        """The law of round `time`, from 0: (G, n_items)."""


class Exp3(LossBased):
    """p in proportion to exp(-eta x estimated loss), losses weighted by 1 / p.

    Auer, Cesa-Bianchi, Freund and Schapire, "The nonstochastic multiarmed bandit problem", SIAM J.
    Comput. 2002, without mixing (Stoltz, 2005). Regret at most sqrt(2 T K ln K) with
    eta = sqrt(2 ln K / (T K)), and 2 sqrt(T K ln K) with eta_t = sqrt(ln K / (t K)), which is taken
    where the horizon T is not known.

    Args:
        eta: the learning rate; None is as above.
        horizon: how many rounds; None is what the platform's log says.

    Raises:
        ConfigError: a learning rate that is not positive, or slates of several items.

    >>> from recfb.data import Log, Meta
    >>> policy = Exp3(eta=0.5).bind(Log.empty(1, 2))
    >>> shown = Slate(torch.tensor([[0]]), propensity=torch.tensor([[0.5]]).double())
    >>> context = Context(torch.tensor([0]))
    >>> policy.update(context, shown, Feedback(torch.tensor([[0.0]])), torch.Generator())
    >>> [round(float(p), 6) for p in policy.law[0]]  # losses 2 and 0: exp(-1) : 1
    [0.268941, 0.731059]
    """

    def __init__(self, eta: float | None = None, *, horizon: int | None = None) -> None:
        super().__init__()
        check_rate("eta", eta)
        self.eta = eta
        self.horizon = horizon

    def rate(self, time: int) -> float:
        """eta of round `time`, from 0."""
        if self.eta is not None:
            return self.eta
        k = self.n_items
        if self.rounds is not None:
            return sqrt(2 * ln(k) / (self.rounds * k))
        return sqrt(ln(k) / ((time + 1) * k))

    def renewed(self, time: int) -> Tensor:
        return entropy_step(self.loss, self.rate(time))


class Exp3IX(Exp3):
    """Exp3 with losses weighted by 1 / (p + eta / 2): biased a little, and never far off.

    Neu, "Explore no more", NeurIPS 2015: regret of the order of Exp3's, with high probability.

    Args:
        eta: the learning rate; None is that of `Exp3`.
        horizon: how many rounds; None is what the platform's log says.

    Raises:
        ConfigError: a learning rate that is not positive, or slates of several items.
    """

    def estimate(self, loss: Tensor, item: Tensor, p: Tensor, law: Tensor, time: int) -> Tensor:
        return importance(loss, item, p + self.rate(time) / 2, self.n_items)


class Exp3Mixed(LossBased):
    """The first form of Exp3: rewards weighted by 1 / p, and a share gamma of uniform draws.

    Auer, Cesa-Bianchi, Freund and Schapire, FOCS 1995. p = (1 - gamma) w / sum w + gamma / K with
    w = exp(gamma / K x estimated reward). Regret at most 2 sqrt(e - 1) sqrt(T K ln K).

    Args:
        gamma: the share; None is min(1, sqrt(K ln K / ((e - 1) T))).
        horizon: how many rounds; None is what the platform's log says.

    Raises:
        ConfigError: a share outside (0, 1], no horizon where gamma needs it, or slates of several
            items.
    """

    def __init__(self, gamma: float | None = None, *, horizon: int | None = None) -> None:
        super().__init__()
        if gamma is not None and not 0 < gamma <= 1:
            raise ConfigError(f"gamma is a share in (0, 1], found {gamma}. For 10 %: gamma=0.1")
        self.gamma = gamma
        self.horizon = horizon

    def bind(self, log: Log) -> Self:
        super().bind(log)
        if self.gamma is None and self.rounds is None:
            raise ConfigError(NO_HORIZON.format(who="Exp3Mixed", what="gamma"))
        return self

    def share(self) -> float:
        """gamma."""
        if self.gamma is not None or self.rounds is None:
            return self.gamma or 1.0
        k = self.n_items
        return min(1.0, sqrt(k * ln(k) / ((e - 1) * self.rounds)))

    def estimate(self, loss: Tensor, item: Tensor, p: Tensor, law: Tensor, time: int) -> Tensor:
        return importance(loss - 1, item, p, self.n_items)  # minus the reward

    def renewed(self, time: int) -> Tensor:
        gamma = self.share()
        each = gamma / self.n_items
        return entropy_step(self.loss, each).mul_(1 - gamma).add_(each)


NO_HORIZON = (
    "{who} sets its {what} by the number of rounds, which the log does not say. Give it: "
    "{who}(horizon=1000)"
)


def check_rate(name: str, value: float | None) -> None:
    """Refuse a learning rate that is not positive."""
    if value is not None and not value > 0:
        raise ConfigError(f"{name} is a positive learning rate, found {value}. Try {name}=0.1")
