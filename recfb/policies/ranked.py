"""The best slate of a model, with a share of uniform slates: greedy and eps-slate."""

from __future__ import annotations

from dataclasses import replace
from typing import Self

import torch
from torch import Generator, Tensor

from recfb.contracts import Context, Fitted, Model, Policy, Slate, best_of, uniform_over
from recfb.data import Log
from recfb.errors import ConfigError
from recfb.policies.slates import check_supply, uniform_propensities, uniform_slate


class Ranked(Policy):
    """Shows the model's best K items; with probability epsilon a uniform slate instead.

    With n items to show, exactly:

        P(item i at position k) = (1 - eps) 1[rank i = k] + eps / n
        P(items 1..k)           = (1 - eps) 1[they are ranks 1..k] + eps prod_{j<k} 1 / (n - j)
        P(item i in the slate)  = (1 - eps) 1[rank i <= K] + eps K / n

    The coin falls once a slate, so all three have a closed form; a coin for every position would
    have none. Epsilon 0 is the greedy policy: it has no support outside its own slates.

    Users without a click in what the model was trained on are shown the most clicked items, as its
    `recommend` does, unless the request carries features or a history of its own.

    Args:
        model: anything with `scores`: a Recommender, a solver, a belief. Ties are the model's to
            break, by a hash and never by id.
        epsilon: the share of uniform slates, in [0, 1].

    Raises:
        ConfigError: epsilon outside [0, 1], or a slate longer than the items of a request.
    """

    def __init__(self, model: Model, epsilon: float = 0.0) -> None:
        super().__init__()
        if not 0 <= epsilon <= 1:
            raise ConfigError(f"epsilon is a probability, found {epsilon}. For 10 %: epsilon=0.1")
        self.model = model
        self.epsilon = epsilon

    @property
    def vectorised(self) -> bool:  # type: ignore[override]
        """As the model: a belief has G learners, a recommender is one."""
        return bool(getattr(self.model, "vectorised", False))

    def bind(self, log: Log) -> Self:
        vars(self.model).pop("history", None)  # of another log
        return super().bind(log)

    def act(self, context: Context, generator: Generator, *, k: int = 1) -> Slate:
        """The same numbers are drawn whatever epsilon is, so policies that differ in it share
        them."""
        check_supply(context, self.n_items, k)
        shape, device = (len(context), k + 1), context.user.device
        u = torch.rand(shape, generator=generator, dtype=torch.float64, device=device)  # (B, K + 1)
        top = self.top(context, k)  # (B, K)
        explore = uniform_slate(context, self.n_items, u[:, 1:])  # (B, K)
        item = torch.where(u[:, :1] < self.epsilon, explore, top)  # (B, K)
        return self._mixed(context, item, top)

    def propensities(self, context: Context, item: Tensor) -> Slate:
        return self._mixed(context, item, self.top(context, item.shape[1]))

    def top(self, context: Context, k: int) -> Tensor:
        """The greedy slate: (B, K)."""
        top = self.model.top(context, k)  # (B, K)
        history = getattr(self.model, "history", None)
        told = context.features is not None or context.history is not None
        if told or not isinstance(self.model, Fitted) or history is None:
            return top
        device = context.user.device
        cold = history.seen.per_user.to(device)[context.user] == 0  # (B,)
        count = history.seen.per_item.to(device, torch.float32)  # (n_items,)
        return torch.where(cold[:, None], _popular(context, count, k), top)

    def _mixed(self, context: Context, item: Tensor, top: Tensor) -> Slate:
        eps = self.epsilon
        hit = (item == top).to(torch.float64)  # (B, K)
        inside = (item[:, :, None] == top[:, None, :]).any(2).to(torch.float64)  # (B, K)
        at, prefix, display = uniform_propensities(context, self.n_items, item)
        return Slate(
            item,
            propensity=(1 - eps) * hit + eps * at,
            p_prefix=(1 - eps) * hit.cumprod(1) + eps * prefix,
            p_display=(1 - eps) * inside + eps * display,
        )

    def prob_of(self, context: Context, item: Tensor) -> Tensor:
        index = item if item.dim() == 2 else item[:, None]  # (B, M)
        at = uniform_propensities(context, self.n_items, index)[0]  # (B, M)
        hit = (index == self.top(context, 1)).to(torch.float64)  # (B, M)
        return ((1 - self.epsilon) * hit + self.epsilon * at).view_as(item)

    def probs(self, context: Context) -> Tensor:
        if context.candidates is None:
            probs = self.epsilon * uniform_over(context, self.n_items)  # (B, n_items)
        else:
            shape = (len(context), self.n_items)
            share = torch.full(
                context.candidates.shape,
                self.epsilon / context.candidates.shape[1],
                dtype=torch.float64,
                device=context.user.device,
            )
            probs = torch.zeros(shape, dtype=torch.float64, device=context.user.device)
            probs.scatter_add_(1, context.candidates, share)
        best = self.top(context, 1)  # (B, 1)
        greedy = torch.full_like(best, 1 - self.epsilon, dtype=torch.float64)
        return probs.scatter_add_(1, best, greedy)


def _popular(context: Context, count: Tensor, k: int) -> Tensor:
    """The k largest counts among what each request could be shown, ties alike for all: (B or 1,
    K)."""
    if context.candidates is None and (context.available is None or len(context.available) == 1):
        context = replace(context, user=context.user[:1])
    many = count[None] if context.candidates is None else count[context.candidates]
    alike = replace(context, user=torch.zeros_like(context.user), learner=None)
    return best_of(alike, many.expand(len(alike), -1), k)
