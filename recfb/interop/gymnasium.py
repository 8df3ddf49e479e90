"""Worlds as Gymnasium environments: the agent is the platform, an action is what it shows.

    from recfb.interop.gymnasium import Platform

    env = Platform(worlds.Contextual(4, 3), rounds=1000)
    observation, info = env.reset(seed=0)

Needs `pip install gymnasium`.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Generator, Tensor

from recfb.contracts import Context, Feedback, Slate, World, cat
from recfb.errors import ConfigError, SupportError
from recfb.random import derive, stream
from recfb.simulate.delays import Parcel, deliver, post

Seen = dict[str, np.ndarray]


class Rounds:
    """A world that is played round by round by somebody outside, with the numbers that `simulate`
    would draw under the same seed."""

    def __init__(self, world: World[Any], rounds: int, slate: int, replications: int) -> None:
        if rounds < 1 or not 1 <= slate <= world.n_items:
            raise ConfigError(
                f"rounds is positive and slate in 1..{world.n_items}, found rounds={rounds} and "
                f"slate={slate}."
            )
        if replications > 1 and not world.vectorised:
            raise ConfigError(
                f"{type(world).__name__} does not run replications side by side. Make an "
                "environment of each: gymnasium.vector.SyncVectorEnv([make] * n)"
            )
        self.world = world
        self.rounds = rounds
        self.slate = slate
        self.replications = replications
        self.begin(0)
        self.shapes = {name: value.shape for name, value in self.context().items()}

    def begin(self, seed: int) -> None:
        """Go back to before round 0."""
        self.seed, self.time = derive(seed, "replication", 0), 0
        self.state = self.world.start(stream(self.seed, "start"), self.replications)
        self.waiting: Parcel | None = None
        self.seen = self.world.observe(self.state)

    def context(self) -> Seen:
        """What the requests of this round say: (R, requests, ...) each."""
        rows, seen = len(self.seen), self.seen
        available = None if seen.available is None else seen.available.expand(rows, -1)
        values = {
            "user": seen.user,
            "features": seen.features,
            "available": None if available is None else available.to(torch.int8),
            "history": seen.history,
        }
        each = rows // self.replications
        return {
            name: value.reshape(self.replications, each, *value.shape[1:]).numpy().copy()
            for name, value in values.items()
            if value is not None
        }

    def play(self, action: np.ndarray) -> np.ndarray:
        """Show items, (R, requests, slate); the rewards that became known, less costs: (R,).

        Raises:
            SupportError: an item that does not exist or was not available.
            ConfigError: the rounds are over, or a world whose number of requests changes.
        """
        if self.time >= self.rounds:
            raise ConfigError(f"the {self.rounds} rounds are over. Start again: env.reset()")
        wanted = np.array(action, dtype=np.int64)  # a copy: an agent's may be read-only
        item = torch.from_numpy(wanted).reshape(len(self.seen), self.slate)
        _check(item, self.seen, self.world.n_items)
        slate = Slate(item)
        with torch.no_grad():
            feedback, truth = self.world.respond(self.state, slate, self._stream("respond"))
            reward = self._known(slate, feedback)
            self.state = self.world.step(self.state, slate, truth, self._stream("step"))
        self.time += 1
        self.seen = self.world.observe(self.state)
        for name, value in self.context().items():
            if value.shape != self.shapes[name]:
                raise ConfigError(
                    f"{name} has shape {value.shape} in round {self.time} and had "
                    f"{self.shapes[name]}: an environment needs the same requests every round."
                )
        return reward.numpy()

    def _known(self, slate: Slate, feedback: Feedback) -> Tensor:
        cost = torch.zeros(len(slate)) if feedback.cost is None else feedback.cost
        if feedback.delay is not None or self.waiting is not None:
            new = post(self.seen, slate, feedback, self.time, self.replications)
            self.waiting = new if self.waiting is None else cat([self.waiting, new])
            due, self.waiting = deliver(self.waiting, self.time)
            known = torch.zeros(self.replications, dtype=torch.float64)
            if due.context.learner is not None:
                paid = due.feedback.reward.nan_to_num().sum(1).to(torch.float64)
                known.index_add_(0, due.context.learner, paid)
        else:
            paid = feedback.reward.nan_to_num().sum(1).to(torch.float64)
            known = paid.view(self.replications, -1).sum(1)
        return known - cost.view(self.replications, -1).sum(1)

    def _stream(self, name: str) -> Generator:
        return stream(derive(self.seed, name) + self.time)

    def observation_space(self) -> spaces.Dict:
        """Of one replication: (requests, ...) each."""
        found: dict[str, spaces.Space[Any]] = {}
        for name, value in self.context().items():
            shape = value.shape[1:]
            if name == "user":
                found[name] = spaces.MultiDiscrete(np.full(shape, self.world.n_users))
            elif name == "available":
                found[name] = spaces.MultiBinary(shape)
            elif name == "history":
                found[name] = spaces.Box(-1, self.world.n_items - 1, shape, np.int64)
            else:
                found[name] = spaces.Box(-np.inf, np.inf, shape, value.dtype.type)
        return spaces.Dict(found)

    def action_space(self) -> spaces.Space[Any]:
        """Of one replication: an item, or (requests, slate) of them."""
        requests = len(self.seen) // self.replications
        if requests == self.slate == 1:
            return spaces.Discrete(self.world.n_items)
        return spaces.MultiDiscrete(np.full((requests, self.slate), self.world.n_items))


class Platform(gymnasium.Env[Any, Any]):
    """One platform in a world: observations are the requests of a round, an action the items shown
    to them, the reward the sum of what became known, less costs.

    An episode is never terminated; it is truncated after `rounds`, and begins anew by `reset`
    alone. The truth is in no observation and in no info. Under one seed it draws what `simulate`
    draws for a policy of one replication.

    Args:
        world: with the same number of requests in every round.
        rounds: how many rounds an episode has.
        slate: how many items a request is shown.

    Raises:
        ConfigError: rounds or a slate out of range; a step after the last round.
        SupportError: an item that does not exist or was not available.

    >>> from recfb.worlds.arms import Arms
    >>> env = Platform(Arms([0.0, 1.0]), rounds=2)
    >>> observation, info = env.reset(seed=0)
    >>> [env.step(1)[1:4] for _ in range(2)]
    [(1.0, False, False), (1.0, False, True)]
    """

    def __init__(self, world: World[Any], rounds: int, slate: int = 1) -> None:
        self.loop = Rounds(world, rounds, slate, 1)
        self.observation_space = self.loop.observation_space()
        self.action_space = self.loop.action_space()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Seen, dict[str, Any]]:
        super().reset(seed=seed)
        self.loop.begin(_seed(seed, self.np_random))
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Seen, float, bool, bool, dict[str, Any]]:
        reward = float(self.loop.play(np.asarray(action))[0])
        return self._observation(), reward, False, self.loop.time >= self.loop.rounds, {}

    def _observation(self) -> Seen:
        return {name: value[0] for name, value in self.loop.context().items()}


class Platforms(VectorEnv[Any, Any, np.ndarray]):
    """R platforms side by side, each in a world of its own; all end in the same round.

    Nothing is reset behind the agent's back: `reset` begins all of them anew.

    Args:
        world: one that runs replications side by side (`world.vectorised`).
        rounds: how many rounds an episode has.
        num_envs: R.
        slate: how many items a request is shown.

    Raises:
        ConfigError: a world that runs one replication at a time; rounds or a slate out of range; a
            step after the last round; a reset of some of them.
        SupportError: an item that does not exist or was not available.

    >>> from recfb.worlds.arms import Arms
    >>> env = Platforms(Arms([0.0, 1.0]), rounds=2, num_envs=3)
    >>> observation, info = env.reset(seed=0)
    >>> env.step(np.array([0, 1, 1]))[1].tolist()
    [0.0, 1.0, 1.0]
    """

    metadata = {"autoreset_mode": AutoresetMode.DISABLED}

    def __init__(
        self, world: World[Any], rounds: int, *, num_envs: int = 2, slate: int = 1
    ) -> None:
        self.num_envs = num_envs
        self.loop = Rounds(world, rounds, slate, num_envs)
        self.single_observation_space = self.loop.observation_space()
        self.single_action_space = self.loop.action_space()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Seen, dict[str, Any]]:
        if isinstance(seed, list) or (options or {}).get("reset_mask") is not None:
            raise ConfigError(
                "the platforms share their random numbers, so they begin anew together: "
                "env.reset(seed=0)"
            )
        super().reset(seed=seed)
        self.loop.begin(_seed(seed, self.np_random))
        return self.loop.context(), {}

    def step(self, actions: Any) -> tuple[Seen, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        reward = self.loop.play(np.asarray(actions))
        over = np.full(self.num_envs, self.loop.time >= self.loop.rounds)
        return self.loop.context(), reward, np.zeros_like(over), over, {}


def _seed(seed: int | None, generator: np.random.Generator) -> int:
    return int(generator.integers(2**31)) if seed is None else seed


def _check(item: Tensor, context: Context, n_items: int) -> None:
    low, high = (int(x) for x in item.aminmax())
    if low < 0 or high >= n_items:
        raise SupportError(
            f"item {low if low < 0 else high} was shown; items are 0..{n_items - 1}."
        )
    if context.available is not None:
        allowed = context.available.expand(len(item), -1).gather(1, item)
        if not bool(allowed.all()):
            row, place = (~allowed).nonzero()[0].tolist()
            raise SupportError(
                f"request {row} was shown item {int(item[row, place])}, which is not available. "
                'observation["available"] says which are.'
            )


__all__ = ["Platform", "Platforms"]
