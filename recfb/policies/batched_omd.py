"""Batched mirror descent: one framework for bandits with switching costs and feedback budgets."""

from __future__ import annotations

from math import log as ln
from math import log1p, sqrt
from typing import Self

import torch
from torch import Generator, Tensor

from recfb.contracts import Context, Feedback, Slate
from recfb.data import Log
from recfb.errors import ConfigError
from recfb.policies.blocked import Blocked, Span
from recfb.policies.drawn import by_row, played
from recfb.policies.exp3 import NO_HORIZON, check_rate
from recfb.policies.omd import (
    NO_ANSWER,
    Coupling,
    Mode,
    Regulariser,
    asked,
    couple_dartboard,
    couple_maximal,
    entropy_step,
    importance,
    stability,
    tsallis_solve,
)


class BatchedOMD(Blocked):
    """Mirror descent over blocks, with a choice of what is observed and how the item is carried
    over.

    Cheng, Zhou and Ji, "Understanding the role of feedback in online learning with switching
    costs", ICML 2023. T rounds are cut into N blocks of nearly equal length; the item is kept
    inside a block. At its end the losses of all items are estimated from what was observed, the
    law is renewed by mirror descent, and the next item is drawn given this one.

    Observed are, with `mode`: "bandit_mean", every reward of the item played; "bandit_one", its
    reward in one round at random; "full_one", all rewards of one round at random; "flex_one", that
    of one item at random in one round at random; "bernoulli_full", all rewards with probability
    `query` in every round (blocks are single rounds). All but the first are asked for in
    `slate.observe` and need a world that answers: `Budgeted`.

    The next item is, with `coupling`: "independent" of this one; kept by the shrinking "dartboard"
    or by "dartboard_shifted", the same after the least estimate is subtracted; or moved least,
    "maximal". A coupling other than the first needs estimates that do not depend on the item
    played: with bandit feedback the weights 1 / p would be wrong.

    Args:
        regulariser: the 1/2-Tsallis entropy, or the negative entropy (exponential weights).
        mode: what is observed.
        coupling: how the next item depends on this one.
        blocks: N; None is one a round.
        eta: the learning rate; None minimises the bound.
        query: how likely all rewards of a round are asked for.
        cost: of one switch, for the learning rate.
        horizon: T; None is what the platform's log says.

    Raises:
        ConfigError: a coupling that is not valid, a number out of range, no horizon, slates of
            several items, or a world that does not answer.

    >>> from recfb.data import Log, Meta
    >>> policy = BatchedOMD("tsallis", "bandit_mean", blocks=4)
    >>> policy = policy.bind(Log.empty(1, 2, meta=Meta(horizon=10)))
    >>> [policy.span(t).number for t in range(10)]
    [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]
    """

    when: Tensor  # (G,) int64, the round in which a learner asks next; -1 is none
    which: Tensor  # (G, 1) int64, the item it asks for
    step: float  # the learning rate
    share: float  # one over the mean length of a block
    rounds: int
    count: int
    always: bool  # all items in every round
    asks: frozenset[int] | None  # rounds in which a learner asks; None: any may be
    _wish: Tensor | None  # (B, n_items) all items

    def __init__(
        self,
        regulariser: Regulariser = "tsallis",
        mode: Mode = "bandit_mean",
        *,
        coupling: Coupling = "independent",
        blocks: int | None = None,
        eta: float | None = None,
        query: float = 1.0,
        cost: float = 1.0,
        horizon: int | None = None,
    ) -> None:
        super().__init__()
        check_rate("eta", eta)
        check_coupling(mode, coupling)
        if not 0 < query <= 1 or cost < 0 or (blocks is not None and blocks < 1):
            raise ConfigError(
                "blocks is at least 1, query in (0, 1] and cost at least 0, found "
                f"blocks={blocks}, query={query}, cost={cost}."
            )
        if mode == "bernoulli_full" and blocks is not None:
            raise ConfigError('"bernoulli_full" asks in single rounds: leave out blocks.')
        self.regulariser = regulariser
        self.mode = mode
        self.coupling = coupling
        self.blocks = blocks
        self.eta = eta
        self.query = query
        self.cost = cost
        self.horizon = horizon

    def bind(self, log: Log) -> Self:
        super().bind(log)
        rounds = self.horizon or log.meta.horizon
        if rounds is None:
            raise ConfigError(NO_HORIZON.format(who=type(self).__name__, what="blocks"))
        self.rounds = rounds
        self.count = min(rounds, self.block_count(rounds, log.n_items))
        self.asks, self.always = None, self.mode == "full_one" and self.count == rounds
        self._wish = None
        self.step, self.share = self.rate(rounds, log.n_items), self.count / rounds
        none = torch.full_like(self.law[:, :1], -1, dtype=torch.int64)  # (G, 1)
        self.register_buffer("when", none[:, 0].clone())
        self.register_buffer("which", none + 1)
        return self

    def reset(self, generator: Generator) -> None:
        self.asks, self._wish = None, None
        self.when.fill_(-1)
        super().reset(generator)

    def block_count(self, rounds: int, n_items: int) -> int:
        """N."""
        return self.blocks or rounds

    def rate(self, rounds: int, n_items: int) -> float:
        """eta: the minimiser of the bound for this regulariser, mode and coupling."""
        if self.eta is not None:
            return self.eta
        n = self.count
        if self.regulariser == "tsallis":
            return sqrt(8 / n)
        each = stability(self.mode, n_items, self.query)
        if self.coupling != "independent" and self.mode != "bernoulli_full":
            each += self.cost * n / rounds
        return sqrt(ln(n_items) / (n * each))

    def span(self, time: int) -> Span:
        T, N = self.rounds, self.count
        number = ((time + 1) * N - 1) // T  # the last block whose start is not after `time`
        return Span(number, number * T // N, (number + 1) * T // N)

    def plan(self, span: Span, generator: Generator) -> None:
        if self.mode == "bandit_mean" or self.always:
            return
        length, device = span.stop - span.start, self.when.device
        shape = (2, len(self.when))
        u = torch.rand(shape, generator=generator, dtype=torch.float64, device=device)  # (2, G)
        if self.mode == "bernoulli_full":
            self._wait(span.start, u[0])
        else:
            self.when.copy_((u[0] * length).to(torch.int64) + span.start)
            self.which.copy_((u[1] * self.n_items).to(torch.int64)[:, None])
        self.asks = frozenset(self.when.tolist())

    def _wait(self, start: int, u: Tensor) -> None:
        """Learners without a look ahead draw when they look next, from their uniform number (G,):
        each round is looked at with probability `query`."""
        due = self.when < start  # (G,)
        rate = log1p(-self.query) if self.query < 1 else -torch.inf
        wait = u.neg().log1p_().div_(rate).floor_().to(torch.int64)  # (G,) rounds without a look
        again = torch.where(self.granted(due), start + wait, -1)
        self.when.copy_(torch.where(due, again, self.when))

    def granted(self, due: Tensor) -> Tensor:
        """Which of the learners that are due may ask again: (G,) -> (G,)."""
        return due

    def act(self, context: Context, generator: Generator, *, k: int = 1) -> Slate:
        slate = super().act(context, generator, k=k)
        if self.mode == "bandit_mean" or self._silent(context.time):
            return slate
        if self.always:
            if self._wish is None or len(self._wish) != len(context):
                shape, device = (len(context), self.n_items), slate.item.device
                self._wish = torch.ones(shape, dtype=torch.bool, device=device)
            return asking(slate, self._wish)
        now = (by_row(context, self.when) == context.time)[:, None]  # (B, 1)
        if self.mode in ("full_one", "bernoulli_full"):
            return asking(slate, now.expand(-1, self.n_items))
        item = by_row(context, self.which) if self.mode == "flex_one" else slate.item
        none = torch.zeros(len(now), self.n_items, dtype=torch.bool, device=now.device)
        return asking(slate, none.scatter_(1, item, now.expand_as(item)))

    def _silent(self, time: int | Tensor) -> bool:
        """Whether no learner asks in this round."""
        return self.asks is not None and isinstance(time, int) and time not in self.asks

    def update(
        self, context: Context, slate: Slate, feedback: Feedback, generator: Generator
    ) -> None:
        if self.mode != "bernoulli_full" or not self._silent(context.time):
            super().update(context, slate, feedback, generator)
        elif self.coupling != "independent" and not self.held:  # no loss, no move
            self.hold(played(self._first(context, slate, feedback)[0], self))

    def collect(self, slate: Slate, feedback: Feedback, span: Span) -> None:
        if self.mode == "bandit_mean":
            super().collect(slate, feedback, span)
        elif feedback.extra is not None:
            self.batch.add_(asked(feedback.extra, 1.0))
        elif slate.observe is not None:
            raise ConfigError(NO_ANSWER.format(who=type(self).__name__))

    def estimate(self, item: Tensor, span: Span) -> Tensor:
        if self.mode == "bandit_mean":
            return importance(self.lost(span) * self.share, item, self.weight, self.n_items)
        length = (span.stop - span.start) * self.share  # of this block, in mean lengths
        if self.mode == "bandit_one":
            return self.batch * (length / self.weight)
        weight = {"flex_one": float(self.n_items), "bernoulli_full": 1 / self.query}
        return self.batch * (length * weight.get(self.mode, 1.0))

    def renewed(self, number: int) -> Tensor:
        solve = tsallis_solve if self.regulariser == "tsallis" else entropy_step
        return solve(self.loss, self.step)

    def coupled(self, item: Tensor, p_next: Tensor, estimate: Tensor) -> Tensor:
        if self.coupling == "independent":
            return p_next
        if self.coupling == "maximal":
            return couple_maximal(self.p, p_next, item)
        if self.coupling == "dartboard_shifted":
            estimate = estimate - estimate.amin(1, keepdim=True)
        return couple_dartboard(p_next, item, estimate, self.step)


def asking(slate: Slate, observe: Tensor) -> Slate:
    """The slate, and which outcomes are asked for."""
    return Slate(
        slate.item, slate.propensity, slate.p_prefix, slate.p_display, slate.probs, observe
    )


def check_coupling(mode: Mode, coupling: Coupling) -> None:
    """Refuse a coupling where the estimates depend on the items played."""
    if coupling != "independent" and mode in ("bandit_mean", "bandit_one"):
        raise ConfigError(
            f'coupling "{coupling}" needs estimates that do not depend on the item played, and '
            f'"{mode}" looks at nothing else: its weights 1 / p would be wrong and the learner '
            'stall. Use coupling="independent", or mode="full_one" with a Budgeted world.'
        )
