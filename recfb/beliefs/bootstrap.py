"""Bootstrap heads: several regressions, each on a resample of the rows."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal, Self

import torch
from torch import Generator, Tensor

from recfb.beliefs.linear import Linear
from recfb.beliefs.rows import features_of
from recfb.contracts import Component, Context, Feedback, Slate, best_of, learner_of
from recfb.data import Log
from recfb.errors import ConfigError


class Bootstrap(Component):
    """M ridge regressions an item; every row counts for each head a random number of times.

    Eckles and Kaptein, "Thompson sampling with the online bootstrap", 2014; Osband and Van Roy,
    2015; the heads' priors differ as in Osband, Aslanides and Cassirer, NeurIPS 2018. `scores` is
    the mean of the heads, `width` their standard deviation, `sample` one random head a request, and
    `p_best` the share of heads whose best item it is. NaN rewards are left out.

    Args:
        heads: M.
        l2: the ridge of each.
        weights: "poisson" with mean 1, or "gamma", which is exponential with mean 1 and smoother.
        prior: the standard deviation of the heads' theta before data; 0 makes them agree.
        greedify: head 0 is the plain regression: every row counts once for it, its prior is 0.

    Raises:
        ConfigError: no heads, l2 not positive, a negative prior, or unknown weights.

    >>> belief = Bootstrap(heads=4).bind(Log.empty(1, 2))
    >>> belief.reset(torch.Generator())
    >>> float(belief.p_best(Context(torch.tensor([0]))).sum())
    1.0
    """

    vectorised: ClassVar[bool] = True
    informed: ClassVar[bool] = False

    n_items: int
    learners: int

    def __init__(
        self,
        heads: int = 10,
        l2: float = 1.0,
        *,
        weights: Literal["poisson", "gamma"] = "poisson",
        prior: float = 1.0,
        greedify: bool = False,
    ) -> None:
        super().__init__()
        if heads < 1 or prior < 0:
            raise ConfigError(
                f"a bootstrap has at least one head and a prior of at least 0, found heads={heads} "
                f"and prior={prior}. Try Bootstrap(heads=10)."
            )
        if weights not in ("poisson", "gamma"):
            raise ConfigError(f'weights are "poisson" or "gamma", found {weights!r}.')
        self.heads = heads
        self.l2 = l2
        self.weights = weights
        self.prior = prior
        self.greedify = greedify
        self.each = Linear(l2)

    def bind(self, log: Log) -> Self:
        self.n_items, self.learners = log.n_items, log.meta.learners
        meta = replace(log.meta, learners=self.learners * self.heads)
        self.each.bind(log.with_frame(log.frame.clear(), meta))
        return self

    def reset(self, generator: Generator) -> None:
        """Heads forget, and draw a prior: one pseudo-row in every direction."""
        self.each.reset(generator)
        shape, device = self.each.b.shape, self.each.b.device
        z = torch.randn(shape, generator=generator, dtype=torch.float64, device=device)
        if self.greedify:
            z[:: self.heads] = 0.0  # head 0 of every learner
        self.each.theta.copy_(self.prior * z)
        self.each.b.copy_(self.l2 * self.each.theta)

    def update(
        self, context: Context, slate: Slate, feedback: Feedback, generator: Generator
    ) -> None:
        shape = (len(slate) * self.heads, slate.item.shape[1])
        one = torch.ones(shape, dtype=torch.float64, device=slate.item.device)
        if self.weights == "poisson":
            weight = torch.poisson(one, generator=generator)  # (B * M, K)
        else:
            weight = one.exponential_(1.0, generator=generator)
        if self.greedify:
            weight[:: self.heads] = 1.0
        wide = self._wide(context)
        item, reward = (x.repeat_interleave(self.heads, 0) for x in (slate.item, feedback.reward))
        self.each.update(wide, Slate(item), Feedback(reward), generator, weight)

    def _wide(self, context: Context) -> Context:
        """Every request for each head: B * M rows."""
        head = torch.arange(self.heads, device=context.user.device)  # (M,)
        learner = learner_of(context, self.learners)[:, None] * self.heads + head  # (B, M)
        x = features_of(context).repeat_interleave(self.heads, 0)
        user = context.user.repeat_interleave(self.heads)
        return Context(user, learner=learner.view(-1), features=x)

    def votes(self, context: Context) -> Tensor:
        """The scores of every head: (B, M, n_items) float64."""
        return self.each.scores(self._wide(context)).view(len(context), self.heads, -1)

    def scores(self, context: Context) -> Tensor:
        return _picked(context, self.votes(context).mean(1))

    def width(self, context: Context) -> Tensor:
        return _picked(context, self.votes(context).std(1, correction=0))

    def quantile(self, context: Context, level: float) -> Tensor:
        """That quantile of the heads' scores, linear between them: (B, n_items)."""
        return _picked(context, self.votes(context).quantile(level, dim=1))

    def sample(self, context: Context, generator: Generator) -> Tensor:
        """The scores of one random head a request."""
        shape, device = (len(context), 1, 1), context.user.device
        head = torch.randint(self.heads, shape, generator=generator, device=device)
        votes = self.votes(context)  # (B, M, n_items)
        return _picked(context, votes.gather(1, head.expand(-1, 1, votes.shape[2])).squeeze(1))

    def p_best(self, context: Context, live: Tensor | None = None) -> Tensor:
        """The share of heads whose best live item it is, ties broken as `best_of` does: (B, n)."""
        votes = self.votes(context)  # (B, M, n_items)
        wide = replace(
            context,
            user=context.user.repeat_interleave(self.heads),
            learner=learner_of(context, self.learners).repeat_interleave(self.heads),
            available=None if live is None else live.repeat_interleave(self.heads, 0),
            features=None,
            candidates=None,
        )
        best = best_of(wide, votes.flatten(0, 1), 1, self.learners).view(len(context), -1)  # (B, M)
        share = torch.full(best.shape, 1 / self.heads, dtype=torch.float64, device=best.device)
        return torch.zeros_like(votes[:, 0]).scatter_add_(1, best, share)

    def score_of(self, context: Context, item: Tensor) -> Tensor:
        index = item if item.dim() == 2 else item[:, None]  # (B, M)
        plain = replace(context, candidates=None)
        return self.scores(plain).gather(1, index).view_as(item)

    def top(self, context: Context, k: int) -> Tensor:
        """The k best available items, ties broken by a hash of learner, user and item: (B, k)."""
        return best_of(context, self.scores(context), k, self.learners)


def _picked(context: Context, values: Tensor) -> Tensor:
    return values if context.candidates is None else values.gather(1, context.candidates)
