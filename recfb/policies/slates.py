"""What policies over slates share: uniform slates with exact probabilities, and slates that are
certain."""

from __future__ import annotations

from abc import abstractmethod
from typing import Self

import torch
from torch import Generator, Tensor

from recfb.contracts import Context, Policy, Slate, best_of
from recfb.data import Log
from recfb.errors import ConfigError


def supply(context: Context, n_items: int) -> Tensor:
    """How many items each request could be shown: (B,) int64; a repeated candidate counts each
    time.

    >>> supply(Context(torch.tensor([7, 8])), n_items=5).tolist()
    [5, 5]
    """
    rows, device = len(context), context.user.device
    if context.candidates is not None:
        return torch.full((rows,), context.candidates.shape[1], device=device)
    if context.available is not None:
        return context.available.sum(1).expand(rows)
    return torch.full((rows,), n_items, device=device)


def check_supply(context: Context, n_items: int, k: int) -> None:
    """Refuse a slate that is longer than the items of some request."""
    whole = context.candidates is None and context.available is None
    fewest = n_items if whole or not len(context) else int(supply(context, n_items).min())
    if k > fewest:
        raise ConfigError(
            f"a slate of {k} items was asked for, but a request has only {fewest} items to show. "
            f"Ask for slate={fewest} or fewer."
        )


def uniform_slate(context: Context, n_items: int, u: Tensor) -> Tensor:
    """K distinct items in uniformly random order from K uniform numbers a row: (B, K) -> (B, K).

    The j-th pick is the floor(u_j (n - j))-th of the items that are left: exact, without rejection
    and without a permutation of the catalogue.

    >>> u = torch.tensor([[0.0, 0.0, 0.99]], dtype=torch.float64)
    >>> uniform_slate(Context(torch.tensor([0])), 5, u).tolist()
    [[0, 1, 4]]
    """
    k = u.shape[1]
    left = supply(context, n_items)[:, None] - torch.arange(k, device=u.device)  # (B, K)
    rank = torch.minimum((u * left).to(torch.int64), left - 1)  # (B, K)
    pick = torch.empty_like(rank)
    for j in range(k):
        place = rank[:, j]  # (B,)
        taken = pick[:, :j].sort(1).values  # (B, j)
        for i in range(j):
            place = place + (place >= taken[:, i])
        pick[:, j] = place
    if context.candidates is not None:
        return context.candidates.gather(1, pick)
    if context.available is None:
        return pick
    if len(context.available) == 1:
        return context.available[0].nonzero().squeeze(1)[pick]
    return torch.searchsorted(context.available.cumsum(1), pick + 1)


def uniform_propensities(
    context: Context, n_items: int, item: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The probabilities of any (B, K) slate under `uniform_slate`, float64: at its position, of
    each prefix, of the item anywhere in the slate.

    With n items to show: 1/n, prod_{j<k} 1/(n - j) and K/n; 0 for an item that could not be shown
    or that is shown twice. A candidate listed m times counts m times.

    >>> slate = torch.tensor([[3, 1]])
    >>> at, prefix, display = uniform_propensities(Context(torch.tensor([0])), 5, slate)
    >>> at.tolist(), prefix.tolist(), display.tolist()
    ([[0.2, 0.2]], [[0.2, 0.05]], [[0.4, 0.4]])
    """
    k = item.shape[1]
    n = supply(context, n_items)[:, None].to(torch.float64)  # (B, 1)
    if context.candidates is not None:
        stock = (context.candidates[:, None, :] == item[:, :, None]).sum(2)  # (B, K)
    elif context.available is not None:
        stock = context.available.expand(len(item), -1).gather(1, item).to(torch.int64)  # (B, K)
    else:
        stock = torch.ones_like(item)  # (B, K)
    used = (item[:, :, None] == item[:, None, :]).tril(-1).sum(2)  # (B, K) earlier in the slate
    place = torch.arange(k, device=item.device)  # (K,)
    prefix = ((stock - used).clamp(min=0) / (n - place)).cumprod(1)  # (B, K)
    if context.candidates is None:
        return stock / n, prefix, stock * k / n
    missed = torch.ones_like(prefix)
    for j in range(k):
        missed = missed * (n - stock - j).clamp(min=0) / (n - j)
    return stock / n, prefix, 1 - missed


class Certain(Policy):
    """Shows the K items with the largest index, for sure: every probability is 1 or 0.

    Ties are broken by a hash of learner, user and item. Its log supports the evaluation of no
    other policy.
    """

    learners: int
    _sure: Tensor | None  # ones, shaped like the last slate

    def bind(self, log: Log) -> Self:
        self.learners, self._sure = log.meta.learners, None
        return super().bind(log)

    @abstractmethod
    def index(self, context: Context) -> Tensor:
        """(B, n_items), or like candidates."""

    def act(self, context: Context, generator: Generator, *, k: int = 1) -> Slate:
        check_supply(context, self.n_items, k)
        top = best_of(context, self.index(context), k, self.learners)  # (B, K)
        sure = self._sure
        if sure is None or sure.shape != top.shape or sure.device != top.device:
            self._sure = sure = torch.ones_like(top, dtype=torch.float64)
        return Slate(top, propensity=sure, p_prefix=sure, p_display=sure)

    def propensities(self, context: Context, item: Tensor) -> Slate:
        return _certain(item, best_of(context, self.index(context), item.shape[1], self.learners))

    def prob_of(self, context: Context, item: Tensor) -> Tensor:
        index = item if item.dim() == 2 else item[:, None]  # (B, M)
        best = best_of(context, self.index(context), 1, self.learners)  # (B, 1)
        return (index == best).to(torch.float64).view_as(item)

    def probs(self, context: Context) -> Tensor:
        best = best_of(context, self.index(context), 1, self.learners)  # (B, 1)
        shape = (len(context), self.n_items)
        return torch.zeros(shape, dtype=torch.float64, device=best.device).scatter_(1, best, 1.0)


def _certain(item: Tensor, top: Tensor) -> Slate:
    hit = (item == top).to(torch.float64)  # (B, K)
    inside = (item[:, :, None] == top[:, None, :]).any(2).to(torch.float64)  # (B, K)
    return Slate(item, propensity=hit, p_prefix=hit.cumprod(1), p_display=inside)
