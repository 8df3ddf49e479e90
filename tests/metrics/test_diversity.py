"""3.3: lists and topics."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations

import polars as pl
import pytest
import torch
import torch.nn.functional as F

from recfb.data import Log
from recfb.errors import ConfigError
from recfb.metrics.diversity import (
    dissimilarity,
    divergence,
    ild,
    last_topics,
    miscalibration,
    top_topic,
    topic_entropy,
    topics_seen,
)

USERS, ROUNDS, TOPICS, K = 4, 6, 3, 2


def played() -> tuple[Log, pl.DataFrame]:
    """Two replications of random slates and clicks; the item's topic is its number modulo 3."""
    g, n = torch.Generator().manual_seed(1), 2 * ROUNDS * USERS * K
    row = torch.arange(n)
    log = Log.of(
        {
            "user": row // K % USERS,
            "item": torch.randint(9, (n,), generator=g),
            "reward": (torch.rand(n, generator=g) < 0.5).float(),
            "time": row // (K * USERS) % ROUNDS,
            "position": row % K + 1,
            "slate": row // K,
            "replication": row // (n // 2),
        },
        n_users=USERS,
        n_items=9,
    )
    return log, pl.DataFrame({"topic": log.frame["item"] % TOPICS})


def clicks_of(run: int, user: int, t: int) -> list[int]:
    """Topics of the user's clicks up to round t, in order."""
    log, truth = played()
    rows = log.frame.with_columns(truth["topic"]).filter(
        pl.col("replication") == run, pl.col("user") == user, pl.col("time") <= t, reward=1.0
    )
    return rows["topic"].to_list()


def each_user(statistic) -> list[list[float]]:  # type: ignore[no-untyped-def]
    """The mean over users of a function of (run, user, round); None is left out."""
    table = []
    for run in range(2):
        row = []
        for t in range(ROUNDS):
            found = [statistic(run, user, t) for user in range(USERS)]
            found = [x for x in found if x is not None]
            row.append(sum(found) / len(found) if found else math.nan)
        table.append(row)
    return table


def same(got: torch.Tensor, want: list[list[float]]) -> bool:
    return torch.allclose(got, torch.tensor(want, dtype=torch.float64), equal_nan=True)


@pytest.mark.parametrize("window", [1, 3, 50])
def test_topics_of_the_last_clicks(window: int) -> None:
    def entropy(run: int, user: int, t: int) -> float | None:
        last = clicks_of(run, user, t)[-window:]
        share = [n / len(last) for n in Counter(last).values()]
        return -sum(p * math.log(p) for p in share) if last else None

    def top(run: int, user: int, t: int) -> float | None:
        last = clicks_of(run, user, t)[-window:]
        return max(Counter(last).values()) / len(last) if last else None

    assert same(topic_entropy(*played(), window=window), each_user(entropy))
    assert same(top_topic(*played(), window=window), each_user(top))


def test_calibration_compares_slates_with_the_profile_before_them() -> None:
    log, truth = played()
    rows = log.frame.with_columns(truth["topic"])

    def kl(run: int, user: int, t: int) -> float | None:
        before = Counter(clicks_of(run, user, t - 1))
        now = rows.filter(replication=run, user=user, time=t)["topic"].to_list()
        total = 0.0
        for topic, n in before.items():
            p, q = n / before.total(), now.count(topic) / len(now)
            total += p * math.log(p / (0.99 * q + 0.01 * p))
        return total if before else None

    assert same(miscalibration(log, truth), each_user(kl))
    assert miscalibration(log, truth)[:, 0].isnan().all()


def test_topics_seen_counts_displays() -> None:
    log, truth = played()
    rows = log.frame.with_columns(truth["topic"])

    def seen(run: int, user: int, t: int) -> float:
        shown = rows.filter(pl.col("time") <= t, replication=run, user=user)
        return shown["topic"].n_unique() / 5

    assert same(topics_seen(log, truth, topics=5), each_user(seen))
    with pytest.raises(ConfigError, match="the truth has 3 topics"):
        topics_seen(log, truth, topics=2)
    with pytest.raises(ConfigError, match="at least one click"):
        next(last_topics(log, truth, 0))


def test_divergence() -> None:
    p = torch.tensor([0.2, 0.8, 0.0])
    assert float(divergence(p, p)) == pytest.approx(0.0, abs=1e-12)
    assert float(divergence(10 * p, p)) == pytest.approx(0.0, abs=1e-12)  # counts will do
    # finite where q lacks a topic, at most log(1 / alpha)
    far = float(divergence(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])))
    assert far == pytest.approx(math.log(100))
    zero = torch.zeros(2)
    assert divergence(zero, p[:2]).isnan()
    assert divergence(p[:2], zero).isnan()


def test_dissimilarity_is_that_of_all_pairs() -> None:
    x = torch.randn(10, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    group = torch.tensor([0, 0, 0, 0, 1, 2, 2, 2, 2, 2])
    for g, got in enumerate(dissimilarity(x, group, 3).tolist()):
        mine = x[group == g]
        pairs = [1 - F.cosine_similarity(a, b, dim=0) for a, b in combinations(mine, 2)]
        want = float(torch.stack(pairs).mean()) if pairs else math.nan
        assert got == pytest.approx(want, nan_ok=True)
    same_way = torch.ones(3, 2)
    none = float(dissimilarity(same_way, torch.zeros(3, dtype=torch.int64), 1))
    assert none == pytest.approx(0, abs=1e-15)
    nothing = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    assert float(dissimilarity(nothing, torch.zeros(2, dtype=torch.int64), 1)) == 1


def test_single_items_have_no_diversity() -> None:
    log = Log.of({"user": [0], "item": [0], "reward": [0.0], "time": [0], "position": [1],
                  "slate": [0]})  # fmt: skip
    truth = pl.DataFrame({"content": pl.Series([[1.0, 2.0]], dtype=pl.Array(pl.Float64, 2))})
    assert ild(log, truth).isnan().all()
