"""Neural-linear: Bayesian regression an item on features that a network learns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from recfb.beliefs.rows import features_of, shown_features
from recfb.contracts import (
    Batch,
    Component,
    Context,
    Feedback,
    Fitted,
    Scorer,
    Slate,
    best_of,
)
from recfb.data import Log
from recfb.data.pairs import Pairs
from recfb.errors import ConfigError
from recfb.network import Network, network

LEAST = 1e-8
"""Of the scale of the noise, which rounding may make negative."""


class FeatureNet(Scorer):
    """s = w_item . z(x) + c_item, z a network with ReLU: rewards of single rows by their features.

    Args:
        hidden: the widths of the layers; the last is that of z.

    Raises:
        ConfigError: no layers.

    >>> net = FeatureNet((4,)).bind(Log.empty(1, 2))
    >>> net.embed(torch.ones(3, 1)).shape
    torch.Size([3, 4])
    """

    net: Network
    heads: nn.Parameter  # (n_items, W)
    offset: nn.Parameter  # (n_items,)

    def __init__(self, hidden: Sequence[int] = (64, 64)) -> None:
        super().__init__()
        self.hidden = tuple(hidden)
        if not self.hidden or min(self.hidden) < 1:
            raise ConfigError(f"hidden are widths of layers, found {self.hidden}. Try (64, 64).")

    def bind(self, log: Log) -> Self:
        super().bind(log)
        width = getattr(log.frame.schema.get("features"), "size", 1)
        self.net = network(self._modules.get("net"), [width, *self.hidden])  # type: ignore[arg-type]
        shape = (log.n_items, self.hidden[-1])
        if "heads" not in self._parameters or self.heads.shape != shape:
            self.heads = nn.Parameter(torch.zeros(shape))
            self.offset = nn.Parameter(torch.zeros(shape[0]))
        return self

    @torch.no_grad()
    def reset(self, generator: Generator) -> None:
        self.net.reset(generator)
        self.heads.normal_(0, self.hidden[-1] ** -0.5, generator=generator)
        self.offset.zero_()

    def embed(self, x: Tensor) -> Tensor:
        """z: (..., D) -> (..., W)."""
        return F.relu(self.net(x.to(self.heads.dtype)))

    def forward(self, user: Tensor, item: Tensor, batch: Batch | None = None) -> Tensor:
        every = self._every(len(user), None if batch is None else batch.features)
        index = item if item.dim() == 2 else item[:, None]  # (B, C)
        return every.gather(1, index).view_as(item)

    def _every(self, rows: int, x: Tensor | None) -> Tensor:
        """(B, n_items); without features x = 1."""
        x = torch.ones(rows, self.net.sizes[0]) if x is None else x
        return self.embed(x.to(self.heads.device)) @ self.heads.T + self.offset

    def scores(self, context: Context) -> Tensor:
        """(B, n_items), or like candidates, from the request's features."""
        return _picked(context, self._every(len(context), context.features))

    def score_of(self, context: Context, item: Tensor) -> Tensor:
        """Scores of given items, (B, C), from the request's features."""
        batch = Batch(context.user, item, item, features=context.features)
        scores: Tensor = self(context.user, item, batch)
        return scores

    @torch.no_grad()
    def top(self, context: Context, k: int, *, hide: Pairs | None = None) -> Tensor:
        """The k best items by the request's features; `hide` is of requests without any."""
        if context.features is None:
            return super().top(context, k, hide=hide)
        return best_of(context, self.scores(context), k)


