"""How unevenly clicks and displays fall on the items, and how popular is what is shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from recfb.metrics.cells import blocks, cells_of, clicked, user_share

if TYPE_CHECKING:
    import polars as pl

    from recfb.data.log import Log

Statistic = Callable[[Tensor, Tensor | None], Tensor]
"""(counts (..., n), available (..., n) bool or None for all) -> (...,) float64."""


def concentration(counts: Tensor, available: Tensor | None = None) -> Tensor:
    """The Gini coefficient over the available items, zeros included: (..., n) -> (...,) float64.

        G = 2 sum_r r n_(r) / (I N) - (I + 1) / I,   n_(1) <= n_(2) <= ...,   N = sum n_(r)

    0 when all are equal, 1 - 1/I when one has everything; NaN where N = 0.

    >>> concentration(torch.tensor([[0, 0, 0, 10], [5, 5, 5, 5]])).tolist()
    [0.75, 0.0]
    >>> there = torch.tensor([False, True, True, True])
    >>> round(float(concentration(torch.tensor([0, 0, 0, 9]), there)), 6)
    0.666667
    """
    counts, items = _among(counts, available)
    n = counts.shape[-1]
    ordered = counts.sort(-1).values
    rank = torch.arange(1, n + 1, dtype=torch.float64, device=counts.device)
    rank = rank - (n - items)[..., None]  # what is not available has no click and comes first
    return 2 * (ordered * rank).sum(-1) / (items * ordered.sum(-1)) - (items + 1) / items


def entropy(counts: Tensor) -> Tensor:
    """Shannon entropy of the shares, in nats: (..., n) -> (...,); NaN where there is nothing.

    >>> round(float(entropy(torch.tensor([1, 1, 0]))), 4)
    0.6931
    """
    share = counts.to(torch.float64)
    share = share / share.sum(-1, keepdim=True)
    return -torch.xlogy(share, share).sum(-1)


def evenness(counts: Tensor, available: Tensor | None = None) -> Tensor:
    """Entropy over log I, I the available items: 1 when all are equal, 0 when one has everything.

    >>> round(float(evenness(torch.tensor([1, 1, 0, 0]))), 6)
    0.5
    """
    counts, items = _among(counts, available)
    return entropy(counts) / items.log()


def effective(counts: Tensor, available: Tensor | None = None) -> Tensor:
    """exp(entropy): how many items of equal counts would be as spread. Hill (1973), order 1.

    >>> round(float(effective(torch.tensor([3, 3, 0]))), 6)
    2.0
    """
    return entropy(_among(counts, available)[0]).exp()


def top_share(counts: Tensor, available: Tensor | None = None, *, share: float = 0.1) -> Tensor:
    """What the largest ceil(share I) of the I available items have of all: (..., n) -> (...,).

    >>> round(float(top_share(torch.tensor([6, 3, 1, 0]), share=0.5)), 6)
    0.9
    """
    counts, items = _among(counts, available)
    held = counts.sort(-1, descending=True).values.cumsum(-1)
    place = (share * items - 1e-9).ceil().to(torch.int64).clamp(min=1) - 1
    return held.gather(-1, place[..., None])[..., 0] / counts.sum(-1)


def covered(counts: Tensor, available: Tensor | None = None) -> Tensor:
    """The share of the available items with a count: (..., n) -> (...,).

    >>> float(covered(torch.tensor([6, 3, 1, 0])))
    0.75
    """
    counts, items = _among(counts, available)
    return (counts > 0).sum(-1) / items


def distinct(counts: Tensor, available: Tensor | None = None) -> Tensor:
    """How many items have a count: aggregate diversity. (..., n) -> (...,).

    >>> float(distinct(torch.tensor([6, 3, 1, 0])))
    3.0
    """
    return (_among(counts, available)[0] > 0).sum(-1).to(torch.float64)


def _among(counts: Tensor, available: Tensor | None) -> tuple[Tensor, Tensor]:
    """The counts in float64, and how many items could have one: (..., n), (...,)."""
    counts = counts.to(torch.float64)
    if available is None:
        return counts, torch.full_like(counts[..., 0], counts.shape[-1])
    return counts, available.expand_as(counts).sum(-1).to(torch.float64)


def spread(
    log: Log,
    truth: pl.DataFrame,
    statistic: Statistic,
    *,
    of: Literal["clicks", "shown"] = "shown",
    so_far: bool = False,
) -> Tensor:
    """A statistic of the items' clicks or displays, in the round or so far: (R, T).

    Items that could not be shown in the window do not count as zeros, where the log has the column
    `available`. Greedy slates that all share give a Gini coefficient of 1 - K / I.
    """
    cells = cells_of(log)
    weight = clicked(log) if of == "clicks" else torch.ones(len(log))
    item, found = log.tensor("item"), []
    before: Tensor | float = 0.0
    seen = torch.zeros((), dtype=torch.bool)
    for block in blocks(cells, log.n_items):
        count = block.count(item, weight, log.n_items)  # (R, t, n_items)
        available = block.available(log)
        if so_far:
            count = count.cumsum(1) + before
            available = (available.cumsum(1) > 0) | seen
            before, seen = count[:, -1:], available[:, -1:]
        found.append(statistic(count, available))
    return torch.cat(found, 1)


# ---- popularity -------------------------------------------------------------------------------


def popularity(log: Log, before: int = 1) -> Tensor:
    """Clicks of each item in the first rounds, frozen: (R, n_items) float64.

    Args:
        log: of a run.
        before: how many rounds, from the first of the log; 1 is the uniform round of `simulate`.
    """
    cells = cells_of(log)
    early = clicked(log) & (cells.round < before)
    key = (cells.run * log.n_items + log.tensor("item"))[early]
    count = torch.bincount(key, minlength=cells.replications * log.n_items)
    return count.to(torch.float64).view(cells.replications, log.n_items)


def arp(log: Log, truth: pl.DataFrame, *, before: int = 1, so_far: bool = False) -> Tensor:
    """Average recommendation popularity: the mean over displays of the item's clicks in the first
    `before` rounds: (R, T); NaN in those rounds. Yin, Cui, Li, Yao and Chen, VLDB 2012."""
    cells = cells_of(log)
    clicks = popularity(log, before)[cells.run, log.tensor("item")]  # (rows,)
    return cells.mean(clicks, (cells.round >= before).to(torch.float64), so_far)


def popularity_lift(
    log: Log, truth: pl.DataFrame, *, before: int = 1, so_far: bool = False
) -> Tensor:
    """How much more popular than a user's own clicks is what the user is shown: (R, T).

        PL_u = (ARP(shown to u) - ARP(profile of u)) / ARP(profile of u)

    and the mean over users with a profile, their clicks in the first `before` rounds; NaN in those
    rounds. Abdollahpouri, Mansoury, Burke and Mobasher, 2019.
    """
    cells = cells_of(log)
    clicks = popularity(log, before)[cells.run, log.tensor("item")]  # (rows,)
    owner = cells.run * log.n_users + log.tensor("user")
    size = cells.replications * log.n_users
    early = (clicked(log) & (cells.round < before)).to(torch.float64)
    total = torch.bincount(owner, weights=clicks * early, minlength=size)
    profile = (total / torch.bincount(owner, weights=early, minlength=size))[owner]  # (rows,)
    counts = (cells.round >= before) & profile.isfinite()
    return cells.mean(clicks / profile - 1, counts * user_share(log, cells), so_far)


def long_tail(
    log: Log,
    truth: pl.DataFrame,
    *,
    before: int = 1,
    head: float = 0.8,
    so_far: bool = False,
) -> Tensor:
    """The share of displays outside the head: (R, T); NaN in the first `before` rounds.

    The head is the fewest items, the most clicked first, that hold the share `head` of the clicks
    of those rounds.
    """
    cells = cells_of(log)
    clicks = popularity(log, before)  # (R, n_items)
    ordered, item = clicks.sort(dim=1, descending=True, stable=True)
    above = ordered.cumsum(1) - ordered
    total = clicks.sum(1, keepdim=True)
    tail = (above >= head * total - 1e-9).to(torch.float64)
    tail = torch.where(total > 0, tail, torch.nan)
    tail = torch.empty_like(tail).scatter_(1, item, tail)  # (R, n_items)
    counts = (cells.round >= before).to(torch.float64)
    return cells.mean(tail[cells.run, log.tensor("item")], counts, so_far)


__all__ = [
    "Statistic",
    "arp",
    "concentration",
    "covered",
    "distinct",
    "effective",
    "entropy",
    "evenness",
    "long_tail",
    "popularity",
    "popularity_lift",
    "spread",
    "top_share",
]
