"""Penalties against source bias, by hand."""

from __future__ import annotations

from functools import partial

import polars as pl
import pytest
import torch
import torch.nn.functional as F

from recfb import Log
from recfb.contracts import Batch, Step
from recfb.errors import ConfigError
from recfb.objectives.source_consistency import (
    SourceConsistency,
    SourceHinge,
    entropy,
    item_gap,
    user_gap,
)
from recfb.random import stream
from recfb.scorers.history_mean import HistoryMean

D, N, B = 3, 4, 6
X, Y = torch.randn(2, N, D, generator=stream(0))
BATCH = Batch(
    torch.arange(B),
    torch.tensor([[0, 1], [2, 3], [1, 0], [3, 1], [2, 0], [0, 3]]),
    torch.zeros(B, 2),
    history=torch.tensor([[0, 1], [1, 2], [3, -1], [2, 2], [0, 3], [1, 1]]),
)


def scorer(rewrite: bool = True) -> HistoryMean:
    wide = pl.Array(pl.Float32, D)
    frame = pl.DataFrame(
        {
            "id": list(range(N)),
            "x": pl.Series(X.numpy(), dtype=wide),
            "rewrite": pl.Series(Y.numpy(), dtype=wide),
        }
    )
    model = HistoryMean(rewrite=["rewrite"] if rewrite else ())
    model.bind(Log.empty(B, N).with_items(frame)).reset(stream(0))
    return model


def losses(objective: SourceConsistency, model: HistoryMean | None = None) -> torch.Tensor:
    model = model or scorer()
    return objective(partial(model, batch=BATCH), BATCH, Step(generator=stream(5)))


def test_1_7_every_term_by_hand() -> None:
    model = scorer()
    coin = torch.rand(BATCH.history.shape, generator=stream(5)) < 0.5
    u, v = model.user_vectors(BATCH.history), model.user_vectors(BATCH.history, coin)
    x, y = X[BATCH.item], Y[BATCH.item]
    s = (x @ u[:, :, None])[:, :, 0]
    ce = F.cross_entropy(s, torch.zeros(B, dtype=torch.int64), reduction="none")
    item = (s - (y @ u[:, :, None])[:, :, 0]).abs().mean(1)
    user = (s - (x @ v[:, :, None])[:, :, 0]).abs().mean(1)
    h = entropy(u) + entropy(v)
    want = ce + 0.7 * item + 0.3 * (user + h)
    assert torch.allclose(losses(SourceConsistency(0.7, 0.3))[:, 0], want, atol=1e-5)
    want = ce + 0.7 * item + 0.3 * user
    found = losses(SourceConsistency(0.7, 0.3, concentration=0.0))[:, 0]
    assert torch.allclose(found, want, atol=1e-5)
    assert torch.allclose(losses(SourceConsistency(0.0, 0.0))[:, 0], ce, atol=1e-5)


def test_swap_says_how_much_of_the_history_is_rewritten() -> None:
    model, none = scorer(), {"alpha": 0.0, "beta": 1.0, "concentration": 0.0}
    ce = losses(SourceConsistency(0.0, 0.0))
    assert torch.equal(losses(SourceConsistency(**none, swap=0.0)), ce)
    whole = losses(SourceConsistency(**none, swap=1.0)) - ce
    u = model.user_vectors(BATCH.history)
    v = model.user_vectors(BATCH.history, torch.ones_like(BATCH.history, dtype=torch.bool))
    assert torch.allclose(whole[:, 0], user_gap(u, v, X[BATCH.item]), atol=1e-5)


def test_the_history_is_left_as_it_was() -> None:
    before = BATCH.history.clone()
    losses(SourceConsistency())
    assert torch.equal(BATCH.history, before)


def test_gaps_vanish_where_rewrites_score_the_same() -> None:
    u = torch.tensor([[1.0, 0.0, 0.0]])
    x = torch.randn(1, 2, 3, generator=stream(1))
    away = torch.tensor([0.0, 1.0, 2.0])  # orthogonal to u
    assert float(item_gap(u, x, x + away)) == 0.0
    assert float(user_gap(u, u, x)) == 0.0


def test_the_penalty_shrinks_the_gap_it_names() -> None:
    model = scorer()
    optimizer = torch.optim.Adam(model.parameters(), 0.05)

    def gap() -> torch.Tensor:
        u = model.user_vectors(BATCH.history)
        return item_gap(u, X[BATCH.item], Y[BATCH.item]).mean()

    start = float(gap().detach())
    for _ in range(200):
        optimizer.zero_grad()
        losses(SourceConsistency(3.0, concentration=0.0), model).mean().backward()
        optimizer.step()
    assert float(gap().detach()) < 0.2 * start


def test_hinge_by_hand() -> None:
    twins = {"id": [0, 1, 2, 3], "source": [0, 0, 1, 1], "twin": [2, 3, 0, 1]}
    objective = SourceHinge(2.0).bind(Log.empty(B, N).with_items(twins))
    table = torch.tensor([0.1, 0.2, 0.6, -0.3])

    def score(user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        return table[item]

    batch = Batch(torch.arange(3), torch.tensor([[0, 1], [1, 0], [2, 3]]), torch.zeros(3, 2))
    found = objective(score, batch, Step())[:, 0]
    s = table[batch.item]
    plain = F.softplus(s[:, 1] - s[:, 0])
    # item 0: its AI text scores .5 more; item 1: less; the clicked AI text 2 scores .5 more
    assert torch.allclose(found - plain, torch.tensor([1.0, 0.0, 1.0]), atol=1e-6)


@pytest.mark.parametrize("wrong", [{"alpha": -1.0}, {"concentration": -1.0}, {"swap": 1.5}])
def test_weights_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SourceConsistency(**wrong)
    with pytest.raises(ConfigError, match="not negative"):
        SourceHinge(-1.0)


def test_scorers_that_cannot_be_compared_with_rewrites() -> None:
    with pytest.raises(ConfigError, match="compares texts"):
        losses(SourceConsistency(), scorer(rewrite=False))
    with pytest.raises(ConfigError, match="compares texts"):
        SourceConsistency()(lambda user, item: item.float(), BATCH, Step())
