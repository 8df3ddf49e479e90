"""Fit a model to a log."""

from __future__ import annotations

import ctypes
import logging
import math
import pickle
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor

from recfb.contracts import Fitted, Sampler
from recfb.data import Log
from recfb.data.history import History, Validation
from recfb.errors import ConfigError, LogError, PrepareError
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
_RUN_LENGTH = ("max_epochs", "min_epochs", "max_steps", "min_steps", "max_time")


class Slices:
    """The rows of an epoch, sliced: what Lightning iterates over. No workers, no collation.

    Where it starts follows from how many steps were made, so training resumes exactly: in the
    middle of an epoch, and at its end.
    """

    def __init__(self, data: LogModule) -> None:
        self.data = data

    def __len__(self) -> int:
        return math.ceil(len(self.data.sampler) / self.data.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        data, trainer = self.data, self.data.trainer
        if trainer is None:
            raise ConfigError("the slices of a LogModule are read by a Trainer: use recfb.fit.")
        steps, size = min(len(self), int(trainer.num_training_batches)), data.batch_size
        epoch, first = divmod(trainer.global_step, max(1, steps))
        device = trainer.strategy.root_device
        rows = data.sampler.rows(stream(data.seed, "rows", epoch, device=device))
        for start in range(first * size, steps * size, size):
            yield rows[start : start + size][trainer.global_rank :: trainer.world_size]

    def state_dict(self) -> dict[str, int]:
        """Nothing: the Trainer's count of steps says it all. Tells Lightning that this resumes."""
        return {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Nothing to restore."""


class LogModule(LightningDataModule):
    """Feeds the rows of a sampler to Lightning, `batch_size` at a time over all devices together.

    Args:
        sampler: bound to the log to learn from.
        batch_size: rows a step.
        seed: of the order of rows.
    """

    def __init__(self, sampler: Sampler, *, batch_size: int = 8192, seed: int = 0) -> None:
        super().__init__()
        self.sampler, self.batch_size, self.seed = sampler, batch_size, seed

    def train_dataloader(self) -> Slices:
        """The slices of every epoch."""
        return Slices(self)


class Best(Callback):
    """Ranks held-out clicks after every epoch, keeps the best weights, stops without progress.

    Args:
        held_out: the clicks, and the metric; larger is better.
        patience: epochs without a better value before training stops.
    """

    def __init__(self, held_out: HeldOut, *, patience: int) -> None:
        self.held_out, self.patience = held_out, patience
        self.value, self.epoch, self.waited = -math.inf, 0, 0
        self.weights: dict[str, Tensor] = {}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure, remember, and ask for an end."""
        if getattr(pl_module, "diverged", False):  # the module raises next
            return
        pl_module.eval()
        value = self.held_out(pl_module)  # type: ignore[arg-type]
        pl_module.train()
        pl_module.log(self.held_out.metric.name, value, prog_bar=True)
        self.waited += 1
        if value > self.value:
            self.value, self.epoch, self.waited = value, trainer.current_epoch + 1, 0
            self.weights = {
                name: tensor.detach().to("cpu", copy=True)
                for name, tensor in pl_module.state_dict().items()
            }
        if self.waited >= self.patience:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints: plain data."""
        names = ("value", "epoch", "waited", "weights")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From a checkpoint."""
        for name, value in state_dict.items():
            setattr(self, name, value)


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
    _check(module, trainer, valid, ckpt_path)
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
                name = best.held_out.metric.name
                module.validation = Validation(name, best.value, best.epoch)
    return module.eval()


def every_epoch(folder: Path) -> Checkpoint:
    """A callback that keeps the last epoch in `folder`/last.ckpt, to resume from."""
    return ModelCheckpoint(folder, filename="last", enable_version_counter=False)


def _check(
    module: Fitted, trainer: dict[str, Any], valid: Log | None, ckpt_path: str | Path | None
) -> None:
    if trainer.get("gradient_clip_val"):
        raise ConfigError(
            "gradient_clip_val does not act under manual optimisation. A component asks for "
            'clipping in its optimiser group: yield {"params": [...], "clip": 1.0} from groups().'
        )
    if ckpt_path is not None and "://" in str(ckpt_path):
        raise ConfigError(
            f"ckpt_path={str(ckpt_path)!r} is an address. Download the file from a source you "
            "trust and give its path."
        )
    named = {"last", "best", "registry", "hpc"}
    if ckpt_path is not None and str(ckpt_path) not in named and not Path(ckpt_path).exists():
        raise PrepareError(f"there is no checkpoint at {ckpt_path}.")
    if isinstance(module, LightningModule):
        return
    if not hasattr(module, "solve"):
        raise ConfigError(
            f"fit(log, module) takes a Recommender or a solver, found {type(module).__name__}. "
            "A scorer becomes one with an objective and a sampler: "
            "Recommender(scorers.MF(), objectives.BPR(), samplers.Clicks())."
        )
    idle = [name for name in _RUN_LENGTH if trainer.get(name) not in (None, -1)]
    idle += ["valid"] if valid is not None else []
    idle += ["ckpt_path"] if ckpt_path is not None else []
    if idle:
        raise ConfigError(
            f"{type(module).__name__} is solved in one go, so {', '.join(idle)} would do nothing. "
            "Leave it out; its own hyperparameters say how long it works."
        )


def _data(log: Log, module: LightningModule, batch_size: int, seed: int) -> LogModule:
    if batch_size < 1:
        raise ConfigError(f"batch_size is a number of rows, found {batch_size}. Try 8192.")
    sampler: Sampler = module.sampler  # type: ignore[assignment]
    if not len(sampler):
        raise LogError(
            f"nothing to learn from: {type(sampler).__name__} finds no rows in {log!r}. A click is "
            "a row with a reward above 0: log.binarise(at=...) makes them of ratings."
        )
    if sampler.gives in ("rows", "shown_pairs"):
        _require_contrast(log)
    module.seed = seed  # type: ignore[assignment]
    return LogModule(sampler, batch_size=batch_size, seed=seed)


def _require_contrast(log: Log) -> None:
    """Shown rows alone teach nothing where all rewards are the same."""
    known = log.frame["reward"].drop_nulls()
    if known.n_unique() == 1:
        raise LogError(
            f"all {len(known)} revealed rewards are {known[0]:g}, so shown rows teach nothing. "
            "Learn from what was not clicked as well, samplers.Clicks() or samplers.AllPairs(), or "
            "give the log the rows without a click."
        )


def _best(valid: Log, module: Fitted, monitor: str | None, patience: int) -> Best:
    own: str = getattr(getattr(module, "objective", None), "monitor", _MONITOR)
    return Best(HeldOut.of(valid, module.history, monitor or own), patience=patience)


def _defaults(trainer: dict[str, Any], best: Best | None) -> dict[str, Any]:
    """Trainer options that differ from Lightning's, where they were not given."""
    given = {name: value for name, value in trainer.items() if value is not None}
    folder = given.get("default_root_dir")
    callbacks = given.get("callbacks", [])
    callbacks = [callbacks] if isinstance(callbacks, Callback) else list(callbacks)
    limited = given.get("max_steps", -1) != -1 or "max_time" in given
    chosen: dict[str, Any] = {
        "max_epochs": -1 if limited else 20,
        "logger": False if folder is None else CSVLogger(folder),
        "enable_checkpointing": folder is not None
        or any(isinstance(callback, Checkpoint) for callback in callbacks),
        "enable_model_summary": False,
        "enable_progress_bar": sys.stdout.isatty() or "ipykernel" in sys.modules,
        "log_every_n_steps": 1,
    }
    chosen = {name: value for name, value in chosen.items() if name not in given}
    return chosen | {"callbacks": callbacks + ([] if best is None else [best])}


def _run(
    machine: Trainer, module: LightningModule, data: LogModule, ckpt_path: str | Path | None
) -> None:
    try:
        machine.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
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
