"""Inverse-gap weighting: how SquareCB and FALCON explore."""

from __future__ import annotations

import torch
from torch import Tensor

from recfb.contracts import Context, Model
from recfb.errors import ConfigError
from recfb.policies.explore import Explorer, grown


def igw(scores: Tensor, gamma: float | Tensor, best: Tensor, live: Tensor | None = None) -> Tensor:
    """Inverse-gap weighting, float64: (B, n) -> (B, n).

        p(a) = 1 / (K + gamma (f(b) - f(a))) for live a != b,   p(b) = 1 - the sum of the others

    Abe and Long, ICML 1999; Foster and Rakhlin, ICML 2020. Every live item has p > 0, and
    p(b) >= 1 / K. gamma 0 is uniform, gamma -> infinity greedy; it multiplies differences of
    scores, so it has the unit 1 / reward.

    Args:
        scores: (B, n) predicted rewards f.
        gamma: a number or (B, 1).
        best: (B, 1) the live item b of the largest score.
        live: (B, n) which items may be shown, K a row; None: all.

    >>> f = torch.tensor([[0.5, 0.25, 0.5]])
    >>> igw(f, 4.0, torch.tensor([[0]])).round(decimals=6).tolist()
    [[0.416667, 0.25, 0.333333]]
    """
    f = scores.to(torch.float64)
    count: Tensor | int = f.shape[1] if live is None else live.sum(1, keepdim=True)  # (B, 1)
    gap = (f.gather(1, best) - f).clamp(min=0)  # (B, n)
    probs = 1 / (count + gamma * gap)
    if live is not None:
        probs = probs * live
    probs = probs.scatter(1, best, 0.0)
    # exact arithmetic has p(b) >= 1 / K; a rounded sum may not
    least = torch.as_tensor(1 / count, dtype=f.dtype, device=f.device)
    rest = torch.maximum(1 - probs.sum(1, keepdim=True), least)
    return probs.scatter(1, best, rest)


class IGW(Explorer):
    """Shows items by inverse-gap weighting around the model's best; exact probabilities.

        p(a | x) = 1 / (K + gamma_t (f(x, b) - f(x, a))) for a != b,   p(b | x) = the rest

    with f the predicted reward, b its best item, K the items that may be shown, and
    gamma_t = gamma t^power in round t from 0. Its regret is at most of order
    K / gamma + gamma E(f - f*)^2 a round (Foster and Rakhlin, ICML 2020).

    Args:
        model: anything whose `scores` are E[reward | x, item].
        gamma: 0 is uniform; with rewards in [0, 1] and gaps of 0.01 to 0.1, 100 is mild and 3,000
            nearly greedy.
        power: how gamma grows with the rounds: 0 not at all, 0.5 as sqrt(t).

    Raises:
        ConfigError: a negative gamma or power.

    >>> from recfb.beliefs import Linear
    >>> from recfb.data import Log
    >>> IGW(Linear(), gamma=100.0).bind(Log.empty(1, 4)).probs(Context(torch.tensor([0]))).tolist()
    [[0.25, 0.25, 0.25, 0.25]]
    """

    def __init__(self, model: Model, gamma: float = 100.0, *, power: float = 0.0) -> None:
        super().__init__(model)
        if gamma < 0 or power < 0:
            raise ConfigError(
                f"gamma and its power are not negative, found gamma={gamma}, power={power}. For "
                "uniform: gamma=0.0"
            )
        self.gamma = gamma
        self.power = power

    def spread(self, context: Context, scores: Tensor, live: Tensor | None) -> Tensor:
        best = self.best(context, scores, live)
        return igw(scores, grown(self.gamma, self.power, context), best, live)
