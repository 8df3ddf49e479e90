"""Where texts come from: drawn, or a user's own table with what can be wrong with it."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import torch

from recfb import Log, fit
from recfb.errors import ConfigError, LogError, PrepareError
from recfb.objectives import BPR
from recfb.optim import Adam
from recfb.random import stream
from recfb.recommender import Recommender
from recfb.samplers.visits import Visits
from recfb.scorers.history_mean import HistoryMean
from recfb.solvers.direct import Direct
from recfb.worlds.copies import Copies
from recfb.worlds.sources import Sources
from recfb.worlds.texts import DrawnTexts, GivenTexts, Texts, read_texts, table_of
from recfb.worlds.twins import check_twin


def pairs() -> pl.DataFrame:
    x = [[1.0, 0.0], [1.0, 0.5], [0.0, 1.0], [0.0, 2.0]]
    return pl.DataFrame({"item_id": ["b", "b", "a", "a"], "src": [0, 1, 1, 0], "x": x})


def test_drawn_contents_are_unit_and_styles_spread() -> None:
    texts = DrawnTexts(4000, 8, spread=0.5).draw(stream(0))
    z = texts.human @ texts.artefact
    assert torch.allclose((texts.human - z[:, None] * texts.artefact).norm(dim=1), torch.ones(1))
    assert float(z.std()) == pytest.approx(0.5, abs=0.02)
    assert texts.artefact.tolist() == [1.0] + [0.0] * 7
    turned = DrawnTexts(10, 8, rotate=True).draw(stream(0)).artefact
    assert float(turned.norm()) == pytest.approx(1.0) and abs(float(turned[0])) < 1
    noisy = DrawnTexts(4000, 8, copies=Copies(1.0, 0.0), jitter=0.3).draw(stream(0))
    rough = (noisy.copy - noisy.human).norm(dim=1).square().mean()
    assert float(rough) == pytest.approx(2 * 0.3**2, rel=0.05)


@pytest.mark.parametrize("wrong", [{"n": 0}, {"dim": 2}, {"spread": -1.0}, {"jitter": -1.0}])
def test_drawn_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="texts have"):
        DrawnTexts(**wrong)  # type: ignore[arg-type]


def test_a_table_of_pairs_is_read_in_the_order_of_items() -> None:
    texts = read_texts(pairs())
    assert texts.human.tolist() == [[0.0, 2.0], [1.0, 0.0]]
    assert texts.copy.tolist() == [[0.0, 1.0], [1.0, 0.5]]
    assert texts.approx_rewrite and torch.equal(texts.again, texts.copy)


def test_depth_two_rewrites_are_used() -> None:
    texts = DrawnTexts(30, 6).draw(stream(0))
    again = read_texts(table_of(texts))
    for name in ("human", "copy", "again"):
        assert torch.equal(getattr(again, name), getattr(texts, name))
    assert not again.approx_rewrite


def test_a_missing_rewrite_is_guessed_and_said_so(tmp_path: Path) -> None:
    texts = DrawnTexts(400, 6, copies=Copies(0.9, 0.5, 0.5)).draw(stream(0))
    table_of(texts).filter(pl.col("gen") < 2).write_parquet(tmp_path / "texts.parquet")
    given = GivenTexts(tmp_path / "texts.parquet")
    drawn = given.draw(stream(1))
    assert given.n == 400 and drawn.approx_rewrite
    shift = (drawn.again - drawn.copy) @ drawn.artefact
    true = (texts.again - texts.copy) @ texts.artefact
    assert float(shift.mean()) == pytest.approx(float(true.mean()), abs=0.05)


WRONG = {
    "Rename yours": lambda f: f.drop("src"),
    "src 1 and depth 1": lambda f: f.with_row_index().filter(pl.col("index") != 2).drop("index"),
    "first wrong item 'b'": lambda f: f.vstack(f[:1]),
    "src 0 and depth 0": lambda f: f.filter(pl.col("src") == 1),
    "one length": lambda f: f.with_columns(
        x=pl.when(pl.col("src") == 1).then(pl.lit([1.0])).otherwise("x")
    ),
    "1 nulls": lambda f: f.with_columns(x=pl.when(pl.int_range(pl.len()) > 0).then("x")),
    "NaN or infinity": lambda f: f.with_columns(
        x=pl.when(pl.int_range(pl.len()) == 3).then(pl.lit([float("nan"), 1.0])).otherwise("x")
    ),
    "nothing to tell apart": lambda f: f.with_columns(x=pl.lit([1.0, 2.0])),
}


@pytest.mark.parametrize("match", WRONG)
def test_a_table_that_is_not_pairs(match: str) -> None:
    with pytest.raises(LogError, match=match):
        read_texts(WRONG[match](pairs()))


def test_a_table_that_is_not_there() -> None:
    with pytest.raises(PrepareError, match="no table of texts"):
        GivenTexts("nowhere.parquet")


def model() -> Direct:
    recommender = Recommender(
        HistoryMean(), BPR(), Visits(among="others", human=True), optimizer=Adam(0.02)
    )
    return Direct(recommender, epochs=3)


def test_1_9_a_twin_that_fits_and_one_that_does_not() -> None:
    texts = DrawnTexts(300, 16, copies=Copies(0.95, 0.6, 0.5)).draw(stream(0))
    users = set()

    def watched(log: Log, module: Direct) -> Direct:
        users.update(log.frame["user"])
        return fit(log, module)

    report = check_twin(texts, model(), watched)
    assert users == set(range(0, 1000, 2))  # the others are the test
    assert report.fits and "the one-direction model fits" in str(report)
    assert report.real > 0.6 and not report.approx_rewrite
    # copies that say less: the model keeps the length of contents
    z = (texts.human @ texts.artefact)[:, None] * texts.artefact
    copy = 0.6 * (texts.human - z) + z + 0.1 * texts.artefact
    report = check_twin(Texts(texts.human, copy, copy, texts.artefact, True), model(), fit)
    assert not report.fits and report.real < report.twin - 0.05
    assert "does not fit; copies of copies are guessed" in str(report)


def test_given_texts_make_a_world() -> None:
    texts = DrawnTexts(40, 6).draw(stream(0))
    world = Sources(GivenTexts(table_of(texts)), n_users=3)
    state = world.start(stream(1))
    assert torch.equal(state.texts.human, texts.human)
    assert world.opening(state, 1, 1).items["x"].to_torch().shape == (80, 6)
