"""Neural matrix factorisation."""

from __future__ import annotations

import pytest
import torch

from recfb import Log, Recommender, fit
from recfb.contracts import Batch
from recfb.objectives import BCE
from recfb.optim import Adam
from recfb.random import stream
from recfb.samplers import Clicks
from recfb.scorers import NeuMF
from recfb.scorers import neumf as module
from recfb.testing import check


def filled() -> NeuMF:
    model = NeuMF(dim=3, layers=(8, 6, 2), l2=0.5).bind(Log.empty(4, 5)).double()
    model.reset(stream(0))
    with torch.no_grad():
        for bias in model.biases:
            bias.normal_(generator=stream(1))
    return model


def test_keeps_the_contract(small_log: Log) -> None:
    check(NeuMF(dim=3, layers=(6, 4)), small_log)


def test_scores_are_the_formula() -> None:
    model = filled()
    assert [tuple(w.shape) for w in model.weights] == [(6, 8), (2, 6), (1, 5)]
    scores = model.all(torch.arange(4))
    for u in range(4):
        for i in range(5):
            p, q = model.user[u], model.item[i]
            x = torch.cat([p[3:], q[3:]])
            x = (model.weights[0] @ x + model.biases[0]).clamp(min=0)
            x = (model.weights[1] @ x + model.biases[1]).clamp(min=0)
            s = model.weights[2] @ torch.cat([p[:3] * q[:3], x]) + model.biases[2]
            assert float(scores[u, i].detach()) == pytest.approx(float(s.detach()), abs=1e-12)


def test_blocks_of_users_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    model = filled()
    whole = model.all(torch.arange(4))
    monkeypatch.setattr(module, "_PAIRS", 5)
    assert torch.allclose(model.all(torch.arange(4)), whole, atol=1e-12)


def test_the_penalty_by_hand() -> None:
    model = filled()
    with torch.no_grad():
        model.user.zero_()
        model.item.zero_()
        model.user[:, 0], model.item[:, 6] = 2.0, 3.0
    batch = Batch(torch.tensor([0, 1]), torch.tensor([[0, 1], [2, 3]]), torch.ones(2, 2))
    assert float(model.penalty(batch).detach()) == pytest.approx(0.25 * (4 + 9 + 9))


def trained(log: Log, epochs: int) -> Recommender:
    scorer = NeuMF(dim=4, layers=(16, 8), l2=1e-3)
    model = Recommender(scorer, BCE(), Clicks(negatives=2), optimizer=Adam(lr=0.01))
    return fit(
        log, model, max_epochs=epochs, batch_size=64, enable_progress_bar=False, accelerator="cpu"
    )


def test_the_network_is_trained_with_the_vectors(checkerboard: Log) -> None:
    start = NeuMF(dim=4, layers=(16, 8))
    assert sum(len(group["params"]) for group in start.bind(checkerboard).groups()) == 6
    one, two = (trained(checkerboard, epochs).scorer for epochs in (1, 2))
    assert all(not torch.equal(a, b) for a, b in zip(one.weights, two.weights, strict=True))
    assert all(not torch.equal(a, b) for a, b in zip(one.biases, two.biases, strict=True))


def test_it_completes_the_checkerboard(checkerboard: Log) -> None:
    model = trained(checkerboard, 60)
    with torch.no_grad():
        scores = model.scorer.all(torch.arange(24))
    same = (torch.arange(24)[:, None] % 2) == (torch.arange(24) % 2)
    best = torch.where(same, scores, torch.inf).amin(1)
    assert bool((best > torch.where(same, -torch.inf, scores).amax(1)).all())
