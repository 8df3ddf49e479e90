"""What is kept of training: the best weights, and the last epoch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from torch import Tensor

from recfb.data.history import Validation
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
