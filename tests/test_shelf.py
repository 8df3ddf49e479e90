from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recfb import ConfigError, Log, PrepareError, dataset, simulator
from recfb.shelf import page_of, pages, prepare

MINE = """
summary: mine
source: me
licence: MIT
files: {log: {path: clicks.csv}}
"""


def test_movietweetings_counts_and_titles() -> None:
    data = dataset("movietweetings")
    assert (len(data.log), data.log.n_users, data.log.n_items) == (100_000, 16_554, 10_506)
    assert data.log.items.filter(id="0002844")["title"].item().startswith("Fant")
    assert len(data.train) == 80_000
    assert len(data.test) == 20_000


def test_autodebias_is_binarised_and_uniform_in_test() -> None:
    data = dataset("autodebias_simulation")
    assert (len(data.train), len(data.test)) == (12_500, 75_000)
    assert set(data.test.frame["reward"].unique()) == {0.0, 1.0}
    assert data.train.vocabulary.digest == data.test.vocabulary.digest
    assert data.train.meta.task == "clicks"
    per_item = data.test.shown.per_item.float()
    assert float(per_item.std() / per_item.mean()) < 0.2


@pytest.mark.parametrize("behaviour", ["random", "bts"])
@pytest.mark.parametrize(("campaign", "items"), [("all", 80), ("men", 34), ("women", 46)])
def test_open_bandit_is_read_from_the_installed_package(
    campaign: str, items: int, behaviour: str
) -> None:
    data = dataset(f"open_bandit/{campaign}/{behaviour}")
    assert (len(data.log), data.log.n_items) == (10_000, items)
    assert sorted(data.log.frame["position"].unique()) == [1, 2, 3]
    assert data.log.meta.propensity == ("exact" if behaviour == "random" else "simulated")
    assert set(data.policies) == {"uniform", "bts@start"}


def test_the_working_folder_comes_first_then_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place, rows in (("here", "a,1,1\n"), ("there", "a,1,1\nb,1,0\n")):
        folder = tmp_path / place / "datasets" / "mine"
        folder.mkdir(parents=True)
        (folder / "recipe.yaml").write_text(MINE)
        (folder / "clicks.csv").write_text("user,item,reward\n" + rows)
    monkeypatch.setenv("RECFB_PATH", str(tmp_path / "there"))
    monkeypatch.chdir(tmp_path)
    assert len(dataset("mine").log) == 2
    monkeypatch.chdir(tmp_path / "here")
    assert len(dataset("mine").log) == 1
    assert "movietweetings" in pages("datasets")


def test_an_installed_package_can_bring_a_shelf(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "datasets" / "theirs"
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(MINE)
    (folder / "clicks.csv").write_text("user,item,reward\na,1,1\n")

    class Point:
        def load(self) -> Path:
            return tmp_path

    monkeypatch.setattr("recfb.shelf.entry_points", lambda group: [Point()])
    assert len(dataset("theirs").log) == 1


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("movietweeting", "Did you mean 'movietweetings'"),
        ("../movietweetings", "no name of a shelf"),
        ("open_bandit", "choose a variant of open_bandit"),
        ("open_bandit/all/rnd", "Did you mean 'all/random'"),
    ],
)
def test_an_unknown_name_is_refused(name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        dataset(name)


def test_coat_is_prepared_from_the_users_own_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECFB_HOME", str(tmp_path / "home"))
    with pytest.raises(PrepareError, match="recfb prepare coat --from FOLDER"):
        _ = dataset("coat").log
    rng = np.random.default_rng(0)
    own = tmp_path / "coat"
    own.mkdir()
    for name, count in (("train", 6960), ("test", 4640)):
        ratings = np.zeros(290 * 300, int)
        ratings[rng.choice(290 * 300, count, replace=False)] = rng.integers(1, 6, count)
        np.savetxt(own / f"{name}.ascii", ratings.reshape(290, 300), fmt="%d")
    prepare("coat", own)
    data = dataset("coat")
    assert (len(data.train), len(data.test), data.train.n_items) == (6960, 4640, 300)
    assert isinstance(data.log, Log)


def test_another_copy_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECFB_HOME", str(tmp_path / "home"))
    for name in ("train", "test"):
        np.savetxt(tmp_path / f"{name}.ascii", np.eye(290, 300), fmt="%d")
    with pytest.raises(PrepareError, match="the recipe counts"):
        prepare("coat", tmp_path)
    assert not (tmp_path / "home" / "coat").exists()


def test_simulators_are_found_and_built() -> None:
    assert {"popularity_loop", "two_arms"} <= set(pages("simulators"))
    for name in pages("simulators"):
        made = simulator(name)
        assert made.summary, name
        assert made.source, name
        assert made.expect, f"{name} claims nothing"
    with pytest.raises(ConfigError, match="Did you mean 'two_arms'"):
        page_of("simulators", "two_arm")
