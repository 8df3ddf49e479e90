"""Relevance matrix factorisation by steps on the whole matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

import torch
from torch import Generator, Tensor, nn

from recfb.contracts import Batch, Exposure
from recfb.optim import lookup, table
from recfb.solvers.bilinear import Bilinear, Lists
from recfb.solvers.relmf import clicked

if TYPE_CHECKING:
    from recfb.data.log import Log

Link = Literal["bce", "sq_sigmoid", "sq_linear"]

_CELLS = 8_000_000  # pairs whose scores are held at a time


def slope(score: Tensor, w: Tensor, link: Link) -> Tensor:
    """The derivative of w d1(s) + (1 - w) d0(s) in the score s, with w = Y / theta.

        bce         q - w                    q = sigmoid(s)
        sq_sigmoid  2 (q - w) q (1 - q)
        sq_linear   2 (s - w)

    >>> slope(torch.zeros(3), torch.tensor([0.0, 1.0, 4.0]), "bce").tolist()
    [0.5, -0.5, -3.5]
    """
    if link == "sq_linear":
        return 2 * (score - w)
    q = torch.sigmoid(score)
    return q - w if link == "bce" else 2 * (q - w) * q * (1 - q)


class FullRelMF(Bilinear):
    """Minimises the loss of `objectives.RelMF` over all pairs, without sampling, for every link.

    Saito et al., "Unbiased recommender learning from missing-not-at-random implicit feedback"
    (2020). With s = U V' + b + c, each step takes the gradient over the whole matrix,

        S' = slope(S, Y / max(theta, clip)),   dU = S' V,   dV = S'.T U,

    in blocks of users, and an Adam step. The loss is a sum over the pairs plus
    l2 (n |U|^2 + m |V|^2) with m users and n items, as that of `RelMF`, whose closed form this
    finds for "sq_linear" without biases. It costs all pairs at every step: for up to some 10^8 of
    them.

    Args:
        exposure: P(seen) of a pair.
        dim: length of the vectors.
        link: as in `objectives.RelMF`.
        l2: weight of the squared lengths, for every pair of the row; biases are free.
        clip: exposures below it count as it.
        lr: of Adam.
        steps: over the whole matrix.
        bias: "item" adds b_i and a constant, "none" nothing.

    >>> from recfb import fit
    >>> from recfb.data import Log
    >>> from recfb.exposures import Popularity
    >>> log = Log.of({"user": [0, 0, 1], "item": [0, 1, 0], "reward": [1, 1, 1]}, n_items=3)
    >>> scores = fit(log, FullRelMF(Popularity(), dim=2)).all(torch.tensor([1]))[0]
    >>> bool(scores[1] > scores[2])
    True
    """

    item_bias: nn.Parameter  # (n_items, 1)
    offset: nn.Parameter  # (1, 1)

    def __init__(
        self,
        exposure: Exposure,
        *,
        dim: int = 64,
        link: Link = "sq_sigmoid",
        l2: float = 0.001,
        clip: float = 0.05,
        lr: float = 0.03,
        steps: int = 150,
        bias: Literal["item", "none"] = "item",
    ) -> None:
        super().__init__(dim)
        self.exposure, self.link, self.l2, self.clip = exposure, link, l2, clip
        self.lr, self.steps, self.bias = lr, steps, bias

    def bind(self, log: Log) -> Self:
        self.item_bias = table(getattr(self, "item_bias", None), log.n_items, 1)
        self.offset = table(getattr(self, "offset", None), 1, 1)
        return super().bind(log)

    def reset(self, generator: Generator) -> None:
        super().reset(generator)
        self.user.normal_(0.0, 0.1, generator=generator)
        self.item_bias.zero_()
        self.offset.zero_()

    @torch.no_grad()
    def solve(self, log: Log) -> Self:
        """Take the steps."""
        batch = clicked(log).to(self.item.device)
        weight = 1.0 / self.exposure(batch).clamp(min=self.clip).to(self.item)  # (P,)
        clicks = Lists.of(batch.user, batch.item, weight, self.n_users)
        learned = [self.user, self.item]
        learned += [self.item_bias, self.offset] if self.bias == "item" else []
        optimizer = torch.optim.Adam([{"params": learned}], lr=self.lr)
        for _ in range(self.steps):
            for parameter, gradient in zip(learned, self.gradients(clicks), strict=False):
                parameter.grad = gradient
            optimizer.step()
        for parameter in learned:
            parameter.grad = None
        return self

    def gradients(self, clicks: Lists) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of the tables, the item biases and the constant, at their values."""
        m, n = self.n_users, self.n_items
        user, item = 2 * self.l2 * n * self.user, 2 * self.l2 * m * self.item
        bias = torch.zeros_like(self.item_bias)
        size = max(1, _CELLS // max(1, n))
        for start in range(0, m, size):
            rows = slice(start, min(m, start + size))
            scores = self.all(torch.arange(rows.start, rows.stop, device=item.device))  # (B, n)
            change = slope(scores, dense(clicks, rows, n), self.link)  # (B, n)
            user[rows] += change @ self.item
            item += change.T @ self.user[rows]
            bias += change.sum(0)[:, None]
        return user, item, bias, bias.sum().view(1, 1)

    def forward(self, user: Tensor, item: Tensor, batch: Batch | None = None) -> Tensor:
        """(B,), (B,) | (B, C) -> scores shaped like item."""
        score = super().forward(user, item)
        if self.bias == "none":
            return score
        return score + lookup(self.item_bias, item).squeeze(-1) + self.offset.squeeze()

    def all(self, user: Tensor, out: Tensor | None = None) -> Tensor:
        """(B,) -> (B, n_items) by one matrix product."""
        score = super().all(user, out)
        return score if self.bias == "none" else score.add_(self.item_bias.T).add_(self.offset)


def dense(lists: Lists, rows: slice, columns: int) -> Tensor:
    """Some rows of a sparse matrix, with zeros: (B, columns).

    >>> lists = Lists(torch.tensor([0, 1, 3]), torch.tensor([2, 0, 1]), torch.tensor([5.0, 6, 7]))
    >>> dense(lists, slice(1, 2), 3).tolist()
    [[6.0, 7.0, 0.0]]
    """
    offset = lists.offset[rows.start : rows.stop + 1]  # (B + 1,)
    count = offset[1:] - offset[:-1]  # (B,)
    row = torch.repeat_interleave(torch.arange(len(count), device=count.device), count)
    entries = slice(int(offset[0]), int(offset[-1]))
    matrix = torch.zeros(len(count), columns, dtype=lists.weight.dtype, device=count.device)
    matrix[row, lists.index[entries]] = lists.weight[entries]
    return matrix
