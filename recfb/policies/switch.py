"""One policy before a round, another from it on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

from recfb.contracts import Context, Feedback, Policy, Slate
from recfb.data import Log
from recfb.errors import ConfigError


class Switch(Policy):
    """An intervention: `before` acts in rounds 0 .. at - 1, `after` from round `at` on.

    Both learn from all rows. `at` 1 with a uniform `before` is a warm-up.

    Args:
        at: the first round of `after`.
        before: the policy until then.
        after: the policy from then on.

    Raises:
        ConfigError: a negative round.

    >>> from recfb.policies import Uniform
    >>> from recfb.policies.greedy import Greedy
    >>> from recfb.beliefs import Linear
    >>> policy = Switch(10, Uniform(), Greedy(Linear())).bind(Log.empty(1, 2))
    >>> policy.probs(Context(torch.tensor([0]), time=9)).tolist()
    [[0.5, 0.5]]
    >>> policy.probs(Context(torch.tensor([0]), time=10))[0].sort().values.tolist()
    [0.0, 1.0]
    """

    def __init__(self, at: int, before: Policy, after: Policy) -> None:
        super().__init__()
        if at < 0:
            raise ConfigError(f"at is a round, from 0, found {at}.")
        self.at = at
        self.before = before
        self.after = after

    @property
    def vectorised(self) -> bool:  # type: ignore[override]
        """Where both are."""
        return self.before.vectorised and self.after.vectorised

    @property
    def privileged(self) -> bool:  # type: ignore[override]
        """Where one of them is."""
        return self.before.privileged or self.after.privileged

    def look(self, values: Tensor) -> None:
        for part in (self.before, self.after):
            if part.privileged:
                part.look(values)

    def act(self, context: Context, generator: Generator, *, k: int = 1) -> Slate:
        if isinstance(context.time, Tensor):
            return super().act(context, generator, k=k)
        return self._of(context.time).act(context, generator, k=k)

    def propensities(self, context: Context, item: Tensor) -> Slate:
        if isinstance(context.time, Tensor):
            return super().propensities(context, item)
        return self._of(context.time).propensities(context, item)

    def probs(self, context: Context) -> Tensor:
        time = context.time
        if not isinstance(time, Tensor):
            return self._of(time).probs(context)
        early = (time < self.at)[:, None]  # (B, 1)
        return torch.where(early, self.before.probs(context), self.after.probs(context))

    def prob_of(self, context: Context, item: Tensor) -> Tensor:
        time = context.time
        if not isinstance(time, Tensor):
            return self._of(time).prob_of(context, item)
        early = (time < self.at).view(-1, *[1] * (item.dim() - 1))
        return torch.where(
            early, self.before.prob_of(context, item), self.after.prob_of(context, item)
        )

    def _of(self, time: int) -> Policy:
        return self.before if time < self.at else self.after

    def update(
        self, context: Context, slate: Slate, feedback: Feedback, generator: Generator
    ) -> None:
        for part in (self.before, self.after):
            part.update(context, slate, feedback, generator)

    @property
    def retrained(self) -> bool:
        return self.before.retrained or self.after.retrained

    def refit(self, log: Log, fit: Callable[[Log, Any], Any]) -> None:
        for part in (self.before, self.after):
            part.refit(log, fit)
