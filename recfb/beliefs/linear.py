"""Ridge regression, an item or for all: the belief under LinUCB and LinTS."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Generator, Tensor

from recfb.beliefs.gaussian import p_largest
from recfb.beliefs.rows import features_of, learned, shown_features
from recfb.contracts import Component, Context, Feedback, Slate, best_of, learner_of
from recfb.data import Log
from recfb.errors import ConfigError

MOST_CELLS = 1 << 24
"""At most so many numbers of a (rows, n_items, D) product are held at once."""
REFRESH = 500
"""Rank-one steps after which an inverse is computed anew."""


class Linear(Component):
    """E[reward | x, item] = x . theta_item, with a Gaussian prior, for each of G learners.

    Li, Chu, Langford and Schapire, WWW 2010 (disjoint models). For every learner and item

        A = l2 I + sum x x',   b = sum reward x,   theta = A^-1 b,
        width(x) = scale sqrt(x' A^-1 x).

    Features are shared by the items of a request, (B, D), or per item, (B, n_items, D); without
    features x = 1, and theta is the shrunken mean of the item. With `joint` one theta serves all
    items, which features per item tell apart (Chu et al., AISTATS 2011). State is float64. Sums are
    kept, so the result does not depend on the order or the batches of the rows. Inverses follow by
    Sherman-Morrison steps and are renewed exactly at least every 500 of them. Rewards that are NaN
    are left out of A and of b.

    Args:
        l2: the ridge; the prior of theta is N(0, scale^2 I / l2).
        scale: the standard deviation of the noise: theta has the covariance scale^2 A^-1.
        joint: one theta for all items.

    Raises:
        ConfigError: l2 is not positive, or a negative scale.

    >>> from recfb.data import Log
    >>> belief = Linear(l2=2.0).bind(Log.empty(1, 3))
    >>> context = Context(torch.tensor([0]))
    >>> shown, told = Slate(torch.tensor([[1]])), Feedback(torch.tensor([[6.0]]))
    >>> belief.update(context, shown, told, torch.Generator())
    >>> belief.scores(context).round(decimals=6).tolist()  # 6 / (2 + 1)
    [[0.0, 2.0, 0.0]]
    """

    vectorised: ClassVar[bool] = True
    informed: ClassVar[bool] = False

    n_items: int
    learners: int
    A: Tensor  # (G, H, D, D), H = n_items, or 1 if joint
    b: Tensor  # (G, H, D)
    inverse: Tensor  # (G, H, D, D) of A
    theta: Tensor  # (G, H, D)
    steps: Tensor  # (), updates by rank-one steps since all inverses were exact

    def __init__(self, l2: float = 1.0, *, scale: float = 1.0, joint: bool = False) -> None:
        super().__init__()
        if not l2 > 0:
            raise ConfigError(f"l2 is positive, found {l2}. Without it A has no inverse: l2=1.0")
        if scale < 0:
            raise ConfigError(f"scale is not negative, found {scale}. For sure draws: scale=0.0")
        self.l2 = l2
        self.scale = scale
        self.joint = joint

    def bind(self, log: Log) -> Self:
        """The prior, for the log's learners, items and width of `features` (1 without)."""
        self.n_items, self.learners = log.n_items, log.meta.learners
        width = getattr(log.frame.schema.get("features"), "size", 1)
        shape = (self.learners, 1 if self.joint else self.n_items, width)
        square = (*shape, width)
        for name, size in (("A", square), ("b", shape), ("inverse", square), ("theta", shape)):
            self.register_buffer(name, torch.empty(size, dtype=torch.float64))
        self.register_buffer("steps", torch.empty((), dtype=torch.int64))
        self._forget()
        return super().bind(log)

    def reset(self, generator: Generator) -> None:
        super().reset(generator)
        self._forget()

    def _forget(self) -> None:
        eye = torch.eye(self.b.shape[2], dtype=torch.float64, device=self.b.device)
        self.A.copy_((self.l2 * eye).expand_as(self.A))
        self.inverse.copy_((eye / self.l2).expand_as(self.A))
        for buffer in (self.b, self.theta, self.steps):
            buffer.zero_()

    # ---- learning

    def update(
        self,
        context: Context,
        slate: Slate,
        feedback: Feedback,
        generator: Generator,
        weight: Tensor | None = None,
    ) -> None:
        """Add the rows with a known reward. `weight` (B, K) counts rows more or less than once."""
        head, x, reward, weight = learned(self, context, slate, feedback, weight)
        if self.joint:
            head = head.div(self.n_items, rounding_mode="floor")
        D = x.shape[1]
        lean = x if weight is None else x * weight[:, None]  # (N, D)
        self.A.view(-1, D, D).index_add_(0, head, lean[:, :, None] * x[:, None, :])
        self.b.view(-1, D).index_add_(0, head, reward[:, None] * lean)
        alone = context.learner is None and slate.item.numel() == self.learners
        touched = head if alone else torch.unique(head)
        if len(touched) == len(head) and weight is None:
            self._step(head, x, reward)
        else:
            self._solve(touched)

    def _step(self, head: Tensor, x: Tensor, reward: Tensor) -> None:
        """Sherman-Morrison: one row for each of different heads (N,)."""
        D = x.shape[1]
        inverse, theta = self.inverse.view(-1, D, D), self.theta.view(-1, D)
        old = inverse[head]  # (N, D, D)
        v = (old @ x[:, :, None]).squeeze(2)  # (N, D)
        w = v / (1 + (x * v).sum(1, keepdim=True))  # (N, D)
        inverse[head] = torch.baddbmm(old, w[:, :, None], v[:, None, :], alpha=-1)
        at = theta[head]  # (N, D)
        theta[head] = torch.addcmul(at, w, reward[:, None] - (x * at).sum(1, keepdim=True))
        if int(self.steps.add_(1)) >= REFRESH:
            self._solve(torch.arange(len(inverse), device=head.device))
            self.steps.zero_()

    def _solve(self, touched: Tensor) -> None:
        """Renew inverse and theta of heads (M,) exactly."""
        D = self.b.shape[2]
        factor = torch.linalg.cholesky(self.A.view(-1, D, D)[touched])  # (M, D, D)
        inverse = torch.cholesky_inverse(factor)  # (M, D, D)
        theta = inverse @ self.b.view(-1, D)[touched][:, :, None]  # (M, D, 1)
        self.inverse.view(-1, D, D)[touched] = inverse
        self.theta.view(-1, D)[touched] = theta.squeeze(2)

    # ---- what is believed

    def scores(self, context: Context) -> Tensor:
        """x . theta of every item: (B, n_items) float64, or like candidates."""
        x = features_of(context)
        if context.learner is None and x.dim() == 2:
            groups = x.view(self.learners, -1, x.shape[1])  # (G, B / G, D)
            mean = (groups @ self.theta.transpose(1, 2)).flatten(0, 1)  # (B, H)
            mean = mean.expand(-1, self.n_items)  # (B, n_items)
        else:
            theta = self.theta[learner_of(context, self.learners)]  # (B, H, D)
            mean = (theta * (x if x.dim() == 3 else x[:, None])).sum(2)  # (B, H or n_items)
            mean = mean.expand(-1, self.n_items)
        return mean if context.candidates is None else mean.gather(1, context.candidates)

    def width(self, context: Context) -> Tensor:
        """scale sqrt(x' A^-1 x) of every item: (B, n_items) float64, or like candidates."""
        square = self._squares(context)
        width = square.clamp_(min=0).sqrt_().mul_(self.scale).expand(-1, self.n_items)
        return width if context.candidates is None else width.gather(1, context.candidates)

    def _squares(self, context: Context) -> Tensor:
        """x' A^-1 x: (B, n_items), or (B, 1) if it is the same for all items."""
        x = features_of(context)
        G, H, D = self.theta.shape
        if context.learner is None and x.dim() == 2:
            groups = x.view(G, -1, D)  # (G, B / G, D)
            flat = self.inverse.view(G, H * D, D)
            leaning = (groups @ flat.transpose(1, 2)).view(len(x), H, D)  # (B, H, D)
            return (leaning @ x[:, :, None]).squeeze(2)  # (B, H)
        learner = learner_of(context, self.learners)
        rows = max(1, MOST_CELLS // (self.n_items * D * D))
        parts = []
        for start in range(0, len(context), rows):
            here = slice(start, start + rows)
            inverse = self.inverse[learner[here]]  # (b, H, D, D)
            each = x[here] if x.dim() == 3 else x[here, None].expand(-1, H, D)  # (b, n_items, D)
            leaning = (inverse @ each[:, :, :, None]).squeeze(3)  # (b, n_items, D)
            parts.append((leaning * each).sum(2))
        return torch.cat(parts)

    def sample(self, context: Context, generator: Generator) -> Tensor:
        """Scores of theta ~ N(theta, scale^2 A^-1), independent over rows.

        Models of different items are independent, so a draw of the score, N(x . theta, width^2), is
        a draw of theta; with `joint` one theta a row is drawn for all items.
        """
        mean = self.scores(context)
        if not self.joint:
            z = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
            return torch.addcmul(mean, self.width(context), z)
        x = features_of(context)
        shape = (len(x), x.shape[-1])
        z = torch.randn(shape, generator=generator, dtype=mean.dtype, device=mean.device)
        # A = L L', so L'^-1 z has the covariance A^-1
        upper = torch.linalg.cholesky(self.A[:, 0]).mT[learner_of(context, self.learners)]
        away = torch.linalg.solve_triangular(upper, z[:, :, None], upper=True)  # (B, D, 1)
        moved: Tensor = (x if x.dim() == 3 else x[:, None]) @ away  # (B, n_items or 1, 1)
        moved = self.scale * moved.squeeze(2).expand(-1, self.n_items)
        return mean + (moved if context.candidates is None else moved.gather(1, context.candidates))

    def draw(
        self, context: Context, generator: Generator, live: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """`sample` and `p_best` in one: (B, n_items) each."""
        if self.joint:
            return self.sample(context, generator), None
        mean, width = self.scores(context), self.width(context)
        z = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        return torch.addcmul(mean, width, z), p_largest(mean, width, live)

    def p_best(self, context: Context, live: Tensor | None = None) -> Tensor | None:
        """P(the draw of an item is the largest of the live ones): (B, n_items). With `joint` draws
        depend on each other, and there is no closed form."""
        return None if self.joint else p_largest(self.scores(context), self.width(context), live)

    def score_of(self, context: Context, item: Tensor) -> Tensor:
        index = item if item.dim() == 2 else item[:, None]  # (B, M)
        x = shown_features(context, index)  # (B, M, D)
        head = torch.zeros_like(index) if self.joint else index
        theta = self.theta[learner_of(context, self.learners)[:, None], head]  # (B, M, D)
        return (theta * x).sum(2).view_as(item)

    def top(self, context: Context, k: int) -> Tensor:
        """The k best available items, ties broken by a hash of learner, user and item: (B, k)."""
        return best_of(context, self.scores(context), k, self.learners)
