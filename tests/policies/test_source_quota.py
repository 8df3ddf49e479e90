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
from recfb.worlds.texts import Drawn


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


def direct() -> Direct:
    return Direct(Recommender(HistoryMean(), objectives.BPR(), Visits(human=True)), epochs=2)


def test_a_loop_under_a_quota_shows_no_more() -> None:
    world = Sources(Drawn(60, 12, copies=Copies(0.95, 1.0, 0.5)), n_users=50)
    options = {"rounds": 3, "slate": 4, "refit": Refit(warmup=0), "metrics": ["source_share"]}
    free = simulate(world, Ranked(direct()), **options)
    held = simulate(world, Ranked(SourceQuota(direct(), 0.5)), **options)
    per_slate = held.truth.group_by("slate").agg(pl.col("source").sum())
    assert per_slate["source"].max() <= 2
    assert held.metrics["source_share"][-1] <= 0.5 < free.metrics["source_share"][-1]


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="share in"):
        SourceQuota(Popularity(), 1.5)
    model = SourceQuota(Popularity())
    with pytest.raises(ConfigError, match="source"):
        model.bind(Log.empty(1, 3))
    model.bind(Log.empty(1, 3).with_items({"id": [0, 1, 2], "source": [0, 1, 1]}))
    with pytest.raises(ConfigError, match="not a mask"):
        model.top(Context(torch.tensor([0]), available=torch.ones(1, 3, dtype=torch.bool)), 2)
    with pytest.raises(ConfigError, match="hide nothing"):
        model.top(Context(torch.tensor([0])), 2, hide=Log.empty(1, 3).clicks)
