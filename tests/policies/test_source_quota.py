"""At most a share of machine-written texts in a list."""

from __future__ import annotations

import polars as pl
import pytest
import torch

from recfb import Log, Recommender, objectives, simulate
from recfb.contracts import Context
from recfb.errors import ConfigError
from recfb.policies import Ranked
from recfb.policies.source_quota import SourceQuota, within_quota
from recfb.random import stream
from recfb.samplers.visits import Visits
from recfb.scorers.history_mean import HistoryMean
from recfb.simulate import Refit
from recfb.solvers import Popularity
from recfb.solvers.direct import Direct
from recfb.worlds.copies import Copies
from recfb.worlds.sources import Sources
from recfb.worlds.texts import DrawnTexts


def test_the_best_list_within_a_quota_by_hand() -> None:
    machine = torch.tensor([[1, 1, 0, 1, 0], [0, 0, 0, 1, 1], [1, 1, 1, 1, 0]]).bool()
    assert within_quota(machine, 3, 1).tolist() == [[0, 2, 4], [0, 1, 2], [0, 1, 4]]
    assert within_quota(machine, 3, 3).tolist() == [[0, 1, 2]] * 3
    assert within_quota(machine, 2, 0).tolist() == [[2, 4], [0, 1], [0, 4]]


def test_no_list_within_the_quota_is_better() -> None:
    g = stream(0)
    scores = torch.rand(50, 7, generator=g).sort(1, descending=True).values
    machine = torch.zeros(50, 7, dtype=torch.bool)
    machine[:, ::2] = True  # four of seven
    pick = within_quota(machine, 3, 1)
    assert int(machine.gather(1, pick).sum(1).max()) <= 1
    subsets = torch.combinations(torch.arange(7), 3)
    legal = machine[0][subsets].sum(1) <= 1
    best = scores[:, subsets[legal]].sum(2).amax(1)
    assert torch.allclose(scores.gather(1, pick).sum(1), best)


def test_what_may_not_be_shown_does_not_count() -> None:
    """Items 0, 1, 2 are machine-written, 3 and 4 not; the more clicks, the lower the id."""
    user = [u for i in range(5) for u in range(5 - i)]
    item = [i for i in range(5) for _ in range(5 - i)]
    log = Log.of({"user": user, "item": item, "reward": [1] * 15}, n_users=6, n_items=5)
    log = log.with_items({"id": list(range(5)), "source": [1, 1, 1, 0, 0]})
    model = SourceQuota(Popularity(), 0.5).bind(log).solve(log)
    user = torch.tensor([4])
    assert model.top(Context(user), 3).tolist() == [[0, 3, 4]]
    assert model.top(Context(user), 3, hide=log.clicks).tolist() == [[1, 3, 4]]  # has clicked 0
    mask = torch.tensor([[False, True, True, True, False]])
    assert model.top(Context(user, available=mask), 3).tolist() == [[1, 2, 3]]  # one too many
    some = torch.tensor([[4, 2, 0, 1]])
    assert model.top(Context(user, candidates=some), 2).tolist() == [[0, 4]]
    assert model.top(Context(user, candidates=some), 2, hide=log.clicks).tolist() == [[1, 4]]


def direct() -> Direct:
    return Direct(Recommender(HistoryMean(), objectives.BPR(), Visits(human=True)), epochs=2)


def test_a_loop_under_a_quota_shows_no_more() -> None:
    world = Sources(DrawnTexts(60, 12, copies=Copies(0.95, 1.0, 0.5)), n_users=50)
    options = {"rounds": 3, "slate": 4, "refit": Refit(warmup=0), "metrics": ["source_share"]}
    free = simulate(world, Ranked(direct()), **options)
    held = simulate(world, Ranked(SourceQuota(direct(), 0.5)), **options)
    per_slate = held.truth.group_by("slate").agg(pl.col("source").sum())
    assert per_slate["source"].max() <= 2
    assert held.metrics["source_share"][-1] <= 0.5 < free.metrics["source_share"][-1]


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="share in"):
        SourceQuota(Popularity(), 1.5)
    with pytest.raises(ConfigError, match="source"):
        SourceQuota(Popularity()).bind(Log.empty(1, 3))
