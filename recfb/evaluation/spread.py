"""How the weights of a report are spread: what its figure of weights is drawn from."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl
import torch
from torch import Tensor

from recfb.evaluation.cell import Cell
from recfb.evaluation.estimates import BucketEstimates
from recfb.evaluation.sketch import quantiles, zero_share
from recfb.evaluation.terms import moments, weight

TOP = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Shares of the buckets, the heaviest first, whose part of all weight is told."""

QUANTILES = (0.5, 0.9, 0.99, 0.999)
"""Shares of the rows, the lightest first, whose largest weight is told."""

SPREAD = {
    "policy": pl.String,
    "n": pl.Int64,
    "ess": pl.Float64,
    "mean_weight": pl.Float64,
    "max_weight": pl.Float64,
    "top_row": pl.Float64,
    "zero": pl.Float64,
    "quantiles": pl.List(pl.Float64),
    "buckets": pl.Int64,
    "top": pl.List(pl.Float64),
}
"""The columns of `Report.weights`."""

Spread = dict[str, object]


def heaviest(weights: Tensor, shares: Iterable[float] = TOP) -> Tensor:
    """The part of all weight that the heaviest of the buckets carry: weights (P, H) -> (P, len).

    A share that is no whole number of buckets takes its part of the next one.

    >>> heaviest(torch.tensor([[1.0, 6.0, 2.0, 1.0]]), [0.25, 0.5, 0.625, 1.0]).tolist()
    [[0.6000000238418579, 0.800000011920929, 0.8500000238418579, 1.0]]
    """
    down = weights.sort(1, descending=True).values.cumsum(1)  # (P, H)
    down = torch.cat([down.new_zeros(len(down), 1), down / down[:, -1:]], 1)  # (P, 1 + H)
    at = torch.tensor(list(shares), dtype=weights.dtype) * weights.shape[1]  # (len,)
    low = at.floor().long().clamp(max=weights.shape[1] - 1)
    return down[:, low] + (at - low) * (down[:, low + 1] - down[:, low])


def spread(estimates: BucketEstimates, cell: Cell) -> list[Spread]:
    """One row a policy: rows, effective sample size, mean and largest weight, the largest one's
    part of all weight, the share of weights that are 0, quantiles (`QUANTILES`), filled buckets,
    and the part that the heaviest of them carry (`TOP`).

    Args:
        estimates: of any estimator of the pass.
        cell: what the pass kept.
    """
    about, n = estimates.about(weight), estimates.n
    if about is None or n == 0:
        return []
    filled = about.sums[0, 0] > 0  # (H,)
    (column,) = about.terms.calls[about.name]
    mean, ww = estimates.stat(moments)[:2]  # (P,)
    top = heaviest(about.sums[column][:, filled])  # (P, len)
    numbers = torch.stack(
        [n * mean * mean / ww, mean, cell.hi[0], cell.hi[0] / (n * mean)], 1
    )  # (P, 4)
    names = ("ess", "mean_weight", "max_weight", "top_row")
    buckets = int(filled.sum())
    none = [None] * len(top)
    zero, marks = (none, none) if cell.sketch is None else _shape(cell.sketch)
    lines = zip(top.tolist(), numbers.tolist(), zero, marks, strict=True)
    return [
        {"n": n, "buckets": buckets, "top": curve, **dict(zip(names, four, strict=True))}
        | {"zero": share, "quantiles": mark}
        for curve, four, share, mark in lines
    ]


def _shape(sketch: Tensor) -> tuple[list[float], list[list[float]]]:
    """The share of weights that are 0, and the quantiles, of every policy."""
    return zero_share(sketch).tolist(), quantiles(sketch, QUANTILES).tolist()
