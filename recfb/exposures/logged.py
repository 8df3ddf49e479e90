"""Exposure as the log recorded it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from recfb.contracts import Batch, Exposure
from recfb.errors import ConfigError

if TYPE_CHECKING:
    from recfb.data.log import Log


class Logged(Exposure):
    """P(shown) from the log's own column `propensity`: the logging policy's exact probabilities.

    Pairs that were not shown have none: NaN.

    Raises:
        LogError: on binding a log with rows but without the column.
        ConfigError: with a sampler whose batches carry no propensity.

    >>> import torch
    >>> row = torch.tensor([0])
    >>> Logged()(Batch(row, row, row, propensity=torch.tensor([0.25]))).tolist()
    [0.25]
    """

    def bind(self, log: Log) -> Self:
        if len(log):
            log.require("propensity")
        return super().bind(log)

    def forward(self, batch: Batch) -> Tensor:
        if batch.propensity is None:
            raise ConfigError(
                "exposures.Logged reads the propensity of rows, but the sampler draws none. Use "
                "samplers.Logged() or samplers.AllPairs(), or exposures.Popularity()."
            )
        return batch.propensity.to(torch.float32)
