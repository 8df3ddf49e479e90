"""Ridge regression an item: the belief under LinUCB and LinTS."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Generator, Tensor

from recfb.contracts import Component, Context, Feedback, Slate, best_of, learner_of
from recfb.data import Log
from recfb.errors import ConfigError

MOST_CELLS = 1 << 24
"""At most so many numbers of a (rows, n_items, D) product are held at once."""


class Linear(Component):
    """E[reward | x, item] = x . theta_item, with a Gaussian prior, for each of G learners.

    Li, Chu, Langford and Schapire, WWW 2010 (disjoint models). For every learner and item

        A = l2 I + sum x x',   b = sum reward x,   theta = A^-1 b,   width(x) = sqrt(x' A^-1 x).

    Features are shared by the items of a request, (B, D), or per item, (B, n_items, D); without
    features x = 1, and theta is the shrunken mean of the item. State is float64. Sums are kept, so
    the result does not depend on the order or the batches of the rows. Rewards that are NaN are
    left out of A and of b.

    Args:
        l2: the ridge; the prior of theta is N(0, I / l2) in units of the noise.

    Raises:
        ConfigError: l2 is not positive.

    >>> from recfb.data import Log
    >>> belief = Linear(l2=2.0).bind(Log.empty(1, 3))
    >>> context = Context(torch.tensor([0]))
    >>> shown, learned = Slate(torch.tensor([[1]])), Feedback(torch.tensor([[6.0]]))
    >>> belief.update(context, shown, learned, torch.Generator())
    >>> belief.scores(context).round(decimals=6).tolist()  # 6 / (2 + 1)
    [[0.0, 2.0, 0.0]]
    """

    vectorised: ClassVar[bool] = True

    n_items: int
    learners: int
    A: Tensor  # (G, n_items, D, D)
    b: Tensor  # (G, n_items, D)
    inverse: Tensor  # (G, n_items, D, D) of A
    theta: Tensor  # (G, n_items, D)

    def __init__(self, l2: float = 1.0) -> None:
        super().__init__()
        if not l2 > 0:
            raise ConfigError(f"l2 is positive, found {l2}. Without it A has no inverse: l2=1.0")
        self.l2 = l2

    def bind(self, log: Log) -> Self:
        """The prior, for the log's learners, items and width of `features` (1 without)."""
        self.n_items, self.learners = log.n_items, log.meta.learners
        width = getattr(log.frame.schema.get("features"), "size", 1)
        shape = (self.learners, self.n_items, width)
        eye = torch.eye(width, dtype=torch.float64).repeat(*shape[:2], 1, 1)
        self.register_buffer("A", self.l2 * eye)
        self.register_buffer("b", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("inverse", eye / self.l2)
        self.register_buffer("theta", torch.zeros(shape, dtype=torch.float64))
        return super().bind(log)

    def update(
        self, context: Context, slate: Slate, feedback: Feedback, generator: Generator
    ) -> None:
        rows, k = slate.item.shape
        learner = learner_of(context, self.learners)[:, None].expand(rows, k)  # (B, K)
        place = (learner * self.n_items + slate.item).reshape(-1)  # (B * K,)
        x = self._shown(context, slate.item).flatten(0, 1)  # (B * K, D)
        reward = feedback.reward.reshape(-1).to(torch.float64)  # (B * K,)
        seen = ~reward.isnan()
        place, x, reward = place[seen], x[seen], reward[seen]
        self.A.view(-1, *self.A.shape[2:]).index_add_(0, place, x[:, :, None] * x[:, None, :])
        self.b.view(-1, self.b.shape[2]).index_add_(0, place, reward[:, None] * x)
        self._solve(torch.unique(place))

    def _solve(self, touched: Tensor) -> None:
        """Renew inverse and theta of (learner, item) numbers (M,) exactly."""
        D = self.b.shape[2]
        factor = torch.linalg.cholesky(self.A.view(-1, D, D)[touched])  # (M, D, D)
        inverse = torch.cholesky_inverse(factor)  # (M, D, D)
        theta = inverse @ self.b.view(-1, D)[touched][:, :, None]  # (M, D, 1)
        self.inverse.view(-1, D, D)[touched] = inverse
        self.theta.view(-1, D)[touched] = theta.squeeze(2)

    def scores(self, context: Context) -> Tensor:
        """x . theta of every item: (B, n_items) float64, or like candidates."""
        x = self._features(context)
        if context.learner is None and x.dim() == 2:
            groups = x.view(self.learners, -1, x.shape[1])  # (G, B / G, D)
            mean = groups @ self.theta.transpose(1, 2)  # (G, B / G, n_items)
            mean = mean.flatten(0, 1)  # (B, n_items)
        else:
            theta = self.theta[learner_of(context, self.learners)]  # (B, n_items, D)
            mean = (theta * (x if x.dim() == 3 else x[:, None])).sum(2)  # (B, n_items)
        return mean if context.candidates is None else mean.gather(1, context.candidates)

    def width(self, context: Context) -> Tensor:
        """sqrt(x' A^-1 x) of every item: (B, n_items) float64, or like candidates."""
        x = self._features(context)
        learner = learner_of(context, self.learners)
        n, D = self.n_items, x.shape[-1]
        rows = max(1, MOST_CELLS // (n * D * D))
        parts = []
        for start in range(0, len(context), rows):
            here = slice(start, start + rows)
            each = x[here] if x.dim() == 3 else x[here, None].expand(-1, n, D)  # (b, n_items, D)
            inverse = self.inverse[learner[here]]  # (b, n_items, D, D)
            leaning = (inverse @ each[:, :, :, None]).squeeze(3)  # (b, n_items, D)
            parts.append((leaning * each).sum(2))
        width = torch.cat(parts).clamp_(min=0).sqrt_()  # (B, n_items)
        return width if context.candidates is None else width.gather(1, context.candidates)

    def sample(self, context: Context, generator: Generator) -> Tensor:
        """Scores drawn from N(x . theta, width^2), independent over rows and items.

        The models of the items are disjoint, so a draw of the score is a draw of theta.
        """
        mean = self.scores(context)
        z = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        return mean + self.width(context) * z

    def score_of(self, context: Context, item: Tensor) -> Tensor:
        index = item if item.dim() == 2 else item[:, None]  # (B, M)
        x = self._shown(context, index)  # (B, M, D)
        theta = self.theta[learner_of(context, self.learners)[:, None], index]  # (B, M, D)
        return (theta * x).sum(2).view_as(item)

    def top(self, context: Context, k: int) -> Tensor:
        """The k best available items, ties broken by a hash of learner, user and item: (B, k)."""
        return best_of(context, self.scores(context), k, self.learners)

    def _features(self, context: Context) -> Tensor:
        if context.features is None:
            return torch.ones(len(context), 1, dtype=torch.float64, device=context.user.device)
        return context.features.to(torch.float64)

    def _shown(self, context: Context, item: Tensor) -> Tensor:
        """The features of given items: (B, M) -> (B, M, D)."""
        x = self._features(context)
        if x.dim() == 2:
            return x[:, None].expand(-1, item.shape[1], -1)
        return x.gather(1, item[:, :, None].expand(-1, -1, x.shape[2]))
