"""When a policy's model is trained again, and on what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl
import torch

from recfb.data import Log
from recfb.errors import ConfigError


@dataclass(frozen=True)
class Refit:
    """When and on what a policy's model is trained again. Owned by `simulate`; no policy knows it.

    Args:
        every: rounds between two trainings, or "doubling": whenever the rounds have doubled.
        window: train on the last rounds only; None means all.
        delay: the log reaches the training this many rounds later; the warm-up lasts as much
            longer.
        warmup: rounds at the start that are played uniformly, with exact propensities.
        warm: go on from the trained values instead of fresh ones.

    >>> [t for t in range(9) if Refit(every="doubling").due(t)], Refit(every=3, warmup=2).due(5)
    ([1, 2, 4, 8], True)
    """

    every: int | Literal["doubling"] = 1
    window: int | None = None
    delay: int = 0
    warmup: int = 1
    warm: bool = False

    def __post_init__(self) -> None:
        if self.every != "doubling" and self.every < 1:
            raise ConfigError(f'every is a number of rounds or "doubling", found {self.every!r}.')
        if self.window is not None and self.window < 1:
            raise ConfigError(f"window is a number of rounds or None, found {self.window}.")
        if self.delay < 0 or self.warmup < 0:
            raise ConfigError(
                f"delay and warmup count rounds, found {self.delay} and {self.warmup}."
            )

    @property
    def uniform(self) -> int:
        """How many rounds at the start are played uniformly."""
        return self.warmup + self.delay

    def due(self, time: int) -> bool:
        """Whether this round begins with a training."""
        if time < self.uniform:
            return False
        if self.every == "doubling":
            times, rest = divmod(time, max(1, self.uniform))
            return rest == 0 and times & (times - 1) == 0
        return (time - self.uniform) % self.every == 0

    def view(self, log: pl.DataFrame, time: int) -> pl.DataFrame:
        """The rows a training at the start of this round may see; rewards not known by then are
        null."""
        last = time - self.delay
        first = 0 if self.window is None else last - self.window
        seen = log.filter(pl.col("time") < last, pl.col("time") >= first)
        matured = pl.col("known") < last
        return seen.with_columns(pl.when(matured).then(pl.col("reward", "known")))


def trainer(seed: int, warm: bool, device: str) -> Callable[[Log, Any], Any]:
    """The verb `fit` with this round's seed, as policies are given it; quiet, on the run's
    device."""
    from recfb.fit import fit

    def train(log: Log, module: Any) -> Any:
        if hasattr(module, "solve"):
            return fit(log, module, seed=seed, warm=warm)
        kind = torch.device(device).type
        return fit(log, module, seed=seed, warm=warm, accelerator=kind, enable_progress_bar=False)

    return train
