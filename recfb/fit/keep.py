"""What is kept of training: the best weights, the last epoch, and the figures of every epoch."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor

from recfb.data.history import Validation
from recfb.data.product import atomic_file, damage
from recfb.errors import PrepareError
from recfb.measure import HeldOut


class Best(Callback):
    """Ranks held-out clicks after every epoch, keeps the best weights, stops without progress.

    Args:
        held_out: the clicks, and the metric; larger is better.
        patience: epochs without a better value before training stops.
    """

    def __init__(self, held_out: HeldOut, *, patience: int) -> None:
        self.held_out, self.patience = held_out, patience
        self.value, self.epoch, self.waited = -math.inf, 0, 0
        self.last = math.nan  # measured
        self.weights: dict[str, Tensor] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask for an end where an interrupted training had come to it."""
        self.on_fit_end(trainer, pl_module)
        trainer.should_stop = trainer.should_stop or self.waited >= self.patience

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure an epoch of which only the steps were made before an interruption."""
        if self.epoch + self.waited < ended(trainer):
            self._measure(pl_module, ended(trainer))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure, remember, and ask for an end."""
        if getattr(pl_module, "diverged", False):  # the module raises next
            return
        value = self._measure(pl_module, trainer.current_epoch + 1)
        pl_module.log(self.held_out.metric.name, value, prog_bar=True)
        if self.waited >= self.patience:
            trainer.should_stop = True

    def _measure(self, module: LightningModule, epoch: int) -> float:
        module.eval()
        value = self.held_out(module)  # type: ignore[arg-type]
        module.train()
        self.waited += 1
        if value > self.value:
            self.value, self.epoch, self.waited = value, epoch, 0
            self.weights = {
                name: tensor.detach().to("cpu", copy=True)
                for name, tensor in module.state_dict().items()
            }
        self.last = value
        return value

    @property
    def validation(self) -> Validation:
        """What is known of the kept weights."""
        return Validation(self.held_out.metric.name, self.value, self.epoch)

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints: plain data."""
        names = ("value", "epoch", "waited", "weights")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From a checkpoint."""
        for name, value in state_dict.items():
            setattr(self, name, value)


def every_epoch(folder: Path) -> Checkpoint:
    """A callback that keeps the last epoch in `folder`/last.ckpt, to resume from."""
    return ModelCheckpoint(folder, filename="last", enable_version_counter=False)


class Table(CSVLogger):
    """A metrics.csv that remembers its rows."""

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder)
        self.rows: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Add a row."""
        self.rows.append((step or 0, dict(metrics)))
        super().log_metrics(metrics, step)


class Figures(Callback):
    """What a training that was interrupted had logged, so that the log of the resumed one is whole:
    the sum of losses of the epoch on its way, and the rows of the table.

    Args:
        table: the logger that the rows go to; None: there is none, or one of the user's.
        best: what else is logged.
    """

    def __init__(self, table: Table | None, best: Best | None) -> None:
        self.table, self.best = table, best

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add both; the row of an epoch that has just ended is logged only after it is saved."""
        rows = [] if self.table is None else list(self.table.rows)
        loss = getattr(pl_module, "_loss_sum", None)
        if loss is None and len(rows) < ended(trainer):
            now = {name: float(value) for name, value in trainer.callback_metrics.items()}
            rows.append((trainer.global_step - 1, now | {"epoch": trainer.current_epoch}))
        checkpoint["recfb_figures"] = {"rows": rows, "loss": loss}

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Log the rows again, and go on with the sum."""
        found = checkpoint.get("recfb_figures", {"rows": [], "loss": None})
        pl_module._loss_sum = found["loss"]
        if self.table is not None:
            for step, row in found["rows"]:
                self.table.log_metrics(row, step)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log an epoch of which only the steps were made before an interruption."""
        self.on_fit_end(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same, where it was the last epoch."""
        epochs, loss = ended(trainer), getattr(pl_module, "_loss_sum", None)
        if not epochs or loss is None:
            return
        pl_module._loss_sum = None  # type: ignore[assignment]
        row = {"loss": float(loss / trainer.num_training_batches), "epoch": epochs - 1}
        if self.best is not None:
            row[self.best.held_out.metric.name] = float(torch.tensor(self.best.last))
        if self.table is not None:
            self.table.log_metrics(row, trainer.global_step - 1)
            self.table.save()


def ended(trainer: Trainer) -> int:
    """How many epochs all of whose steps are made there are, at the end of one; else 0."""
    epochs, rest = divmod(trainer.global_step, max(1, int(trainer.num_training_batches)))
    return 0 if rest else epochs


class Whole(TorchCheckpointIO):
    """Checkpoints that are whole or absent, and checked when they are read."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write one, in place of the last one at the end."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        with atomic_file(path) as part:
            part.write_bytes(buffer.getbuffer())

    def load_checkpoint(self, path: Any, *args: Any, **options: Any) -> dict[str, Any]:
        """Read one.

        Raises:
            PrepareError: it is damaged.
        """
        wrong = damage(Path(path))
        if wrong is not None:
            raise PrepareError(f"cannot go on from {path}: {wrong}. Fit anew, without it.")
        return super().load_checkpoint(path, *args, **options)
