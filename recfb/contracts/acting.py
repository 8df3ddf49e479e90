"""What acts: policies, the models under them, and the worlds they act in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, Self, TypeVar, runtime_checkable

import torch
from torch import Generator, Tensor

from recfb.contracts.checks import check_probs, check_shape
from recfb.contracts.drawing import plackett_luce, sample_cdf
from recfb.contracts.learning import Component
from recfb.data.batch import Context, Feedback, Slate
from recfb.errors import ConfigError
from recfb.random import spawn

if TYPE_CHECKING:
    from recfb.data.log import Log

State = TypeVar("State")
Truth = Mapping[str, Tensor]
"""What only the evaluation sees: (B,) or (B, K) value, examined, p_examine ...; (B, n_items)
outcomes."""


@runtime_checkable
class Model(Protocol):
    """Anything with `scores`: a fitted Recommender, a Solver, an adapter. A reward model's scores
    are E[r | x, a]."""

    def bind(self, log: Log) -> Self: ...

    def scores(self, context: Context) -> Tensor: ...

    def score_of(self, context: Context, item: Tensor) -> Tensor: ...

    def top(self, context: Context, k: int) -> Tensor: ...


@runtime_checkable
class Belief(Model, Protocol):
    """A model that also knows how sure it is, and learns from rows as they become known."""

    def width(self, context: Context) -> Tensor: ...

    def sample(self, context: Context, generator: Generator) -> Tensor: ...

    def update(
        self, context: Context, slate: Slate, feedback: Feedback, generator: Generator
    ) -> None: ...


class Policy(Component, ABC):
    """Context -> distribution over items. G learners side by side: state is (G, ...), `bind`
    allocates, `reset` fills."""

    vectorised: ClassVar[bool] = (
        True  # False: one learner an object; simulate loops over replications
    )
    privileged: ClassVar[bool] = False  # True: look(world.values(state)) is called before act
    differentiates: ClassVar[bool] = False  # True: `update` needs autograd, at 1/7 more a round

    n_items: int

    def bind(self, log: Log) -> Self:
        self.n_items = log.n_items
        model = self._foreign()
        if model is not None:
            model.bind(log)
        return super().bind(log)

    def reset(self, generator: Generator) -> None:
        model = self._foreign()
        if hasattr(model, "reset"):
            model.reset(spawn(generator, "model"))
        super().reset(generator)

    def _foreign(self) -> Any:
        """A model that is no Component, so that nobody else binds and resets it."""
        model = getattr(self, "model", None)
        return None if isinstance(model, Component) else model

    @abstractmethod
    def probs(self, context: Context) -> Tensor:
        """(B, n_items) float64; rows sum to 1 and are exactly 0 where unavailable."""

    def prob_of(self, context: Context, item: Tensor) -> Tensor:
        """The probability of given items, shaped like item. Override it for large catalogues."""
        index = item if item.dim() == 2 else item[:, None]
        return self._whole(context).gather(1, index).view_as(item)

    def _whole(self, context: Context) -> Tensor:
        """What `probs` returns, if it is a row of all items for each request."""
        probs = self.probs(context)
        width = getattr(self, "n_items", None)  # a policy of given probabilities may not be bound
        check_shape(probs, len(context), width, type(self).__name__)
        return probs

    def propensities(self, context: Context, item: Tensor) -> Slate:
        """The exact probabilities of any (B, K) slate, logged ones too. What has no closed form is
        None."""
        probs = self._whole(context)
        prefix = plackett_luce(probs, item)  # (B, K)
        if item.shape[1] == 1:
            return Slate(item, propensity=prefix, p_prefix=prefix, p_display=prefix, probs=probs)
        return Slate(item, p_prefix=prefix, probs=probs)

    def act(self, context: Context, generator: Generator, *, k: int = 1) -> Slate:
        """Draw a slate, then say how likely it was: inverse CDF for k = 1, Plackett-Luce without
        replacement above."""
        probs = self._whole(context)
        if k == 1:
            item = sample_cdf(probs, generator)  # (B, 1)
        else:
            self.check_slate(probs, k)
            shape, device = probs.shape, probs.device
            u = torch.rand(shape, generator=generator, dtype=torch.float64, device=device)
            # arrival times Exp(probs): items without mass never arrive
            race = u.log_().neg_().div_(probs)  # (B, n_items)
            item = race.nan_to_num_(nan=torch.inf).topk(k, dim=1, largest=False).indices  # (B, k)
        prefix = plackett_luce(probs, item)
        single = prefix if k == 1 else None
        return Slate(item, propensity=single, p_prefix=prefix, p_display=single, probs=probs)

    def draw(self, context: Context, generator: Generator, *, k: int = 1) -> Slate:
        """What `act` shows, from the same numbers. A policy that works out probabilities for the
        log alone, and whose `update` does not read them, leaves them out here: runs that keep no
        log, in worlds that are not `informed`, ask for no more."""
        return self.act(context, generator, k=k)

    def check_slate(self, probs: Tensor, k: int) -> None:
        """Refuse slates that are longer than what could be shown."""
        fewest = int((probs > 0).sum(1).min()) if len(probs) else k
        if fewest < k:
            raise ConfigError(
                f"a slate of {k} items was asked of {type(self).__name__}, but a request has only "
                f"{fewest} items "
                f"with positive probability. Ask for slate={fewest} or fewer, or give the policy "
                "exploration."
            )

    def propensity_mc(
        self, context: Context, item: Tensor, generator: Generator, draws: int
    ) -> Tensor:
        """The share of `draws` in which `act` picks `item` (B,): for policies without a closed
        form."""
        hits = torch.zeros(len(item), dtype=torch.float64, device=item.device)
        for _ in range(draws):
            hits += self.draw(context, generator).item[:, 0] == item
        return hits / draws

    def update(
        self, context: Context, slate: Slate, feedback: Feedback, generator: Generator
    ) -> None:
        """Learn from the rows that became known this round; NaN rewards are skipped in every
        statistic. Default: the model's own `update`, where it has one."""
        learn = getattr(self._modules.get("model", vars(self).get("model")), "update", None)
        if learn is not None:
            learn(context, slate, feedback, generator)

    def refit(self, log: Log, fit: Callable[[Log, Any], Any]) -> None:
        """Train the policy's model on a log: by the model's own `refit`, where it has one, else by
        `fit`; nothing to do without a model, or where it learns by `update` alone."""
        model = getattr(self, "model", None)
        if model is None:
            return
        if hasattr(model, "refit"):
            model.refit(log, fit)
        elif not hasattr(model, "update"):
            fit(log, model)

    @property
    def retrained(self) -> bool:
        """Whether `refit` does anything, so that a run has to keep its log for it."""
        return type(self).refit is not Policy.refit or trained(getattr(self, "model", None))

    def look(self, values: Tensor) -> None:
        """(B, n_items) expected rewards of this round, given to privileged policies only."""


