"""What a change of item costs, and what may be looked at: worlds around worlds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from recfb.contracts import Context, Feedback, Slate, Truth, World
from recfb.data import Log
from recfb.errors import ConfigError
from recfb.worlds.wrappers import Wrapper


@dataclass(frozen=True, slots=True)
class Beside:
    """The state of the world inside, and what the wrapper counts for each request."""

    world: Any
    beside: Any


class Counting(Wrapper):
    """A wrapper with a state of its own, beside that of the world inside."""

    def observe(self, state: Beside) -> Context:
        return self.world.observe(state.world)

    def opening(self, state: Beside, learners: int, rounds: int) -> Log:
        return self.world.opening(state.world, learners, rounds)

    def values(self, state: Beside) -> Tensor:
        return self.world.values(state.world)


class SwitchingCost(Counting):
    """Showing another slate than in the round before costs.

    Arora, Dekel and Tewari, "Online bandit learning against an adaptive adversary", ICML 2012. The
    first slate is no switch. The platform is told the cost; the truth holds `switch`, 1 or 0. Its
    `value` is net of the cost, shared by the positions, so regret is with switching; `reward`, and
    `best`, which pays nothing, are those of the world inside.

    Args:
        world: the world inside.
        cost: of one switch, in units of the reward.

    Raises:
        ConfigError: a negative cost.

    >>> from recfb.worlds.arms import Arms
    >>> world, g = SwitchingCost(Arms([0.25, 0.5]), cost=1.0), torch.Generator()
    >>> state, first = world.start(g), Slate(torch.tensor([[0]]))
    >>> state = world.step(state, first, world.respond(state, first, g)[1], g)
    >>> feedback, truth = world.respond(state, Slate(torch.tensor([[1]])), g)
    >>> feedback.cost.tolist(), truth["switch"].tolist(), truth["value"].tolist()
    ([1.0], [1.0], [[-0.5]])
    """

    informed: ClassVar[bool] = False

    def __init__(
        self,
        world: World,  # type: ignore[type-arg]
        cost: float = 1.0,
    ) -> None:
        super().__init__(world)
        if cost < 0:
            raise ConfigError(f"a switch costs at least 0, found {cost}. For one reward: cost=1.0")
        self.cost = cost

    def start(self, generator: Generator, replications: int = 1) -> Beside:
        return Beside(self.world.start(generator, replications), None)

    def respond(self, state: Beside, slate: Slate, generator: Generator) -> tuple[Feedback, Truth]:
        feedback, truth = self.world.respond(state.world, slate, generator)
        last = slate.item if state.beside is None else state.beside  # (B, K)
        moved = slate.item.ne(last)  # (B, K)
        k = moved.shape[1]
        switch = (moved if k == 1 else moved.any(1, keepdim=True)).double()  # (B, 1)
        value = truth["value"].sub(switch, alpha=self.cost / k)  # (B, K)
        switch = switch.squeeze(1)  # (B,)
        cost = switch if self.cost == 1 else switch * self.cost
        if feedback.cost is not None:
            cost = cost + feedback.cost
        told = Feedback(
            feedback.reward, feedback.extra, cost, feedback.complaint, feedback.delay
        )  # a third of the time of `replace`
        return told, {**truth, "value": value, "switch": switch}

    def step(self, state: Beside, slate: Slate, truth: Truth, generator: Generator) -> Beside:
        return Beside(self.world.step(state.world, slate, truth, generator), slate.item)


class Budgeted(Counting):
    """Outcomes of any items may be asked for, as long as the budget lasts.

    Cheng, Zhou and Ji, "Understanding the role of feedback in online learning with switching
    costs", ICML 2023. What `slate.observe` asks for comes back in `feedback.extra`. With `extra`,
    the reward of what was shown is free and every other outcome counts; with `total`, nothing is
    free, and a reward is known only if it was asked for. Without either, all is granted. A request
    that is larger than what is left is not granted at all: it costs nothing and comes back NaN. So
    a budget is never exceeded. The truth holds `used`, the outcomes paid for in this round.

    Args:
        world: a world that knows what every item would have paid: Arms, Gaps, MultiScaleWalk.
        extra: how many outcomes beyond those shown, each request row.
        total: how many outcomes at all, each request row.
        strict: whether a request beyond the budget is an error, as in tests.

    Raises:
        ConfigError: both budgets or a negative one, a world that does not know all outcomes, or,
            if strict, a request beyond the budget.

    >>> from recfb.worlds.arms import Arms
    >>> world, g = Budgeted(Arms([1.0, 1.0]), extra=1), torch.Generator()
    >>> asks = Slate(torch.tensor([[0]]), observe=torch.tensor([[True, True]]))
    >>> state = world.start(g)
    >>> feedback, truth = world.respond(state, asks, g)
    >>> feedback.extra.tolist(), truth["used"].tolist()
    ([[1.0, 1.0]], [1])
    >>> world.respond(world.step(state, asks, truth, g), asks, g)[0].extra.tolist()
    [[nan, nan]]
    """

    informed: ClassVar[bool] = False

    def __init__(
        self,
        world: World,  # type: ignore[type-arg]
        extra: int | None = None,
        *,
        total: int | None = None,
        strict: bool = False,
    ) -> None:
        super().__init__(world)
        if not all(callable(getattr(world, name, None)) for name in ("outcomes", "answer")):
            raise ConfigError(
                f"{type(world).__name__} does not know what every item would have paid. Put the "
                "budget around the arms themselves: SwitchingCost(Budgeted(Arms([0.4, 0.6])))"
            )
        if extra is not None and total is not None:
            raise ConfigError(
                f"a budget is extra or total, found extra={extra} and total={total}. Give one."
            )
        if (extra or 0) < 0 or (total or 0) < 0:
            raise ConfigError(f"a budget is at least 0, found extra={extra}, total={total}.")
        self.extra = extra
        self.total = total
        self.strict = strict

    def start(self, generator: Generator, replications: int = 1) -> Beside:
        inside = self.world.start(generator, replications)
        return Beside(inside, torch.zeros_like(self.world.observe(inside).user))

    def respond(self, state: Beside, slate: Slate, generator: Generator) -> tuple[Feedback, Truth]:
        outcome = self.world.outcomes(state.world, generator)  # (B, n_items)
        feedback, truth = self.world.answer(state.world, slate, outcome)
        if slate.observe is None:
            if self.total is not None:
                feedback = replace(feedback, reward=torch.full_like(feedback.reward, torch.nan))
            return feedback, {**truth, "used": torch.zeros_like(state.beside)}
        granted, used = self._grant(state.beside, slate, slate.observe)
        extra = torch.where(granted, outcome, torch.nan)  # (B, n_items)
        reward = feedback.reward if self.total is None else extra.gather(1, slate.item)  # (B, K)
        told = Feedback(reward, extra, feedback.cost, feedback.complaint, feedback.delay)
        return told, {**truth, "used": used}

    def _grant(self, spent: Tensor, slate: Slate, wish: Tensor) -> tuple[Tensor, Tensor]:
        """What each request is given, and what it pays for that: (B, n_items), (B,)."""
        paid = wish if self.total is not None else wish.scatter(1, slate.item, False)
        price = paid.sum(1)  # (B,)
        limit = self.extra if self.total is None else self.total
        if limit is None:
            return wish, price
        fits = spent + price <= limit  # (B,)
        if not self.strict:
            return wish & fits[:, None], price * fits
        if not bool(fits.all()):
            row = int((~fits).nonzero()[0])
            raise ConfigError(
                f"request {row} asks for {int(price[row])} outcomes with {limit - int(spent[row])} "
                f"of {limit} left. Ask for fewer, or play with strict=False."
            )
        return wish, price

    def step(self, state: Beside, slate: Slate, truth: Truth, generator: Generator) -> Beside:
        inside = self.world.step(state.world, slate, truth, generator)
        if slate.observe is None:  # nothing is paid for
            return Beside(inside, state.beside)
        return Beside(inside, state.beside + truth["used"])
