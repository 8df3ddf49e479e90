"""Epsilon-greedy: the best item, and now and then any."""

from __future__ import annotations

import torch
from torch import Tensor

from recfb.contracts import Context, Model
from recfb.errors import ConfigError
from recfb.policies.explore import Explorer, grown, share_of


class EpsilonGreedy(Explorer):
    """Shows a uniform available item with probability epsilon_t, else the best one.

        p(a | x) = epsilon_t / K + (1 - epsilon_t) 1[a = b],   epsilon_t = min(1, epsilon t^-decay)

    with b the item of the largest score, K the items that may be shown and t the round from 0. The
    uniform draw includes b. Sutton and Barto, "Reinforcement learning", 2.2. `Ranked(model,
    epsilon)` is the same with a coin a slate instead of one a position.

    Args:
        model: anything with `scores`.
        epsilon: the share of uniform draws; above 1 it takes a while to fall below 1.
        decay: how fast it falls with the rounds: 0 never, 0.5 as 1 / sqrt(t).

    Raises:
        ConfigError: a negative epsilon or decay, or an epsilon above 1 that never falls.

    >>> from recfb.beliefs import Linear
    >>> from recfb.data import Log
    >>> policy = EpsilonGreedy(Linear(), epsilon=0.2).bind(Log.empty(1, 2))
    >>> policy.probs(Context(torch.tensor([0])))[0].sort().values.tolist()
    [0.1, 0.9]
    """

    def __init__(self, model: Model, epsilon: float = 0.1, *, decay: float = 0.0) -> None:
        super().__init__(model)
        if epsilon < 0 or decay < 0 or (epsilon > 1 and decay == 0):
            raise ConfigError(
                "epsilon is a probability, and decay how fast it falls, at least 0; found "
                f"epsilon={epsilon}, decay={decay}. For 10 %: epsilon=0.1"
            )
        self.epsilon = epsilon
        self.decay = decay

    def spread(self, context: Context, scores: Tensor, live: Tensor | None) -> Tensor:
        epsilon = grown(self.epsilon, -self.decay, context)
        rate = torch.as_tensor(epsilon, dtype=torch.float64, device=scores.device).clamp(max=1.0)
        probs = rate * share_of(live, scores)  # (B, n_items)
        rest = (1 - rate).expand(len(scores), 1)
        return probs.scatter_add_(1, self.best(context, scores, live), rest)
