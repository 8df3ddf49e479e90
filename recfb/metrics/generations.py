"""What happens from one generation of a policy to the next: functions of a run's log and truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from recfb.errors import ConfigError

if TYPE_CHECKING:
    import polars as pl

    from recfb.data.log import Log


def uniform_weight(log: Log) -> pl.Expr:
    """1 / (K p): what a row of the log counts for under the uniform policy, K the items that could
    be shown in its request."""
    import polars as pl

    listed = "available" in log.columns
    count = pl.col("available").list.len() if listed else pl.lit(log.n_items)
    return 1 / (count * pl.col("propensity"))


def effective_size(weight: pl.Expr) -> pl.Expr:
    """Rows of the same weight that would say as much: (sum w)^2 / sum w^2. Kish, 1965.

    >>> import polars as pl
    >>> pl.select(effective_size(pl.lit(pl.Series([1.0, 1.0, 2.0])))).item().__round__(6)
    2.666667
    """
    return weight.sum() ** 2 / (weight**2).sum()


def by_generation(log: Log, truth: pl.DataFrame) -> pl.DataFrame:
    """One row a replication and generation of a log of single items.

    - `value`: mean expected reward of what was shown; `success`: mean true reward;
    - `balance`: the smaller class among known rewards of 0 and 1;
    - `entropy`: mean of -log propensity, the entropy of the policy in the mean;
    - `sure`: mean propensity of what was shown;
    - `ess`: effective sample size (sum w)^2 / sum w^2 for the uniform target, a share of the rows;
    - `least`: rows of the item with the fewest.

    Generation 0 is what was played before the first training.

    Raises:
        ConfigError: a log without generations or propensities, or a truth without values.
    """
    import polars as pl

    missing = [name for name in ("generation", "propensity") if name not in log.columns]
    if missing or "value" not in truth.columns:
        raise ConfigError(
            f"generations need the columns generation and propensity in the log and value in the "
            f"truth; missing: {missing or ['value']}. Take the log of `simulate(..., refit=...)`."
        )
    run = pl.col("replication") if "replication" in log.columns else pl.lit(0).alias("replication")
    frame = log.frame.select(
        run, "generation", "item", "reward", "propensity", weight=uniform_weight(log)
    ).with_columns(value=truth["value"], true=truth["reward"])
    keys = ["replication", "generation"]
    counts = frame.group_by(*keys, "item").len()
    counts = counts.group_by(keys).agg(seen=pl.len(), least=pl.col("len").min())
    least = pl.when(pl.col("seen") == log.n_items).then("least").otherwise(0)
    table = frame.group_by(keys).agg(
        pl.len().alias("rows"),
        pl.col("value").mean(),
        pl.col("true").mean().alias("success"),
        pl.min_horizontal(pl.col("reward").mean(), 1 - pl.col("reward").mean()).alias("balance"),
        (-pl.col("propensity").log()).mean().alias("entropy"),
        pl.col("propensity").mean().alias("sure"),
        (effective_size(pl.col("weight")) / pl.len()).alias("ess"),
    )
    table = table.join(counts.select(*keys, least.alias("least")), on=keys)
    return table.sort(keys)


@dataclass(frozen=True)
class Oscillation:
    """How the value moves from generation to generation.

    `drop`: V_2 - V_1, what the first training on an exploiting log costs; `step`: the mean of
    |V_{g+1} - V_g|; `turning`: the lag-1 autocorrelation of the differences, negative where they
    alternate (independent levels give -0.5 already: compare with a control); `period`: that of the
    largest peak of the spectrum, in generations.
    """

    drop: float
    step: float
    turning: float
    period: float


def oscillation(values: Tensor) -> Oscillation:
    """Statistics of the values V_1 .. V_G of the generations, (G,) or (R, G) for R runs: means.

    Raises:
        ConfigError: fewer than four generations.

    >>> oscillation(torch.tensor([0.9, 0.8, 0.9, 0.8, 0.9, 0.8])).period
    2.0
    """
    v = values.to(torch.float64).reshape(-1, values.shape[-1])  # (R, G)
    if v.shape[1] < 4:
        raise ConfigError(f"oscillation needs at least 4 generations, found {v.shape[1]}.")
    d = v.diff(dim=1)  # (R, G - 1)
    centred = d - d.mean(1, keepdim=True)
    scale = centred.square().sum(1)
    turning = (centred[:, 1:] * centred[:, :-1]).sum(1) / scale.clamp(min=1e-300)
    power = torch.fft.rfft(v - v.mean(1, keepdim=True), dim=1).abs().square().mean(0)  # (G//2 + 1,)
    peak = 1 + int(power[1:].argmax())
    return Oscillation(
        drop=float(d[:, 0].mean()),
        step=float(d.abs().mean()),
        turning=float(turning.mean()),
        period=v.shape[1] / peak,
    )


__all__ = ["Oscillation", "by_generation", "effective_size", "oscillation", "uniform_weight"]
