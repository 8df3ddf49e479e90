"""How alike users become: overlaps of what they clicked and of what they are shown.

The change against an ideal run on the same random numbers is
`loop_strength.against(jaccard, run, ideal)`; positive means that the algorithm homogenises. Chaney,
Stewart and Engelhardt, RecSys 2018.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from recfb.errors import ConfigError
from recfb.metrics.cells import blocks, cells_of, clicked, first_of, ratio, requests, truth_of
from recfb.random import mix64

if TYPE_CHECKING:
    import polars as pl

    from recfb.data.log import Log

EXACT_PAIRS = 1 << 17
SAMPLED_PAIRS = 20_000
NEAREST_ROWS = 1 << 10
"""So many users at once are compared with all others."""


def overlap(first: Tensor, second: Tensor) -> Tensor:
    """Jaccard |A & B| / |A | B| of sets as indicator rows: (..., n) bool -> (...,); NaN for two
    empty sets.

    >>> a = torch.tensor([[1, 1, 0], [0, 0, 0]]).bool()
    >>> overlap(a, torch.tensor([[1, 0, 0], [0, 0, 0]]).bool()).tolist()
    [0.5, nan]
    """
    both = (first & second).sum(-1).to(torch.float64)
    return both / (first | second).sum(-1)


def mean_overlap(owned: Tensor) -> Tensor:
    """The mean overlap of two different users: (U, n) bool -> (); pairs of two empty sets are left
    out.

    All pairs where there are at most 2^17, else 20,000 fixed ones.

    >>> round(float(mean_overlap(torch.tensor([[1, 1], [1, 0], [0, 0]]).bool())), 4)
    0.1667
    """
    pairs = sampled_pairs(len(owned))
    if pairs is not None:
        return overlap(owned[pairs[0]], owned[pairs[1]]).nanmean()
    x = owned.to(torch.float32)  # (U, n): counts below 2^24 are exact
    size = x.sum(1)  # (U,)
    both = x @ x.T  # (U, U)
    each = both / (size[:, None] + size - both)
    first, second = torch.triu_indices(len(x), len(x), offset=1)
    return each[first, second].to(torch.float64).nanmean()


def sampled_pairs(n_users: int) -> tuple[Tensor, Tensor] | None:
    """Fixed pairs of different users; None where all pairs are few enough."""
    if n_users * (n_users - 1) // 2 <= EXACT_PAIRS:
        return None
    draw = mix64(torch.arange(2 * SAMPLED_PAIRS)) & 0x7FFFFFFFFFFF
    first = draw[:SAMPLED_PAIRS] % n_users
    apart = 1 + draw[SAMPLED_PAIRS:] % (n_users - 1)
    return first, (first + apart) % n_users


def mean_cosine(rows: Tensor) -> Tensor:
    """The mean cosine of two different rows: (U, n) -> (); rows of zeros are left out.

    With unit rows x_u it is (|sum x_u|^2 - U) / (U (U - 1)), without a matrix of pairs.

    >>> float(mean_cosine(torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 0.0]])))
    0.0
    """
    unit = F.normalize(rows.to(torch.float64), dim=1)  # (U, n)
    users = (rows != 0).any(1).sum()
    alike = (unit.sum(0).square().sum() - users) / (users * (users - 1))
    return alike.where(users > 1, torch.nan)


def smallest(owned: Tensor, size: int | None = None) -> Tensor:
    """Sets cut to one size, by a fixed hash of (user, item): (U, n) bool -> (U, n) bool.

    Users with fewer items are left with none. The same items of a user are preferred in every run,
    so two runs that are compared share the draw.

    Args:
        owned: the sets.
        size: of every set; None: that of the smallest which is not empty.

    >>> smallest(torch.tensor([[1, 1, 1], [0, 1, 0], [0, 0, 0]]).bool()).sum(1).tolist()
    [1, 1, 0]
    """
    many = owned.sum(1)  # (U,)
    if size is None:
        held = many[many > 0]
        size = int(held.min()) if len(held) else 0
    users, n = owned.shape
    if size == 0 or size > n:
        return torch.zeros_like(owned)
    key = mix64(torch.arange(users * n)).view(users, n)
    key = key.masked_fill(~owned, torch.iinfo(torch.int64).max)
    pick = key.topk(size, dim=1, largest=False).indices  # (U, size)
    return torch.zeros_like(owned).scatter_(1, pick, (many >= size)[:, None].expand_as(pick))


def nearest(taste: Tensor) -> Tensor:
    """The other user of the largest cosine of tastes: (U, d) -> (U,); -1 for a taste that is NaN.

    >>> nearest(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1]])).tolist()
    [2, 2, 0]
    """
    unit = F.normalize(taste.to(torch.float64), dim=1)
    known = taste.isfinite().all(1)  # (U,)
    found = torch.full((len(taste),), -1)
    for rows in torch.split(torch.arange(len(taste)), NEAREST_ROWS):
        cosine = (unit[rows] @ unit.T).nan_to_num(nan=-torch.inf)  # (b, U)
        cosine[torch.arange(len(rows)), rows] = -torch.inf
        best = cosine.max(1)
        found[rows] = torch.where(known[rows] & best.values.isfinite(), best.indices, -1)
    return found


def of_profiles(log: Log, statistic: Callable[[Tensor, int], Tensor]) -> Tensor:
    """A statistic of the profiles after each round, (R, T): of how often each user has clicked each
    item so far, (U, n_items) float32, and of the place of the replication."""
    cells = cells_of(log)
    hit = clicked(log)
    user, item, cell = log.tensor("user")[hit], log.tensor("item")[hit], cells.cell[hit]
    order = torch.argsort(cell, stable=True)
    user, item, cell = user[order], item[order], cell[order]
    ends = torch.arange(cells.replications * cells.rounds + 1)
    bounds = torch.searchsorted(cell, ends).tolist()
    values = torch.full((len(ends) - 1,), torch.nan, dtype=torch.float64)
    count = torch.zeros(log.n_users, log.n_items)
    for index in range(len(values)):
        if index % cells.rounds == 0:
            count.zero_()
        here = slice(bounds[index], bounds[index + 1])
        count.index_put_((user[here], item[here]), torch.ones(()), accumulate=True)
        values[index] = statistic(count, index // cells.rounds)
    return cells.fold(values)


def jaccard(log: Log, truth: pl.DataFrame) -> Tensor:
    """Mean Jaccard overlap of two users' clicked items so far: (R, T).

    All pairs of users where there are at most 2^17, else 20,000 fixed pairs; pairs in which nobody
    has clicked are left out.
    """
    return of_profiles(log, lambda count, run: mean_overlap(count > 0))


def jaccard_equal(log: Log, truth: pl.DataFrame, *, size: int | None = None) -> Tensor:
    """`jaccard` after every profile was cut to the same size: (R, T).

    Larger sets overlap more, so runs with different numbers of clicks are compared like this.

    Args:
        log: of a run.
        truth: of the same run.
        size: clicks of a profile, users with fewer are left out; None: as many as the smallest
            profile has that is not empty.

    Raises:
        ConfigError: a size below 1.
    """
    if size is not None and size < 1:
        raise ConfigError(f"a profile has at least one item, found size={size}. Try size=5")
    return of_profiles(log, lambda count, run: mean_overlap(smallest(count > 0, size)))


def jaccard_nearest(log: Log, truth: pl.DataFrame) -> Tensor:
    """Mean Jaccard overlap of each user's clicks so far with those of the user of the most similar
    true taste, by cosine, in the first request: (R, T).

    Needs `taste` in the truth: (U, d) as a column of arrays.
    """
    home = first_of(log, cells_of(log), truth_of(truth, "taste"))  # (R, U, d)
    peer = torch.stack([nearest(taste) for taste in home])  # (R, U)

    def statistic(count: Tensor, run: int) -> Tensor:
        one = (peer[run] >= 0).nonzero().squeeze(1)
        return overlap(count[one] > 0, count[peer[run][one]] > 0).nanmean()

    return of_profiles(log, statistic)


def profile_cosine(log: Log, truth: pl.DataFrame) -> Tensor:
    """Mean cosine of two users' clicks so far, counted by item: (R, T)."""
    return of_profiles(log, lambda count, run: mean_cosine(count))


def list_overlap(log: Log, truth: pl.DataFrame) -> Tensor:
    """Mean |S_u & S_v| / K over pairs of slates of the round: (R, T).

    From the n_i slates that hold item i, of B slates with K items: sum_i n_i (n_i - 1) /
    (B (B - 1) K).
    """
    cells = cells_of(log)
    item, one = log.tensor("item"), torch.ones(len(log))
    shared = [
        (count * (count - 1)).sum(2)
        for count in (block.count(item, one, log.n_items) for block in blocks(cells, log.n_items))
    ]
    slates = requests(log, cells)  # (R, T)
    return ratio(torch.cat(shared, 1), cells.sum(one) * (slates - 1))


__all__ = [
    "jaccard",
    "jaccard_equal",
    "jaccard_nearest",
    "list_overlap",
    "mean_cosine",
    "mean_overlap",
    "nearest",
    "of_profiles",
    "overlap",
    "profile_cosine",
    "sampled_pairs",
    "smallest",
]
