"""Optimism in the face of uncertainty, over any belief."""

from __future__ import annotations

from torch import Tensor

from recfb.contracts import Belief, Context
from recfb.errors import ConfigError
from recfb.policies.slates import Certain


class UCB(Certain):
    """Shows the K items with the largest score + alpha width; given the belief, without chance.

    Lai and Robbins, 1985; Auer, Cesa-Bianchi and Fischer, 2002.

    Args:
        model: what is believed, and how surely.
        alpha: how many widths are added; 0 is greedy.

    Raises:
        ConfigError: alpha is negative, or a slate is longer than the items of a request.

    >>> from recfb.beliefs import Linear
    >>> UCB(Linear(l2=2.0), alpha=0.5)
    UCB(Linear(l2=2.0), alpha=0.5)
    """

    def __init__(self, model: Belief, alpha: float = 1.0) -> None:
        super().__init__()
        if alpha < 0:
            raise ConfigError(f"alpha is not negative, found {alpha}. For greedy: alpha=0.0")
        self.model = model
        self.alpha = alpha

    @property
    def vectorised(self) -> bool:  # type: ignore[override]
        """As the belief: whether it has G learners."""
        return bool(getattr(self.model, "vectorised", False))

    def index(self, context: Context) -> Tensor:
        return self.model.scores(context) + self.alpha * self.model.width(context)
