"""One policy or another for a whole slate."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Generator, Tensor

from recfb.contracts import Context, Slate
from recfb.errors import ConfigError
from recfb.policies.mixture import Mixture
from recfb.random import spawn


class Either(Mixture):
    """A coin falls once a slate: with probability c the control shows it, else the policy.

    Where both know the probabilities of a slate, so does this one, at every position:

        P(slate) = (1 - c) P_policy(slate) + c P_control(slate)

    and the same for a prefix, for an item at a position and for an item anywhere in the slate. So
    `Either(Oracle(), 0.1)` is the oracle with one uniform slate in ten. `Mixture` draws every
    position anew from the mixed probabilities, which a greedy policy fills with the control's items
    from the second position on.

    Args:
        policy: what is to be shown.
        control_share: the share of the control, in [0, 1].
        control: the control; None: uniform.

    Raises:
        ConfigError: a share outside [0, 1], or a policy or control without the probabilities of
            its slates.

    >>> from recfb.data import Log
    >>> from recfb.policies.oracle import Oracle
    >>> policy = Either(Oracle(), 0.5).bind(Log.empty(1, 4))
    >>> policy.look(torch.tensor([[0.4, 0.3, 0.2, 0.1]]))
    >>> policy.propensities(Context(torch.tensor([0])), torch.tensor([[0, 1]])).propensity.tolist()
    [[0.625, 0.625]]
    """

    def act(self, context: Context, generator: Generator, *, k: int = 1) -> Slate:
        """Both parts draw, whatever the coin says: policies that differ in the share of their
        control share the numbers."""
        u = torch.rand(
            (len(context), 1), generator=generator, dtype=torch.float64, device=context.user.device
        )
        mine = self.policy.draw(context, spawn(generator, "policy"), k=k).item  # (B, K)
        other = self.control.draw(context, spawn(generator, "control"), k=k).item  # (B, K)
        return self.propensities(context, torch.where(u < self.control_share, other, mine))

    def propensities(self, context: Context, item: Tensor) -> Slate:
        parts = [part.propensities(context, item) for part in (self.policy, self.control)]
        names = ("propensity", "p_prefix", "p_display")
        lacking = [
            type(part).__name__
            for part, slate in zip((self.policy, self.control), parts, strict=True)
            if any(getattr(slate, name) is None for name in names)
        ]
        if lacking:
            raise ConfigError(
                "a coin for whole slates needs parts that know the probability of an item at a "
                f"position and anywhere, found {lacking}, which do not. Use Mixture, or "
                "Ranked(model, epsilon=...)"
            )
        c = self.control_share
        mixed = {
            name: (1 - c) * getattr(parts[0], name) + c * getattr(parts[1], name) for name in names
        }
        return replace(parts[0], item=item, probs=None, **mixed)
