"""How items are drawn and ranked, and whose rows are whose: what policies share.

Rows are learner-major: B/G consecutive rows belong to one of G learners, unless `context.learner`
says otherwise.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from recfb.data.batch import Context
from recfb.metrics import top_k


def sample_cdf(probs: Tensor, generator: Generator) -> Tensor:
    """One draw a row by inverse CDF, in float64: (B, n) -> (B, 1). An item of probability 0 is
    never drawn.

    >>> from recfb.random import stream
    >>> sample_cdf(torch.tensor([[0.0, 1.0, 0.0]]), stream(0)).tolist()
    [[1]]
    """
    total = probs.to(torch.float64).cumsum(1)  # (B, n)
    shape, device = (len(probs), 1), probs.device
    u = torch.rand(shape, generator=generator, dtype=torch.float64, device=device)  # below 1
    # u times a total is rounded below that total, so the first sum above it is of an item with mass
    place = torch.searchsorted(total, u.mul_(total[:, -1:]), right=True)  # (B, 1)
    return place.clamp_(max=probs.shape[1] - 1)


def plackett_luce(probs: Tensor, item: Tensor) -> Tensor:
    """P(items 1..k in this order) when each next item is drawn in proportion to `probs` among those
    left.

    (B, n), (B, K) -> (B, K), float64; the last column is P(slate). Plackett (1975), Luce (1959).

    >>> plackett_luce(torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([[0, 1]])).tolist()
    [[0.5, 0.25]]
    """
    w = probs.to(torch.float64).gather(1, item)  # (B, K)
    left = probs.to(torch.float64).sum(1, keepdim=True) - (w.cumsum(1) - w)  # (B, K)
    return (w / left.clamp(min=torch.finfo(torch.float64).tiny)).cumprod(1)


def learner_of(context: Context, learners: int) -> Tensor:
    """The learner of each row, (B,): as the context says, else B/G consecutive rows each.

    >>> learner_of(Context(torch.zeros(4, dtype=torch.int64)), learners=2).tolist()
    [0, 0, 1, 1]
    """
    if context.learner is not None:
        return context.learner
    size = len(context)
    rows = torch.arange(size, device=context.user.device)
    return rows if size == learners else rows * learners // max(1, size)


def best_of(context: Context, scores: Tensor, k: int, learners: int = 1) -> Tensor:
    """The k best available items by given scores, best first: (B, n_items) or like candidates ->
    (B, k). Ties are broken by a hash of learner, user and item.

    >>> best_of(Context(torch.tensor([0])), torch.tensor([[0.1, 0.9, 0.5]]), 2).tolist()
    [[1, 2]]
    """
    if context.available is not None:
        scores = scores.masked_fill(~context.available, -torch.inf)

    def key() -> Tensor:
        return context.user + (learner_of(context, learners) << 32)  # (B,)

    pick = top_k(scores, k, key)  # (B, k)
    return pick if context.candidates is None else context.candidates.gather(1, pick)


def uniform_over(context: Context, n_items: int) -> Tensor:
    """The uniform distribution over each request's available items: (B, n_items) float64."""
    if context.available is None:
        return torch.full(
            (len(context), n_items), 1.0 / n_items, dtype=torch.float64, device=context.user.device
        )
    mask = context.available.expand(len(context), -1).to(torch.float64)  # (B, n_items)
    return mask / mask.sum(1, keepdim=True)
