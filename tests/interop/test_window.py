"""Whether the requests of a window are those of a log."""

from __future__ import annotations

import polars as pl
import pytest
import torch
from sklearn.metrics import roc_auc_score

from recfb import ConfigError, Log, OverlapWarning
from recfb.interop.window import area, compare
from recfb.random import stream


def requests(shift: float, n: int = 1500, seed: int = 0, positions: bool = True) -> Log:
    """Rows whose first feature is shifted."""
    g = stream(seed, "requests")
    x = torch.randn(n, 3, generator=g) + torch.tensor([shift, 0.0, 0.0])
    rows: dict[str, object] = {"item": torch.zeros(n).long(), "reward": torch.ones(n)}
    rows |= {"unit": torch.arange(n) + 10**6 * seed}
    if positions:
        rows["position"] = 1 + torch.arange(n) % 3
    frame = pl.DataFrame({name: column.numpy() for name, column in rows.items()})
    return Log.of(frame.with_columns(features=pl.Series(x.numpy(), dtype=pl.Array(pl.Float32, 3))))


def test_o_g11_area_is_scikit_learns() -> None:
    g = stream(0)
    score = torch.rand(500, generator=g).double().round(decimals=1)  # with ties
    label = (torch.rand(500, generator=g) < 0.3).long()
    assert area(score, label) == pytest.approx(roc_auc_score(label, score), abs=1e-12)


def test_o_g11_requests_like_those_of_the_log() -> None:
    found = compare(requests(0.0), requests(0.0, seed=1))
    assert found.inside and abs(found.auc - 0.5) < 0.04
    near = compare(requests(0.0), requests(1.0, seed=1))
    assert near.inside and near.auc == pytest.approx(0.76, abs=0.03)  # Phi(1 / sqrt(2))
    assert near.inputs["input"][0] == "features[0]"


def test_o_g11_a_window_outside_the_log_warns_and_names_the_input() -> None:
    with pytest.warns(OverlapWarning, match=r"most of all by features\[0\]"):
        found = compare(requests(0.0), requests(3.0, seed=1))
    assert not found.inside and found.auc > 0.95


def test_o_g11_positions_that_the_log_never_filled() -> None:
    log = requests(0.0)
    head = log.filter(pl.col("position") == 1)
    with pytest.warns(OverlapWarning, match="most of all by position"):
        compare(head, requests(0.0, seed=1).filter(pl.col("position") > 1))


def test_o_g11_units_do_not_tell_their_own_rows() -> None:
    """Units with a context of their own: a classifier that saw them would know all their rows."""
    g = stream(2)
    x = torch.randn(60, 3, generator=g)[torch.arange(1200) // 20]
    rows = {"item": [0] * 1200, "reward": [1.0] * 1200, "unit": list(range(60)) * 20}
    log = Log.of(
        pl.DataFrame(rows).with_columns(
            unit=pl.int_range(1200) // 20,
            features=pl.Series(x.numpy(), dtype=pl.Array(pl.Float32, 3)),
        )
    )
    first = compare(log.filter(pl.col("unit") < 30), log.filter(pl.col("unit") >= 30))
    assert first.auc < 0.7


@pytest.mark.parametrize("folds, rows", [(1, 10), (3, 0)])
def test_too_few_folds_or_rows(folds: int, rows: int) -> None:
    log = requests(0.0, n=30)
    with pytest.raises(ConfigError, match=r"2 folds and rows on both sides, found folds="):
        compare(log, log.filter(pl.int_range(pl.len()) < rows), folds=folds)
