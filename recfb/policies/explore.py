"""What explorers share: scores of a model -> a distribution over the available items."""

from __future__ import annotations

from abc import abstractmethod
from typing import Self

import torch
from torch import Tensor

from recfb.contracts import Context, Model, Policy, best_of
from recfb.data import Log
from recfb.errors import ConfigError


def grown(value: float, power: float, context: Context) -> float | Tensor:
    """value t^power, t the round from 0: a number, or (B, 1) for rows of several rounds.

    >>> grown(10.0, 0.5, Context(torch.tensor([0]), time=4))
    20.0
    """
    time = context.time
    if power == 0:
        return value
    if isinstance(time, Tensor):
        return value * time.to(torch.float64)[:, None] ** power  # (B, 1)
    if time == 0:
        return 0.0 if power > 0 else torch.inf
    return float(value * time**power)


def live_of(context: Context, n_items: int) -> Tensor | None:
    """Which items of the catalogue each request may be shown: (B, n_items) bool; None: all.

    >>> live_of(Context(torch.tensor([0]), candidates=torch.tensor([[2, 2]])), 3).tolist()
    [[False, False, True]]
    """
    live = None if context.available is None else context.available.expand(len(context), -1)
    if context.candidates is None:
        return live
    shape, device = (len(context), n_items), context.user.device
    listed = torch.zeros(shape, dtype=torch.bool, device=device)
    listed.scatter_(1, context.candidates, True)
    return listed if live is None else listed & live


def whole(context: Context, scores: Tensor, n_items: int) -> tuple[Tensor, Tensor | None]:
    """Scores of the whole catalogue and which items may be shown (None: all of them).

    Scores like `context.candidates` are put in their places; a candidate listed twice counts once.

    >>> context = Context(torch.tensor([0]), candidates=torch.tensor([[2, 0]]))
    >>> scores, live = whole(context, torch.tensor([[0.5, 0.25]]), 3)
    >>> scores.tolist(), live.tolist()
    ([[0.25, 0.0, 0.5]], [[True, False, True]])
    """
    scores, live = scores.to(torch.float64), live_of(context, n_items)
    if context.candidates is None:
        return scores, live
    return scores.new_zeros(len(scores), n_items).scatter_(1, context.candidates, scores), live


def share_of(live: Tensor | None, like: Tensor) -> Tensor:
    """The uniform distribution over the live items of each row: (B, n_items) float64.

    >>> share_of(torch.tensor([[True, False, True]]), torch.zeros(1, 3)).tolist()
    [[0.5, 0.0, 0.5]]
    """
    if live is None:
        return torch.full_like(like, 1.0 / like.shape[1], dtype=torch.float64)
    mask = live.to(torch.float64)  # (B, n_items)
    return mask / mask.sum(1, keepdim=True)


def enforce_min_prob(probs: Tensor, epsilon: float, live: Tensor | None = None) -> Tensor:
    """The nearest distribution in which every available item has at least epsilon / K: (B, n).

    Water filling: items below the floor are lifted to it, the others lose in equal parts, as far as
    they stay above it; the Euclidean projection. This differs from mixing
    (1 - epsilon) p + epsilon / K, which moves every probability.

    Args:
        probs: (B, n), rows sum to 1.
        epsilon: in [0, 1]; 1 is uniform.
        live: (B, n) the available items, K a row; None: all.

    Raises:
        ConfigError: epsilon outside [0, 1].

    >>> enforce_min_prob(torch.tensor([[0.0, 0.3, 0.7]]), 0.3).round(decimals=6).tolist()
    [[0.1, 0.25, 0.65]]
    """
    if not 0 <= epsilon <= 1:
        raise ConfigError(f"epsilon is a probability, found {epsilon}. For 10 %: epsilon=0.1")
    probs = probs.to(torch.float64)
    share = share_of(live, probs)
    extra = (probs - epsilon * share).masked_fill(share == 0, -torch.inf)  # (B, n) over the floor
    top = extra.sort(1, descending=True).values
    place = torch.arange(1, probs.shape[1] + 1, device=probs.device)
    fall = (top.cumsum(1) - (1 - epsilon)) / place  # (B, n) if `place` items stay above
    count = ((top > fall) & top.isfinite()).sum(1, keepdim=True).clamp(min=1)
    level = fall.gather(1, count - 1)  # (B, 1)
    return (extra - level).clamp(min=0) + epsilon * share


class OverModel(Policy):
    """A policy over a model: as many learners as the model has."""

    model: Model
    learners: int

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    @property
    def vectorised(self) -> bool:  # type: ignore[override]
        """As the model: a belief has G learners, a recommender is one."""
        return bool(getattr(self.model, "vectorised", False))

    def bind(self, log: Log) -> Self:
        self.learners = log.meta.learners
        return super().bind(log)

    def best(self, context: Context, scores: Tensor, live: Tensor | None, k: int = 1) -> Tensor:
        """The k live items of the largest scores, ties broken by a hash: (B, n_items) -> (B, k)."""
        alike = Context(context.user, learner=context.learner, available=live)
        return best_of(alike, scores, k, self.learners)


class Explorer(OverModel):
    """A model's scores made into a distribution over the items that may be shown.

    A subclass says how, in `spread`. With `candidates`, an item that is listed twice counts once.
    Slates of several items are drawn one after the other without replacement (Plackett-Luce).
    """

    def probs(self, context: Context) -> Tensor:
        scores, live = whole(context, self.model.scores(context), self.n_items)
        return self.spread(context, scores, live)

    @abstractmethod
    def spread(self, context: Context, scores: Tensor, live: Tensor | None) -> Tensor:
        """(B, n_items) float64 scores, and which items may be shown -> (B, n_items) float64."""
