"""Two towers: what they compute, and whom they can score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

import recfb
from recfb import Log, Recommender, fit
from recfb.contracts import Batch, Context
from recfb.errors import ConfigError, UnboundError
from recfb.objectives import BPR
from recfb.random import stream
from recfb.samplers import Clicks
from recfb.scorers import TwoTower
from recfb.testing import check

QUIET: dict[str, Any] = {"enable_progress_bar": False, "accelerator": "cpu"}


@pytest.fixture
def known(small_log: Log) -> Log:
    """The small log with a column of users and two of items, one of them an Array."""
    text = pl.Series(
        [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, 0.0], [0.0, 3.0]], dtype=pl.Array(pl.Float32, 2)
    )
    items = pl.DataFrame({"id": range(5), "text": text, "year": [0.0, 0.1, 0.2, 0.3, 0.4]})
    return small_log.with_items(items).with_users({"id": [0, 1, 2], "age": [1.0, 2.0, -1.0]})


def bound(model: TwoTower, log: Log, seed: int = 0) -> TwoTower:
    model.bind(log)
    model.reset(stream(seed, "values"))
    return model


@pytest.mark.parametrize("ids", ["both", "items"])
def test_keeps_the_contract(ids: str, small_log: Log) -> None:
    check(TwoTower(dim=3, ids=ids), small_log)


def test_linear_towers_are_a_bilinear_form_by_hand(known: Log) -> None:
    model = TwoTower(dim=2, hidden=(), users=["age"], items=["text", "year"], ids="none")
    model = bound(model, known).double().bind(known)
    with torch.no_grad():
        model.user.network.weights[0].copy_(torch.tensor([[2.0], [-1.0]]))
        model.user.network.biases[0].copy_(torch.tensor([0.5, 1.0]))
        model.item.network.weights[0].copy_(
            torch.tensor([[1.0, 2.0, 10.0], [0.0, -1.0, 0.0], [3.0, 4.0, 0.0]])
        )
        model.item.network.biases[0].copy_(torch.tensor([0.0, 1.0, -0.5]))
    # user 1: U = (4.5, -1); item 2: V = (1 + 2 + 2, -1 + 1) = (5, 0), b = 3 + 4 - .5 = 6.5
    # user 2: U = (-1.5, 2); item 4: V = (6 + 4, -3 + 1) = (10, -2), b = 12 - .5 = 11.5
    score = model(torch.tensor([1, 2]), torch.tensor([[2, 4], [4, 2]]))
    expected = [[4.5 * 5 + 6.5, 45 + 2 + 11.5], [-15 - 4 + 11.5, -7.5 + 6.5]]
    # year is .2 and .4 as 32-bit numbers
    assert torch.allclose(score, torch.tensor(expected, dtype=torch.float64), atol=1e-6)


def test_a_hidden_layer_by_hand(known: Log) -> None:
    model = bound(TwoTower(hidden=(1,), items=["year"], ids="none"), known)
    with torch.no_grad():
        model.item.network.weights[0].fill_(1.0)
        model.item.network.biases[0].fill_(-0.2)
        model.item.network.weights[1].fill_(10.0)
    score = model.all(torch.tensor([0]))[0]  # 10 max(0, year - .2)
    assert score.tolist() == pytest.approx([0.0, 0.0, 0.0, 1.0, 2.0], abs=1e-6)


def test_rows_of_ids_are_shrunk_by_their_clicks(known: Log) -> None:
    model = bound(TwoTower(dim=2, hidden=(), users=["age"], items=["year"], shrink=3.0), known)
    # clicks: items 0, 1, 2 have 2, 1, 1, items 3 and 4 none; users 1, 2, 1
    assert model.item.share.squeeze(1).tolist() == pytest.approx([0.4, 0.25, 0.25, 0.0, 0.0])
    assert model.user.share.squeeze(1).tolist() == pytest.approx([0.25, 0.4, 0.25])
    rows = model.item.network(model.item.features) + model.item.share * model.item.row
    assert torch.allclose(model.item(), rows)
    never = bound(TwoTower(dim=2, shrink=0.0), known).item.share
    assert never.squeeze(1).tolist() == [1.0, 1.0, 1.0, 0.0, 0.0]


def test_the_gradient_reaches_both_towers_and_every_row_with_clicks(known: Log) -> None:
    model = bound(TwoTower(dim=2, hidden=(4,), users=["age"], items=["text", "year"]), known)
    batch = Batch(torch.tensor([0, 1, 2]), torch.tensor([[0, 4], [1, 3], [2, 4]]), torch.ones(3, 2))
    view = model.ready()
    (BPR()(view, batch).mean() + view.penalty(batch)).backward()
    for tower in (model.user, model.item):
        assert all(bool((w.grad != 0).any()) for w in tower.network.weights)
        touched = (tower.row.grad != 0).any(1)
        assert torch.equal(touched, tower.share.squeeze(1) > 0)


def test_a_step_runs_each_tower_once(known: Log) -> None:
    model = Recommender(TwoTower(dim=2, users=["age"], items=["year"]), BPR(), Clicks())
    model.bind(known)
    model.reset(stream(0))
    seen = []
    for tower in (model.scorer.user, model.scorer.item):
        tower.register_forward_hook(lambda module, given, made: seen.append(module.side))
    fit(known, model, max_steps=1, **QUIET)
    assert sorted(seen) == ["items", "users"]
    seen.clear()
    model.scorer.n_items = 1_000_000  # as if users were ranked 64 at a time
    model.top(Context(torch.zeros(100, dtype=torch.int64)), 2)
    assert sorted(seen) == ["items", "users"]


def test_the_penalty_is_of_the_vectors_used(known: Log) -> None:
    model = bound(TwoTower(dim=2, hidden=(), users=["age"], ids="items", l2=0.5), known)
    with torch.no_grad():
        model.user.network.weights[0].copy_(torch.tensor([[1.0], [2.0]]))
        model.item.row.copy_(torch.tensor([3.0, 0.0, 7.0]).expand(5, -1))  # 7 is the bias: free
        model.item.share.fill_(1.0)
    batch = Batch(torch.tensor([0, 1]), torch.tensor([[0, 1], [2, 3]]), torch.ones(2, 2))
    # users: 5 and 20; items: 9 each
    assert float(model.penalty(batch).detach()) == pytest.approx(0.25 * (12.5 + 9 + 9))


def test_without_a_user_side_it_is_one_ranking_from_columns(known: Log) -> None:
    model = bound(TwoTower(dim=8, hidden=(), items=["text", "year"], ids="none"), known)
    scores = model.all(torch.arange(3))
    [w], [b] = model.item.network.weights[0], model.item.network.biases[0]
    assert torch.allclose(scores, (model.item.features @ w + b).expand(3, -1))
    batch = Batch(torch.tensor([0]), torch.tensor([[0, 1]]), torch.ones(1, 2))
    assert float(torch.as_tensor(model.penalty(batch)).detach()) == 0.0


def test_what_was_never_clicked_is_scored_by_its_columns() -> None:
    """Even users click items of kind 1, odd users those of kind 0; the last six items are new."""
    user, item = torch.meshgrid(torch.arange(30), torch.arange(24), indexing="ij")
    clicked = ((user + item) % 2 == 1) & (item < 18) & ((user * 7 + item * 3) % 5 != 0)
    rows = {"user": user[clicked], "item": item[clicked], "reward": torch.ones(int(clicked.sum()))}
    kind = {"id": range(24), "kind": [i % 2 * 2 - 1 for i in range(24)]}
    log = Log.of(rows, n_users=30, n_items=24).with_items(kind)
    model = Recommender(TwoTower(dim=4, hidden=(), items=["kind"], l2=0.0), BPR(), Clicks())
    fit(log, model, max_epochs=30, batch_size=64, **QUIET)
    user = torch.arange(30)
    with torch.no_grad():
        new = model.scorer.all(user)[:, 18:]  # (30, 6)
        wanted = (user[:, None] + torch.arange(18, 24)) % 2 == 1
        worst = torch.where(wanted, new, torch.inf).amin(1)
        assert bool((worst > torch.where(wanted, -torch.inf, new).amax(1)).all())
        model.scorer.item.row[18:].fill_(100.0)  # what never was clicked has no row of its own
        assert torch.equal(model.scorer.all(user)[:, 18:], new)


def test_a_loaded_one_scores_as_before_and_the_weights_hold_no_columns(
    known: Log, tmp_path: Path
) -> None:
    named = Log.of(
        known.decode().with_columns(pl.format("u{}", "user").alias("user")), n_items=5
    ).with_items(known.items)
    named = named.with_users({"id": ["u0", "u1", "u2"], "age": [1.0, 2.0, -1.0]})
    scorer = TwoTower(dim=3, hidden=(4,), users=["age"], items=["text", "year"])
    model = fit(named, Recommender(scorer, BPR(), Clicks()), max_epochs=2, **QUIET)
    assert not [name for name in model.state_dict() if "features" in name]
    recfb.save(model, tmp_path / "model")
    again = recfb.load(tmp_path / "model")
    assert repr(again) == repr(model)
    context = Context(torch.arange(3))
    assert torch.equal(again.scores(context), model.scores(context))
    assert again.recommend(["u1", "x"], 2).equals(model.recommend(["u1", "x"], 2))


def test_a_log_that_grew_keeps_what_was_learned(known: Log) -> None:
    model = bound(TwoTower(dim=2, hidden=(3,), users=["age"], items=["year"]), known)
    before = model.all(torch.arange(3))
    rows = known.frame.select("user", "item", "reward")
    grown = Log.of(rows, n_users=4, n_items=6)
    grown = grown.with_users({"id": range(4), "age": [1.0, 2.0, -1.0, 5.0]})
    grown = grown.with_items({"id": range(6), "year": [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]})
    after = model.bind(grown).all(torch.arange(3))
    assert after.shape == (3, 6)
    assert torch.allclose(after[:, :5], before)


def test_it_completes_the_checkerboard_by_ids(checkerboard: Log) -> None:
    model = Recommender(TwoTower(dim=4, l2=0.0), BPR(), Clicks(negatives=2))
    fit(checkerboard, model, max_epochs=20, batch_size=64, **QUIET)
    with torch.no_grad():
        scores = model.scorer.all(torch.arange(24))
    same = (torch.arange(24)[:, None] % 2) == (torch.arange(24) % 2)
    best = torch.where(same, scores, torch.inf).amin(1)
    assert bool((best > torch.where(same, -torch.inf, scores).amax(1)).all())


@pytest.mark.parametrize("ids", ["users", "none"])
def test_items_that_nothing_tells_apart_are_refused(ids: str) -> None:
    with pytest.raises(ConfigError, match=r"nothing that tells items apart.*items="):
        TwoTower(users=["age"], ids=ids)


def test_columns_are_checked_as_it_is_bound(known: Log) -> None:
    with pytest.raises(ConfigError, match=r"log.items has no column 'age'; it has \['text', 'yea"):
        TwoTower(items=["age"]).bind(known)
    with pytest.raises(ConfigError, match=r"log.users has no column 'year'"):
        TwoTower(users=["year"]).bind(known)
    unknown = known.with_users({"id": [0, 1], "size": [1.0, None]})
    with pytest.raises(ConfigError, match=r"'size' of log.users .* 2 of 3 users \(first: 1\)"):
        TwoTower(users=["size"]).bind(unknown)


def test_it_needs_a_log_first() -> None:
    with pytest.raises(UnboundError):
        TwoTower().all(torch.tensor([0]))
