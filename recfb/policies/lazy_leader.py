"""Follow the lazy leader: perturb once, and follow."""

from __future__ import annotations

from math import log as ln
from math import sqrt
from typing import ClassVar, Literal, Self

import torch
from torch import Generator, Tensor

from recfb.contracts import Context, Feedback, Slate
from recfb.data import Log
from recfb.errors import ConfigError
from recfb.policies.drawn import by_learner, by_row
from recfb.policies.exp3 import NO_HORIZON, check_rate
from recfb.policies.omd import NO_ANSWER, asked
from recfb.policies.slates import Certain


class LazyLeader(Certain):
    """Shows the item with the least cumulative loss less a perturbation drawn once, at the start.

    Kalai and Vempala, "Efficient algorithms for online decision problems", JCSS 2005. All rewards
    are asked for in every round, so the world must answer: `Budgeted`. With exponential
    perturbations of rate eta regret with switches is at most (1 + ln K) / eta + 2 eta T; with
    Gumbel ones over eta an item is shown in a round with exactly the probability of Hedge. The
    probability given the past has no closed form, so none is logged.

    Args:
        eta: None is sqrt((1 + ln K) / (2 T)).
        perturbation: its distribution.
        horizon: T; None is what the platform's log says.

    Raises:
        ConfigError: a rate that is not positive, no horizon where eta needs it, or a world that
            does not answer.

    >>> from recfb.data import Log
    >>> leader = LazyLeader(eta=1.0).bind(Log.empty(1, 2))
    >>> leader.act(Context(torch.tensor([0])), torch.Generator()).observe.tolist()
    [[True, True]]
    """

    vectorised: ClassVar[bool] = True

    loss: Tensor  # (G, n_items) float64, cumulative
    bonus: Tensor  # (G, n_items) float64, the perturbation

    def __init__(
        self,
        eta: float | None = None,
        *,
        perturbation: Literal["exponential", "gumbel"] = "exponential",
        horizon: int | None = None,
    ) -> None:
        super().__init__()
        check_rate("eta", eta)
        self.eta = eta
        self.perturbation = perturbation
        self.horizon = horizon

    def bind(self, log: Log) -> Self:
        super().bind(log)
        rounds = self.horizon or log.meta.horizon
        if self.eta is None and rounds is None:
            raise ConfigError(NO_HORIZON.format(who="LazyLeader", what="eta"))
        self.step = self.eta or sqrt((1 + ln(log.n_items)) / (2 * (rounds or 1)))
        shape = (log.meta.learners, log.n_items)
        for name in ("loss", "bonus"):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))
        return self

    def reset(self, generator: Generator) -> None:
        super().reset(generator)
        self.loss.zero_()
        shape, device = self.bonus.shape, self.bonus.device
        u = torch.rand(shape, generator=generator, dtype=torch.float64, device=generator.device)
        wait = -(1 - u).log()  # (G, n_items) Exp(1)
        draw = wait if self.perturbation == "exponential" else -wait.log()
        self.bonus.copy_((draw / self.step).to(device))

    def index(self, context: Context) -> Tensor:
        score = by_row(context, self.bonus - self.loss)  # (B, n_items)
        return score if context.candidates is None else score.gather(1, context.candidates)

    def act(self, context: Context, generator: Generator, *, k: int = 1) -> Slate:
        slate = super().act(context, generator, k=k)
        shape, device = (len(context), self.n_items), slate.item.device
        wish = torch.ones(shape, dtype=torch.bool, device=device)
        return Slate(slate.item, observe=wish)

    def propensities(self, context: Context, item: Tensor) -> Slate:
        """None has a closed form."""
        return Slate(item)

    def update(
        self, context: Context, slate: Slate, feedback: Feedback, generator: Generator
    ) -> None:
        if feedback.extra is not None:
            known = asked(feedback.extra, weight=1.0)  # (B, n_items)
            self.loss.add_(by_learner(context, known, len(self.loss)))
        elif slate.observe is not None:
            raise ConfigError(NO_ANSWER.format(who="LazyLeader"))
