"""The simplest encoder of a history: a linear map of its mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import torch
from torch import Generator, Tensor, nn

from recfb.optim import table
from recfb.scorers.history import HistoryScorer

if TYPE_CHECKING:
    from recfb.data.log import Log

_FIRST = 0.5  # W starts at this times the identity


class HistoryMean(HistoryScorer):
    """Estimates s(h, i) = (mean_j x_hj W + b) . x_i from a history h, with frozen vectors x.

    The vectors are those of `HistoryScorer`. Every training starts from W = I / 2 and b = 0.

    >>> from recfb.data import Log
    >>> from recfb.data.batch import Context
    >>> from recfb.random import stream
    >>> log = Log.empty(1, 2).with_items({"id": [0, 1], "x": [1.0, 3.0]})
    >>> model = HistoryMean().bind(log)
    >>> model.reset(stream(0))
    >>> model.scores(Context(torch.tensor([0]), history=torch.tensor([[0, 1, -1]]))).tolist()
    [[1.0, 3.0]]
    """

    weight: nn.Parameter  # (d, d)
    bias: nn.Parameter  # (1, d)

    def bind(self, log: Log) -> Self:
        super().bind(log)
        d = self.vectors.shape[1]
        self.weight = table(getattr(self, "weight", None), d, d)
        self.bias = table(getattr(self, "bias", None), 1, d)
        return self

    def reset(self, generator: Generator) -> None:
        super().reset(generator)
        with torch.no_grad():
            nn.init.eye_(self.weight).mul_(_FIRST)
            self.bias.zero_()

    def encode(self, x: Tensor, there: Tensor) -> Tensor:
        mean = x.sum(1) / there.sum(1, keepdim=True).clamp(min=1)  # (B, d)
        return mean @ self.weight + self.bias
