"""A policy around one other: what it passes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Generator, Tensor

from recfb.contracts import Context, Feedback, Policy, Slate
from recfb.data import Log


class Around(Policy):
    """Learns, looks and is trained as the policy inside; a subclass says what is shown.

    Args:
        policy: the policy inside.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    @property
    def vectorised(self) -> bool:  # type: ignore[override]
        """As the policy."""
        return self.policy.vectorised

    @property
    def privileged(self) -> bool:  # type: ignore[override]
        """As the policy."""
        return self.policy.privileged

    def look(self, values: Tensor) -> None:
        self.policy.look(values)

    def update(
        self, context: Context, slate: Slate, feedback: Feedback, generator: Generator
    ) -> None:
        self.policy.update(context, slate, feedback, generator)

    @property
    def retrained(self) -> bool:
        return self.policy.retrained

    def refit(self, log: Log, fit: Callable[[Log, Any], Any]) -> None:
        self.policy.refit(log, fit)
