"""What policies share that accept or reject: item 0 is to reject, item 1 to accept."""

from __future__ import annotations

from math import ceil
from typing import ClassVar, Self

import torch
from torch import Generator, Tensor

from recfb.beliefs.payoff import check_two_items
from recfb.contracts import Context, Feedback, Policy, learner_of
from recfb.data import Log
from recfb.errors import ConfigError
from recfb.policies.explore import live_of
from recfb.policies.hypotheses import Thresholds


class AcceptReject(Policy):
    """Accepts or rejects every request, and learns the label of those it has accepted.

    A label is 1 where the reward of an accepted request is positive. The reward of a rejected one
    is never read, whether the world hides it or not.
    """

    learners: int

    def bind(self, log: Log) -> Self:
        check_two_items(self, log)
        self.learners = log.meta.learners
        return super().bind(log)


def check_single(who: Policy, k: int) -> None:
    """Refuse slates of several items.

    Raises:
        ConfigError: slates of several items.
    """
    if k != 1:
        raise ConfigError(
            f"{type(who).__name__} says yes or no to a request, found slates of {k}. Play it with "
            "slate=1."
        )


def two_sided(accept: Tensor, context: Context) -> Tensor:
    """Probabilities to accept, as a distribution over what may be done: (B,) -> (B, 2).

    >>> two_sided(torch.tensor([0.25]), Context(torch.tensor([0]))).tolist()
    [[0.75, 0.25]]
    """
    accept = accept.to(torch.float64)
    probs = torch.stack([1 - accept, accept], 1)  # (B, 2)
    live = live_of(context, 2)
    if live is None:
        return probs
    both = live.all(1, keepdim=True)  # (B, 1)
    return torch.where(both, probs, live.to(probs))


def accept_estimate(label: Tensor, accept: Tensor) -> Tensor:
    """Unbiased estimates of the loss 1 - y of accepting, 0 where nothing was seen: (B,) float64.

        a (1 - y) / pi

    Bechavod and Roth, "Individually fair learning with one-sided feedback", ICML 2023.

    Args:
        label: (B,) as `labels_of` gives them.
        accept: (B,) the probability pi with which the request was accepted.

    >>> accept_estimate(torch.tensor([0.0, 1.0, torch.nan]), torch.tensor([0.5, 0.5, 0.5])).tolist()
    [2.0, 0.0, 0.0]
    """
    return ((1 - label) / accept).nan_to_num(nan=0.0)


class Fair(AcceptReject):
    """Learns over a finite class of rules, from labels of the accepted and from complaints.

    All requests of a learner's round are decided by one rule, drawn anew each round.
    """

    vectorised: ClassVar[bool] = True
    joint: ClassVar[bool] = True  # the requests of a round are not decided independently

    hypotheses: Thresholds
    horizon: int | None
    rounds: int

    def bind(self, log: Log) -> Self:
        super().bind(log)
        rounds = self.horizon or log.meta.horizon
        if rounds is None:
            who = type(self).__name__
            raise ConfigError(
                f"{who} sets its rates by the number of rounds, which the log does not say. Give "
                f"it: {who}(..., horizon=1000)"
            )
        self.rounds = rounds
        return self

    def requests(self, context: Context) -> int:
        """How many requests a learner has in a round: k."""
        return max(1, ceil(len(context) / self.learners))

    def charge(
        self, context: Context, answers: Tensor, estimate: Tensor, seen: Tensor,
        feedback: Feedback, price: float,
    ) -> Tensor:  # fmt: skip
        """What each rule has lost in these rows, up to a constant: (B, H) ... -> (G, H).

            sum_i h(x_i) (estimate_i - 1/2 + C s_i)

        with s the signs of the complaint. To reject loses 1/2 for sure, so it is not estimated.
        """
        cost = (estimate - 0.5) * seen  # (B,)
        if feedback.complaint is not None:
            cost = cost + price * feedback.complaint.to(torch.float64)
        each = answers * cost[:, None]  # (B, H)
        learner = learner_of(context, self.learners)
        total = each.new_zeros(self.learners, each.shape[1])
        return total.index_add_(0, learner, each)

    def allowed(self, item: Tensor, context: Context) -> Tensor:
        """The item, or the other one where it is not available: (B,) -> (B, 1)."""
        live = live_of(context, 2)
        if live is not None:
            item = torch.where(live.gather(1, item[:, None])[:, 0], item, 1 - item)
        return item[:, None]


def uniforms(generator: Generator, *shape: int, device: torch.device) -> Tensor:
    """Uniform numbers in float64."""
    return torch.rand(shape, generator=generator, dtype=torch.float64, device=device)
