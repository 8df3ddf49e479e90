"""LightGCN: what it propagates, and what a saved one remembers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import recfb
from recfb import Log, Recommender, fit
from recfb.contracts import Batch
from recfb.objectives import BPR
from recfb.random import stream
from recfb.samplers import Clicks
from recfb.scorers import MF, LightGCN
from recfb.scorers.lightgcn import propagate
from recfb.testing import check


def filled(model: LightGCN | MF, log: Log) -> LightGCN | MF:
    model.bind(log).double().bind(log)  # the graph's weights in float64, too
    model.reset(stream(0, "values"))
    return model


def dense(log: Log) -> Tensor:
    """D^-1/2 G D^-1/2 of users and items, from the definition."""
    m, n = log.n_users, log.n_items
    graph = torch.zeros(m + n, m + n, dtype=torch.float64)
    for u, i in zip(log.clicks.user.tolist(), log.clicks.item.tolist(), strict=True):
        graph[u, m + i] = graph[m + i, u] = 1.0
    root = graph.sum(1).clamp(min=1).sqrt()
    return graph / root[:, None] / root


def test_keeps_the_contract(small_log: Log) -> None:
    check(LightGCN(dim=3), small_log)


def test_r_7_5_without_layers_it_is_factorisation_without_bias(small_log: Log) -> None:
    model = filled(LightGCN(dim=3, layers=0, l2=0.5), small_log)
    mf = filled(MF(dim=3, bias="none", l2=0.5), small_log)
    mf.load_state_dict({"user": model.user, "item": model.item})
    user, item = torch.tensor([2, 0]), torch.tensor([[0, 4], [3, 1]])
    batch = Batch(user, item, torch.ones(2, 2))
    grads = []
    for each in (model, mf):
        view = each.ready()
        loss = BPR()(view, batch).mean() + view.penalty(batch)
        loss.backward()
        grads.append([float(loss.detach()), each.user.grad.to_dense(), each.item.grad.to_dense()])
    assert grads[0][0] == pytest.approx(grads[1][0], abs=1e-12)
    assert torch.allclose(grads[0][1], grads[1][1], atol=1e-12)
    assert torch.allclose(grads[0][2], grads[1][2], atol=1e-12)
    assert torch.equal(model.all(user), mf.all(user))


def test_r_7_5_the_top_eigenvalue_is_1(small_log: Log, checkerboard: Log) -> None:
    for log in (small_log, checkerboard):
        model = filled(LightGCN(dim=3), log)
        size = log.n_users + log.n_items
        graph = torch.zeros(size, size, dtype=torch.float64)
        graph[model.edge[0], model.edge[1]] = model.weight
        assert float(torch.linalg.eigvalsh(graph)[-1]) == pytest.approx(1.0, abs=1e-12)


def test_edges_are_sorted_and_distinct_as_the_product_takes_for_granted(small_log: Log) -> None:
    model = filled(LightGCN(dim=3), small_log)
    assert bool(((model.edge[0] * 8 + model.edge[1]).diff() > 0).all())
    assert model.edge.shape == (2, 8)  # four clicks, both ways


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_r_7_5_propagation_is_the_dense_matrix_power(layers: int, small_log: Log) -> None:
    model = filled(LightGCN(dim=3, layers=layers), small_log)
    first = torch.cat([model.user, model.item]).detach()
    graph = dense(small_log)
    powers = [torch.linalg.matrix_power(graph, k) @ first for k in range(layers + 1)]
    expected = torch.stack(powers).mean(0)
    found = propagate(model.edge, model.weight, first, layers)
    assert float((found - expected).abs().max()) < 1e-10
    users, items = expected.split([3, 5])
    scores = model.all(torch.arange(3)).detach()
    assert float((scores - users @ items.T).abs().max()) < 1e-10


def test_what_has_no_click_keeps_a_share_of_its_own_vector(small_log: Log) -> None:
    model = filled(LightGCN(dim=3, layers=3), small_log)
    view = model.ready()
    assert torch.allclose(view.item[4], model.item[4] / 4)  # item 4 is never clicked
    assert bool(torch.isfinite(model.weight).all())
    empty = filled(LightGCN(dim=3, layers=1), Log.empty(2, 3))
    assert torch.allclose(empty.ready().user, empty.user / 2)


def test_the_penalty_is_of_the_first_layer_and_the_gradient_is_right(small_log: Log) -> None:
    model = filled(LightGCN(dim=2, l2=0.5), small_log)
    with torch.no_grad():
        model.user.copy_(torch.tensor([1.0, 2.0]).expand(3, -1))
        model.item.copy_(torch.tensor([3.0, 0.0]).expand(5, -1))
    batch = Batch(torch.tensor([0, 1]), torch.tensor([[0, 1], [2, 3]]), torch.ones(2, 2))
    assert float(model.penalty(batch).detach()) == pytest.approx(0.25 * (5 + 9 + 9))
    model.reset(stream(1))
    inputs = (model.user, model.item)

    def loss(user: Tensor, item: Tensor) -> Tensor:
        first = torch.cat([user, item])
        u, v = propagate(model.edge, model.weight, first, 2).split([3, 5])
        return torch.sigmoid(u @ v.T).sum()

    assert torch.autograd.gradcheck(loss, inputs)


def trained(log: Log, **options: int) -> Recommender:
    model = Recommender(LightGCN(dim=4), BPR(), Clicks(negatives=2))
    return fit(log, model, batch_size=64, enable_progress_bar=False, accelerator="cpu", **options)


def test_a_loaded_one_still_has_its_graph(checkerboard: Log, tmp_path: Path) -> None:
    model = trained(checkerboard, max_epochs=1)
    recfb.save(model, tmp_path / "model")
    again = recfb.load(tmp_path / "model")
    user = torch.arange(24)
    assert torch.equal(again.scorer.all(user), model.scorer.all(user))
    assert torch.equal(again.scorer.edge, model.scorer.edge)
    assert torch.equal(again.scorer.get_extra_state(), checkerboard.clicks.key)


def test_it_completes_the_checkerboard(checkerboard: Log) -> None:
    model = trained(checkerboard, max_epochs=20)
    with torch.no_grad():
        scores = model.scorer.all(torch.arange(24))
    same = (torch.arange(24)[:, None] % 2) == (torch.arange(24) % 2)
    best = torch.where(same, scores, torch.inf).amin(1)
    assert bool((best > torch.where(same, -torch.inf, scores).amax(1)).all())
