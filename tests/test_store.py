from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

import recfb
from recfb import (
    ConfigError,
    Log,
    PrepareError,
    UnboundError,
    exposures,
    objectives,
    samplers,
    scorers,
    solvers,
)
from recfb.contracts import Fitted
from recfb.data.product import write_sums


def models() -> dict[str, Fitted]:
    relmf = objectives.RelMF(exposures.Popularity(power=0.5))
    return {
        "bpr": recfb.Recommender(scorers.MF(dim=4), objectives.BPR(), samplers.Clicks()),
        "rel-mf": recfb.Recommender(scorers.MF(dim=4), relmf, samplers.AllPairs()),
        "als": solvers.ALS(dim=3, sweeps=2),
        "popularity": solvers.Popularity(),
        "closed": solvers.RelMF(exposures.Popularity(power=0.5), dim=3),
    }


def fitted(model: Fitted, log: Log) -> Fitted:
    if isinstance(model, recfb.Recommender):
        return recfb.fit(log, model, max_epochs=1, enable_progress_bar=False)
    return recfb.fit(log, model)


@pytest.fixture
def named(checkerboard: Log) -> Log:
    names = checkerboard.decode()
    return Log.of(names.with_columns(user="u" + names["user"].cast(str)), n_items=24)


@pytest.mark.parametrize("name", sorted(models()))
def test_a_loaded_model_is_the_saved_one(name: str, named: Log, tmp_path: Path) -> None:
    model = fitted(models()[name], named)
    recfb.save(model, tmp_path / "model")
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert names == {"model.safetensors", "config.yaml", "vocabulary.parquet", "SHA256SUMS"}
    again = recfb.load(tmp_path / "model")
    assert type(again) is type(model)
    assert repr(again) == repr(model)
    user = torch.arange(24)
    context = recfb.contracts.Context(user)
    assert torch.equal(again.scores(context), model.scores(context))
    before, after = (m.recommend(["u1", "u2", "nobody"], 3) for m in (model, again))
    assert after.equals(before)


def test_what_is_not_fitted_or_no_model_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(UnboundError, match="not fitted"):
        recfb.save(solvers.ALS(), tmp_path / "model")
    with pytest.raises(ConfigError, match="takes a Recommender or a Solver, found MF"):
        recfb.save(scorers.MF(), tmp_path / "model")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def folder(named: Log, tmp_path: Path) -> Path:
    return recfb.save(fitted(solvers.ALS(dim=3, sweeps=1), named), tmp_path / "model")


@pytest.mark.parametrize("name", ["model.safetensors", "config.yaml", "vocabulary.parquet"])
def test_a_flipped_bit_is_refused(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 4
    (folder / name).write_bytes(bytes(data))
    with pytest.raises(PrepareError, match=f"{name} is damaged"):
        recfb.load(folder)


def rewrite(folder: Path, **changes: object) -> None:
    """A page that was changed together with its checksum: what a stranger could send."""
    page = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump({**page, **changes}))
    (folder / "SHA256SUMS").unlink()
    write_sums(folder)


def test_a_hostile_configuration_is_not_run(folder: Path) -> None:
    rewrite(folder, model={"class_path": "subprocess.Popen", "init_args": {"args": "touch x"}})
    with pytest.raises(ConfigError, match="outside what a configuration may name"):
        recfb.load(folder)


def test_another_format_another_vocabulary_and_other_weights_are_refused(folder: Path) -> None:
    page = yaml.safe_load((folder / "config.yaml").read_text())
    rewrite(folder, format=99)
    with pytest.raises(PrepareError, match="has format 99"):
        recfb.load(folder)
    rewrite(folder, format=1, vocabulary={**page["vocabulary"], "sha256": "0" * 64})
    with pytest.raises(PrepareError, match="another vocabulary"):
        recfb.load(folder)
    page["model"]["init_args"]["dim"] = 5
    rewrite(folder, vocabulary=page["vocabulary"], model=page["model"])
    with pytest.raises(PrepareError, match="weights do not fit"):
        recfb.load(folder)


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PrepareError, match="is not a folder"):
        recfb.load(tmp_path / "nothing")
    with pytest.raises(PrepareError, match="no readable SHA256SUMS"):
        recfb.load(tmp_path)
