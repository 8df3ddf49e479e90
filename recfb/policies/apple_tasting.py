"""Apple tasting: labels are seen only of what is accepted, so some of the rest is accepted too."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Self

import torch
from torch import Generator, Tensor

from recfb.beliefs.payoff import ACCEPT, labels_of
from recfb.contracts import Belief, Context, Feedback, Slate, learner_of
from recfb.data import Log
from recfb.errors import ConfigError
from recfb.policies.accept_reject import AcceptReject, two_sided


class Tastes(AcceptReject):
    """Accepts where the model would, and with some probability also where it would reject."""

    model: Any

    def __init__(self, model: Belief) -> None:
        super().__init__()
        self.model = model

    @property
    def vectorised(self) -> bool:  # type: ignore[override]
        """As the model."""
        return bool(getattr(self.model, "vectorised", False))

    def says(self, context: Context) -> Tensor:
        """Whether the model would accept: (B,) bool."""
        scores = self.model.scores(context)
        return torch.as_tensor(scores[:, ACCEPT] > scores[:, 1 - ACCEPT])

    @abstractmethod
    def taste(self, context: Context) -> Tensor:
        """The probability to accept what the model would reject: (B,) float64."""

    def probs(self, context: Context) -> Tensor:
        yes = self.says(context)
        return two_sided(torch.where(yes, 1.0, self.taste(context)), context)


class Tasting(Tastes):
    """Accepts what the model would, and a share epsilon of what it would reject.

    Unlike `EpsilonGreedy`, it never rejects what the model accepts: rejecting teaches nothing.

    Args:
        model: the scores of item 0, to reject, and item 1, to accept: `Payoff`.
        epsilon: the share.

    Raises:
        ConfigError: a share outside [0, 1], or not two items.

    >>> from recfb.beliefs import Linear
    >>> policy = Tasting(Linear(), 0.2).bind(Log.empty(1, 2))
    >>> policy.probs(Context(torch.tensor([0]))).tolist()
    [[0.8, 0.2]]
    """

    def __init__(self, model: Belief, epsilon: float = 0.05) -> None:
        super().__init__(model)
        if not 0 <= epsilon <= 1:
            raise ConfigError(f"epsilon is a share in [0, 1], found {epsilon}. For 5 %: 0.05")
        self.epsilon = epsilon

    def taste(self, context: Context) -> Tensor:
        shape, device = (len(context),), context.user.device
        return torch.full(shape, self.epsilon, dtype=torch.float64, device=device)


class STAP(Tastes):
    """Accepts what the model would reject with probability min(1, sqrt((1 + m) / t)).

    Helmbold, Littlestone and Long, "Apple tasting", Information and Computation 2000. t counts the
    requests, m the mistakes of the model among the labels seen so far. Made for data that some rule
    gets nearly right; with noisy labels m grows with t, and much too much is tasted.

    Args:
        model: the scores of item 0, to reject, and item 1, to accept: `Payoff`.

    Raises:
        ConfigError: not two items.

    >>> from recfb.beliefs import Linear
    >>> policy = STAP(Linear()).bind(Log.empty(1, 2))
    >>> _ = policy.count.fill_(15.0), policy.mistakes.fill_(3.0)
    >>> policy.probs(Context(torch.tensor([0]))).tolist()  # sqrt(4 / 16)
    [[0.5, 0.5]]
    """

    count: Tensor  # (G,) float64, requests so far
    mistakes: Tensor  # (G,) float64

    def bind(self, log: Log) -> Self:
        for name in ("count", "mistakes"):
            self.register_buffer(name, torch.zeros(log.meta.learners, dtype=torch.float64))
        return super().bind(log)

    def reset(self, generator: Generator) -> None:
        super().reset(generator)
        self.count.zero_()
        self.mistakes.zero_()

    def taste(self, context: Context) -> Tensor:
        share = ((1 + self.mistakes) / (1 + self.count)).sqrt().clamp(max=1.0)  # (G,)
        return share[learner_of(context, self.learners)]

    def update(
        self, context: Context, slate: Slate, feedback: Feedback, generator: Generator
    ) -> None:
        label = labels_of(slate, feedback)  # (B,)
        wrong = (~label.isnan() & ((label > 0) != self.says(context))).to(torch.float64)
        learner = learner_of(context, self.learners)
        self.mistakes.index_add_(0, learner, wrong)
        self.count.index_add_(0, learner, torch.ones_like(wrong))
        super().update(context, slate, feedback, generator)
