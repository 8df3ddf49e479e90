"""Bayesian logistic regression an item, by Laplace's approximation."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import torch
from torch import Generator, Tensor
from torch.nn.functional import softplus

from recfb.beliefs.gaussian import p_largest
from recfb.beliefs.rows import features_of, learned, shown_features
from recfb.contracts import Component, Context, Feedback, Slate, best_of, learner_of
from recfb.data import Log
from recfb.errors import ConfigError, LogError

HALVINGS = 30
"""A step that makes things worse is halved at most so often."""


class Logistic(Component):
    """P(reward = 1 | x, item) = sigmoid(x . w_item), w_item Gaussian, for each of G learners.

    Every batch of rows moves the Gaussian N(m, Q^-1) of an item to Laplace's approximation of what
    it and the rows say (Spiegelhalter and Lauritzen 1990; Chapelle and Li, NIPS 2011, algorithm 3):

        m <- argmin_w  (w - m)' Q (w - m) / 2 + sum -r log s - (1 - r) log(1 - s)
        Q <- Q + sum s (1 - s) x x'   at the new m,   s = sigmoid(x . w)

    by damped Newton steps. The result depends a little on the batches. `scores` are
    sigmoid(x . m); `width` is s (1 - s) sqrt(x' Q^-1 x), the delta method, in the unit of the
    reward; `sample` draws w. Features are shared by the items of a request, (B, D), or per item,
    (B, n_items, D); without features x = 1. Rewards are in [0, 1]; NaN is left out.

    Args:
        l2: the precision of the prior, N(0, I / l2).
        covariance: "full" keeps Q, "diagonal" its diagonal, for many features.
        steps: Newton steps a batch.
        scale: draws and widths use `scale` standard deviations; 0 is greedy.

    Raises:
        ConfigError: l2 is not positive, or a negative scale, or no steps.
        LogError: a reward outside [0, 1].

    >>> from recfb.data import Log
    >>> belief = Logistic(l2=1.0).bind(Log.empty(1, 2))
    >>> context = Context(torch.tensor([0]))
    >>> shown, told = Slate(torch.tensor([[1]])), Feedback(torch.ones(1, 1))
    >>> belief.update(context, shown, told, torch.Generator())
    >>> belief.scores(context).round(decimals=4).tolist()  # w = 1 - sigmoid(w)
    [[0.5, 0.5989]]
    """

    vectorised: ClassVar[bool] = True
    informed: ClassVar[bool] = False

    n_items: int
    learners: int
    mean: Tensor  # (G, n_items, D)
    precision: Tensor  # (G, n_items, D, D), or (G, n_items, D)
    covariances: Tensor  # its inverse

    def __init__(
        self,
        l2: float = 1.0,
        *,
        covariance: Literal["full", "diagonal"] = "full",
        steps: int = 5,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        if not l2 > 0 or steps < 1 or scale < 0:
            raise ConfigError(
                f"l2 is positive, steps at least 1 and scale at least 0, found l2={l2}, "
                f"steps={steps}, scale={scale}. Try Logistic(l2=1.0)."
            )
        if covariance not in ("full", "diagonal"):
            raise ConfigError(f'covariance is "full" or "diagonal", found {covariance!r}.')
        self.l2 = l2
        self.covariance = covariance
        self.steps = steps
        self.scale = scale

    def bind(self, log: Log) -> Self:
        """The prior, for the log's learners, items and width of `features` (1 without)."""
        self.n_items, self.learners = log.n_items, log.meta.learners
        width = getattr(log.frame.schema.get("features"), "size", 1)
        shape = (self.learners, self.n_items, width)
        if self.covariance == "full":
            one = torch.eye(width, dtype=torch.float64).repeat(*shape[:2], 1, 1)
        else:
            one = torch.ones(shape, dtype=torch.float64)
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("precision", self.l2 * one)
        self.register_buffer("covariances", one / self.l2)
        return super().bind(log)

    def reset(self, generator: Generator) -> None:
        super().reset(generator)
        self.mean.zero_()
        one = self.precision.new_ones(())
        if self.covariance == "full":
            one = torch.eye(self.mean.shape[2]).to(self.mean)
        self.precision.copy_((self.l2 * one).expand_as(self.precision))
        self.covariances.copy_((one / self.l2).expand_as(self.precision))

    # ---- learning

    def update(
        self,
        context: Context,
        slate: Slate,
        feedback: Feedback,
        generator: Generator,
        weight: Tensor | None = None,
    ) -> None:
        """Laplace's step of the rows. `weight` (B, K) counts rows more or less than once."""
        head, x, reward, weight = learned(self, context, slate, feedback, weight)
        if not len(reward):
            return
        weight = torch.ones_like(reward) if weight is None else weight
        low, high = reward.aminmax()
        if low < 0 or high > 1:
            raise LogError(
                f"Logistic learns from rewards in [0, 1], found {float(low):g} to {float(high):g}. "
                "Take beliefs.Linear, or make them so: log.binarise(at=...)."
            )
        touched, group = torch.unique(head, return_inverse=True)  # (M,), (N,)
        D = x.shape[1]
        m = self.mean.view(-1, D)[touched]  # (M, D)
        q = self.precision.flatten(0, 1)[touched]  # (M, D, D) or (M, D)
        w = m.clone()
        for _ in range(self.steps):
            w = self._newton(w, m, q, x, reward, weight, group)
        s = (x * w[group]).sum(1).sigmoid()  # (N,)
        q = self._curved(q, x, weight * s * (1 - s), group)
        self.mean.view(-1, D)[touched] = w
        self.precision.flatten(0, 1)[touched] = q
        full = self.covariance == "full"
        new = torch.cholesky_inverse(torch.linalg.cholesky(q)) if full else 1 / q
        self.covariances.flatten(0, 1)[touched] = new

    def _newton(
        self, w: Tensor, m: Tensor, q: Tensor, x: Tensor, reward: Tensor, weight: Tensor,
        group: Tensor,
    ) -> Tensor:  # fmt: skip
        """One Newton step of every group, halved where it makes the objective worse: (M, D)."""
        full = self.covariance == "full"

        def loss(at: Tensor) -> Tensor:  # (M,)
            logit = (x * at[group]).sum(1)  # (N,)
            each = weight * (softplus(logit) - reward * logit)
            away = at - m
            pull = (q @ away[:, :, None]).squeeze(2) if full else q * away  # (M, D)
            return (0.5 * (away * pull).sum(1)).index_add_(0, group, each)

        s = (x * w[group]).sum(1).sigmoid()  # (N,)
        away = w - m
        slope = (q @ away[:, :, None]).squeeze(2) if full else q * away  # (M, D)
        slope = slope.index_add(0, group, (weight * (s - reward))[:, None] * x)
        if full:
            curve = self._curved(q, x, weight * s * (1 - s), group)  # (M, D, D)
            step = torch.linalg.solve(curve, slope[:, :, None]).squeeze(2)  # (M, D)
        else:  # the exact curvature of the rows, q on the diagonal
            curve = torch.diag_embed(q)
            outer = (weight * s * (1 - s))[:, None, None] * x[:, :, None] * x[:, None, :]
            step = torch.linalg.solve(curve.index_add_(0, group, outer), slope[:, :, None]).squeeze(
                2
            )
        before: Tensor = loss(w)
        size: Tensor = torch.ones(len(w), 1, dtype=w.dtype, device=w.device)
        for _ in range(HALVINGS):
            worse = loss(w - size * step) > before + 1e-12 * before.abs()  # (M,)
            if not bool(worse.any()):
                break
            size = torch.where(worse[:, None], size / 2, size)
        moved: Tensor = w - size * step
        return moved

    def _curved(self, q: Tensor, x: Tensor, weight: Tensor, group: Tensor) -> Tensor:
        """Q + sum weight x x' of each group."""
        if self.covariance == "full":
            return q.index_add(0, group, weight[:, None, None] * x[:, :, None] * x[:, None, :])
        return q.index_add(0, group, weight[:, None] * x.square())

    # ---- what is believed

    def logits(self, context: Context) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of x . w for every item: (B, n_items) each."""
        x = features_of(context)
        x = x if x.dim() == 3 else x[:, None]  # (B, n_items or 1, D)
        learner = learner_of(context, self.learners)
        mean = (self.mean[learner] * x).sum(2)  # (B, n_items)
        c = self.covariances[learner]  # (B, n_items, D, D) or (B, n_items, D)
        if self.covariance == "full":
            square = torch.einsum("bnd,bnde,bne->bn", x.expand(-1, self.n_items, -1), c,
                                  x.expand(-1, self.n_items, -1))  # fmt: skip
        else:
            square = (c * x.square()).sum(2)
        return mean, self.scale * square.clamp(min=0).sqrt()

    def scores(self, context: Context) -> Tensor:
        """sigmoid(x . m) of every item: (B, n_items) float64, or like candidates."""
        x = features_of(context)
        mean = self.mean[learner_of(context, self.learners)] * (x if x.dim() == 3 else x[:, None])
        return _picked(context, mean.sum(2).sigmoid())

    def width(self, context: Context) -> Tensor:
        """Standard deviations of the scores: (B, n_items) float64, or like candidates."""
        mean, sd = self.logits(context)
        s = mean.sigmoid()
        return _picked(context, s * (1 - s) * sd)

    def sample(self, context: Context, generator: Generator) -> Tensor:
        """sigmoid of draws from N(x . m, x' Q^-1 x), independent over rows and items."""
        mean, sd = self.logits(context)
        z = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        return _picked(context, (mean + sd * z).sigmoid())

    def p_best(self, context: Context, live: Tensor | None = None) -> Tensor:
        """P(the draw of an item is the largest of the live ones): (B, n_items)."""
        return p_largest(*self.logits(context), live)

    def score_of(self, context: Context, item: Tensor) -> Tensor:
        index = item if item.dim() == 2 else item[:, None]  # (B, M)
        x = shown_features(context, index)  # (B, M, D)
        w = self.mean[learner_of(context, self.learners)[:, None], index]  # (B, M, D)
        return (w * x).sum(2).sigmoid().view_as(item)

    def top(self, context: Context, k: int) -> Tensor:
        """The k best available items, ties broken by a hash of learner, user and item: (B, k)."""
        return best_of(context, self.scores(context), k, self.learners)


def _picked(context: Context, values: Tensor) -> Tensor:
    return values if context.candidates is None else values.gather(1, context.candidates)
