"""Truncated and reweighted cross entropy."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from recfb.contracts import Batch, Step
from recfb.data import Log
from recfb.objectives import BCE, BPR, RCE, TCE
from recfb.objectives.adt import truncated
from recfb.objectives.bce import bce
from recfb.random import stream
from recfb.testing import check

LATE = Step(index=1_000_000)


@pytest.mark.parametrize(
    "objective", [TCE(drop=0.3, ramp=5), TCE(drop=0.3, ramp=5, form="pairwise"), RCE()]
)
def test_keeps_the_contract(objective: TCE | RCE, checkerboard: Log) -> None:
    check(objective, checkerboard)


def drawn(rows: int, negatives: int, seed: int = 0) -> tuple[Tensor, Batch]:
    """Scores in float64 and a batch of clicks with negatives."""
    shape = rows, 1 + negatives
    score = 2 * torch.randn(shape, generator=stream(seed), dtype=torch.float64)
    reward = torch.zeros(shape, dtype=torch.float64)
    reward[:, 0] = 1.0
    return score, Batch(torch.arange(rows), torch.zeros(shape, dtype=torch.int64), reward)


@pytest.mark.parametrize("kind", [TCE, RCE])
def test_r_7_10_nothing_dropped_or_reweighted_is_the_plain_loss(kind: type[TCE | RCE]) -> None:
    score, batch = drawn(50, 3)

    def given(user: Tensor, item: Tensor) -> Tensor:
        return score

    assert torch.equal(kind(0.0)(given, batch, LATE), BCE()(given, batch))
    assert torch.equal(kind(0.0, form="pairwise")(given, batch, LATE), BPR()(given, batch))


@pytest.mark.parametrize("drop", [0.05, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("negatives", [1, 4])
def test_r_7_10_tce_drops_no_negative_while_a_worse_click_remains(
    drop: float, negatives: int
) -> None:
    score, batch = drawn(40, negatives)
    loss = TCE(drop)(lambda u, i: score, batch, LATE)
    dropped, clicks = loss == 0, batch.reward > 0
    n = score.numel()
    assert int(dropped.sum()) == int(drop * n)
    assert int((dropped & clicks).sum()) == min(40, int(drop * n))
    full = bce(score, batch.reward)
    if bool((dropped & clicks).any()) and not bool((dropped & clicks)[clicks].all()):
        assert float(full[dropped & clicks].min()) > float(full[~dropped & clicks].max())
    # the mean is that of what remains, as if the rest had not been drawn
    remains = bce(score[~dropped], batch.reward[~dropped]).mean()
    assert abs(float(loss.mean() - remains)) < 1e-12


def test_a_tenth_of_the_batch_is_a_fifth_of_the_clicks() -> None:
    score, batch = drawn(50, 1)
    loss = TCE(0.1)(lambda u, i: score, batch, LATE)
    assert int((loss[:, 0] == 0).sum()) == 10
    assert int((loss[:, 1] == 0).sum()) == 0


def test_the_share_grows_linearly_with_the_step() -> None:
    score, batch = drawn(50, 1)
    objective = TCE(0.2, ramp=1000)
    steps = [0, 250, 500, 1000, 5000]
    losses = [objective(lambda u, i: score, batch, Step(index=index)) for index in steps]
    assert [int((loss == 0).sum()) for loss in losses] == [0, 5, 10, 20, 20]


def test_pairs_of_large_loss_are_dropped() -> None:
    score = torch.tensor([[0.0, 3.0, -1.0], [0.0, 1.0, 2.0]])
    batch = Batch(torch.arange(2), torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3))
    loss = TCE(0.5, form="pairwise")(lambda u, i: score, batch, LATE)
    left = [2 * math.log1p(math.exp(-1)), 2 * math.log1p(math.exp(1))]  # four pairs, two left
    assert loss[0].tolist() == pytest.approx([0.0, left[0]])
    assert loss[1].tolist() == pytest.approx([left[1], 0.0])


def test_dropped_rows_have_no_gradient() -> None:
    loss = torch.tensor([1.0, 4.0, 2.0, 3.0], requires_grad=True)
    truncated(loss, loss, 0.25).mean().backward()
    assert loss.grad.tolist() == pytest.approx([1 / 3, 0.0, 1 / 3, 1 / 3])


def test_rce_weighs_by_the_probability_of_what_was_seen() -> None:
    score, batch = drawn(6, 2)
    score.requires_grad_()
    loss = RCE(0.4)(lambda u, i: score, batch)
    q = torch.sigmoid(score.detach())
    p = torch.where(batch.reward > 0, q, 1 - q)
    assert torch.allclose(loss, -(p**0.4) * p.log(), rtol=1e-12)
    loss.sum().backward()  # the weight is held fast
    assert torch.allclose(score.grad, p**0.4 * (q - batch.reward), rtol=1e-10)


def test_rce_of_pairs() -> None:
    score, batch = drawn(6, 2)
    score.requires_grad_()
    loss = RCE(0.4, form="pairwise")(lambda u, i: score, batch)
    p = torch.sigmoid(score[:, :1] - score[:, 1:]).detach()  # (B, S)
    assert torch.allclose(loss, -(p**0.4) * p.log(), rtol=1e-12)
    loss.sum().backward()
    assert torch.allclose(score.grad[:, 1:], p**0.4 * (1 - p), rtol=1e-10)
