"""Many tests at once: the step-up procedure against its definition."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import false_discovery_control

from recfb import ConfigError
from recfb.evaluation.multiple import benjamini_hochberg

NAN = math.nan


@pytest.mark.parametrize(
    "p, expected",
    [
        ([0.01, 0.02, 0.03, 0.04], [True] * 4),  # bounds .0125, .025, .0375, .05
        ([0.04, 0.03, 0.02, 0.02], [True] * 4),  # the largest that passes takes the others along
        ([0.013, 0.026, 0.038, 0.051], [False] * 4),
        ([0.5, 0.001, 0.024, 0.9], [False, True, True, False]),
        ([0.5, NAN, 0.02, NAN], [False, False, True, False]),  # m = 2: .025
        ([0.0, 1.0], [True, False]),
        ([NAN, NAN], [False, False]),
        ([], []),
    ],
)
def test_o_benjamini_hochberg_by_hand(p: list[float], expected: list[bool]) -> None:
    assert benjamini_hochberg(torch.tensor(p), 0.05).tolist() == expected


def test_o_benjamini_hochberg_is_that_of_scipy() -> None:
    g = torch.Generator().manual_seed(0)
    for m in range(1, 60):
        p = torch.rand(m, generator=g, dtype=torch.float64) ** 4
        known = torch.as_tensor(false_discovery_control(p.numpy())) <= 0.05
        assert torch.equal(benjamini_hochberg(p, 0.05), known)


def test_o_at_most_the_level_is_rejected_by_mistake() -> None:
    g = torch.Generator().manual_seed(1)
    wrong = [benjamini_hochberg(torch.rand(40, generator=g), 0.1).any() for _ in range(2000)]
    share = float(torch.stack(wrong).double().mean())
    assert share == pytest.approx(0.1, abs=0.02)  # all hypotheses are true


@pytest.mark.parametrize("level", [0.0, 1.0, NAN])
def test_o_a_level_is_a_rate(level: float) -> None:
    with pytest.raises(ConfigError, match="level is a rate"):
        benjamini_hochberg(torch.tensor([0.5]), level)
