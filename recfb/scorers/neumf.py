"""Neural matrix factorisation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Self

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from recfb.contracts import Batch, Scorer
from recfb.optim import lookup, table
from recfb.scorers.factors import Factors

if TYPE_CHECKING:
    from recfb.data.log import Log

_SCALE = 0.1  # standard deviation of the first values of the vectors
_PAIRS = 1 << 16  # pairs that `all` scores at a time


class NeuMF(Scorer):
    """Estimates s(u, i) = h . [p_u * q_i ; MLP(p'_u, q'_i)] + c: a product and a network, side by
    side.

    He et al., "Neural collaborative filtering" (2017). Both halves have vectors of
    their own and are trained together from the start, without the paper's pretraining.

    Args:
        dim: length of the vectors of the product p * q (GMF).
        layers: widths of the network with ReLU; the first is that of its input [p' ; q'], so each
            of the two is half as long.
        l2: weight of half the squared length of the vectors a batch uses, a mean over the batch.

    >>> from recfb.data import Log
    >>> from recfb.random import stream
    >>> model = NeuMF(dim=4, layers=(8, 4)).bind(Log.empty(n_users=3, n_items=5))
    >>> model.reset(stream(0))
    >>> model.all(torch.tensor([0, 2])).shape
    torch.Size([2, 5])
    """

    user: nn.Parameter  # (n_users, dim + layers[0] / 2): p, p'
    item: nn.Parameter  # (n_items, dim + layers[0] / 2): q, q'

    def __init__(
        self, dim: int = 64, *, layers: Sequence[int] = (128, 64, 32), l2: float = 1e-4
    ) -> None:
        super().__init__()
        self.dim, self.layers, self.l2 = dim, tuple(layers), l2
        shapes = [*((after, before) for before, after in pairwise(layers)), (1, dim + layers[-1])]
        self.weights = nn.ParameterList(torch.zeros(shape) for shape in shapes)
        self.biases = nn.ParameterList(torch.zeros(shape[0]) for shape in shapes)

    def bind(self, log: Log) -> Self:
        super().bind(log)
        width = self.dim + self.layers[0] // 2
        self.user = table(getattr(self, "user", None), log.n_users, width)
        self.item = table(getattr(self, "item", None), log.n_items, width)
        return self

    def reset(self, generator: Generator) -> None:
        super().reset(generator)
        with torch.no_grad():
            for parameter in (self.user, self.item):
                parameter.normal_(0.0, _SCALE, generator=generator)
            for weight, bias in zip(self.weights, self.biases, strict=True):
                nn.init.xavier_uniform_(weight, generator=generator)
                bias.zero_()

    def forward(self, user: Tensor, item: Tensor, batch: Batch | None = None) -> Tensor:
        """(B,), (B,) | (B, C) -> scores shaped like item."""
        u, v = lookup(self.user, user), lookup(self.item, item)  # (B, w), (B, [C,] w)
        u = (u[:, None] if item.dim() > 1 else u).expand_as(v)  # (B, [C,] w)
        x = torch.cat([u[..., self.dim :], v[..., self.dim :]], dim=-1)  # (B, [C,] layers[0])
        *inner, (h, c) = zip(self.weights, self.biases, strict=True)
        for weight, bias in inner:
            x = F.relu(F.linear(x, weight, bias))  # (B, [C,] layers[k])
        both = torch.cat([u[..., : self.dim] * v[..., : self.dim], x], dim=-1)
        return F.linear(both, h, c).squeeze(-1)  # (B, [C])

    def all(self, user: Tensor, out: Tensor | None = None) -> Tensor:
        """(B,) -> (B, n_items), some users at a time."""
        every = torch.arange(self.n_items, device=user.device)
        blocks = torch.split(user, max(1, _PAIRS // max(1, self.n_items)))
        parts = [self(block, every.expand(len(block), -1)) for block in blocks]
        return torch.cat(parts, out=out)  # (B, n_items)

    def penalty(self, batch: Batch) -> Tensor | float:
        """l2 / 2 times the squared length of the vectors a row uses, a mean over rows. The network
        is free."""
        return Factors(self.user, self.item, l2=self.l2).penalty(batch)
