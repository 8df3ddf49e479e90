"""RegCB: uniform over the items that may still be the best."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recfb.contracts import Belief, Context
from recfb.errors import ConfigError
from recfb.policies.explore import OverModel, live_of, whole


class RegCB(OverModel):
    """Eliminates items whose optimistic score is below the best pessimistic one; uniform over the
    rest.

        survivors = {a: f(a) + alpha width(a) >= max_b f(b) - alpha width(b)}

    Foster, Agarwal, Dudik, Luo and Schapire, "Practical contextual bandits with regression
    oracles", ICML 2018 (RegCB-elimination). The optimistic form is `UCB(model, alpha)`.

    Args:
        model: what is believed, and how surely.
        alpha: how many widths the interval has on each side.

    Raises:
        ConfigError: alpha is negative.

    >>> from recfb.beliefs import Linear
    >>> from recfb.data import Log
    >>> RegCB(Linear()).bind(Log.empty(1, 4)).probs(Context(torch.tensor([0]))).tolist()
    [[0.25, 0.25, 0.25, 0.25]]
    """

    model: Any

    def __init__(self, model: Belief, alpha: float = 1.0) -> None:
        super().__init__(model)
        if alpha < 0:
            raise ConfigError(f"alpha is not negative, found {alpha}. For greedy: alpha=0.0")
        self.alpha = alpha

    def probs(self, context: Context) -> Tensor:
        live = live_of(context, self.n_items)
        mean, _ = whole(context, self.model.scores(context), self.n_items)  # (B, n_items)
        width, _ = whole(context, self.alpha * self.model.width(context), self.n_items)
        low, high = mean - width, mean + width
        if live is not None:
            low, high = (x.masked_fill(~live, -torch.inf) for x in (low, high))
        stays = high >= low.amax(1, keepdim=True)  # (B, n_items)
        probs = stays.to(torch.float64)
        return probs / probs.sum(1, keepdim=True)
