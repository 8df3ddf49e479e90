"""Metrics of closed loops: pure functions of a run's log and truth, one value a replication and
round.

Every function takes `(log, truth)`, whose rows describe the same shown items in the same order,
and returns (R, T) float64. A value that is not defined is NaN. `METRICS` has them all by name;
what needs more than a run, such as a reference run, is in the modules beside this one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from recfb.metrics import concentration as uneven
from recfb.metrics import diversity, groups, homogeneity, tastes, utility
from recfb.metrics.cells import cells_of, clicked, lead, ratio, requests, truth_of
from recfb.metrics.concentration import concentration

if TYPE_CHECKING:
    import polars as pl

    from recfb.data.log import Log

LoopMetric = Callable[["Log", "pl.DataFrame"], Tensor]
"""(log, truth) -> (R, T)."""


def clicks(log: Log, truth: pl.DataFrame, *, so_far: bool = False) -> Tensor:
    """Clicks a request, as the platform sees them: (R, T)."""
    cells = cells_of(log)
    return ratio(cells.sum(clicked(log)), requests(log, cells), so_far)


def reward(log: Log, truth: pl.DataFrame, *, so_far: bool = False) -> Tensor:
    """True reward a request, hidden rewards included: (R, T)."""
    cells = cells_of(log)
    return ratio(cells.sum(truth_of(truth, "reward")), requests(log, cells), so_far)


def counted(log: Log, truth: pl.DataFrame, column: str) -> Tensor:
    """Sums a request, over the rounds so far, of a number of each request: (R, T)."""
    cells = cells_of(log)
    each = truth_of(truth, column) * lead(log)  # (rows,)
    return (cells.sum(each) / requests(log, cells)).cumsum(1)


def _disparity(
    log: Log,
    truth: pl.DataFrame,
    statistic: Callable[[Tensor], Tensor],
    *,
    so_far: bool = False,
) -> Tensor:
    """A statistic of the mean relevance of what each group of users is shown: (R, T)."""
    metric = partial(utility.shown, column="relevance", so_far=so_far)
    return statistic(groups.by_group(metric, log, truth))


_SPREAD: Mapping[str, uneven.Statistic] = {
    "gini": concentration,
    "evenness": uneven.evenness,
    "effective_items": uneven.effective,
    "top1_share": partial(uneven.top_share, share=0.01),
    "top10_share": partial(uneven.top_share, share=0.1),
}
"""Of the clicks so far; `_round`: of the round; `_shown`: of the displays of the round;
`_shown_so_far`."""

_EACH: Mapping[str, Callable[..., Tensor]] = {
    "arp": uneven.arp,
    "bubble": tastes.bubble,
    "clicks": clicks,
    "coverage": partial(uneven.spread, statistic=uneven.covered),
    "group_gap": partial(_disparity, statistic=groups.gap),
    "group_parity": partial(_disparity, statistic=groups.parity),
    "group_worst": partial(_disparity, statistic=groups.worst),
    "home_relevance": partial(utility.shown, column="home_relevance"),
    "home_relevance_clicked": partial(utility.consumed, column="home_relevance"),
    "ild": diversity.ild,
    "items_shown": partial(uneven.spread, statistic=uneven.distinct),
    "long_tail": uneven.long_tail,
    "popularity_lift": uneven.popularity_lift,
    "relevance": partial(utility.shown, column="relevance"),
    "relevance_clicked": partial(utility.consumed, column="relevance"),
    "reward": reward,
    "source_share": groups.source_share,
    "utility": partial(utility.shown, column="utility"),
    "utility_clicked": partial(utility.consumed, column="utility"),
    "welfare": utility.welfare,
}
"""Of the round; `_so_far`: of all rounds up to it."""

_ONCE: Mapping[str, LoopMetric] = {
    "drift": tastes.drift,
    "jaccard": homogeneity.jaccard,
    "jaccard_equal": homogeneity.jaccard_equal,
    "jaccard_nearest": homogeneity.jaccard_nearest,
    "list_overlap": homogeneity.list_overlap,
    "log_welfare": utility.log_welfare,
    "miscalibration": diversity.miscalibration,
    "mistakes": partial(counted, column="mistake"),
    "observations": partial(counted, column="used"),
    "polarisation": tastes.polarisation,
    "profile_cosine": homogeneity.profile_cosine,
    "regret": utility.regret,
    "regret_round": partial(utility.regret, so_far=False),
    "switches": partial(counted, column="switch"),
    "top_topic": diversity.top_topic,
    "topic_entropy": diversity.topic_entropy,
    "topics_seen": diversity.topics_seen,
    "turn": tastes.turn,
    "violations": partial(counted, column="violation"),
}
"""Of the round or of all rounds so far, as each says."""


def _named() -> dict[str, LoopMetric]:
    found: dict[str, LoopMetric] = dict(_ONCE)
    for name, metric in _EACH.items():
        found |= {name: metric, f"{name}_so_far": partial(metric, so_far=True)}
    for name, statistic in _SPREAD.items():
        metric = partial(uneven.spread, statistic=statistic)
        found[name] = partial(metric, of="clicks", so_far=True)
        found[f"{name}_round"] = partial(metric, of="clicks")
        found[f"{name}_shown"] = metric
        found[f"{name}_shown_so_far"] = partial(metric, so_far=True)
    return dict(sorted(found.items()))


METRICS: Mapping[str, LoopMetric] = _named()
"""What `simulate(metrics=...)` can be asked for, by name."""

__all__ = ["METRICS", "LoopMetric", "clicks", "concentration", "counted", "reward"]
