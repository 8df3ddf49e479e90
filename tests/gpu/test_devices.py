"""On a CUDA device: what a component computes there is what it computes on the CPU."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import yaml

import recfb
from recfb import (
    Log,
    Recommender,
    exposures,
    objectives,
    policies,
    samplers,
    scorers,
    solvers,
    worlds,
)
from recfb.config import build
from recfb.contracts import Context, Fitted
from recfb.random import stream

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@pytest.fixture
def log() -> Log:
    user, item = torch.meshgrid(torch.arange(60), torch.arange(40), indexing="ij")
    keep = ((user * 7 + item * 3) % 4 == 0) & ((user + item) % 2 == 0)
    rows = {"user": user[keep], "item": item[keep], "reward": torch.ones(int(keep.sum()))}
    return Log.of(rows, n_users=60, n_items=40)


@pytest.mark.parametrize(
    "solver",
    [solvers.ALS(dim=4), solvers.RelMF(exposures.Popularity(), dim=4), solvers.Popularity()],
    ids=lambda solver: type(solver).__name__,
)
def test_solvers_agree(solver: solvers.ALS, log: Log) -> None:
    here, there = solver.bind(log), copy.deepcopy(solver).bind(log)
    for model in (here, there):
        model.reset(stream(0))
    there.to("cuda")
    user = torch.arange(60)
    a, b = here.solve(log).all(user), there.solve(log).all(user.cuda()).cpu()
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    assert torch.equal(here.top(Context(user), 1), there.top(Context(user.cuda()), 1).cpu())


@pytest.mark.parametrize(
    ("objective", "sampler"),
    [
        (objectives.BPR(), samplers.Clicks()),
        (objectives.BCE(), samplers.Clicks(by="user", negatives=3)),
        (objectives.RelMF(exposures.Popularity()), samplers.AllPairs()),
    ],
    ids=["bpr", "bce", "relmf"],
)
def test_recommenders_learn(objective: objectives.BPR, sampler: samplers.Clicks, log: Log) -> None:
    model = Recommender(scorers.MF(dim=8), objective, sampler)
    recfb.fit(log, model, max_epochs=40, accelerator="cuda", devices=1, enable_progress_bar=False)
    scores = model.to("cuda").scores(Context(torch.arange(60, device="cuda"))).cpu()
    label = log.clicks.label(torch.arange(60)[:, None].expand(-1, 40).flatten(),
                             torch.arange(40).repeat(60)).view(60, 40).bool()  # fmt: skip
    assert float(scores[label].mean()) > float(scores[~label].mean())


PAGES = sorted((Path(__file__).parents[2] / "examples" / "fit").glob("*.yaml"))


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_every_configuration_fits(page: Path) -> None:
    """Each method of examples/fit, on a log with all the columns that one may read."""
    user = torch.arange(40).repeat_interleave(10)
    item = (torch.arange(400) * 7) % 25
    rows = {"user": user, "item": item, "reward": ((user + item) % 3 == 0).float()}
    rows |= {"position": torch.arange(400) % 5 + 1, "slate": torch.arange(400) // 5}
    log = Log.of(rows, n_users=40, n_items=25)
    model = build(Fitted, yaml.safe_load(page.read_text())["model"])
    if isinstance(model, Recommender):
        options = {"max_epochs": 2, "accelerator": "cuda", "devices": 1}
        recfb.fit(log, model, enable_progress_bar=False, **options)
    else:
        recfb.fit(log, model)
    pick = model.to("cuda").top(Context(torch.arange(40, device="cuda")), 3)
    assert pick.shape == (40, 3) and pick.device.type == "cuda"


def test_a_bandit_runs_on_the_device() -> None:
    world = worlds.Arms([0.2, 0.8])
    run = recfb.simulate(
        world, policies.LinUCB(), rounds=50, replications=8, metrics=["regret"], device="cuda"
    )
    assert run.metrics.filter(round=49)["regret"].mean() < 15


def test_a_loop_runs_on_the_device() -> None:
    world = worlds.Tastes(100, 50)
    run = recfb.simulate(
        world, policies.Ranked(solvers.ALS(dim=4)), rounds=3, slate=5, device="cuda"
    )
    assert len(run.log) == 3 * 100 * 5
