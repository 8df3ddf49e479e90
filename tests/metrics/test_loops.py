"""Metrics of closed loops by name, against numbers by hand."""

from __future__ import annotations

import inspect
import math
from functools import partial

import polars as pl
import pytest
import torch

from recfb.data import Log
from recfb.errors import ConfigError
from recfb.metrics import cells
from recfb.metrics.loops import METRICS

NAN = math.nan


def run() -> tuple[Log, pl.DataFrame]:
    """Two users, three items, slates of two, two rounds, and a second replication of the first
    round's displays without clicks. Items 0 and 2 are of topic 0."""
    log = Log.of(
        {
            "user": [0, 0, 1, 1] * 2 + [0, 0, 1, 1] * 2,
            "item": [0, 1, 0, 1, 0, 2, 0, 1] + [0, 1, 0, 1] * 2,
            "reward": [1, 0, 1, 1, 1, 0, 0, 1] + [0] * 8,
            "time": [5, 5, 5, 5, 6, 6, 6, 6] * 2,
            "position": [1, 2] * 8,
            "slate": [k // 2 for k in range(16)],
            "replication": [0] * 8 + [1] * 8,
        },
        n_users=2,
        n_items=3,
    )
    relevance = [0.5, 0.1, 0.4, 0.2, 0.5, 0.3, 0.4, 0.2] + [0.25] * 8
    first, second, other = [1.0, 0.0], [1.0, 1.0], [0.0, 2.0]
    start = [first, first, other, other]
    content = {0: [1.0, 0.0], 1: [0.0, 3.0], 2: [2.0, 0.0]}
    truth = pl.DataFrame(
        {
            "reward": [1.0, 0, 1, 1, 1, 0, 0, 1] + [1.0] * 8,
            "relevance": relevance,
            "value": relevance,
            "utility": [2 * x for x in relevance],
            "home_relevance": [x / 2 for x in relevance],
            "best": [1.0] * 16,
            "switch": [1.0, 1, 0, 0, 1, 1, 1, 1] + [0.0] * 8,
            "used": [2.0, 2, 0, 0, 4, 4, 0, 0] + [1.0] * 8,
            "mistake": [0.0, 0, 1, 1, 0, 0, 0, 0] + [1.0] * 8,
            "violation": [1.0, 1, 1, 1, 0, 0, 0, 0] + [0.0] * 8,
            "group": [0, 0, 1, 1] * 4,
            "topic": [item % 2 for item in log.frame["item"]],
            "source": [0, 1] * 8,
            "content": [content[item] for item in log.frame["item"]],
            "taste": [*start, second, second, other, other, *start, *start],
        },
        schema_overrides={"content": pl.Array(pl.Float64, 2), "taste": pl.Array(pl.Float64, 2)},
    )
    return log, truth


def h(*counts: int) -> float:
    """Entropy in nats."""
    return -sum(n / sum(counts) * math.log(n / sum(counts)) for n in counts if n)


def both(name: str, now: list[list[float]], so_far: list[list[float]]) -> dict[str, object]:
    return {name: now, f"{name}_so_far": so_far}


NEVER = [NAN, NAN]
HALF, DIAGONAL = [0.5, 0.5], 1 / math.sqrt(2)
# clicks of items 0, 1, 2: (2, 1, 0), then (1, 1, 0), so far (3, 2, 0)
# displays: (2, 2, 0), then (2, 1, 1), so far (4, 3, 1); the second run (2, 2, 0) twice
SPREAD = {
    "gini": [
        [[2 * (2 + 3 * 2) / 9 - 4 / 3, 2 * (2 * 2 + 3 * 3) / 15 - 4 / 3], NEVER],
        [[2 * (2 + 3 * 2) / 9 - 4 / 3, 1 / 3], NEVER],
        [[1 / 3, 2 * (1 + 2 + 3 * 2) / 12 - 4 / 3], [1 / 3, 1 / 3]],
        [[1 / 3, 2 * (1 + 2 * 3 + 3 * 4) / 24 - 4 / 3], [1 / 3, 1 / 3]],
    ],
    "top1_share": [
        [[2 / 3, 3 / 5], NEVER],
        [[2 / 3, 1 / 2], NEVER],
        [[1 / 2, 1 / 2], HALF],
        [[1 / 2, 4 / 8], HALF],
    ],
    "effective_items": [
        [[math.exp(h(2, 1)), math.exp(h(3, 2))], NEVER],
        [[math.exp(h(2, 1)), 2.0], NEVER],
        [[2.0, math.exp(h(2, 1, 1))], [2.0, 2.0]],
        [[2.0, math.exp(h(4, 3, 1))], [2.0, 2.0]],
    ],
}
SPREAD["top10_share"] = SPREAD["top1_share"]
SPREAD["evenness"] = [
    [[math.log(x) / math.log(3) for x in row] for row in rows] for rows in SPREAD["effective_items"]
]
ENDS = ("", "_round", "_shown", "_shown_so_far")
EXPECTED = {
    f"{name}{end}": rows[place] for name, rows in SPREAD.items() for place, end in enumerate(ENDS)
} | {
    **both("coverage", [[2 / 3, 1.0], [2 / 3, 2 / 3]], [[2 / 3, 1.0], [2 / 3, 2 / 3]]),
    **both("items_shown", [[2, 3], [2, 2]], [[2, 3], [2, 2]]),
    **both("clicks", [[1.5, 1.0], [0.0, 0.0]], [[1.5, 1.25], [0.0, 0.0]]),
    **both("reward", [[1.5, 1.0], [2.0, 2.0]], [[1.5, 1.25], [2.0, 2.0]]),
    **both("relevance", [[0.3, 0.35], [0.25, 0.25]], [[0.3, 0.325], [0.25, 0.25]]),
    **both("utility", [[0.6, 0.7], HALF], [[0.6, 0.65], HALF]),
    **both("home_relevance", [[0.15, 0.175], [0.125] * 2], [[0.15, 0.1625], [0.125] * 2]),
    # of what was clicked in truth: .5, .4, .2, then .5, .2
    **both("relevance_clicked", [[1.1 / 3, 0.35], [0.25] * 2], [[1.1 / 3, 0.36], [0.25] * 2]),
    **both("utility_clicked", [[2.2 / 3, 0.7], HALF], [[2.2 / 3, 0.72], HALF]),
    **both(
        "home_relevance_clicked", [[0.55 / 3, 0.175], [0.125] * 2], [[0.55 / 3, 0.18], [0.125] * 2]
    ),
    **both("welfare", [[1.1, 0.7], [1.0, 1.0]], [[1.1, 1.8], [1.0, 2.0]]),
    # .5 and .6, then 1 and .8 a user; the second run .5 each, then 1
    "log_welfare": [
        [math.log(1.5) + math.log(1.6), math.log(2) + math.log(1.8)],
        [2 * math.log(1.5), 2 * math.log(2)],
    ],
    # a request: 1 - .6 and 1 - .6; then 1 - .8 and 1 - .6
    "regret": [[0.4, 0.7], [0.5, 1.0]],
    "regret_round": [[0.4, 0.3], [0.5, 0.5]],
    # clicks of the first round (2, 1, 0); shown then: 0, 2, 0, 1
    **both("arp", [[NAN, 1.25], [NAN, 0.0]], [[NAN, 1.25], [NAN, 0.0]]),
    # profiles 2 and 1.5; shown 1 and 1.5
    **both("popularity_lift", [[NAN, -0.25], NEVER], [[NAN, -0.25], NEVER]),
    # 0 and 1 are needed for 80 % of 3 clicks
    **both("long_tail", [[NAN, 0.25], NEVER], [[NAN, 0.25], NEVER]),
    # once a request, whatever its positions
    "switches": [[0.5, 1.5], [0.0, 0.0]],
    "observations": [[1.0, 3.0], [1.0, 2.0]],
    "mistakes": [[0.5, 0.5], [1.0, 2.0]],
    "violations": [[1.0, 1.0], [0.0, 0.0]],
    # sets {0} and {0, 1}; unchanged in the second round
    "jaccard": [HALF, NEVER],
    "jaccard_nearest": [HALF, NEVER],
    # counts (1, 0) and (1, 1), then (2, 0) and (1, 2)
    "profile_cosine": [[DIAGONAL, 1 / math.sqrt(5)], NEVER],
    "list_overlap": [[1.0, 0.5], [1.0, 1.0]],
    # {0, 1} is at right angles, {0, 2} in one direction
    **both("ild", [[1.0, 0.5], [1.0, 1.0]], [[1.0, 0.75], [1.0, 1.0]]),
    "topic_entropy": [[math.log(2) / 2, h(1, 2) / 2], NEVER],
    "top_topic": [[0.75, (1 + 2 / 3) / 2], NEVER],
    "miscalibration": [[NAN, 0.0], NEVER],
    "topics_seen": [[1.0, 1.0], [1.0, 1.0]],
    # centre (1, 3) of 0 and 1, (3, 0) of 0 and 2; tastes (1, 0) and (0, 2)
    **both(
        "bubble",
        [[2 / math.sqrt(10), (1 + 3 / math.sqrt(10)) / 2], [2 / math.sqrt(10)] * 2],
        [[2 / math.sqrt(10), (1 + 7 / math.sqrt(10)) / 4], [2 / math.sqrt(10)] * 2],
    ),
    "drift": [[0.0, 0.5], [0.0, 0.0]],
    "turn": [[0.0, math.pi / 8], [0.0, 0.0]],
    # groups of one user: nobody is away from the own centroid
    "polarisation": [[math.inf, math.inf], [math.inf, math.inf]],
    # .3 and .3, then .4 and .3, so far .35 and .3
    **both("group_gap", [[0.0, 0.1], [0.0, 0.0]], [[0.0, 0.05], [0.0, 0.0]]),
    **both("group_parity", [[1.0, 0.75], [1.0, 1.0]], [[1.0, 0.3 / 0.35], [1.0, 1.0]]),
    **both("group_worst", [[0.3, 0.3], [0.25, 0.25]], [[0.3, 0.3], [0.25, 0.25]]),
    **both("source_share", [HALF, HALF], [HALF, HALF]),
}
ELSEWHERE = {"jaccard_equal"}
"""By hand in the test of its module."""


def test_every_metric_has_numbers() -> None:
    assert set(METRICS) == set(EXPECTED) | ELSEWHERE


@pytest.mark.parametrize("name", EXPECTED)
def test_metrics_by_hand(name: str) -> None:
    got = METRICS[name](*run())
    assert got.shape == (2, 2)
    assert got.dtype == torch.float64
    for row, want in zip(got.tolist(), EXPECTED[name], strict=True):
        assert row == pytest.approx(want, nan_ok=True, abs=1e-7)


@pytest.mark.parametrize("name", METRICS)
def test_metrics_do_not_depend_on_the_order_of_rows(name: str) -> None:
    """Up to the order of a user's clicks within a slate, which a log has by position."""
    log, truth = run()
    rows = torch.tensor([12, 13, 0, 1, 4, 5, 8, 9, 2, 3, 14, 15, 10, 11, 6, 7]).numpy()
    moved = log.with_frame(log.frame[rows])
    want, got = METRICS[name](log, truth), METRICS[name](moved, truth[rows])
    assert torch.allclose(got, want, equal_nan=True, rtol=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_blocks_of_rounds_give_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = METRICS[name](*run())
    monkeypatch.setattr(cells, "BLOCK_CELLS", 6)
    assert torch.allclose(METRICS[name](*run()), whole, equal_nan=True, rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_says_what_it_is(name: str) -> None:
    metric = METRICS[name]
    while isinstance(metric, partial):
        metric = metric.func
    assert "(R, T)" in (inspect.getdoc(metric) or "")


def test_a_missing_truth_is_named() -> None:
    with pytest.raises(ConfigError, match="'best'"):
        METRICS["regret"](run()[0], pl.DataFrame({"value": [0.0] * 16}))
    with pytest.raises(ConfigError, match="with rows"):
        METRICS["clicks"](Log.empty(2, 2), pl.DataFrame())
