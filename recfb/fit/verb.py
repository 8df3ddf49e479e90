"""The verb `fit`."""

from __future__ import annotations

import ctypes
import logging
import pickle
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import CheckpointIO
from pytorch_lightning.utilities.exceptions import SIGTERMException

from recfb.contracts import Fitted
from recfb.data import Log
from recfb.data.history import History
from recfb.data.product import writing
from recfb.errors import ConfigError, PrepareError
from recfb.fit.doors import check_call, check_exposures, check_rows
from recfb.fit.feed import LogModule
from recfb.fit.keep import Best, Figures, Table, Whole
from recfb.measure import HeldOut
from recfb.random import stream

M = TypeVar("M", bound=Fitted)

_MONITOR = "ndcg@10"
_LARGE = 1 << 15  # rows of a batch from which temporaries of 32 MiB are common
_EXPECTED: dict[str, type[Warning]] = {
    ".*LeafSpec.*": FutureWarning,  # Lightning 2.6 on torch 2.13
    "Using ModelCheckpoint with manual": UserWarning,  # the state after a step is what resumes
    "Checkpoint directory .* exists and is not empty": UserWarning,  # where one resumes from
}


def fit(
    log: Log,
    module: M,
    *,
    valid: Log | None = None,
    monitor: str | None = None,
    patience: int = 5,
    batch_size: int = 8192,
    seed: int = 0,
    warm: bool = False,
    ckpt_path: str | Path | None = None,
    **trainer: Any,
) -> M:
    """Fit a Recommender by gradient steps, or a solver in one go, to a log. Returns the module.

    A module is bound to the log, reset from the seed, and trained: everything with `solve` in
    closed form, a LightningModule by Lightning's Trainer. The result knows the log's vocabulary and
    what each user has clicked: `module.recommend(users, k)` answers in original ids. One seed
    gives one result, also when training was interrupted and resumed.

    Args:
        log: what to learn from.
        module: a `Recommender` or a solver; it is changed in place.
        valid: later clicks. They are ranked after every epoch, training stops when they are not
            ranked better for `patience` epochs, and the best weights are kept;
            `module.validation` says how good they are and at which epoch.
        monitor: the metric that `valid` is ranked by, the objective's own unless given: ndcg@10,
            or its inverse-popularity form "ndcg@10:snips" for debiasing objectives.
        patience: epochs.
        batch_size: rows of the sampler a step, over all devices together.
        seed: of initial values, order and draws.
        warm: go on from the weights of an earlier fit, which may have known fewer users and items.
        ckpt_path: a checkpoint of an interrupted fit to resume from.
        **trainer: options of Lightning's Trainer. max_epochs is 20 unless given. Nothing is
            written to disk unless `default_root_dir` or `logger` is given.

    Raises:
        ConfigError: options that do not go together; a checkpoint of another vocabulary or model.
        LogError: a log or `valid` without clicks; rewards that are all the same, where only shown
            rows are learned from.
        PrepareError: no readable checkpoint at `ckpt_path`.
        RecfbError: the loss is no longer a number. With `valid` the module then has the best
            weights so far, and with `default_root_dir` the last good epoch is on disk.

    >>> from recfb import objectives, samplers, scorers
    >>> from recfb.recommender import Recommender
    >>> log = Log.of({"user": ["a", "a", "b"], "item": [1, 2, 2], "reward": [1, 1, 1]})
    >>> model = Recommender(scorers.MF(dim=2), objectives.BCE(), samplers.AllPairs())
    >>> model = fit(log, model, max_epochs=2, enable_progress_bar=False)
    >>> model.recommend(["b"], k=1)["item"].item()
    1
    """
    check_call(module, trainer, valid, ckpt_path)
    again = hasattr(module, "history")
    module.bind(log)
    if not (warm and again):
        module.reset(stream(seed, "reset"))
    module.history, module.vocabulary = History.of(log), log.vocabulary
    module.validation = None
    if not isinstance(module, LightningModule):
        module.solve(log)
        return module.eval()
    data = _data(log, module, batch_size, seed)
    best = None if valid is None else _best(valid, module, monitor, patience)
    for name, value in _defaults(trainer, best).items():
        trainer[name] = value
    with _quiet(), _roomy(batch_size):
        machine = Trainer(**trainer)
        try:
            _run(machine, module.train(), data, ckpt_path)
        finally:  # also where the loss was no number: what was good is kept
            if best is not None and best.weights:
                module.load_state_dict(best.weights)
                module.validation = best.validation
    return module.eval()


