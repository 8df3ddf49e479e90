"""Policies that keep one law over the items for each learner, and draw from it."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Generator, Tensor

from recfb.contracts import Context, Policy, Slate, learner_of, sample_cdf
from recfb.data import Log
from recfb.errors import ConfigError


class Drawn(Policy):
    """Plays an item from `law`, the probabilities of the next item given all that came before; a
    subclass renews it in `update`.

    The propensity that is logged is that of the law, after unavailable items are left out.
    """

    vectorised: ClassVar[bool] = True

    law: Tensor  # (G, n_items) float64

    def bind(self, log: Log) -> Self:
        shape = (log.meta.learners, log.n_items)
        self.register_buffer("law", torch.full(shape, 1.0 / log.n_items, dtype=torch.float64))
        return super().bind(log)

    def reset(self, generator: Generator) -> None:
        super().reset(generator)
        self.law.fill_(1.0 / self.n_items)

    def probs(self, context: Context) -> Tensor:
        law = by_row(context, self.law)  # (B, n_items)
        if context.candidates is not None:
            live = torch.zeros_like(law).scatter_(1, context.candidates, 1.0)  # (B, n_items)
        elif context.available is not None:
            live = context.available.to(law.dtype).expand(len(law), -1)
        else:
            return law.clone() if law is self.law else law  # `update` writes into its own
        kept = law * live
        total = kept.sum(1, keepdim=True)
        return torch.where(total > 0, kept, live) / torch.where(
            total > 0, total, live.sum(1, keepdim=True)
        )

    def act(self, context: Context, generator: Generator, *, k: int = 1) -> Slate:
        if k > 1:
            return super().act(context, generator, k=k)
        probs = self.probs(context)
        item = sample_cdf(probs, generator)  # (B, 1)
        p = probs.gather(1, item)
        return Slate(item, propensity=p, p_prefix=p, p_display=p, probs=probs)


def by_row(context: Context, state: Tensor) -> Tensor:
    """State of each row's learner: (G, ...) -> (B, ...)."""
    if context.learner is None and len(context) == len(state):
        return state
    return state[learner_of(context, len(state))]


def by_learner(context: Context, value: Tensor, learners: int) -> Tensor:
    """Sums over the rows of each learner: (B, ...) -> (G, ...)."""
    if context.learner is None and len(context) == learners:
        return value
    total = value.new_zeros(learners, *value.shape[1:])
    return total.index_add_(0, learner_of(context, learners), value)


def add_shown(context: Context, state: Tensor, item: Tensor, value: Tensor) -> None:
    """Add to what a learner's state (G, n_items) says of the items shown: (B, K), (B, K)."""
    if context.learner is None and len(context) == len(state):
        state.scatter_add_(1, item, value)
        return
    place = learner_of(context, len(state))[:, None] * state.shape[1] + item  # (B, K)
    state.view(-1).index_add_(0, place.flatten(), value.flatten())


def played(slate: Slate, who: Policy) -> Tensor:
    """The item of each row of a policy that plays one item a round: (B, 1).

    Raises:
        ConfigError: slates of several items.
    """
    if slate.item.shape[1] != 1:
        raise ConfigError(
            f"{type(who).__name__} learns from one item a request, found slates of "
            f"{slate.item.shape[1]}. Play it with slate=1."
        )
    return slate.item


def propensity_of(slate: Slate, probs: Tensor) -> Tensor:
    """The probability with which each item was drawn: as logged, else by the law: (B, 1)."""
    if slate.propensity is not None:
        return slate.propensity
    return probs.gather(1, slate.item)
