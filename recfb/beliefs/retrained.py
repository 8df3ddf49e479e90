"""How a model is trained from generation to generation: which rows, and what is kept."""

from __future__ import annotations

import copy
from typing import Any, Self

import polars as pl
import torch
from torch import Generator, Tensor

from recfb.contracts import Context, Fitted, best_of
from recfb.data import Log
from recfb.data.pairs import Pairs
from recfb.errors import ConfigError, UnboundError
from recfb.random import stream


def with_floor(frame: pl.DataFrame, window: int | None, floor: int) -> pl.DataFrame:
    """The rows of the last rounds, and older ones of items that have fewer than `floor` of them.

    The newest older rows are taken, as many as are missing.

    >>> frame = pl.DataFrame({"time": [0, 1, 2, 2], "item": [5, 5, 7, 7]})
    >>> with_floor(frame, window=1, floor=1)["time"].to_list()
    [1, 2, 2]
    """
    if window is None or not frame.height:
        return frame
    recent = pl.col("time") > frame["time"].max() - window  # type: ignore[operator]
    newest = pl.col("time").rank("ordinal", descending=True).over("item")
    lacking = newest <= pl.lit(floor)
    return frame.filter(recent | lacking)


def resampled(weight: Tensor, generator: Generator) -> Tensor:
    """Row numbers in which row i stands weight_i times on average: (n,) -> (m,) int64.

    Systematic resampling: each count is weight_i rounded down or up.

    >>> resampled(torch.tensor([2.0, 0.0, 1.0]), stream(0)).tolist()
    [0, 0, 2]
    """
    u = torch.rand((), generator=generator, dtype=torch.float64)
    place = (weight.to(torch.float64).cumsum(0) + u).floor().to(torch.int64)  # (n,)
    count = place.diff(prepend=torch.zeros(1, dtype=torch.int64))
    return torch.repeat_interleave(torch.arange(len(weight)), count)


class Retrained(Fitted):
    """A model under a schedule of trainings, for generations of policies that log for each other.

    Three remedies against what a near-greedy log does to the next model (Vangara and Egg 2024):
    older rows for items that the last rounds hardly showed, balanced classes with predictions put
    back to the true rates, and the mean of the last trainings. Give `simulate` a `Refit` without a
    window, and the window here; averaging needs `Refit(warm=True)`, since a fresh fit forgets.

    Args:
        model: anything with `solve` whose scores are E[reward | x, item]; a fresh copy is trained
            each time.
        window: rounds of the log to train on; None: all.
        floor: rows an item has at least, older ones if need be and there are any.
        balance: rewards of 0 and of 1 count the same in training.
        keep: how many of the last trainings are averaged.

    Raises:
        ConfigError: a window, a floor or a number to keep out of range; a model without `solve`.
        UnboundError: scores before the first training.
    """

    n_items: int

    def __init__(
        self,
        model: Fitted,
        *,
        window: int | None = None,
        floor: int = 0,
        balance: bool = False,
        keep: int = 1,
    ) -> None:
        super().__init__()
        if (window is not None and window < 1) or floor < 0 or keep < 1:
            raise ConfigError(
                f"window and keep are at least 1 and floor at least 0, found {window}, {keep} and "
                f"{floor}."
            )
        if not hasattr(model, "solve"):
            raise ConfigError(f"{model!r} has no `solve`, so it cannot be trained here.")
        self.model = model
        self.window = window
        self.floor = floor
        self.balance = balance
        self.keep = keep
        self._kept: list[tuple[Any, float]] = []  # fitted, and odds of a reward after balancing

    def bind(self, log: Log) -> Self:
        self.n_items = log.n_items
        return super().bind(log)

    def reset(self, generator: Generator) -> None:
        super().reset(generator)
        self._kept = []

    def solve(self, log: Log) -> Self:
        """Train a copy on the rows of the window, and forget the oldest."""
        log = log.with_frame(with_floor(log.frame, self.window, self.floor))
        odds = 1.0
        if self.balance:
            log, odds = _balanced(log)
        fresh: Any = copy.deepcopy(self.model)
        fresh.bind(log).solve(log)
        self._kept = [*self._kept, (fresh, odds)][-self.keep :]
        return self

    def _mean(self, values: list[Tensor]) -> Tensor:
        return torch.stack(values).mean(0)

    def _models(self) -> list[tuple[Any, float]]:
        if not self._kept:
            raise UnboundError("this Retrained is not fitted: recfb.fit(log, model).")
        return self._kept

    def scores(self, context: Context) -> Tensor:
        """Mean expected rewards, (B, n_items) or like candidates."""
        return self._mean([_put_back(m.scores(context), odds) for m, odds in self._models()])

    def score_of(self, context: Context, item: Tensor) -> Tensor:
        return self._mean(
            [_put_back(m.score_of(context, item), odds) for m, odds in self._models()]
        )

    def top(self, context: Context, k: int, *, hide: Pairs | None = None) -> Tensor:
        """The k best available items, ties broken by a hash: (B, k)."""
        if hide is not None:
            raise ConfigError("Retrained ranks for policies, which hide nothing.")
        return best_of(context, self.scores(context), k)


def _balanced(log: Log) -> tuple[Log, float]:
    """Rows in which 0 and 1 are as frequent, in the same number, and by what the odds of 1 rose."""
    reward = log.tensor("reward")
    ones, zeros = reward == 1, reward == 0
    some = int(ones.sum()), int(zeros.sum())
    if not min(some):
        return log, 1.0
    weight = torch.ones(len(reward), dtype=torch.float64)
    weight[ones], weight[zeros] = (sum(some) / (2 * n) for n in some)
    rows = resampled(weight, stream(0, "balance", len(reward)))
    return log.with_frame(log.frame[rows.numpy()]), some[1] / some[0]


def _put_back(p: Tensor, odds: float) -> Tensor:
    """Predictions at the true rates: p whose odds are `odds` times too high."""
    if odds == 1:
        return p
    p = p.clamp(0, 1)
    return p / (p + odds * (1 - p))
