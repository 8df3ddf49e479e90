"""Choosing how much to shrink weights, from the columns of one pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from scipy.special import stdtrit
from torch import Tensor

from recfb.estimate.rows import Estimator, Mean, Rows, each
from recfb.estimate.single import UNSHRUNK, cdr, cips, dros, ix, sgdr, sgips, switch

HALF_DECADES = tuple(10 ** (k / 2) for k in range(13))
ORDERS = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
GRIDS: dict[Estimator, tuple[float, ...]] = {
    cips: HALF_DECADES,
    cdr: HALF_DECADES,
    switch: HALF_DECADES,
    dros: HALF_DECADES,
    sgips: ORDERS,
    sgdr: ORDERS,
    ix: ORDERS,
}
"""The strengths that are tried where none are given."""


def squared_error(variance: Tensor, bias: Tensor, n: Tensor) -> Tensor:
    """The estimated mean squared error of estimates, variance / n + bias^2.

    Wang, Agarwal and Dudik (2017), section 4.

    >>> one = torch.ones(1)
    >>> float(squared_error(8 * one, 2 * one, 4 * one))
    6.0
    """
    return variance / n + bias * bias


def bias_bound(
    bias: Tensor, mean_ww: Tensor, n: Tensor, *, highest: float, delta: float = 0.05
) -> Tensor:
    """An upper bound of |bias| with probability 1 - delta, for residuals in [-1, 1].

    |bias| + sqrt(2 mean(w^2) log(2/delta) / n) + 2 max(w) log(2/delta) / (3 n), by Bernstein's
    inequality. Su, Srinath and Krishnamurthy (2020).

    >>> one = torch.ones(1)
    >>> round(float(bias_bound(0 * one, one, 100 * one, highest=1.0)), 4)
    0.2962
    """
    log = torch.log(torch.tensor(2 / delta, dtype=torch.float64))
    return bias.abs() + (2 * mean_ww * log / n).sqrt() + 2 * highest * log / (3 * n)


def least(score: Tensor, bias: Tensor) -> Tensor:
    """The index of the least score along the first axis; of equal ones, that of the least |bias|.

    >>> least(torch.tensor([3.0, 1.0, 1.0]), torch.tensor([0.0, 0.5, -0.2])).item()
    2
    """
    best = score == score.amin(0)
    return torch.where(best, bias.abs(), torch.inf).argmin(0)


def slope(value: Tensor, width: Tensor) -> Tensor:
    """The index of the last candidate whose interval agrees with all wider ones.

    In the order of decreasing half-widths c, candidates are accepted while |t_i - t_j| <=
    c_i + (sqrt(6) - 1) c_j for every accepted j. (G, ...) -> (...). Su, Srinath and Krishnamurthy
    (2020), SLOPE; Tucker and Lee (2021) with this constant.

    >>> value, width = torch.tensor([0.0, 0.5, 9.0]), torch.tensor([1.0, 0.3, 0.1])
    >>> slope(value, width).item()
    1
    """
    order = width.argsort(dim=0, descending=True, stable=True)  # (G, ...)
    t, c = value.gather(0, order), width.gather(0, order)
    last = torch.zeros_like(order[0])
    going = torch.ones_like(last, dtype=torch.bool)
    for i in range(1, len(t)):
        near = (t[i] - t[:i]).abs() <= c[i] + (6**0.5 - 1) * c[:i]  # (i, ...), all accepted
        going = going & near.all(0)
        last = torch.where(going, i, last)
    return order.gather(0, last[None])[0]


@dataclass(frozen=True)
class Tuned:
    """An estimator whose shrinkage is chosen from the log, policy by policy, in the same pass.

    By least estimated mean squared error (`squared_error`), or by `slope`, which needs no estimate
    of the bias. The bootstrap of a tuned estimator repeats the choice in every replicate, so its
    interval counts the choice; a Student interval would not.

    Args:
        estimator: cips, sgips, ix, cdr, dros, switch, sgdr, or another with one strength.
        grid: strengths to choose from; () takes `GRIDS`' own.
        by: "slope" or "mse".
        delta: the one-sided error rate of SLOPE's half-widths, and that of `bias_bound`.
        highest: the largest weight that could occur; with it "mse" takes `bias_bound` for the bias,
            which needs rewards in [-1, 1].

    >>> from recfb.estimate import average, cips
    >>> one = torch.ones(4, dtype=torch.float64)
    >>> rows = Rows(one, 0.25 * one, one[None])
    >>> float(Tuned(cips, (1.0, 8.0), by="mse")(rows, average))
    4.0
    """

    estimator: Estimator
    grid: Sequence[float] = ()
    by: Literal["slope", "mse"] = "slope"
    delta: float = 0.05
    highest: float | None = None

    @property
    def strengths(self) -> tuple[float, ...]:
        """The grid, or the estimator's own."""
        return tuple(self.grid) or GRIDS[self.estimator]

    def plain(self, t: Rows, mean: Mean) -> Tensor:
        """The estimator with the first strength of the grid."""
        return self._at(t, mean, self.strengths[0])

    def _at(self, t: Rows, mean: Mean, strength: float) -> Tensor:
        shrunk: Callable[..., Tensor] = self.estimator
        return shrunk(t, mean, strength)

    def columns(self, t: Rows, mean: Mean) -> Tensor:
        """(4, G, ..., P): mean, mean square and estimated bias of the terms, by strength, and the
        mean squared weight where the bias is to be bounded, else 0."""
        whole = UNSHRUNK[self.estimator](t, each)  # (P, n)
        found = []
        for strength in self.strengths:
            term = self._at(t, each, strength)  # (P, n)
            value = mean(term)
            ww = torch.zeros_like(value) if self.highest is None else mean(t.ww)
            found.append(torch.stack([value, mean(term * term), mean(term - whole), ww]))
        return torch.stack(found, dim=1)

    @torch.no_grad()
    def choice(self, columns: Tensor, n: Tensor) -> Tensor:
        """Which strength (..., P), from `columns` and the number of rows n (..., P)."""
        value, square, bias, ww = columns
        variance = (square - value * value).clamp(min=0)
        if self.highest is not None:
            bias = bias_bound(bias, ww, n, highest=self.highest, delta=self.delta)
        if self.by == "mse":
            return least(squared_error(variance, bias, n), bias)
        df = (n - 1).clamp(min=1)
        quantile = torch.from_numpy(stdtrit(df.numpy(), 1 - self.delta))
        return slope(value, quantile * (variance / df).sqrt())

    def choose(self, columns: Tensor, n: Tensor) -> Tensor:
        """The value (..., P) with the strength that was chosen."""
        return columns[0].gather(0, self.choice(columns, n)[None])[0]

    def __call__(self, t: Rows, mean: Mean) -> Tensor:
        columns = self.columns(t, mean)
        return self.choose(columns, torch.full_like(columns[0, 0], len(t)))
