"""Boltzmann exploration: the softmax of the scores."""

from __future__ import annotations

import torch
from torch import Tensor

from recfb.contracts import Context, Model
from recfb.errors import ConfigError
from recfb.policies.explore import Explorer, grown


class Softmax(Explorer):
    """p(a | x) = exp(f(x, a) / temperature_t) / sum over what may be shown; Boltzmann exploration.

    temperature_t = temperature t^-decay, t the round from 0, so round 0 is uniform where it decays.
    The temperature has the unit of the scores: 1 is close to uniform for rewards in [0, 1]. This is
    the softmax itself, not the largest of a Dirichlet draw, which is another distribution.

    Args:
        model: anything with `scores`.
        temperature: small is greedy, large uniform.
        decay: how fast it falls with the rounds: 0 never, 0.5 as 1 / sqrt(t).

    Raises:
        ConfigError: a temperature that is not positive, or a negative decay.

    >>> from recfb.beliefs import Linear
    >>> from recfb.data import Log
    >>> policy = Softmax(Linear(), temperature=0.5).bind(Log.empty(1, 2))
    >>> policy.probs(Context(torch.tensor([0]))).tolist()
    [[0.5, 0.5]]
    """

    def __init__(self, model: Model, temperature: float = 0.1, *, decay: float = 0.0) -> None:
        super().__init__(model)
        if not temperature > 0 or decay < 0:
            raise ConfigError(
                "a temperature is positive and its decay at least 0, found "
                f"temperature={temperature}, decay={decay}. Without exploration: Greedy(model)."
            )
        self.temperature = temperature
        self.decay = decay

    def spread(self, context: Context, scores: Tensor, live: Tensor | None) -> Tensor:
        logit = scores * grown(1 / self.temperature, self.decay, context)  # (B, n_items)
        if live is not None:
            logit = logit.masked_fill(~live, -torch.inf)
        return logit.softmax(1)
