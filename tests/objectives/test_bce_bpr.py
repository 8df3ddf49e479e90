"""Log loss and pairwise ranking."""

from __future__ import annotations

import math

import pytest
import torch

from recfb.contracts import Batch
from recfb.data import Log
from recfb.objectives import BCE, BPR
from recfb.objectives.bce import bce
from recfb.objectives.bpr import bpr
from recfb.random import stream
from recfb.testing import check


@pytest.mark.parametrize("objective", [BCE(), BPR()])
def test_keeps_the_contract(objective: BCE | BPR, small_log: Log) -> None:
    check(objective, small_log)


def test_bce_by_hand_and_without_overflow() -> None:
    s, y = torch.tensor([1.0, -1.0, 200.0, -200.0]), torch.tensor([1.0, 1.0, 0.0, 0.0])
    expected = [math.log(1 + math.exp(-1)), math.log(1 + math.exp(1)), 200.0, 0.0]
    assert bce(s, y).tolist() == pytest.approx(expected)


def test_r_7_1_full_matrix_gradient() -> None:
    generator = stream(0)
    u = torch.randn(3, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    v = torch.randn(4, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    y = (torch.rand(3, 4, generator=generator) < 0.5).double()
    bce(u @ v.T, y).sum().backward()
    gap = torch.sigmoid(u @ v.T).detach() - y
    assert torch.allclose(u.grad, gap @ v.detach()) and torch.allclose(v.grad, gap.T @ u.detach())


def test_r_7_2_bpr() -> None:
    zero = torch.zeros(2)
    assert bpr(zero, zero).tolist() == pytest.approx([math.log(2)] * 2)
    score = torch.randn(2, 4, generator=stream(0))
    user, item = torch.tensor([0, 1]), torch.arange(4).expand(2, -1)
    batch = Batch(user, item, torch.tensor([[1.0, 0, 0, 0]] * 2))
    loss = BPR()(lambda u, i: score, batch)
    assert loss.shape == (2, 3)
    shifted = BPR()(lambda u, i: score + torch.tensor([[5.0], [-3.0]]), batch)
    assert torch.allclose(loss, shifted, atol=1e-6)
    score.requires_grad_()
    BPR()(lambda u, i: score, batch).sum().backward()
    slope = -torch.sigmoid(-(score[:, :1] - score[:, 1:])).detach()
    assert torch.allclose(score.grad[:, 0], slope.sum(1)) and torch.allclose(
        score.grad[:, 1:], -slope
    )
