"""Row-wise Adagrad, specifications and the reading of tables."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from recfb import Log, Recommender, fit
from recfb.objectives import BPO
from recfb.optim import SGD, Adagrad, Adam, Cosine, Linear, RowAdagrad, Spec, lookup, table
from recfb.random import stream
from recfb.samplers import Clicks
from recfb.scorers import MF


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=stream(0, "test"), dtype=torch.float64)


def test_lookup_reads_rows_of_any_shape() -> None:
    leaf = nn.Parameter(randn(5, 3))
    index = torch.tensor([[4, 0], [4, 2]])
    assert torch.equal(lookup(leaf, index), leaf[index])
    assert torch.equal(lookup(leaf * 1.0, index), leaf[index])


def test_gradient_of_a_leaf_is_sparse_and_equals_the_dense_one() -> None:
    leaf, index, weight = nn.Parameter(randn(5, 3)), torch.tensor([4, 0, 4]), randn(3, 3)
    (lookup(leaf, index) * weight).sum().backward()
    sparse, leaf.grad = leaf.grad, None
    (leaf[index] * weight).sum().backward()
    assert sparse.is_sparse and not sparse.is_coalesced()
    assert torch.allclose(sparse.to_dense(), leaf.grad)


def test_gradient_through_a_computed_table_reaches_the_leaf() -> None:
    leaf, index = nn.Parameter(randn(5, 3)), torch.tensor([1, 1])
    lookup(2 * leaf, index).sum().backward()
    assert leaf.grad.tolist() == [[0.0] * 3, [4.0] * 3, *[[0.0] * 3] * 3]


def test_table_keeps_rows_that_fit() -> None:
    old = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert table(old, 3, 2).tolist() == [[1.0, 2.0], [3.0, 4.0], [0.0, 0.0]]
    assert table(old, 1, 2).tolist() == [[1.0, 2.0]]
    assert table(old, 2, 3).tolist() == [[0.0] * 3] * 2
    assert table(old.double(), 1, 2).dtype == torch.float64


def test_row_adagrad_by_hand() -> None:
    p = nn.Parameter(torch.zeros(3, 2, dtype=torch.float64))
    optimizer = RowAdagrad([p], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        read = lookup(p, torch.tensor([1, 1, 2]))
        (read * torch.tensor([[3.0, 1.0], [1.0, 1.0], [0.0, 2.0]])).sum().backward()
        optimizer.step()
    # row 1: mean squares (9 + 1) / 2 and (1 + 1) / 2, so G is 6, then 12; the gradients sum to 4, 2
    step = 0.1 / math.sqrt(6) + 0.1 / math.sqrt(12)
    # row 2: mean square 2, then 4
    other = 0.2 / math.sqrt(2) + 0.2 / math.sqrt(4)
    expected = torch.tensor([[0.0, 0.0], [-4 * step, -2 * step], [0.0, -other]])
    assert torch.allclose(p.detach(), expected.double(), rtol=1e-8)


def test_row_adagrad_does_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    index = torch.randint(7, (100,), generator=stream(0))
    weight, found = randn(100, 4), []
    for chunk in (16_384, 9):
        monkeypatch.setattr("recfb.optim._CHUNK", chunk)
        p = nn.Parameter(torch.zeros(7, 4, dtype=torch.float64))
        (lookup(p, index) * weight).sum().backward()
        RowAdagrad([p]).step()
        found.append(p.detach())
    assert torch.allclose(found[0], found[1], rtol=1e-12)


def test_dense_gradients_are_torch_adagrad() -> None:
    ours, theirs = (nn.Parameter(randn(4, 3)) for _ in range(2))
    target = randn(4, 3) + 1
    optimizers = (
        RowAdagrad([ours], weight_decay=0.1),
        torch.optim.Adagrad([theirs], lr=0.1, weight_decay=0.1),
    )
    for _ in range(5):
        for p, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            (p - target).square().sum().backward()
            optimizer.step()
    assert torch.allclose(ours, theirs, rtol=1e-8)


@pytest.mark.parametrize("spec", [Adagrad(), Adam(lr=0.1), SGD(lr=0.1)])
def test_specs_descend(spec: Spec) -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer = spec.build([{"params": [p]}])
    before = float(p.detach().square().sum())
    for _ in range(20):
        optimizer.zero_grad()
        p.square().sum().backward()
        optimizer.step()
    assert float(p.detach().square().sum()) < before / 4


def test_a_group_may_have_its_own_rate() -> None:
    a, b = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimizer = Adagrad(lr=0.1).build([{"params": [a]}, {"params": [b], "lr": 0.5, "clip": 2.0}])
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.5]
    assert optimizer.param_groups[1]["clip"] == 2.0


def test_schedules_by_hand() -> None:
    assert [Linear(warmup=4).factor(i, 8) for i in (0, 3, 4, 6, 8)] == [0.25, 1.0, 1.0, 0.5, 0.0]
    cosine = [Cosine(warmup=2, final=0.1).factor(i, 4) for i in (0, 2, 3, 9)]
    assert cosine == pytest.approx([0.5, 1.0, 0.55, 0.1])


def test_rates_multiply() -> None:
    spec = SGD(lr=1.0, decay=0.5, schedule=Linear())
    assert spec.factor(index=5, epoch=3, total=10) == 0.5**3 * 0.5
    assert Adam().factor(index=5, epoch=3, total=10) == 1.0


def test_table_wide_decay_reaches_rows_that_no_batch_uses() -> None:
    """One step of SGD(lr=.05, weight_decay=1) on a sum of losses: unused rows shrink by 5 %."""
    log = Log.of({"user": [0, 1], "item": [0, 1], "reward": [1, 1]}, n_users=3, n_items=4)
    model = Recommender(
        MF(dim=2, l2=0.0, bias="none"), BPO(), Clicks(), optimizer=SGD(lr=0.05, weight_decay=1.0)
    )
    model.bind(log)
    model.reset(stream(0, "reset"))
    before = model.scorer.user.detach().clone()
    fit(log, model, max_steps=1, enable_progress_bar=False)
    assert torch.allclose(model.scorer.user[2], 0.95 * before[2], rtol=1e-6)
    assert not torch.allclose(model.scorer.user[0], 0.95 * before[0], rtol=1e-4)
