"""How the weights are distributed: logarithmic bins that add up over parts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

EPSILON = 0.005
"""The largest relative error of a quantile."""

_LOG = math.log((1 + EPSILON) / (1 - EPSILON))
_REACH = 1400  # bins on each side of 1: weights from 8e-7 to 1e6, and what is beyond at the ends


def sketch(w: Tensor, r: Tensor) -> Tensor:
    """Rows, weights and weighted rewards by bin of the weight: w (P, n), r (n,) -> (P, 3, B).

    Bin 0 has the weights that are 0; the others are ceil(log(w) / log(gamma)) with
    gamma = (1 + eps) / (1 - eps). Masson, Rim and Lee, "DDSketch" (2019). Sums of sketches are
    sketches of all rows, in any order. NaN is left out.
    """
    bins = 2 * _REACH + 2
    place = (w.log() / _LOG).ceil().clamp(-_REACH, _REACH).nan_to_num() + _REACH + 1
    place = torch.where(w > 0, place, 0.0).to(torch.int64)  # (P, n)
    found = torch.zeros(len(w), 3, bins, dtype=torch.float64)
    known = ~w.isnan()
    for policy, (mine, use) in enumerate(zip(w, known, strict=True)):
        columns = torch.stack([use.to(w.dtype), mine, mine * r]).nan_to_num(nan=0.0)  # (3, n)
        found[policy].index_add_(1, place[policy], columns)
    return found


def quantiles(sketch: Tensor, shares: Sequence[float]) -> Tensor:
    """Quantiles of the weights, each within 0.5 % of its value: (P, 3, B) -> (P, len(shares)).

    >>> w = torch.cat([torch.zeros(1, 50), torch.linspace(1, 10, 50)[None]], 1).double()
    >>> [round(float(x), 1) for x in quantiles(sketch(w, w[0]), [0.3, 0.999])[0]]
    [0.0, 10.0]
    """
    rows = sketch[:, 0]  # (P, B)
    below = rows.cumsum(1)
    rank = torch.tensor(list(shares), dtype=rows.dtype) * below[:, -1:]  # (P, S)
    place = torch.searchsorted(below, rank.clamp(min=1e-9)).clamp(max=rows.shape[1] - 1)
    upper = torch.exp((place - _REACH - 1).to(rows.dtype) * _LOG)  # the upper end of a bin, (P, S)
    middle = upper * (1 - EPSILON)  # 2 gamma^k / (gamma + 1)
    return torch.where(place == 0, 0.0, middle)


def zero_share(sketch: Tensor) -> Tensor:
    """The share of rows whose weight is 0: (P,)."""
    return sketch[:, 0, 0] / sketch[:, 0].sum(1)
