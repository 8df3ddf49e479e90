"""How strong a loop is: trends over rounds or generations, and differences from another run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from recfb.errors import ConfigError

if TYPE_CHECKING:
    import polars as pl

    from recfb.data.log import Log

    LoopMetric = Callable[[Log, pl.DataFrame], Tensor]
    Played = tuple[Log, pl.DataFrame]


def slope(values: Tensor) -> Tensor:
    """Least-squares slope over the last axis, a unit a step, NaN left out: (..., T) -> (...,).

    >>> float(slope(torch.tensor([1.0, torch.nan, 2.0])))
    0.5
    """
    y = values.to(torch.float64)
    used = y.isfinite()
    n = used.sum(-1, keepdim=True)
    t = torch.arange(y.shape[-1], dtype=torch.float64, device=y.device).expand_as(y)
    t = (t - (t * used).sum(-1, keepdim=True) / n) * used
    return (t * y.where(used, 0.0)).sum(-1) / t.square().sum(-1)


def kendall(values: Tensor) -> Tensor:
    """Kendall's tau-b of the last axis with time, NaN left out: (..., T) -> (...,).

    1 rises all the time, -1 falls; NaN where all values are equal. Kendall, 1945.

    >>> round(float(kendall(torch.tensor([1.0, 3.0, 2.0]))), 4)
    0.3333
    """
    y = values.to(torch.float64)
    first, second = torch.triu_indices(y.shape[-1], y.shape[-1], offset=1)
    step = y[..., second] - y[..., first]  # (..., pairs)
    pairs = step.isfinite().sum(-1)
    step = step.nan_to_num(nan=0.0).sign()
    moved = step.abs().sum(-1)  # pairs that are not tied
    return step.sum(-1) / (pairs * moved).sqrt()


def against(metric: LoopMetric, run: Played, reference: Played) -> Tensor:
    """A metric of a run less that of a reference run on the same random numbers: (R, T).

    - `jaccard` against the oracle's run: dJ, positive where the algorithm homogenises;
    - `gini_shown` against the oracle's: amplification, since the oracle is concentrated as well;
    - any metric against the run of the same policy trained on logs of uniform displays: the
      feedback effect, closed loop less open loop.

    Args:
        metric: of (log, truth), such as those of `METRICS`.
        run: log and truth.
        reference: log and truth of the other run, of the same replications and rounds.

    Raises:
        ConfigError: the runs have different shapes.
    """
    ours, theirs = metric(*run), metric(*reference)
    if ours.shape != theirs.shape:
        raise ConfigError(
            f"runs that are compared have the same replications and rounds, found "
            f"{tuple(ours.shape)} and {tuple(theirs.shape)}. Simulate both with the same seed, "
            "rounds and replications."
        )
    return ours - theirs


__all__ = ["against", "kendall", "slope"]