def _data(log: Log, module: LightningModule, batch_size: int, seed: int) -> LogModule:
    if batch_size < 1:
        raise ConfigError(f"batch_size is a number of rows, found {batch_size}. Try 8192.")
    check_rows(log, module.sampler)  # type: ignore[arg-type]
    check_exposures(module)
    module.seed = seed  # type: ignore[assignment]
    sampler: Any = module.sampler
    return LogModule(sampler, batch_size=batch_size, seed=seed, log=log)


def _best(valid: Log, module: Fitted, monitor: str | None, patience: int) -> Best:
    own: str = getattr(getattr(module, "objective", None), "monitor", _MONITOR)
    return Best(HeldOut.of(valid, module.history, monitor or own), patience=patience)


def _defaults(trainer: dict[str, Any], best: Best | None) -> dict[str, Any]:
    """Trainer options that differ from Lightning's, where they were not given."""
    given = {name: value for name, value in trainer.items() if value is not None}
    folder = given.get("default_root_dir")
    callbacks = given.get("callbacks", [])
    callbacks = [callbacks] if isinstance(callbacks, Callback) else list(callbacks)
    plugins = given.get("plugins", [])
    plugins = list(plugins) if isinstance(plugins, (list, tuple)) else [plugins]
    if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        plugins.append(Whole())
    table = None if folder is None or "logger" in given else Table(folder)
    limited = given.get("max_steps", -1) != -1 or "max_time" in given
    chosen: dict[str, Any] = {
        "max_epochs": -1 if limited else 20,
        "logger": table or False,
        "enable_checkpointing": folder is not None
        or any(isinstance(callback, Checkpoint) for callback in callbacks),
        "enable_model_summary": False,
        "enable_progress_bar": sys.stdout.isatty() or "ipykernel" in sys.modules,
        "log_every_n_steps": 1,
    }
    chosen = {name: value for name, value in chosen.items() if name not in given}
    own = [*([] if best is None else [best]), Figures(table, best)]
    return chosen | {"callbacks": callbacks + own, "plugins": plugins}


def _run(
    machine: Trainer, module: LightningModule, data: LogModule, ckpt_path: str | Path | None
) -> None:
    try:
        kept = isinstance(machine.logger, Table)
        with writing(machine.default_root_dir) if kept else nullcontext():
            machine.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    except SIGTERMException:
        raise SystemExit(128 + signal.SIGTERM) from None  # Lightning's own would report success
    except pickle.UnpicklingError as error:
        first = str(error).strip().splitlines()[0]
        raise PrepareError(f"{ckpt_path} is no checkpoint of plain data: {first}") from None
    finally:
        module.trainer = None  # a fitted module holds no log, loader or logger


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's lines on accelerators and why it stopped; a loop refits many times."""
    logger = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    before = logger.level
    logger.setLevel(max(before, logging.WARNING))
    try:
        with warnings.catch_warnings():
            for message, kind in _EXPECTED.items():
                warnings.filterwarnings("ignore", message, kind)
            yield
    finally:
        logger.setLevel(before)


@contextmanager
def _roomy(batch_size: int) -> Iterator[None]:
    """Keep freed memory for the next step.

    glibc gives blocks above 32 MiB back to the system when they are freed, and every step of a
    large batch pays for fresh pages. Set for the process; it cannot be read back, so it stays.
    """
    if batch_size >= _LARGE and sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            for option in (-3, -1):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
                libc.mallopt(option, 1 << 30)
    yield
