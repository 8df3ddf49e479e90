"""A learned exposure with inputs of its own."""

from __future__ import annotations

import math
from pathlib import Path

import polars as pl
import pytest
import torch

import recfb
from recfb import Log, Recommender, fit
from recfb.contracts import Batch
from recfb.errors import ConfigError, LogError
from recfb.exposures import Selection
from recfb.objectives import CET
from recfb.random import stream
from recfb.samplers import Clicks, Slates
from recfb.scorers import MF
from recfb.testing import check, example_log

QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}


@pytest.mark.parametrize("hidden", [0, 3])
def test_keeps_the_contract(hidden: int) -> None:
    check(Selection(["popularity", "position"], hidden=hidden), example_log())


def shown() -> Log:
    """Three items with 2, 0 and 1 clicks, in two slates of two users, with all a row can have."""
    rows = {
        "user": [0, 0, 0, 1, 1],
        "item": [0, 1, 2, 0, 1],
        "reward": [1.0, 0.0, 1.0, 1.0, 0.0],
        "position": [1, 2, 3, 1, 2],
        "slate": [0, 0, 0, 1, 1],
        "features": [[0.5, 1.0], [0.0, 1.0], [1.0, 0.0], [0.25, 0.0], [2.0, 2.0]],
    }
    log = Log.of(pl.DataFrame(rows).with_columns(pl.col("features").cast(pl.List(pl.Float32))))
    items = {"id": [0, 1, 2], "age": [3.0, 5.0, 7.0]}
    return log.with_items(items).with_users({"id": [0, 1], "old": [False, True]})


def test_every_input_by_hand() -> None:
    selection = Selection(["position", "popularity", "features"], items=["age"], users=["old"])
    selection.bind(shown())
    with torch.no_grad():
        selection.network.weights[0].copy_(torch.tensor([[10.0, 1.0, 100.0, 1000.0, 0.1, -4.0]]))
        selection.network.biases[0].fill_(0.5)
    batch = Batch(
        torch.tensor([0, 1]),
        torch.tensor([[0, 2], [1, 0]]),
        torch.zeros(2, 2),
        position=torch.tensor([[1, 3], [2, 1]]),
        features=torch.tensor([[[0.5, 1.0], [1.0, 0.0]], [[2.0, 2.0], [0.25, 0.0]]]),
    )
    expected = [
        [math.log(3) + 50 + 1000 + 0.3 + 0.5, 10 * math.log(3) + math.log(2) + 100 + 0.7 + 0.5],
        [
            10 * math.log(2) + 0 + 200 + 2000 + 0.5 - 4 + 0.5,
            math.log(3) + 25 + 0 + 0.3 - 4 + 0.5,
        ],
    ]
    found = selection.logit(batch)
    for row, by_hand in zip(found.tolist(), expected, strict=True):
        assert row == pytest.approx(by_hand, rel=1e-6)
    # one item a row, and features of the user's request for all candidates
    single = Batch(*(getattr(batch, name)[:, 0] if name != "user" else batch.user for name in
                     ("user", "item", "reward")), position=batch.position[:, 0],
                   features=batch.features[:, 0])  # fmt: skip
    assert torch.allclose(selection.logit(single), found[:, 0])
    shared = Batch(batch.user, batch.item, batch.reward, position=batch.position,
                   features=batch.features[:, 0])  # fmt: skip
    assert torch.allclose(selection.logit(shared)[:, 0], found[:, 0])


def test_before_training_all_are_alike_and_only_the_logit_has_a_gradient() -> None:
    selection = Selection(["position"], hidden=4).bind(shown())
    selection.reset(stream(0))
    row = torch.tensor([0, 1])
    batch = Batch(row, row, row.float(), position=torch.tensor([1, 9]))
    assert selection(batch).tolist() == [0.5, 0.5]
    assert not selection(batch).requires_grad
    selection.logit(batch).sum().backward()
    assert bool((selection.network.weights[1].grad != 0).any())
    own = {id(p) for group in selection.groups() for p in group["params"]}
    assert own == {id(p) for p in selection.parameters()} and len(own) == 4


def test_it_is_above_0_however_small_the_logit() -> None:
    selection = Selection(["position"]).bind(shown())
    with torch.no_grad():
        selection.network.biases[0].fill_(-300.0)
    row = torch.tensor([0])
    batch = Batch(row, row, row.float(), position=torch.tensor([1]))
    assert float(selection(batch)) > 0


def test_another_seed_gives_another_hidden_layer() -> None:
    made = [Selection(hidden=4).bind(shown()) for _ in range(3)]
    for seed, selection in zip((0, 0, 1), made, strict=True):
        selection.reset(stream(seed))
    first = [selection.network.weights[0] for selection in made]
    assert torch.equal(first[0], first[1]) and not torch.equal(first[0], first[2])


@pytest.mark.parametrize(
    ("arguments", "found"), [((["rank"],), r"found \['rank'\]"), (([],), "found none")]
)
def test_unknown_inputs_and_none_are_refused(arguments: tuple[list[str]], found: str) -> None:
    with pytest.raises(ConfigError, match=rf"inputs of \['popularity', .*{found}"):
        Selection(*arguments)


def test_a_log_must_have_what_is_read(small_log: Log) -> None:
    for name in ("position", "features"):
        with pytest.raises(LogError, match=f"needs the column '{name}'"):
            Selection([name]).bind(small_log)
    with pytest.raises(ConfigError, match=r"log.items has no column 'age'"):
        Selection(items=["age"]).bind(small_log)
    with pytest.raises(ConfigError, match=r"log.users has no column 'age'"):
        Selection(users=["age"]).bind(small_log)


@pytest.mark.parametrize("name", ["position", "features"])
def test_a_sampler_that_draws_no_rows_is_refused(name: str) -> None:
    model = Recommender(MF(dim=2), CET(Selection([name])), Clicks())
    with pytest.raises(ConfigError, match=rf"reads the {name} of rows.*samplers.Slates\(\)"):
        fit(example_log(), model, max_epochs=1, **QUIET)


def test_item_inputs_need_no_rows() -> None:
    model = Recommender(MF(dim=2), CET(Selection(hidden=2)), Clicks())
    fit(example_log(), model, max_epochs=2, **QUIET)
    assert bool((model.objective.selection.network.weights[1] != 0).any())


def test_a_loaded_one_reads_row_features_as_before(tmp_path: Path) -> None:
    selection = Selection(["features", "popularity"], items=["age"], hidden=3)
    model = Recommender(MF(dim=2), CET(selection), Slates())
    fit(shown(), model, max_epochs=3, **QUIET)
    recfb.save(model, tmp_path / "model")
    again = recfb.load(tmp_path / "model")
    item = torch.tensor([[0, 1], [2, 1]])
    features = torch.rand(2, 2, 2, generator=stream(0))
    batch = Batch(torch.tensor([0, 1]), item, torch.zeros(2, 2), features=features)
    before, after = (m.objective.selection.logit(batch) for m in (model, again))
    assert torch.equal(before, after) and bool((before != 0).any())
