"""A share of the traffic under a policy, the rest under another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Generator, Tensor

from recfb.contracts import Context, Feedback, Policy, Slate
from recfb.data import Log
from recfb.errors import ConfigError
from recfb.policies.uniform import Uniform


class Mixture(Policy):
    """A policy with a share c of control traffic: p = (1 - c) p_policy + c p_control.

    The log holds the mixed propensity, so all its rows serve evaluation; a permanent uniform share
    keeps every item in the log that the next generation learns from. Both policies learn from all
    rows. Slates of several items are drawn from the mixed probabilities (Plackett-Luce).

    Args:
        policy: what is to be shown.
        control_share: the share of the control, in [0, 1].
        control: the control; None: uniform.

    Raises:
        ConfigError: a share outside [0, 1].

    >>> import torch
    >>> from recfb.policies.greedy import Greedy
    >>> from recfb.beliefs import Linear
    >>> policy = Mixture(Greedy(Linear()), control_share=0.5).bind(Log.empty(1, 2))
    >>> policy.probs(Context(torch.tensor([0])))[0].sort().values.tolist()
    [0.25, 0.75]
    """

    def __init__(
        self, policy: Policy, control_share: float = 0.05, *, control: Policy | None = None
    ) -> None:
        super().__init__()
        if not 0 <= control_share <= 1:
            raise ConfigError(
                f"control_share is in [0, 1], found {control_share}. For 5 %: control_share=0.05"
            )
        self.policy = policy
        self.control_share = control_share
        self.control = Uniform() if control is None else control

    @property
    def vectorised(self) -> bool:  # type: ignore[override]
        """Where both are."""
        return self.policy.vectorised and self.control.vectorised

    @property
    def privileged(self) -> bool:  # type: ignore[override]
        """Where one of them is."""
        return self.policy.privileged or self.control.privileged

    def look(self, values: Tensor) -> None:
        for part in (self.policy, self.control):
            if part.privileged:
                part.look(values)

    def probs(self, context: Context) -> Tensor:
        c = self.control_share
        return (1 - c) * self.policy.probs(context) + c * self.control.probs(context)

    def prob_of(self, context: Context, item: Tensor) -> Tensor:
        c = self.control_share
        return (1 - c) * self.policy.prob_of(context, item) + c * self.control.prob_of(
            context, item
        )

    def update(
        self, context: Context, slate: Slate, feedback: Feedback, generator: Generator
    ) -> None:
        for part in (self.policy, self.control):
            part.update(context, slate, feedback, generator)

    @property
    def retrained(self) -> bool:
        return self.policy.retrained or self.control.retrained

    def refit(self, log: Log, fit: Callable[[Log, Any], Any]) -> None:
        for part in (self.policy, self.control):
            part.refit(log, fit)
