"""Clicks with histories, beside what was shown."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from recfb import Log
from recfb.contracts import Batch, Step
from recfb.errors import ConfigError, LogError
from recfb.random import stream
from recfb.samplers.visits import Visits

# items 0..3 human, 4..7 their copies
CATALOGUE = {
    "id": list(range(8)),
    "source": [0] * 4 + [1] * 4,
    "original": [0, 1, 2, 3] * 2,
    "twin": [4, 5, 6, 7, 0, 1, 2, 3],
}


def log(slates: int = 400) -> Log:
    """Slates of both texts of items 0, 1, 2; the click is on the copy of 0, in one of four on the
    human text."""
    shown = [0, 4, 1, 5, 2, 6]
    rows: dict[str, list[Any]] = {k: [] for k in ("user", "item", "reward", "slate", "history")}
    for s in range(slates):
        click = 0 if s % 4 == 0 else 4
        for item in shown:
            values = (s % 7, item, float(item == click), s, [5, 3, -1])
            for k, v in zip(rows, values, strict=True):
                rows[k].append(v)
    return Log.of(rows, n_items=8).with_items(CATALOGUE)


def batch(sampler: Visits) -> Batch:
    step = Step(generator=stream(0))
    found: Batch = sampler(torch.arange(len(sampler)), None, step)  # type: ignore[arg-type]
    return found


def share(items: torch.Tensor, item: int) -> float:
    return float((items == item).float().mean())


def test_histories_come_along() -> None:
    found = batch(Visits().bind(log()))
    assert found.history is not None and found.history.tolist() == [[5, 3, -1]] * 400
    human = batch(Visits(human=True).bind(log())).history
    assert human is not None and human.tolist() == [[1, 3, -1]] * 400


def test_shown_negatives_include_the_losing_text() -> None:
    found = batch(Visits(negatives=2).bind(log()))
    other = found.item[:, 1:]
    assert share(other, 0) + share(other, 4) == pytest.approx(1 / 5, abs=0.03)
    assert bool((found.item[:, :1] != other).all())


def test_other_negatives_do_not() -> None:
    other = batch(Visits(among="others").bind(log())).item[:, 1]
    assert share(other, 0) + share(other, 4) == 0
    assert all(share(other, i) == pytest.approx(1 / 4, abs=0.06) for i in (1, 2, 5, 6))


def test_balanced_negatives_are_machine_written_as_often_as_clicks() -> None:
    found = batch(Visits(among="balanced").bind(log(2000)))
    clicks = (found.item[:, 0] >= 4).float().mean()
    others = (found.item[:, 1] >= 4).float().mean()
    assert float(clicks) == 0.75 and float(others) == pytest.approx(0.75, abs=0.03)
    assert share(found.item[:, 1], 0) + share(found.item[:, 1], 4) == 0
    assert share(found.item[:, 1], 5) == pytest.approx(share(found.item[:, 1], 6), abs=0.04)


def test_a_source_that_was_not_shown_is_replaced_by_the_other() -> None:
    frame = log().frame
    humans = log().with_frame(frame.filter((frame["item"] < 4) | (frame["item"] == 4)))
    found = batch(Visits(among="balanced").bind(humans))
    assert bool((found.item[:, 1] < 4).all()) and not share(found.item[:, 1], 0)


def test_refusals() -> None:
    with pytest.raises(LogError, match="history"):
        Visits().bind(log().with_frame(log().frame.drop("history")))
    bare = Log.of({"item": [0, 1], "reward": [1, 0], "slate": [0, 0], "history": [[0], [0]]})
    with pytest.raises(ConfigError, match="original"):
        Visits(human=True).bind(bare)
    with pytest.raises(ConfigError, match="original"):
        Visits(among="others").bind(bare)
