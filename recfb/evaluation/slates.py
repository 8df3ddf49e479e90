"""Estimators of the value of whole slates: the same door, with a slate as the row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from recfb.estimate import Mean, Rows


@dataclass(frozen=True)
class Weighed(Rows):
    """Slates seen by one estimator: a weight and a weighted reward a slate."""

    given: Tensor | None = None  # (P, n)
    term: Tensor | None = None  # (P, n)

    @cached_property
    def w(self) -> Tensor:
        assert self.given is not None
        return self.given

    @cached_property
    def wr(self) -> Tensor:
        assert self.term is not None
        return self.term


@dataclass(frozen=True)
class SlateRows(Rows):
    """n slates of up to L slots. `r` is a slate's whole reward, `p` and `pe` are its probability.

    Where a slate has no slot k, `here` is 0, its reward 0, and its probabilities are 1. What a log
    or a policy does not tell is NaN.
    """

    slot: Tensor = torch.empty(0)  # (L, n) rewards
    here: Tensor = torch.empty(0)  # (L, n) 1 where the slate has this slot, else 0
    at: Tensor = torch.empty(0)  # (L, n) logged P(item at its position)
    at_e: Tensor = torch.empty(0)  # (L, P, n) under the target
    prefix: Tensor = torch.empty(0)  # (L, n) logged P(items up to here, in this order)
    prefix_e: Tensor = torch.empty(0)  # (L, P, n) under the target
    display_e: Tensor = torch.empty(0)  # (L, P, n) target's P(item anywhere in the slate)

    @classmethod
    def of(cls, line: Tensor, pe: Tensor, slots: int, shift: float) -> Self:
        """A few plain slates, for probing: line (n,), pe (P, n)."""
        lines, many = line.expand(slots, -1), pe.expand(slots, *pe.shape)
        reward = lines**2 + shift  # (L, n)
        one, p = torch.ones_like(lines), 0.5 * line
        shared = (0.4 * lines, 0.9 * many, 0.6 * lines, 0.8 * many, 0.5 * many)
        columns = dict(zip(_SHARED, shared, strict=True))
        return cls(reward.sum(0), p, pe, slot=reward, here=one, **columns)

    @cached_property
    def slot_w(self) -> Tensor:
        """(L, P, n) the weight of the item at its position."""
        return self.at_e / self.at[:, None]

    @cached_property
    def prefix_w(self) -> Tensor:
        """(L, P, n) the weight of the items up to a slot."""
        return self.prefix_e / self.prefix[:, None]

    @cached_property
    def length(self) -> Tensor:
        """(n,) slots of a slate."""
        return self.here.sum(0)

    def _view(self, w: Tensor, wr: Tensor) -> Weighed:
        return Weighed(self.r, self.p, self.pe, given=w, term=wr)

    @property
    def joint(self) -> Rows:
        """The weights of SIPS: the slates themselves."""
        return self

    @cached_property
    def slots(self) -> Weighed:
        """The weights of IIPS, averaged over a slate's slots."""
        here, w = self.here[:, None], self.slot_w  # (L, 1, n), (L, P, n)
        return self._view((here * w).sum(0) / self.length, (w * self.slot[:, None]).sum(0))

    @cached_property
    def prefixes(self) -> Weighed:
        """The weights of RIPS, averaged over a slate's slots."""
        here, w = self.here[:, None], self.prefix_w  # (L, 1, n), (L, P, n)
        return self._view((here * w).sum(0) / self.length, (w * self.slot[:, None]).sum(0))

    @cached_property
    def product(self) -> Weighed:
        """The weights of the pseudo-inverse where slots are drawn independently."""
        w = (self.here[:, None] * self.slot_w).sum(0) - (self.length - 1)  # (P, n)
        return self._view(w, w * self.r)

    @cached_property
    def ranking(self) -> Weighed:
        """The weights of the pseudo-inverse where rankings are uniform."""
        here, items = self.here[:, None], 1 / self.at[0]  # (L, 1, n), (n,)
        w = ranking_weight(
            (here * self.at_e).sum(0), (here * self.display_e).sum(0), self.length, items
        )
        return self._view(w, w * self.r)


_SHARED = ("at", "at_e", "prefix", "prefix_e", "display_e")


def ranking_weight(s: Tensor, t: Tensor, slots: Tensor, items: Tensor) -> Tensor:
    """The pseudo-inverse weight of a slate of L slots from a uniform ranking of m items.

    (m - 1) S + (m - 1)/(m - L) T + 1 - (m - 1) L/m - (m - 1) L^2/(m (m - L)) where L < m, and
    (m - 1) S - (m - 2) where L = m; S sums the target's P(item at its position), T its P(item
    anywhere in the slate). The closed form of q_pi^T G^+ 1_s of Swaminathan et al. (2017).

    >>> one = torch.ones(1)
    >>> round(float(ranking_weight(0.9 * one, 1.2 * one, 2 * one, 3 * one)), 4)
    1.2
    """
    m, size = items.round(), slots
    rest = (m - size).clamp(min=1)
    fewer = (m - 1) * (s + t / rest - size / m - size**2 / (m * rest)) + 1
    return torch.where(size < m, fewer, (m - 1) * s - (m - 2))


