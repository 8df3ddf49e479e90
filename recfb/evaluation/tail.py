"""The tail of the weights: how fast the largest ones grow."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TOP = 1024
"""Largest weights that a pass keeps for each policy."""

_PRIOR = 3.0  # of the inverse scale, in quarters of the exceedances
_LEAST = 100  # distinct weights below which a tail is not fitted


def merge(a: Tensor, b: Tensor) -> Tensor:
    """The largest weights of two parts, largest first: (..., T), (..., T) -> (..., T).

    >>> merge(torch.tensor([3.0, 1.0]), torch.tensor([2.0, -torch.inf])).tolist()
    [3.0, 2.0]
    """
    return torch.cat([a, b], dim=-1).topk(a.shape[-1], dim=-1).values


def pareto_shape(excess: Tensor) -> float:
    """Estimates the shape k of a generalised Pareto distribution from exceedances (n,) above 0.

    Zhang and Stephens, "A new and efficient estimation method for the generalized Pareto
    distribution" (2009): with b = -k / scale, the posterior mean of b over a grid of quantiles of
    its prior, and then k = mean(log(1 - b x)). Moments of order 1 / k and above do not exist: for
    k > 1/2 the weights have no variance.

    >>> u = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    >>> round(pareto_shape((u**-0.5 - 1) / 0.5), 2)  # k = 1/2
    0.5
    """
    x = excess.sort().values
    n, size = len(x), 30 + math.isqrt(len(x))
    rank = torch.arange(1, size + 1, dtype=x.dtype) - 0.5
    quarter = float(x[int(n / 4 + 0.5) - 1])
    b = 1 / x[-1] + (1 - (size / rank).sqrt()) / (_PRIOR * quarter)  # (size,)
    k = torch.log1p(-b[:, None] * x).mean(1)  # (size,)
    profile = n * (torch.log(-b / k) - k - 1)  # log likelihood at b, (size,)
    chance = torch.softmax(profile, 0)  # (size,)
    return float(torch.log1p(-(b * chance).sum() * x).mean())


def tail_index(largest: Tensor, n: int) -> float:
    """The Pareto shape of the largest min(1024, 3 sqrt(n)) of n weights; NaN where fewer than 100
    of them are distinct, because ties tell nothing of a tail.

    >>> tail_index(torch.full((200,), 2.0), 10_000)
    nan
    """
    known = largest[largest.isfinite()].to(torch.float64)
    size = min(len(known) - 1, math.ceil(3 * math.sqrt(n)))
    if size < _LEAST:
        return math.nan
    top = known.sort(descending=True).values
    excess = top[:size] - top[size]
    excess = excess[excess > 0]
    return pareto_shape(excess) if len(torch.unique(excess)) >= _LEAST else math.nan
