"""A plain loop of torch, against Lightning."""

from __future__ import annotations

import pytest
import torch

from recfb import Recommender, fit, objectives, optim, samplers, scorers
from recfb.contracts import Batch, Context, Score, Step
from recfb.errors import ConfigError
from recfb.solvers.direct import Direct
from recfb.testing import example_log

LOG = example_log()


def recommender() -> Recommender:
    return Recommender(
        scorers.MF(dim=3), objectives.BPR(), samplers.Clicks(), optimizer=optim.Adam(0.05)
    )


@torch.no_grad()
def loss(model: Recommender) -> float:
    """Mean BPR loss over all pairs of a click and another item."""
    s = model.scores(Context(torch.arange(LOG.n_users)))
    label = LOG.clicks.label(torch.arange(LOG.n_users), torch.arange(LOG.n_items).expand_as(s)) > 0
    gap = s[:, :, None] - s[:, None, :]
    return float(torch.nn.functional.softplus(-gap)[label[:, :, None] & ~label[:, None, :]].mean())


def test_it_trains_as_lightning_does() -> None:
    direct = fit(LOG, Direct(recommender(), epochs=40, batch_size=16), seed=1)
    other = fit(LOG, recommender(), max_epochs=40, batch_size=16, seed=1, enable_progress_bar=False)
    start = fit(LOG, Direct(recommender(), epochs=1, batch_size=10**6), seed=1)
    assert loss(direct.recommender) < 0.6 * loss(start.recommender)
    assert loss(direct.recommender) == pytest.approx(loss(other), rel=0.25)


def test_a_seed_says_all_and_epochs_and_batches_matter() -> None:
    context = Context(torch.arange(LOG.n_users))

    def scores(seed: int = 1, **options: int) -> torch.Tensor:
        return fit(LOG, Direct(recommender(), **options), seed=seed).scores(context)

    assert torch.equal(scores(), scores())
    for other in (scores(2), scores(epochs=3), scores(batch_size=7)):
        assert not torch.equal(scores(), other)


class Watched(samplers.Clicks):
    """Remembers the steps it drew for."""

    def forward(self, rows: torch.Tensor, score: Score, step: Step) -> Batch:
        assert step.generator is not None
        self.steps.append((step.index, step.epoch, step.total, step.generator.initial_seed()))
        return super().forward(rows, score, step)


def test_every_step_has_its_number_and_draws_of_its_own() -> None:
    sampler = Watched()
    sampler.steps = []
    model = Recommender(scorers.MF(dim=2), objectives.BPR(), sampler)
    size = -(-len(LOG.clicks) // 2)  # two steps an epoch
    fit(LOG, Direct(model, epochs=3, batch_size=size))
    steps = sampler.steps
    assert [step[:3] for step in steps] == [(i, i // 2, 6) for i in range(6)]
    assert len({seed for *_, seed in steps}) == 6


def test_a_schedule_is_followed() -> None:
    slow = optim.SGD(lr=0.5, decay=1e-9)  # after the first epoch nothing moves
    model = Recommender(scorers.MF(dim=2), objectives.BPR(), samplers.Clicks(), optimizer=slow)
    context = Context(torch.arange(LOG.n_users))
    one = fit(LOG, Direct(model, epochs=1)).scores(context).detach().clone()
    two = fit(LOG, Direct(model, epochs=3)).scores(context)
    assert torch.allclose(one, two, atol=1e-5)


def test_it_ranks_as_the_recommender_inside() -> None:
    direct = fit(LOG, Direct(recommender(), epochs=2))
    context, item = Context(torch.arange(LOG.n_users)), torch.zeros(LOG.n_users, dtype=torch.int64)
    assert torch.equal(direct.top(context, 3), direct.recommender.top(context, 3))
    assert torch.equal(direct.score_of(context, item), direct.scores(context)[:, 0])


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"batch_size": 0}])
def test_out_of_range(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="at least one"):
        Direct(recommender(), **wrong)
