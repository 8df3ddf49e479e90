"""The rows of a sampler, as Lightning iterates over them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from pytorch_lightning import LightningDataModule
from torch import Tensor

from recfb.contracts import Sampler
from recfb.data import Log
from recfb.errors import ConfigError
from recfb.random import stream


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
        log: what the sampler is bound to, so that a checkpoint knows its rows again; None: it does
            not.
    """

    def __init__(
        self,
        sampler: Sampler,
        *,
        batch_size: int = 8192,
        seed: int = 0,
        log: Log | None = None,
    ) -> None:
        super().__init__()
        self.sampler, self.batch_size, self.seed, self.log = sampler, batch_size, seed, log

    @cached_property
    def rows(self) -> str:
        """A digest of what is learnt from: the users, items and rewards of the log, in order."""
        found = hashlib.sha256()
        for name in ("user", "item", "reward"):
            if self.log is not None and name in self.log.columns:
                found.update(self.log.tensor(name).contiguous().numpy().tobytes())
        return found.hexdigest()

    def state_dict(self) -> dict[str, Any]:
        """What the order of rows follows from, for checkpoints."""
        return {"seed": self.seed, "batch_size": self.batch_size, "rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse a checkpoint of a training whose rows came otherwise: going on from it would be
        no training that anyone can repeat.

        Raises:
            ConfigError: another seed, other batches or other rows.
        """
        mine = self.state_dict()
        odd = [name for name in mine if mine[name] != state_dict.get(name)]
        if odd:
            told = {name: state_dict.get(name) for name in odd if name != "rows"}
            found = (
                f" The checkpoint has {told}, this call { ({n: mine[n] for n in told}) }."
                if told
                else ""
            )
            raise ConfigError(
                f"the checkpoint is of a training with another {' and '.join(odd)}.{found} Resume "
                "with the same log, seed and batch_size, or fit anew without ckpt_path."
            )

    def train_dataloader(self) -> Slices:
        """The slices of every epoch."""
        return Slices(self)
