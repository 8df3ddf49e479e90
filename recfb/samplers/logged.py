"""The rows of the log, as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import Generator, Tensor

from recfb.contracts import Batch, Pairing, Sampler, Score, Step

if TYPE_CHECKING:
    from recfb.data.log import Log

COLUMNS = ("user", "item", "reward", "propensity", "time", "position", "features")


class Logged(Sampler):
    """Draws the rows of the log, each once an epoch: what was shown, with what came of it.

    For feedback on shown items only: ratings, or clicks of slates that were logged whole. Rows
    whose reward was never revealed are left out. A mean over these rows is a mean over what the
    logging policy chose to show; exposures turn it into one over all pairs (`objectives.IPS`) or
    correct for what was shown but not seen (`objectives.RelMF(exposures.Position())`).

    Batches have user (B,), item (B,), reward (B,), and propensity, time, position (B,) and features
    (B, D) where the log has them.

    >>> from recfb.data import Log
    >>> from recfb.random import stream
    >>> log = Log.of({"item": [4, 5, 6], "reward": [1, None, 0], "position": [1, 2, 3]})
    >>> sampler = Logged().bind(log)
    >>> batch = sampler(torch.tensor([0, 1]), None, Step())
    >>> batch.item.tolist(), batch.position.tolist()
    ([0, 2], [1, 3])
    """

    gives: ClassVar[Pairing] = "rows"

    user: Tensor  # (n,)
    item: Tensor  # (n,)
    reward: Tensor  # (n,)

    def bind(self, log: Log) -> Self:
        super().bind(log)
        known = torch.isfinite(log.tensor("reward")).nonzero().squeeze(1)  # (n,)
        for name in COLUMNS:
            there = name in ("user", "item", "reward") or name in log.columns
            values = log.tensor(name)[known] if there else None
            self.register_buffer(name, values, persistent=False)
        return self

    def __len__(self) -> int:
        return len(self.item)

    def rows(self, generator: Generator) -> Tensor:
        """Row numbers, each once."""
        return torch.randperm(len(self), generator=generator, device=generator.device)

    @torch.no_grad()
    def forward(self, rows: Tensor, score: Score, step: Step) -> Batch:
        columns = ((name, getattr(self, name)) for name in COLUMNS)
        return Batch(**{name: values[rows] for name, values in columns if values is not None})
