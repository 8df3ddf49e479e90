"""Thompson sampling over any belief."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Generator, Tensor

from recfb.contracts import Belief, Context, Slate
from recfb.errors import ConfigError
from recfb.policies.explore import OverModel, live_of
from recfb.policies.slates import check_supply


class Thompson(OverModel):
    """Draws every item's score from the belief, and shows the K largest: posterior sampling.

    Thompson, Biometrika 1933; Chapelle and Li, NIPS 2011. Where the belief knows the probability
    that an item's draw is the largest (`p_best`: `Linear` and `Logistic` with a model an item by an
    integral, `Bootstrap` by counting votes), single items have exact propensities. Elsewhere, and
    for slates, the propensity is None and `propensity_mc` estimates it.

    Args:
        model: what is believed, and how surely.

    Raises:
        ConfigError: probabilities are asked for that have no closed form; a slate longer than the
            items of a request.

    >>> import torch
    >>> from recfb.beliefs import Linear
    >>> from recfb.data import Log
    >>> policy = Thompson(Linear()).bind(Log.empty(1, 2))
    >>> policy.probs(Context(torch.tensor([0]))).round(decimals=6).tolist()
    [[0.5, 0.5]]
    """

    model: Any

    def __init__(self, model: Belief) -> None:
        super().__init__(model)

    def act(self, context: Context, generator: Generator, *, k: int = 1) -> Slate:
        both = getattr(self.model, "draw", None)
        if k > 1 or both is None:
            return self.propensities(context, self._drawn(context, generator, k))
        check_supply(context, self.n_items, k)
        live = live_of(context, self.n_items)
        draw, probs = both(replace(context, candidates=None), generator, live)  # (B, n_items) each
        return _single(self.best(context, draw, live), probs)

    def draw(self, context: Context, generator: Generator, *, k: int = 1) -> Slate:
        """With the propensities, unless the model says that it learns without: `informed` False."""
        if getattr(self.model, "informed", True):
            return self.act(context, generator, k=k)
        return Slate(self._drawn(context, generator, k))

    def _drawn(self, context: Context, generator: Generator, k: int) -> Tensor:
        """The K items with the largest draws: (B, K)."""
        check_supply(context, self.n_items, k)
        draw = self.model.sample(replace(context, candidates=None), generator)  # (B, n_items)
        return self.best(context, draw, live_of(context, self.n_items), k)

    def propensities(self, context: Context, item: Tensor) -> Slate:
        return _single(item, self._p_best(context) if item.shape[1] == 1 else None)

    def probs(self, context: Context) -> Tensor:
        probs = self._p_best(context)
        if probs is None:
            raise ConfigError(
                f"the probabilities of Thompson sampling over {self.model} have no closed form. "
                "Estimate them: policy.propensity_mc(context, item, generator, draws=1000)."
            )
        return probs

    def _p_best(self, context: Context) -> Tensor | None:
        """(B, n_items), or None where there is no closed form."""
        find = getattr(self.model, "p_best", None)
        if find is None:
            return None
        live = live_of(context, self.n_items)
        found: Tensor | None = find(replace(context, candidates=None), live)
        return found


def _single(item: Tensor, probs: Tensor | None) -> Slate:
    """A slate of one item, or one without known probabilities."""
    if probs is None:
        return Slate(item)
    at = probs.gather(1, item)  # (B, 1)
    return Slate(item, propensity=at, p_prefix=at, p_display=at, probs=probs)
