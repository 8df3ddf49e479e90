"""A policy that never trains on its own log: the reference against which feedback is measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import polars as pl
from torch import Generator, Tensor

from recfb.contracts import Context, Feedback, Policy, Slate
from recfb.data import Log
from recfb.errors import ConfigError
from recfb.policies.around import Around


class OpenLoop(Around):
    """Acts as a policy does, and is trained on another log, up to the round its own log has
    reached.

    With a log of uniform displays of the same world, seed and size, a metric of the closed loop
    less that of this one is the effect of feedback: `recfb.metrics.loop_strength.against`. It does
    not learn from its own rounds either, so models that `update` stay as they were.

    Args:
        policy: whose models are trained.
        log: rows with time; a log of `simulate`, or a path that `Log.read` takes.

    Raises:
        ConfigError: a log without time, or of another world.

    >>> from recfb.policies.ranked import Ranked
    >>> from recfb.policies.uniform import Uniform
    >>> from recfb.simulate import simulate
    >>> from recfb.solvers import Popularity
    >>> from recfb.worlds import Tastes
    >>> world = Tastes(20, 10)
    >>> other = simulate(world, Uniform(), rounds=3, slate=2).log
    >>> run = simulate(world, OpenLoop(Ranked(Popularity()), other), rounds=3, slate=2)
    >>> len(run.log)
    120
    """

    def __init__(self, policy: Policy, log: Log | str | Path) -> None:
        super().__init__(policy)
        self.log = log
        self.rows = log if isinstance(log, Log) else Log.read(log)
        if "time" not in self.rows.columns:
            raise ConfigError(
                f"an open loop follows the rounds of its log, which has {self.rows.columns} and no "
                "time. Take a log of simulate(...)."
            )

    def bind(self, log: Log) -> Self:
        ours, theirs = (log.n_users, log.n_items), (self.rows.n_users, self.rows.n_items)
        if ours != theirs:
            raise ConfigError(
                f"the log of an open loop is of {theirs} users and items, the world has {ours}. "
                "Simulate both in one world."
            )
        return super().bind(log)

    def probs(self, context: Context) -> Tensor:
        return self.policy.probs(context)

    def prob_of(self, context: Context, item: Tensor) -> Tensor:
        return self.policy.prob_of(context, item)

    def propensities(self, context: Context, item: Tensor) -> Slate:
        return self.policy.propensities(context, item)

    def act(self, context: Context, generator: Generator, *, k: int = 1) -> Slate:
        return self.policy.act(context, generator, k=k)

    def update(
        self, context: Context, slate: Slate, feedback: Feedback, generator: Generator
    ) -> None:
        """Nothing: what it shows teaches it nothing."""

    def refit(self, log: Log, fit: Callable[[Log, Any], Any]) -> None:
        reached = log.frame["time"].max()
        super().refit(log.with_frame(self.rows.frame.filter(pl.col("time") <= reached)), fit)
