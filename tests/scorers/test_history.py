"""Encoders of histories over frozen vectors of items."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
import torch

from recfb import Log, Recommender, fit, objectives, optim
from recfb.contracts import Batch, Context
from recfb.errors import ConfigError, LogError
from recfb.random import stream
from recfb.samplers.visits import Visits
from recfb.scorers.history import HistoryScorer, without
from recfb.scorers.history_gru import HistoryGRU
from recfb.scorers.history_mean import HistoryMean

D, N = 4, 6
X = torch.randn(N, D, generator=stream(0))
HISTORY = torch.tensor([[0, 2, -1], [1, 1, 4], [-1, -1, -1]])


def items(**more: Any) -> dict[str, Any]:
    wide = pl.Array(pl.Float32, D)
    return {"id": list(range(N)), "x": pl.Series(X.numpy(), dtype=wide), **more}


def log() -> Log:
    rewrite = pl.Series((X + 1).numpy(), dtype=pl.Array(pl.Float32, D))
    more = {"rewrite": rewrite, "source": [0, 0, 0, 1, 1, 1], "twin": [3, 4, 5, 0, 1, 2]}
    return Log.empty(3, N).with_items(pl.DataFrame(items(**more)))


def made(make: Callable[..., HistoryScorer] = HistoryMean, **options: Any) -> HistoryScorer:
    model = make(**options).bind(log())
    model.reset(stream(1))
    return model


BOTH = pytest.mark.parametrize("make", [HistoryMean, HistoryGRU])


def test_the_mean_encoder_by_hand() -> None:
    model = made()
    u = 0.5 * torch.stack([X[[0, 2]].mean(0), X[[1, 1, 4]].mean(0), torch.zeros(D)])
    assert torch.allclose(model.user_vectors(HISTORY), u, atol=1e-6)
    scores = model.scores(Context(torch.arange(3), history=HISTORY))
    assert torch.allclose(scores, u @ X.T, atol=1e-6)


@BOTH
def test_all_doors_give_the_same_scores(make: Callable[..., HistoryScorer]) -> None:
    model = made(make)
    user, context = torch.arange(3), Context(torch.arange(3), history=HISTORY)
    whole = model.scores(context)
    item = torch.tensor([[5, 1], [0, 3], [2, 2]])
    batch = Batch(user, item, torch.zeros(3, 2), history=HISTORY)
    some = Context(user, candidates=item, history=HISTORY)
    for found in (model(user, item, batch), model.score_of(context, item), model.scores(some)):
        assert torch.allclose(found, whole.gather(1, item), atol=1e-6)
    assert torch.allclose(model.score_of(context, item[:, 0]), whole[[0, 1, 2], item[:, 0]])
    assert torch.equal(model.top(context, 1)[:2, 0], whole.argmax(1)[:2])
    better = whole.gather(1, item).argmax(1, keepdim=True)
    assert torch.equal(model.top(some, 1)[:2], item.gather(1, better)[:2])


@BOTH
def test_places_without_an_item_do_not_matter(make: Callable[..., HistoryScorer]) -> None:
    model = made(make)
    padded = torch.tensor([[-1, 0, -1, 2], [0, 2, -1, -1]])
    one = model.user_vectors(torch.tensor([[0, 2]]))
    assert torch.allclose(model.user_vectors(padded), one.expand(2, -1), atol=1e-6)
    nothing = model.user_vectors(torch.full((1, 3), -1))
    assert bool(torch.isfinite(nothing).all())


def test_the_recurrent_encoder_reads_the_order_and_the_mean_does_not() -> None:
    there, back = torch.tensor([[0, 1, 2]]), torch.tensor([[2, 1, 0]])
    mean, gru = made(), made(HistoryGRU)
    assert torch.allclose(mean.user_vectors(there), mean.user_vectors(back), atol=1e-6)
    assert not torch.allclose(gru.user_vectors(there), gru.user_vectors(back), atol=1e-3)


@BOTH
def test_only_the_encoder_learns(make: Callable[..., HistoryScorer]) -> None:
    model = made(make, rewrite=["rewrite"])
    shapes = [tuple(p.shape) for p in model.parameters()]
    assert (N, D) not in shapes and shapes
    assert not {"vectors", "rewrites"} & set(model.state_dict())


@BOTH
def test_resets_draw_the_same_weights_and_binding_again_keeps_them(
    make: Callable[..., HistoryScorer],
) -> None:
    model = made(make)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.bind(log())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    model.reset(stream(1))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_swapped_texts_are_read_as_their_rewrites() -> None:
    model = made(rewrite=["rewrite"])
    swapped = torch.zeros_like(HISTORY, dtype=torch.bool)
    swapped[1] = True
    plain, mixed = model.user_vectors(HISTORY), model.user_vectors(HISTORY, swapped)
    assert torch.allclose(mixed[0], plain[0]) and torch.allclose(mixed[1], plain[1] + 0.5)
    swapped[2] = True  # nothing there: nothing to rewrite
    assert torch.allclose(model.user_vectors(HISTORY, swapped)[2], plain[2])


def test_projection_takes_the_mean_difference_of_twins_out() -> None:
    model = made(project=True, rewrite=["rewrite"])
    v = (X[3:] - X[:3]).mean(0)
    assert float((model.vectors @ v).abs().max()) < 1e-6
    assert float((model.rewrites @ v).abs().max()) < 1e-5
    assert torch.allclose(model.vectors, without(X, v / v.norm()), atol=1e-6)
    assert not torch.allclose(made().vectors @ v, torch.zeros(N))


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="name columns"):
        HistoryMean(items=())
    with pytest.raises(ConfigError, match="hidden=0"):
        HistoryGRU(hidden=0)
    with pytest.raises(ConfigError, match="no column 'y'"):
        HistoryMean(items=["y"]).bind(log())
    model = made()
    with pytest.raises(ConfigError, match="rewrites of texts"):
        model.user_vectors(HISTORY, HISTORY > 0)
    with pytest.raises(LogError, match="needs a history"):
        model.scores(Context(torch.arange(3)))
    with pytest.raises(LogError, match="needs a history"):
        model(torch.arange(3), torch.arange(3))
    with pytest.raises(ConfigError, match="hide"):
        model.top(Context(torch.arange(3), history=HISTORY), 1, hide=log().clicks)


@BOTH
def test_an_encoder_learns_which_items_follow(make: Callable[..., HistoryScorer]) -> None:
    """Users click what is opposite to their history, which the first weights do not say."""
    g = stream(2)
    x = torch.randn(40, D, generator=g)
    history = torch.randint(40, (600, 3), generator=g)
    best = (-(x[history].mean(1)) @ x.T).topk(5, dim=1).indices  # (600, 5)
    other = torch.randint(40, (600,), generator=g)
    rows = {
        "user": [i // 2 for i in range(1200)],
        "item": torch.stack([best[:, 0], other], 1).flatten().tolist(),
        "reward": [1, 0] * 600,
        "slate": [i // 2 for i in range(1200)],
        "history": history.repeat_interleave(2, 0).tolist(),
    }
    frame = {"id": list(range(40)), "x": pl.Series(x.numpy(), dtype=pl.Array(pl.Float32, D))}
    data = Log.of(rows, n_items=40).with_items(frame)
    model = Recommender(make(), objectives.BPR(), Visits(), optimizer=optim.Adam(0.02))
    fit(data, model, max_epochs=15, batch_size=100, enable_progress_bar=False)
    context = Context(torch.arange(600), history=history)
    hit = (model.top(context, 5)[:, :, None] == best[:, None, :1]).any(1).float().mean()
    assert float(hit) > 0.5
