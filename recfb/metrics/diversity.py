"""How diverse what a user is shown and clicks is, one by one and all together.

Individual and aggregate diversity are different axes: look at both, over time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from recfb.errors import ConfigError
from recfb.metrics.cells import blocks, cells_of, clicked, truth_of
from recfb.metrics.concentration import entropy

if TYPE_CHECKING:
    import polars as pl

    from recfb.data.log import Log

WINDOW = 50


def dissimilarity(content: Tensor, group: Tensor, groups: int) -> Tensor:
    """Mean of 1 - cosine over the pairs of each group of rows: (n, d), (n,) -> (groups,) float64.

        ILD = 2 / (K (K - 1)) sum_{k<l} (1 - cos(x_k, x_l))

    Ziegler, McNee, Konstan and Lausen, WWW 2005. NaN for a single row; the cosine with a row of
    zeros is 0.

    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
    >>> dissimilarity(x, torch.tensor([0, 0, 0]), 1).round(decimals=4).tolist()
    [0.6667]
    """
    unit = F.normalize(content.to(torch.float64), dim=1)  # (n, d)
    total = unit.new_zeros(groups, unit.shape[1]).index_add_(0, group, unit)
    own = torch.bincount(group, weights=unit.square().sum(1), minlength=groups)
    size = torch.bincount(group, minlength=groups)
    alike = (total.square().sum(1) - own) / (size * (size - 1))
    return (1 - alike).where(size > 1, torch.nan)


def divergence(p: Tensor, q: Tensor, alpha: float = 0.01) -> Tensor:
    """KL(p | q~) of the last axis, q~ = (1 - alpha) q + alpha p: (..., C) -> (...,).

    Steck, "Calibrated recommendations", RecSys 2018. NaN where p or q has no mass.

    >>> round(float(divergence(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0]))), 4)
    1.9585
    """
    p, q = (x.to(torch.float64) / x.to(torch.float64).sum(-1, keepdim=True) for x in (p, q))
    mixed = (1 - alpha) * q + alpha * p
    return torch.xlogy(p, p / mixed.where(p > 0, 1.0)).sum(-1) + 0 * q.sum(-1)


def ild(log: Log, truth: pl.DataFrame, *, so_far: bool = False) -> Tensor:
    """Mean intra-list diversity of the slates: (R, T). Needs the shown items' `content` in the
    truth: (rows, d)."""
    cells = cells_of(log)
    names, slate = torch.unique(log.tensor("slate"), return_inverse=True)
    each = dissimilarity(truth_of(truth, "content"), slate, len(names))[slate]  # (rows,)
    counts = (log.tensor("position") == 1) & each.isfinite()
    return cells.mean(each, counts.to(torch.float64), so_far)


# ---- topics -----------------------------------------------------------------------------------


def topic_entropy(log: Log, truth: pl.DataFrame, *, window: int = WINDOW) -> Tensor:
    """Entropy, in nats, of the topics of a user's last clicks, the mean over users: (R, T).

    Needs `topic` in the truth. Users without a click are left out.

    Args:
        log: of a run.
        truth: of the same run.
        window: how many of the last clicks.
    """
    counts = last_topics(log, truth, window)
    return torch.stack([_over_users(entropy(count)) for count in counts], 1)


def top_topic(log: Log, truth: pl.DataFrame, *, window: int = WINDOW) -> Tensor:
    """The share of the most frequent topic in a user's last clicks, the mean over users: (R, T)."""
    counts = last_topics(log, truth, window)
    return torch.stack([_over_users(x.amax(2) / x.sum(2)) for x in counts], 1)


def miscalibration(log: Log, truth: pl.DataFrame, *, window: int | None = None) -> Tensor:
    """KL of the topics of a user's clicks before the round from those of what is shown, the mean
    over users: (R, T). 0 when slates are as mixed as the profile. Steck (2018)."""
    cells, topic = cells_of(log), _topic(truth)
    topics = int(topic.max()) + 1
    index = log.tensor("user") * topics + topic
    profiles = last_topics(log, truth, window, before=True)
    found = []
    for block in blocks(cells, log.n_users * topics):
        shown = block.count(index, torch.ones(len(log)), log.n_users * topics)
        shown = shown.view(*shown.shape[:2], log.n_users, topics)  # (R, t, U, C)
        for j in range(block.t):
            found.append(_over_users(divergence(next(profiles), shown[:, j])))
    return torch.stack(found, 1)


def topics_seen(log: Log, truth: pl.DataFrame, *, topics: int | None = None) -> Tensor:
    """The share of all topics that a user has been shown so far, the mean over users: (R, T).

    Args:
        log: of a run.
        truth: of the same run, with `topic`.
        topics: how many there are; None: as many as the truth shows.

    Raises:
        ConfigError: fewer topics than the truth shows.
    """
    cells, topic = cells_of(log), _topic(truth)
    most = int(topic.max()) + 1
    if topics is not None and topics < most:
        raise ConfigError(f"the truth has {most} topics, found topics={topics}. Try topics=None")
    size = log.n_users * most
    index, found = log.tensor("user") * most + topic, []
    before: Tensor | float = 0.0
    for block in blocks(cells, size):
        count = block.count(index, torch.ones(len(log)), size).cumsum(1) + before
        before = count[:, -1:]
        seen = (count.view(*count.shape[:2], log.n_users, most) > 0).sum(3)  # (R, t, U)
        users = (seen > 0).sum(2).to(torch.float64)
        found.append(seen.sum(2) / ((topics or most) * users))
    return torch.cat(found, 1)


def last_topics(
    log: Log, truth: pl.DataFrame, window: int | None = None, *, before: bool = False
) -> Iterator[Tensor]:
    """Topics of each user's last clicks, round by round: (R, n_users, topics) float64.

    Args:
        log: of a run.
        truth: of the same run, with `topic`.
        window: how many clicks; None: all so far.
        before: the clicks of earlier rounds only.

    Raises:
        ConfigError: a window below 1.
    """
    if window is not None and window < 1:
        raise ConfigError(f"a window has at least one click, found {window}. Try window=50")
    cells, topic = cells_of(log), _topic(truth)
    owners = torch.arange(cells.replications * log.n_users) * cells.rounds
    key = (cells.run * log.n_users + log.tensor("user")) * cells.rounds + cells.round
    hit = clicked(log)
    topics = int(topic.max()) + 1
    key, order = key[hit].sort(stable=True)
    total = torch.zeros(len(key) + 1, topics, dtype=torch.int32)
    total[1:].scatter_(1, topic[hit][order][:, None], 1)
    total.cumsum_(0)  # (clicks + 1, C), from user to user
    begin = torch.searchsorted(key, owners)  # (R * U,)
    for t in range(cells.rounds):
        end = torch.searchsorted(key, owners + t, right=not before)
        start = begin if window is None else torch.maximum(begin, end - window)
        count = (total[end] - total[start]).to(torch.float64)  # (R * U, C)
        yield count.view(cells.replications, log.n_users, topics)


def _topic(truth: pl.DataFrame) -> Tensor:
    return truth_of(truth, "topic").to(torch.int64)


def _over_users(each: Tensor) -> Tensor:
    """(R, U) -> (R,), users without a value left out."""
    return each.nanmean(1)


__all__ = [
    "dissimilarity",
    "divergence",
    "ild",
    "last_topics",
    "miscalibration",
    "top_topic",
    "topic_entropy",
    "topics_seen",
]
