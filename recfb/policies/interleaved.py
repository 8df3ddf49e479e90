"""What is new in the catalogue, put at random ranks of another policy's slate."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Self

import torch
from torch import Generator, Tensor

from recfb.contracts import Context, Feedback, Policy, Slate
from recfb.data import Log
from recfb.errors import ConfigError
from recfb.policies.around import Around
from recfb.random import spawn


class Interleaved(Around):
    """A coin falls for each position: with probability `share` it gets an item that is new in this
    round, else the next one of the policy's slate.

    Chaney, Stewart and Engelhardt, "How algorithmic confounding in recommendation systems increases
    homogeneity and decreases utility", RecSys 2018, interleave arrivals like this. New is what
    could be shown to nobody in the rounds before; the catalogue of the first round is not new. New
    items are drawn uniformly without replacement, and once they are all there, the policy fills the
    rest from what is not new. Requests that list candidates are the policy's alone. In rounds
    without arrivals it is the policy, propensities and all; in others the probability of a slate is
    a sum over coins, and none is logged.

    Args:
        policy: who fills the other positions.
        share: of positions, in [0, 1].

    Raises:
        ConfigError: a share outside [0, 1], or a slate longer than the items that are not new.

    >>> from recfb.policies.oracle import Oracle
    >>> policy = Interleaved(Oracle(), share=1.0).bind(Log.empty(1, 3))
    >>> policy.look(torch.tensor([[0.9, 0.5, 0.1]]))
    >>> old = Context(torch.tensor([0]), available=torch.tensor([[True, True, False]]))
    >>> shown, g = Slate(torch.tensor([[0]])), torch.Generator()
    >>> policy.update(old, shown, Feedback(torch.tensor([[1.0]])), g)
    >>> policy.act(replace(old, available=torch.tensor([[True, True, True]])), g, k=2).item.tolist()
    [[2, 0]]
    """

    known: Tensor  # (n_items,) bool, what could be shown in the rounds before

    def __init__(self, policy: Policy, share: float = 0.5) -> None:
        super().__init__(policy)
        if not 0 <= share <= 1:
            raise ConfigError(f"share is a probability, found {share}. For half: share=0.5")
        self.share = share

    def bind(self, log: Log) -> Self:
        self.register_buffer("known", torch.zeros(log.n_items, dtype=torch.bool))
        return super().bind(log)

    def reset(self, generator: Generator) -> None:
        super().reset(generator)
        self.known.zero_()

    def _fresh(self, context: Context) -> Tensor | None:
        """The new items of each request, (B or 1, n_items) bool; None in a round without any."""
        if context.available is None or context.candidates is not None:
            return None
        fresh = context.available & ~self.known
        return fresh if bool(self.known.any()) and bool(fresh.any()) else None

    def _rest(self, context: Context) -> Context:
        """The requests without the new items."""
        assert context.available is not None
        return replace(context, available=context.available & self.known)

    def probs(self, context: Context) -> Tensor:
        """(B, n_items), at the first position."""
        fresh = self._fresh(context)
        if fresh is None:
            return self.policy.probs(context)
        many = fresh.sum(1, keepdim=True)  # (B or 1, 1)
        share = self.share * (many > 0).to(torch.float64)
        mine = self.policy.probs(self._rest(context)).to(torch.float64)
        return (1 - share) * mine + share * fresh / many.clamp(min=1)

    def propensities(self, context: Context, item: Tensor) -> Slate:
        alone = self._fresh(context) is None
        return self.policy.propensities(context, item) if alone else Slate(item)

    def act(self, context: Context, generator: Generator, *, k: int = 1) -> Slate:
        fresh = self._fresh(context)
        if fresh is None:
            return self.policy.act(context, generator, k=k)
        mine = self.policy.draw(self._rest(context), spawn(generator, "policy"), k=k).item  # (B, K)
        draw = partial(torch.rand, generator=generator, dtype=torch.float64, device=mine.device)
        coin = draw(mine.shape) < self.share  # (B, K)
        order = arrivals_in_order(fresh, draw((len(mine), int(fresh.any(0).sum()))))  # (B, C)
        many = fresh.sum(1, keepdim=True)  # (B or 1, 1)
        coin &= coin.cumsum(1) <= many
        place = coin.cumsum(1) - 1  # (B, K), among the new
        new = order.gather(1, place.clamp(0, order.shape[1] - 1))
        return Slate(torch.where(coin, new, mine.gather(1, ((~coin).cumsum(1) - 1).clamp(min=0))))

    def update(
        self, context: Context, slate: Slate, feedback: Feedback, generator: Generator
    ) -> None:
        if context.available is not None:
            self.known |= context.available.any(0)
        super().update(context, slate, feedback, generator)


def arrivals_in_order(fresh: Tensor, u: Tensor) -> Tensor:
    """Each request's new items in the order of uniform numbers; those of others come last:
    (B or 1, n_items) bool with C columns that are new to anyone, (B, C) -> (B, C).

    >>> fresh = torch.tensor([[True, False, True], [False, False, True]])
    >>> arrivals_in_order(fresh, torch.tensor([[0.9, 0.1], [0.1, 0.9]])).tolist()
    [[2, 0], [2, 0]]
    """
    columns = fresh.any(0).nonzero().squeeze(1)  # (C,)
    late = u + (~fresh[:, columns]).to(u.dtype)  # (B, C)
    return columns[late.argsort(1)]


__all__ = ["Interleaved", "arrivals_in_order"]
