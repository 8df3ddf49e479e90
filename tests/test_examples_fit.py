"""Every configuration in examples/fit is read, fits a small log by its command, and covers a
method."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import yaml

from recfb import objectives, scorers, solvers
from recfb.cli import main
from recfb.random import stream
from recfb.scorers.history import HistoryScorer
from recfb.store import load

FOLDER = Path(__file__).parents[1] / "examples" / "fit"
PAGES = sorted(FOLDER.glob("*.yaml"))


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 users, slates of five out of 25 items, some clicked, with every column a method may
    read."""
    generator = stream(0)
    user = torch.arange(40).repeat_interleave(10)
    item = torch.stack([torch.randperm(25, generator=generator)[:10] for _ in range(40)])
    rows = {
        "user": user,
        "item": item.reshape(-1),
        "reward": (torch.rand(400, generator=generator) < 0.4).float(),
        "position": torch.arange(5).repeat(80) + 1,
        "slate": torch.arange(80).repeat_interleave(5),
        "time": torch.arange(400),
    }
    path = tmp_path_factory.mktemp("log") / "log.parquet"
    pl.DataFrame({name: value.numpy() for name, value in rows.items()}).write_parquet(path)
    return path


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_a_configuration_fits(
    page: Path, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    columns = ("user", "item", "reward", "position", "slate", "time")
    command = ["fit", str(log), *(word for name in columns for word in (f"--{name}", name))]
    command += ["--config", str(page), "--name", "it"]
    gradient = yaml.safe_load(page.read_text())["model"]["class_path"] == "Recommender"
    assert main([*command, *(["--max_epochs", "1"] if gradient else [])]) == 0
    model = load(tmp_path / "runs" / "it" / "model")
    assert model.recommend([0, 1], 3).height == 6
    assert f"--config examples/fit/{page.name} --name {page.stem}" in page.read_text()


def words(page: Any) -> set[str]:
    """All values of a page, class paths by their last word."""
    if isinstance(page, dict):
        return set().union(*map(words, page.values()))
    return {str(page).rpartition(".")[2]}


# A fitted file is asked for recommendations to users. These rank requests that bring a history, or
# compare the two texts of an item, which no click log has: see simulators/source_echo.yaml.
OF_TEXTS = (HistoryScorer, objectives.SourceConsistency, objectives.SourceHinge)


def test_every_method_has_a_configuration() -> None:
    named = set().union(*(words(yaml.safe_load(page.read_text())) for page in PAGES))
    rooms = (objectives, scorers, solvers)
    classes = [vars(room)[name] for room in rooms for name in room.__all__]
    classes = [cls for cls in classes if inspect.isclass(cls) and not issubclass(cls, OF_TEXTS)]
    there = {cls.__name__ for cls in classes}
    assert there - named == {"Popularity", "Random"} - named  # nothing to configure