def sips(t: Rows, mean: Mean) -> Tensor:
    """Standard IPS of slates, mean(Pi / M sum_k r_k): always unbiased, by P(slate).

    >>> from recfb.estimate import average
    >>> one = torch.ones(1)
    >>> float(sips(Rows(2 * one, 0.25 * one, 0.5 * one), average))
    4.0
    """
    return mean(t.wr)


def snsips(t: Rows, mean: Mean) -> Tensor:
    """Self-normalised `sips`, mean(w R) / mean(w): bias -Cov(., mean w), of order 1/n.

    >>> from recfb.estimate import average
    >>> one = torch.ones(1)
    >>> float(snsips(Rows(2 * one, 0.25 * one, 0.5 * one), average))
    2.0
    """
    return mean(t.wr) / mean(t.w)


def iips(t: SlateRows, mean: Mean) -> Tensor:
    """Independent IPS, mean(sum_k w_k r_k), w_k of the item at its position.

    Unbiased if a slot's reward depends on its own item only. Li et al. (2018), the item-position
    model.

    >>> from recfb.estimate import average
    >>> rows = SlateRows.of(torch.tensor([1.0]), torch.tensor([[0.5]]), 2, 0.0)
    >>> [round(x, 4) for x in iips(rows, average).tolist()]
    [2.25]
    """
    return mean(t.slots.wr)


def rips(t: SlateRows, mean: Mean) -> Tensor:
    """Reward-interaction IPS, mean(sum_k w_k r_k), w_k of the items up to slot k in their order.

    Unbiased if a slot's reward depends on the items up to it. McInerney et al. (2020).

    >>> from recfb.estimate import average
    >>> rows = SlateRows.of(torch.tensor([1.0]), torch.tensor([[0.5]]), 2, 0.0)
    >>> [round(x, 4) for x in rips(rows, average).tolist()]
    [1.3333]
    """
    return mean(t.prefixes.wr)


def _slot_by_slot(t: SlateRows, mean: Mean, weights: Tensor) -> Tensor:
    """sum_k mean(w_k r_k) / mean(w_k) over the slates with a slot k, times their share."""
    total = []
    for here, w, r in zip(t.here, weights, t.slot, strict=True):
        total.append(mean(here + 0 * w) * mean(w * r) / mean(here * w))
    return torch.stack(total).sum(0)


def sniips(t: SlateRows, mean: Mean) -> Tensor:
    """Self-normalised `iips`, slot by slot; bias of order 1/n.

    >>> from recfb.estimate import average
    >>> rows = SlateRows.of(torch.tensor([1.0]), torch.tensor([[0.5]]), 2, 0.0)
    >>> [round(x, 4) for x in sniips(rows, average).tolist()]
    [2.0]
    """
    return _slot_by_slot(t, mean, t.slot_w)


def snrips(t: SlateRows, mean: Mean) -> Tensor:
    """Self-normalised `rips`, slot by slot; bias of order 1/n.

    >>> from recfb.estimate import average
    >>> rows = SlateRows.of(torch.tensor([1.0]), torch.tensor([[0.5]]), 2, 0.0)
    >>> [round(x, 4) for x in snrips(rows, average).tolist()]
    [2.0]
    """
    return _slot_by_slot(t, mean, t.prefix_w)


def pi_product(t: SlateRows, mean: Mean) -> Tensor:
    """Pseudo-inverse for a logger that draws slots independently: R (sum_k w_k - (L - 1)).

    Unbiased if the slate's reward R is a sum over (slot, item). Weights can be negative; their mean
    is 1. Swaminathan et al. (2017), in closed form.

    >>> from recfb.estimate import average
    >>> rows = SlateRows.of(torch.tensor([1.0]), torch.tensor([[0.5]]), 2, 0.0)
    >>> [round(x, 4) for x in pi_product(rows, average).tolist()]
    [2.5]
    """
    return mean(t.product.wr)


def pi_ranking(t: SlateRows, mean: Mean) -> Tensor:
    """Pseudo-inverse for a logger of uniform rankings: R times `ranking_weight`.

    Unbiased if the slate's reward R is a sum over (slot, item). Weights can be negative; their mean
    is 1. Swaminathan et al. (2017), in closed form.

    >>> from recfb.estimate import average
    >>> rows = SlateRows.of(torch.tensor([1.0]), torch.tensor([[0.5]]), 2, 0.0)
    >>> [round(x, 4) for x in pi_ranking(rows, average).tolist()]
    [1.8]
    """
    return mean(t.ranking.wr)


SlateEstimator = Callable[[SlateRows, Mean], Tensor]

SLATES: dict[str, SlateEstimator] = {
    "sips": sips,
    "iips": iips,
    "rips": rips,
    "snsips": snsips,
    "sniips": sniips,
    "snrips": snrips,
    "pi_product": pi_product,
    "pi_ranking": pi_ranking,
}
"""The estimators that `evaluate` takes by name for logs with a `slate` column."""

VIEWS: dict[Callable[..., Tensor], str] = {
    sips: "joint",
    snsips: "joint",
    iips: "slots",
    sniips: "slots",
    rips: "prefixes",
    snrips: "prefixes",
    pi_product: "product",
    pi_ranking: "ranking",
}
"""Which view of the rows shows an estimator's weights."""
