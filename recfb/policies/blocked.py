"""Policies that keep an item for a block of rounds, so that changes are few."""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple, Self

import torch
from torch import Generator, Tensor

from recfb.contracts import Context, Feedback, Slate
from recfb.data import Log
from recfb.errors import ConfigError
from recfb.policies.drawn import Drawn, played, propensity_of


class Span(NamedTuple):
    """A block: its number from 0, and its rounds start..stop - 1."""

    number: int
    start: int
    stop: int


class Blocked(Drawn):
    """Draws an item at the start of a block, plays it to the end, and then renews the law.

    Inside a block the item is certain, so its propensity given the past is 1; at a start it is what
    the law said. Of several requests in a round, a learner learns from its first. It has to know
    in every round what it played, so feedback that is late is refused.
    """

    loss: Tensor  # (G, n_items) float64, cumulative estimates
    earned: Tensor  # (G, 1) float64, the rewards of this block's item, 1 where one is not known
    batch: Tensor  # (G, n_items) float64, what else this block has shown of the losses
    p: Tensor  # (G, n_items) float64, the law of this block's item, the past items left out
    weight: Tensor  # (G, 1) float64, the propensity of this block's item when it was drawn

    held: bool  # the next item is this one, for sure
    _inside: Slate | None  # what is shown while it is; None: not known yet

    def bind(self, log: Log) -> Self:
        super().bind(log)
        self.held, self._inside = False, None
        for name in ("loss", "batch"):
            self.register_buffer(name, torch.zeros_like(self.law))
        self.register_buffer("earned", torch.zeros_like(self.law[:, :1]))
        self.register_buffer("p", self.law.clone())
        self.register_buffer("weight", torch.ones_like(self.law[:, :1]))
        return self

    def reset(self, generator: Generator) -> None:
        super().reset(generator)
        for total in (self.loss, self.batch, self.earned):
            total.zero_()
        self.p.copy_(self.law)
        self.weight.fill_(1.0)
        self.held, self._inside = False, None
        self.plan(self.span(0), generator)

    @abstractmethod
    def span(self, time: int) -> Span:
        """The block of a round."""

    @abstractmethod
    def estimate(self, item: Tensor, span: Span) -> Tensor:
        """The losses of all items in a block that is over, its item (G, 1): (G, n_items)."""

    @abstractmethod
    def renewed(self, number: int) -> Tensor:
        """The law of the item of a block, from the estimates so far: (G, n_items)."""

    def coupled(self, item: Tensor, p_next: Tensor, estimate: Tensor) -> Tensor:
        """The law of the next item given this one, (G, 1); here independent of it."""
        return p_next

    def plan(self, span: Span, generator: Generator) -> None:
        """Draw what is fixed before a block begins."""

    def collect(self, slate: Slate, feedback: Feedback, span: Span) -> None:
        """Take in a round's feedback; rows are learners."""
        self.earned.add_(feedback.reward.nan_to_num(nan=1.0))

    def lost(self, span: Span) -> Tensor:
        """The losses of this block's item, summed: (G, 1)."""
        return (span.stop - span.start) - self.earned

    def act(self, context: Context, generator: Generator, *, k: int = 1) -> Slate:
        if self.held and k == 1 and context.available is None and context.candidates is None:
            if self._inside is None or len(self._inside) != len(context):
                law = self.probs(context)  # (B, n_items), certain
                p, item = law.max(1, keepdim=True)  # (B, 1)
                self._inside = Slate(item, propensity=p, p_prefix=p, p_display=p, probs=law)
            return self._inside
        return super().act(context, generator, k=k)

    def update(
        self, context: Context, slate: Slate, feedback: Feedback, generator: Generator
    ) -> None:
        slate, feedback = self._first(context, slate, feedback)
        item, time = played(slate, self), int(context.time)  # (G, 1)
        span = self.span(time)
        if time == span.start:
            self.weight.copy_(propensity_of(slate, self.p))
            if time + 1 < span.stop:
                self.hold(item)
        self.collect(slate, feedback, span)
        if time + 1 == span.stop:
            if self.held:
                self.held, self._inside = False, None
            estimate = self.estimate(item, span)
            self.loss.add_(estimate)
            p_next = self.renewed(span.number + 1)
            self.law.copy_(self.coupled(item, p_next, estimate))
            self.p.copy_(p_next)
            self.batch.zero_()
            self.earned.zero_()
            self.plan(self.span(span.stop), generator)

    def hold(self, item: Tensor) -> None:
        """The next item is this one, (G, 1), for sure."""
        self.held = True
        self.law.zero_().scatter_(1, item, 1.0)

    def _first(self, context: Context, slate: Slate, feedback: Feedback) -> tuple[Slate, Feedback]:
        """The first row of each learner."""
        if context.learner is not None or isinstance(context.time, Tensor):
            raise ConfigError(
                f"{type(self).__name__} keeps its item from round to round, so it must learn from "
                "every round at once. Play it without delays."
            )
        if len(context) == len(self.law):
            return slate, feedback
        first = torch.arange(len(self.law), device=self.law.device)
        first = first * (len(context) // len(self.law))
        return slate[first], feedback[first]
