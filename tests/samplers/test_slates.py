"""Clicks with what was shown beside them."""

from __future__ import annotations

import polars as pl
import pytest
import torch
from scipy.stats import chisquare

from recfb import Log, Recommender, fit
from recfb.contracts import Batch, Step
from recfb.errors import ConfigError, LogError
from recfb.exposures import Popularity
from recfb.objectives import BCE, BPR, RelMF
from recfb.random import stream
from recfb.samplers import Slates
from recfb.scorers import MF
from recfb.testing import check, example_log


@pytest.mark.parametrize("negatives", [1, 3])
def test_keeps_the_contract(negatives: int) -> None:
    check(Slates(negatives=negatives), example_log())


def shown() -> Log:
    """Rows of four slates, interleaved. Slate 7 has the item 2 twice, clicked at position 1 only;
    slate 9 a reward that was never revealed; slate 3 only clicks; slate 5 no click."""
    rows = {
        "user": [0, 1, 0, 0, 1, 0, 2, 1, 2, 0],
        "slate": [7, 9, 7, 7, 9, 7, 3, 9, 5, 7],
        "item": [2, 0, 4, 2, 1, 3, 0, 2, 1, 0],
        "reward": [1, 0, 0, 0, 1, 0.5, 1, None, 0, 0],
        "position": [1, 1, 2, 3, 2, 4, 1, 3, 1, 5],
        "propensity": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0],
        "time": range(10),
        "features": [[float(k), -float(k)] for k in range(10)],
    }
    return Log.of(rows)


def drawn(sampler: Slates, rows: torch.Tensor, seed: int = 0) -> Batch:
    return sampler(rows, None, Step(generator=stream(seed, "step")))


def test_columns_are_those_of_the_rows_drawn() -> None:
    sampler = Slates(negatives=2).bind(shown())
    assert len(sampler) == 3  # rows 0, 4 and 5; the click of slate 3 has nothing beside it
    batch = drawn(sampler, torch.arange(3).repeat(50))
    row = batch.time  # the row of the log, by which all else can be looked up: (150, 3)
    assert row[:3, 0].tolist() == [0, 4, 5]
    log = shown()
    for name in ("item", "reward", "propensity", "position", "features"):
        value, column = getattr(batch, name), log.tensor(name)
        assert value.shape == (150, 3, *column.shape[1:])
        assert torch.equal(value, column[row])
    assert torch.equal(batch.user, log.tensor("user")[row[:, 0]])
    assert torch.equal(log.tensor("slate")[row], log.tensor("slate")[row[:, :1]].expand(-1, 3))
    assert batch.reward[:3].tolist() == [[1.0, 0, 0], [1.0, 0, 0], [0.5, 0, 0]]
    assert set(row[row[:, 0] == 0][:, 1:].flatten().tolist()) == {2, 3, 9}
    assert set(row[row[:, 0] == 4][:, 1:].flatten().tolist()) == {1}  # drawn twice, never row 7


def test_an_item_shown_twice_is_two_rows() -> None:
    batch = drawn(Slates().bind(shown()), torch.zeros(200, dtype=torch.int64))
    same = batch.item[:, 1] == 2  # as the click, whose own row is never its negative
    assert bool(same.any())
    assert batch.position[same].unique(dim=0).tolist() == [[1, 3]]
    assert bool((batch.time[:, 0] != batch.time[:, 1]).all())


@pytest.mark.parametrize("negatives", [1, 2, 3, 5])
def test_negatives_are_uniform_over_the_unclicked_rows_of_the_slate(negatives: int) -> None:
    sampler = Slates(negatives=negatives).bind(shown())
    n = 30_000
    other = drawn(sampler, torch.zeros(n, dtype=torch.int64)).time[:, 1:]  # (n, S)
    count = torch.bincount(other.flatten(), minlength=10)[[2, 3, 9]]
    assert int(count.sum()) == n * negatives
    if negatives == 3:  # all there are
        assert count.tolist() == [n] * 3
        return
    if negatives < 3:  # a set: no row twice
        assert bool((other.sort(1).values.diff(dim=1) > 0).all())
    # draws of one row are dependent, so the test is of sets: one of three left out, or one taken
    sets = n if negatives < 3 else n * negatives
    taken = n - count if negatives == 2 else count
    assert chisquare(taken.numpy(), [sets / 3] * 3).pvalue > 0.001


def test_columns_that_the_log_lacks_are_absent() -> None:
    log = Log.of({"item": [4, 5], "reward": [0, 1], "slate": [1, 1]})
    batch = drawn(Slates().bind(log), torch.tensor([0]))
    assert (batch.user.tolist(), batch.item.tolist(), batch.reward.tolist()) == (
        [0],
        [[1, 0]],
        [[1.0, 0.0]],
    )
    assert batch.position is batch.features is batch.propensity is batch.time is None


def test_it_goes_with_pairs_and_log_loss_and_nothing_else() -> None:
    for objective in (BPR(), BCE()):
        model = Recommender(MF(dim=2), objective, Slates())
        fit(shown(), model, max_epochs=1, enable_progress_bar=False)
    with pytest.raises(ConfigError, match=r"RelMF does not go with samplers.Slates"):
        Recommender(MF(dim=2), RelMF(Popularity()), Slates())


def test_an_empty_log_binds() -> None:
    sampler = Slates().bind(Log.empty(2, 3))
    assert len(sampler) == len(sampler.rows(stream(0))) == 0


def test_a_log_without_slates_is_refused(small_log: Log) -> None:
    with pytest.raises(LogError, match="needs the column 'slate'"):
        Slates().bind(small_log)


def test_a_log_of_clicks_only_is_refused() -> None:
    log = Log.of({"item": [0, 1, 2], "reward": [1, 1, None], "slate": [0, 0, 0]})
    with pytest.raises(LogError, match=r"none of the 2 clicks .*samplers.Clicks\(\)"):
        Slates().bind(log)


def test_slates_numbered_anew_for_each_user_are_refused() -> None:
    rows = {"user": [0, 0, 1, 1, 1], "item": [0, 1, 0, 1, 2], "reward": [1, 0, 1, 0, 0]}
    frame = pl.DataFrame({**rows, "slate": [1, 1, 1, 1, 2]})
    with pytest.raises(LogError, match=r"1 slates \(first: 1\) hold rows of several users.*pl.for"):
        Slates().bind(Log.of(frame))
    assert len(Slates().bind(Log.of(frame, slate=pl.format("{}-{}", "user", "slate")))) == 2
