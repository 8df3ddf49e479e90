"""Click models against their closed forms."""

from __future__ import annotations

import pytest
import torch

from recfb.errors import ConfigError
from recfb.random import stream
from recfb.worlds import PBM


def test_w_t3_pbm_marginal_click_rates() -> None:
    """2e5 visits of one slate: rates by position within 4 standard errors of theta_k a_k."""
    attraction = torch.tensor([0.9, 0.4, 0.7, 0.2])
    n = 200_000
    got = PBM(eta=1.0).sample(attraction.expand(n, -1), stream(0))
    expected = torch.tensor([0.9, 0.4 / 2, 0.7 / 3, 0.2 / 4])
    error = (expected * (1 - expected) / n).sqrt()
    assert ((got.click.mean(0) - expected).abs() < 4 * error).all()
    assert torch.allclose(PBM(eta=1.0).marginal(attraction[None])[0], expected)
    examined = torch.tensor([1.0, 1 / 2, 1 / 3, 1 / 4])
    error = (examined * (1 - examined) / n).sqrt() + 1e-9
    assert ((got.examined.float().mean(0) - examined).abs() < 4 * error).all()
    assert torch.allclose(got.p_examine[0], examined)
    assert not (got.click.bool() & ~got.examined).any()


def test_pbm_positions_are_independent() -> None:
    got = PBM(eta=0.5).sample(torch.full((200_000, 2), 0.5), stream(1))
    assert abs(float(torch.corrcoef(got.click.T)[0, 1])) < 4 / 447


def test_w_t4_without_position_bias_everything_is_examined() -> None:
    got = PBM(eta=0.0).sample(torch.ones(100, 5), stream(0))
    assert got.examined.all()
    assert (got.click == 1).all()


def test_pbm_draws_do_not_depend_on_the_slate() -> None:
    few = PBM().sample(torch.full((50, 3), 0.2), stream(0))
    many = PBM().sample(torch.full((50, 3), 0.8), stream(0))
    assert torch.equal(few.examined, many.examined)
    assert (few.click <= many.click).all()


def test_pbm_refuses_a_negative_eta() -> None:
    with pytest.raises(ConfigError, match="eta is not negative"):
        PBM(eta=-1.0)