def trained(model: Any) -> bool:
    """Whether a policy's model is trained on logs, by its own `refit` or by `fit`: what has an
    `update` alone learns from the rounds."""
    return model is not None and (hasattr(model, "refit") or not hasattr(model, "update"))


class World(Component, ABC, Generic[State]):
    """Population dynamics. A frozen State holds all that changes; draw the same numbers whatever
    the slate."""

    n_users: int
    n_items: int
    vectorised: ClassVar[bool] = False  # True: R worlds on the rows
    informed: ClassVar[bool] = True  # False: reads no probability of a slate

    @abstractmethod
    def start(self, generator: Generator, replications: int = 1) -> State:
        """The first state."""

    @abstractmethod
    def opening(self, state: State, learners: int, rounds: int) -> Log:
        """What a platform holds before round 0: sizes, horizon, item features, first clicks."""

    @abstractmethod
    def observe(self, state: State) -> Context:
        """The requests of this round; pure."""

    @abstractmethod
    def respond(self, state: State, slate: Slate, generator: Generator) -> tuple[Feedback, Truth]:
        """What the platform learns, and the truth apart; both of the state before `step`."""

    @abstractmethod
    def step(self, state: State, slate: Slate, truth: Truth, generator: Generator) -> State:
        """The next state. Reads truth["reward"], never the feedback, which wrappers may have
        hidden."""

    @abstractmethod
    def values(self, state: State) -> Tensor:
        """(B, n_items) expected reward; for oracles and probes only."""


def informed(world: World[Any]) -> bool:
    """Whether a world, or one inside it, may read the probabilities of a slate."""
    return any(part.informed for part in world.modules() if isinstance(part, World))


@dataclass(frozen=True, slots=True)
class Round:
    """One finished round, as probes see it."""

    time: int
    context: Context
    slate: Slate
    feedback: Feedback
    truth: Truth
    policy: Policy
    world: World[Any]
    state: Any


Probe = Callable[[Round], Mapping[str, Tensor]]
__all__ = [
    "Belief",
    "Context",
    "Feedback",
    "Model",
    "Policy",
    "Probe",
    "Round",
    "Slate",
    "State",
    "Truth",
    "World",
    "check_probs",
    "informed",
    "trained",
]
