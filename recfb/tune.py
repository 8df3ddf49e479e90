"""Choose hyperparameters with one budget for all methods."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import torch
from tqdm import tqdm

from recfb.contracts import Fitted, Solver, alter, hyperparameters
from recfb.contracts.describe import Described
from recfb.data import Log
from recfb.errors import ConfigError, RecfbError, nearest
from recfb.fit import fit
from recfb.measure import HeldOut
from recfb.random import stream

_MOST_SETTINGS = 100_000


@dataclass(frozen=True, repr=False)
class Space(Described):
    """A model and the values to try for some of its hyperparameters.

    Args:
        model: a `Recommender` or a solver; its own values are the first trial.
        grid: values by dotted path: {"scorer.l2": [0.01, 0.1], "optimizer.lr": [0.03, 0.1]}.

    >>> from recfb import solvers
    >>> space = Space(solvers.ALS(dim=8), {"l2": [1.0, 10.0], "alpha": [5.0, 40.0]})
    >>> len(space)
    4
    """

    model: Fitted
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return math.prod(len(values) for values in self.grid.values())

    def setting(self, index: int) -> dict[str, Any]:
        """The point of the grid with this number."""
        chosen = {}
        for path, values in self.grid.items():
            index, place = divmod(index, len(values))
            chosen[path] = values[place]
        return chosen

    def trials(self, budget: int, seed: int) -> Iterator[dict[str, Any]]:
        """The model as it is, then distinct points of the grid at random."""
        own = {path: read(self.model, path) for path in self.grid}
        yield own
        order = torch.randperm(len(self), generator=stream(seed, "tune")).tolist()
        points = (self.setting(k) for k in order if self.grid)
        others = (point for point in points if point != own)
        for _, point in zip(range(budget - 1), others, strict=False):
            yield point


@dataclass(frozen=True)
class Tuned:
    """Every trial, and the best model of each method."""

    table: pl.DataFrame
    """One row a trial: method, trial, metric, value, epochs, setting (JSON), error."""
    models: dict[str, Fitted]
    """Fitted without the rows that were held out. `recfb.contracts.alter(model, {})` is a new one
    with the same hyperparameters, to fit with other seeds or to all rows."""
    settings: dict[str, dict[str, Any]]
    """The chosen hyperparameters of each method by dotted path."""
    epochs: dict[str, int | None]
    """After how many epochs the chosen weights were best; None for solvers."""


def tune(
    log: Log,
    spaces: Mapping[str, Space],
    *,
    valid: Log,
    budget: int = 16,
    metric: str = "ndcg@10:snips",
    max_epochs: int = 20,
    patience: int = 5,
    batch_size: int = 8192,
    accelerator: str = "auto",
    seed: int = 0,
) -> Tuned:
    """Fit each method `budget` times with different hyperparameters and keep what ranks best.

    The first trial of a method is the model as it is given; the others are distinct points of its
    grid, drawn at random. All methods have the same number of trials (fewer only where a grid has
    fewer points), the same held-out clicks, metric, epochs and patience, so a table of their best
    models compares methods and not budgets. A trial that fails, because its loss is no longer a
    number for example, is a row with the error.

    Args:
        log: what to learn from.
        spaces: a name for each method.
        valid: held-out clicks, which choose the epoch too.
        budget: trials a method.
        metric: of users' lists; "ndcg@10:snips" weighs clicks by inverse popularity, because plain
            held-out clicks choose what is popular.
        max_epochs, patience, batch_size, accelerator: as in `fit`, the same for every trial.
        seed: of initial values and of the points drawn.

    Raises:
        ConfigError: an empty grid value, a path that names no hyperparameter, a budget below 1.
        LogError: `valid` has no click to find.
        RecfbError: all trials of a method failed.

    >>> from recfb import solvers
    >>> log = Log.of({"user": [0, 0, 1, 1, 2], "item": [0, 1, 0, 2, 0], "reward": [1] * 5})
    >>> valid = Log.of({"user": [2], "item": [1], "reward": [1]}, like=log)
    >>> tuned = tune(log, {"als": Space(solvers.ALS(dim=2), {"l2": [1.0, 9.0]})}, valid=valid,
    ...              budget=2, metric="ndcg@10")
    >>> tuned.table["trial"].to_list(), sorted(tuned.models)
    ([0, 1], ['als'])
    """
    _check(spaces, budget)
    options: dict[str, Any] = {"max_epochs": max_epochs, "patience": patience}
    options |= {"batch_size": batch_size, "accelerator": accelerator}
    rows: list[dict[str, Any]] = []
    best: dict[str, tuple[float, Fitted, dict[str, Any]]] = {}
    with tqdm(unit="fit", leave=False, disable=None) as bar:
        for name, space in spaces.items():
            bar.set_description(name)
            for trial, setting in enumerate(space.trials(budget, seed)):
                model = alter(space.model, setting)
                row = _trial(log, model, valid, metric, seed, options)
                text = json.dumps(setting, default=repr)
                rows.append({"method": name, "trial": trial, "setting": text, **row})
                value = row["value"]
                if value is not None and (name not in best or value > best[name][0]):
                    best[name] = (value, model, setting)
                bar.update()
            if name not in best:
                raise RecfbError(f"{name}: all {trial + 1} trials failed: {rows[-1]['error']}")
    epochs = {
        name: None if model.validation is None else model.validation.epoch
        for name, (_, model, _) in best.items()
    }
    models = {name: model for name, (_, model, _) in best.items()}
    return Tuned(_table(rows), models, {name: s for name, (_, _, s) in best.items()}, epochs)


def read(thing: object, path: str) -> Any:
    """The value of a hyperparameter by dotted path.

    >>> from recfb import solvers
    >>> read(solvers.ALS(dim=3), "dim")
    3
    """
    for name in path.split("."):
        own = hyperparameters(thing)
        if name not in own:
            kind = type(thing).__name__
            raise ConfigError(f"{kind} has no {name!r}; it has {list(own)}.{nearest(name, own)}")
        thing = own[name]
    return thing


def _check(spaces: Mapping[str, Space], budget: int) -> None:
    if budget < 1:
        raise ConfigError(f"budget is a number of trials, found {budget}. Try 16.")
    if not spaces:
        raise ConfigError("tune(log, spaces) takes a Space for each method: {'als': Space(...)}")
    for name, space in spaces.items():
        for path, values in space.grid.items():
            read(space.model, path)
            if isinstance(values, str) or not isinstance(values, Sequence) or not len(values):
                raise ConfigError(
                    f"{name}: {path} has no list of values to try, found {values!r}. "
                    f"Write {{{path!r}: [0.01, 0.1]}}."
                )
        if len(space) > _MOST_SETTINGS:
            raise ConfigError(
                f"{name}: the grid has {len(space):,} points; at most {_MOST_SETTINGS:,} are drawn "
                "from. Name fewer values."
            )


def _trial(
    log: Log, model: Fitted, valid: Log, metric: str, seed: int, options: dict[str, Any]
) -> dict[str, Any]:
    """Fit, and say how well: what a row of the table says of a trial."""
    row: dict[str, Any] = {"metric": metric, "value": None, "epochs": None, "error": None}
    try:
        if isinstance(model, Solver):
            fit(log, model, seed=seed)
            return row | {"value": HeldOut.of(valid, model.history, metric)(model)}
        options = {"enable_progress_bar": False, **options}
        fit(log, model, valid=valid, monitor=metric, seed=seed, **options)
    except RecfbError as error:
        if type(error) is not RecfbError:  # no failed trial: the call itself is wrong
            raise
        return row | {"error": str(error)}
    found = model.validation
    return row if found is None else row | {"value": found.value, "epochs": found.epoch}


def _table(rows: list[dict[str, Any]]) -> pl.DataFrame:
    schema = {
        "method": pl.String,
        "trial": pl.Int64,
        "metric": pl.String,
        "value": pl.Float64,
        "epochs": pl.Int64,
        "setting": pl.String,
        "error": pl.String,
    }
    return pl.DataFrame(rows, schema=schema)
