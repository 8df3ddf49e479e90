"""Fitted models as folders: weights, configuration, vocabulary, checksums. Loading runs no code.

A model's folder holds `model.safetensors` (weights and statistics), `config.yaml` (class paths and
hyperparameters, rebuilt under the allowlist), `vocabulary.parquet` (ids and what each user has
clicked) and `SHA256SUMS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from recfb.config import build
from recfb.contracts import Fitted, describe
from recfb.data.files import collect, open_columns
from recfb.data.history import History
from recfb.data.log import Log
from recfb.data.pairs import Pairs
from recfb.data.plain import read_yaml
from recfb.data.product import atomic_folder, verify
from recfb.data.recipe import mapping
from recfb.data.vocabulary import Vocabulary
from recfb.errors import ConfigError, PrepareError, UnboundError

FORMAT = 1


def save(model: Fitted, folder: str | Path) -> Path:
    """Write a fitted model as a folder; whole or not at all.

    Raises:
        UnboundError: the model was not fitted.
        PrepareError: the folder exists or cannot be written.
    """
    with atomic_folder(folder) as part:
        write(model, part)
    return Path(folder)


def write(model: Fitted, folder: Path) -> None:
    """The files of a model, without the checksums: for folders that hold more than a model."""
    if not isinstance(model, Fitted):
        kind = type(model).__name__
        raise ConfigError(f"save(model, folder) takes a Recommender or a Solver, found {kind}.")
    if not hasattr(model, "history"):
        kind = type(model).__name__
        raise UnboundError(f"this {kind} is not fitted, so there is nothing to save. Fit it first.")
    history = model.history
    weights: dict[str, Tensor] = {
        name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()
    }
    save_file(weights, folder / "model.safetensors")
    page = {
        "format": FORMAT,
        "model": describe(model),
        "vocabulary": {
            "users": history.vocabulary.users.height,
            "items": history.vocabulary.items.height,
            "sha256": history.vocabulary.digest,
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(page, sort_keys=False))
    seen = history.seen
    pl.DataFrame(
        {
            "users": [history.vocabulary.users.to_struct()],
            "items": [history.vocabulary.items.to_struct()],
            "seen_user": [pl.Series(seen.user.cpu().numpy(), dtype=pl.Int32)],
            "seen_item": [pl.Series(seen.item.cpu().numpy(), dtype=pl.Int32)],
        }
    ).write_parquet(folder / "vocabulary.parquet")


def load(folder: str | Path, *, modules: Sequence[str] = ()) -> Fitted:
    """A fitted model from its folder, after its checksums.

    Args:
        folder: what `save` wrote, or a run with a `model` folder in it.
        modules: modules of your own whose classes the configuration may name.

    Raises:
        PrepareError: a file is missing, damaged or of another version.
        ConfigError: the configuration names a class outside the allowlist.
    """
    folder = Path(folder)
    folder = folder / "model" if (folder / "model").is_dir() else folder
    verify(folder)
    page = read_yaml(folder / "config.yaml")
    found = page.get("format") if isinstance(page, dict) else None
    if found != FORMAT:
        raise PrepareError(
            f"{folder} has format {found!r}; this version of recfb reads format {FORMAT}. "
            f"Fit and save the model again."
        )
    history = _history(folder, mapping(page.get("vocabulary"), "vocabulary", folder))
    model: Fitted = build(Fitted, page.get("model"), modules)
    _fill(model, history, folder)
    model.history, model.vocabulary = history, history.vocabulary
    return model.eval()


def _history(folder: Path, stated: dict[str, Any]) -> History:
    file = folder / "vocabulary.parquet"
    table = collect(open_columns(file), file)
    try:
        users, items = (table[side][0].struct.unnest() for side in ("users", "items"))
        pairs = [table[side][0].cast(pl.Int64).to_torch() for side in ("seen_user", "seen_item")]
        vocabulary = Vocabulary(users, items)
        digest = vocabulary.digest
    except (pl.exceptions.PolarsError, AttributeError, IndexError) as error:
        raise PrepareError(f"{file} is no vocabulary of a model: {error}.") from None
    if digest != stated.get("sha256"):
        raise PrepareError(
            f"{folder}: the weights were fitted to another vocabulary. Save it again."
        )
    for ids, known in zip(pairs, (users, items), strict=True):
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < known.height:
            raise PrepareError(f"{file}: clicks of users or items that are not in it. Save again.")
    user, item = pairs
    return History(vocabulary, Pairs(user, item, n_users=users.height, n_items=items.height))


def _fill(model: Fitted, history: History, folder: Path) -> None:
    try:
        model.bind(Log.empty(0, 0, vocabulary=history.vocabulary))
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except (SafetensorError, RuntimeError, OSError) as error:
        first = " ".join(str(error).split())[:300]
        raise PrepareError(f"{folder}: the weights do not fit the configuration: {first}") from None