class NeuralLinear(Component):
    """E[reward | x, item] = z(x) . w_item, w and the noise normal-inverse-gamma, z a network.

    Riquelme, Tucker and Snoek, "Deep Bayesian bandits showdown", ICLR 2018. The network is trained
    by `fit` at every refit, on the rows that the refit is given; then the statistics of the
    regressions are computed anew from these rows with the new features, since old ones are of
    features that no longer exist. Between refits rows are added as they become known. With z
    standardised, and a constant 1 after it, for every item

        P = l2 I + Z'Z,  mu = P^-1 Z'r,  a = shape + n / 2,  b = scale + (r'r - mu' P mu) / 2,

    draws are sigma^2 ~ InvGamma(a, b), w ~ N(mu, sigma^2 P^-1), independent over rows; their maxima
    have no closed form. One learner an object.

    Args:
        net: a recommender over `FeatureNet`: `Recommender(FeatureNet((64, 64)), objectives.MSE(),
            samplers.Logged(), optimizer=optim.Adam(lr=0.01))`.
        l2: the ridge.
        shape: a_0 of the noise.
        scale: b_0 of the noise.

    Raises:
        ConfigError: a prior that is not positive, or a net that has no `embed`.
    """

    vectorised: ClassVar[bool] = False
    informed: ClassVar[bool] = False

    n_items: int
    P: Tensor  # (n_items, W + 1, W + 1)
    zr: Tensor  # (n_items, W + 1)
    rr: Tensor  # (n_items,)
    n: Tensor  # (n_items,)
    mu: Tensor  # (n_items, W + 1)
    inverse: Tensor  # (n_items, W + 1, W + 1) of P
    centre: Tensor  # (W,) of z over the rows of the last refit
    spread: Tensor  # (W,)

    def __init__(
        self, net: Fitted, l2: float = 0.25, *, shape: float = 6.0, scale: float = 6.0
    ) -> None:
        super().__init__()
        if not min(l2, shape, scale) > 0:
            raise ConfigError(
                f"l2, shape and scale are positive, found {l2}, {shape} and {scale}. "
                "Try NeuralLinear(net, l2=0.25)."
            )
        if not hasattr(getattr(net, "scorer", None), "embed"):
            raise ConfigError(
                "net is a recommender whose scorer is a FeatureNet: Recommender(FeatureNet(), "
                f"objectives.MSE(), samplers.Logged()). Found {net!r}."
            )
        self.net: Any = net
        self.l2 = l2
        self.shape = shape
        self.scale = scale

    def bind(self, log: Log) -> Self:
        super().bind(log)
        self.n_items = log.n_items
        W = self.net.scorer.hidden[-1]
        sizes = {
            "P": (log.n_items, W + 1, W + 1), "zr": (log.n_items, W + 1), "rr": (log.n_items,),
            "n": (log.n_items,), "mu": (log.n_items, W + 1),
            "inverse": (log.n_items, W + 1, W + 1), "centre": (W,), "spread": (W,),
        }  # fmt: skip
        for name, size in sizes.items():
            self.register_buffer(name, torch.zeros(size, dtype=torch.float64))
        self.spread.fill_(1.0)
        self._forget()
        return self

    def reset(self, generator: Generator) -> None:
        super().reset(generator)
        self.centre.zero_()
        self.spread.fill_(1.0)
        self._forget()

    def _forget(self) -> None:
        eye = torch.eye(self.P.shape[1], dtype=torch.float64, device=self.P.device)
        self.P.copy_((self.l2 * eye).expand_as(self.P))
        self.inverse.copy_((eye / self.l2).expand_as(self.P))
        for buffer in (self.zr, self.rr, self.n, self.mu):
            buffer.zero_()

    # ---- learning

    def refit(self, log: Log, fit: Callable[[Log, Any], Any]) -> None:
        """Train the network on a log, and compute all statistics anew from its rows."""
        fit(log, self.net)
        with torch.no_grad():
            blocks = list(log.blocks(1 << 14))
            z = torch.cat([self._raw(features_of(block.context)) for block in blocks])  # (n, W)
            self.centre.copy_(z.mean(0))
            sd = z.std(0, correction=0)
            self.spread.copy_(torch.where(sd > 1e-6, sd, 1.0))
            self._forget()
            for block in blocks:
                self.update(block.context, block.slate, block.feedback, Generator())

    @torch.no_grad()
    def update(
        self, context: Context, slate: Slate, feedback: Feedback, generator: Generator
    ) -> None:
        z = self._z(shown_features(context, slate.item)).flatten(0, 1)  # (B * K, W + 1)
        reward = feedback.reward.reshape(-1).to(torch.float64)
        known = ~reward.isnan()
        item, z, reward = slate.item.reshape(-1)[known], z[known], reward[known]
        self.P.index_add_(0, item, z[:, :, None] * z[:, None, :])
        self.zr.index_add_(0, item, reward[:, None] * z)
        self.rr.index_add_(0, item, reward.square())
        self.n.index_add_(0, item, torch.ones_like(reward))
        touched = torch.unique(item)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(self.P[touched]))
        self.inverse[touched] = inverse
        self.mu[touched] = (inverse @ self.zr[touched][:, :, None]).squeeze(2)

    def _raw(self, x: Tensor) -> Tensor:
        z: Tensor = self.net.scorer.embed(x)
        return z.to(torch.float64)

    def _z(self, x: Tensor) -> Tensor:
        """Standardised features and a constant: (..., D) -> (..., W + 1)."""
        z = (self._raw(x) - self.centre) / self.spread
        return F.pad(z, (0, 1), value=1.0)

    # ---- what is believed

    @torch.no_grad()
    def _believed(self, context: Context) -> tuple[Tensor, Tensor]:
        """z . mu and z' P^-1 z of every item: (B, n_items) each."""
        z = self._z(features_of(context))  # (B, W + 1) or (B, n_items, W + 1)
        if z.dim() == 2:
            mean = z @ self.mu.T
            leaning = torch.einsum("bw,nwv->bnv", z, self.inverse)
            return mean, (leaning * z[:, None]).sum(2)
        leaning = torch.einsum("bnw,nwv->bnv", z, self.inverse)
        return (z * self.mu).sum(2), (leaning * z).sum(2)

    def noise(self) -> tuple[Tensor, Tensor]:
        """a and b of the inverse gamma of every item: (n_items,) each."""
        fit = (self.mu * self.zr).sum(1)  # mu' P mu
        return self.shape + self.n / 2, (self.scale + (self.rr - fit) / 2).clamp(min=LEAST)

    def scores(self, context: Context) -> Tensor:
        return _picked(context, self._believed(context)[0])

    def width(self, context: Context) -> Tensor:
        """Standard deviations of z . w at the mean of the noise: (B, n_items)."""
        a, b = self.noise()
        square = self._believed(context)[1] * b / (a - 1).clamp(min=LEAST)
        return _picked(context, square.clamp(min=0).sqrt())

    def sample(self, context: Context, generator: Generator) -> Tensor:
        mean, square = self._believed(context)
        a, b = self.noise()
        variance = b / torch._standard_gamma(a.expand(mean.shape).contiguous(), generator=generator)
        z = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        return _picked(context, mean + (variance * square).clamp(min=0).sqrt() * z)

    def score_of(self, context: Context, item: Tensor) -> Tensor:
        index = item if item.dim() == 2 else item[:, None]  # (B, M)
        with torch.no_grad():
            z = self._z(shown_features(context, index))  # (B, M, W + 1)
        return (z * self.mu[index]).sum(2).view_as(item)

    def top(self, context: Context, k: int) -> Tensor:
        """The k best available items, ties broken by a hash of user and item: (B, k)."""
        return best_of(context, self.scores(context), k)


def _picked(context: Context, values: Tensor) -> Tensor:
    return values if context.candidates is None else values.gather(1, context.candidates)
