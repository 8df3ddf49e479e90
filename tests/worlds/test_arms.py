"""Independent arms."""

from __future__ import annotations

import pytest
import torch

from recfb.contracts import Slate
from recfb.errors import ConfigError
from recfb.random import stream
from recfb.worlds import Arms


def test_a_row_is_a_replication() -> None:
    world = Arms([0.1, 0.9])
    state = world.start(stream(0), replications=3)
    context = world.observe(state)
    assert context.user.tolist() == [0, 0, 0]
    assert context.time == 0
    log = world.opening(state, 3, 50)
    assert (log.n_users, log.n_items, len(log)) == (1, 2, 0)
    assert (log.meta.learners, log.meta.horizon, log.meta.reward_range) == (3, 50, (0.0, 1.0))
    shown = Slate(torch.tensor([[0], [1], [0]]))
    _, truth = world.respond(state, shown, stream(1))
    assert truth["value"].tolist() == [[0.1], [0.9], [0.1]]
    assert truth["best"].tolist() == [0.9, 0.9, 0.9]
    assert world.step(state, shown, truth, stream(2)).time == 1
    assert world.values(state).tolist() == [[0.1, 0.9]] * 3


@pytest.mark.parametrize("sd", [None, 0.5])
def test_the_same_numbers_whatever_is_shown(sd: float | None) -> None:
    world = Arms([0.3, 0.6, 0.5], sd=sd)
    state = world.start(stream(0), replications=4)
    outcomes = world.outcomes(state, stream(1))
    for item in range(3):
        shown = Slate(torch.full((4, 1), item))
        feedback, truth = world.respond(state, shown, stream(1))
        assert torch.equal(feedback.reward[:, 0], outcomes[:, item])
        assert feedback.reward is truth["reward"]


def test_means_and_deviations() -> None:
    """2e4 rewards: 4 standard errors of a mean are 4 sd / 141."""
    bernoulli = Arms([0.2, 0.7])
    draws = bernoulli.outcomes(bernoulli.start(stream(0), 20_000), stream(1))
    assert ((draws == 0) | (draws == 1)).all()
    assert draws.mean(0).tolist() == pytest.approx([0.2, 0.7], abs=4 * 0.5 / 141)
    gaussian = Arms([-3.0, 5.0], sd=2.0)
    draws = gaussian.outcomes(gaussian.start(stream(0), 20_000), stream(1))
    assert draws.mean(0).tolist() == pytest.approx([-3.0, 5.0], abs=4 * 2 / 141)
    assert draws.std(0).tolist() == pytest.approx([2.0, 2.0], abs=4 * 2 / 200)
    assert gaussian.opening(gaussian.start(stream(0)), 1, 1).meta.reward_range is None


def test_best_of_a_slate_is_the_sum_of_its_best() -> None:
    world = Arms([0.1, 0.5, 0.4])
    shown = Slate(torch.tensor([[0, 2]]))
    _, truth = world.respond(world.start(stream(0)), shown, stream(1))
    assert truth["best"].tolist() == pytest.approx([0.9])


def test_refuses_what_are_no_arms() -> None:
    with pytest.raises(ConfigError, match="at least one mean"):
        Arms([])
    with pytest.raises(ConfigError, match=r"Arms\(means, sd=1.0\)"):
        Arms([0.5, 1.5])
