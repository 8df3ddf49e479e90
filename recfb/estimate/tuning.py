"""Choosing how much to shrink weights, from the columns of one pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from scipy.special import stdtrit
from torch import Tensor

from recfb.estimate.rows import Counted, Estimator, Mean, Rows, each
from recfb.estimate.single import UNSHRUNK, cdr, cips, dros, ix, sgdr, sgips, switch

HALF_DECADES = tuple(10 ** (k / 2) for k in range(13))
ORDERS = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
ROUNDING = 1e-9
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

RISING = frozenset({sgips, sgdr, ix})
"""Those that shrink more with a larger strength; the others shrink less."""


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


def last_alike(value: Tensor, square: Tensor, chosen: Tensor) -> Tensor:
    """The last candidate whose mean and mean square are those of the chosen one, up to rounding.

    (G, ...), (G, ...), (...) -> (...).

    >>> value, square = torch.tensor([0.4, 0.5, 0.5]), torch.tensor([1.0, 2.0, 2.0])
    >>> last_alike(value, square, torch.tensor(1)).item()
    2
    """
    mean, size = value.gather(0, chosen[None]), square.gather(0, chosen[None])  # (1, ...)
    alike = (value - mean).abs() <= ROUNDING * size.sqrt()
    alike &= (square - size).abs() <= ROUNDING * size
    there = len(value) - 1 - alike.flip(0).to(torch.int8).argmax(0)
    return torch.where(alike.any(0), there, chosen)


@dataclass(frozen=True)
class Tuned(Counted):
    """An estimator whose shrinkage is chosen from the log, policy by policy, in the same pass.

    By least estimated mean squared error (`squared_error`), or by `slope`, which needs no estimate
    of the bias. An interval has to count the choice. The bootstrap does, since every replicate
    repeats it. A Student interval would not, unless `split`: then `evaluate` chooses on each half
    of the units what the other half is valued with, and averages both halves by their rows, so that
    no row has a say in its own shrinkage. Chernozhukov et al. (2018), definition 3.1.

    Args:
        estimator: cips, sgips, ix, cdr, dros, switch, sgdr, or another with one strength.
        grid: strengths to choose from; () takes `GRIDS`' own.
        by: "slope" or "mse".
        delta: the one-sided error rate of SLOPE's half-widths, and that of `bias_bound`.
        highest: the largest weight that could occur; with it "mse" takes `bias_bound` for the bias,
            which needs rewards in [-1, 1].
        split: choose on one half, value the other, and the other way round. Rows have no units:
            called on them it chooses on all.

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
    split: bool = False

    @property
    def strengths(self) -> tuple[float, ...]:
        """The grid, or the estimator's own; what shrinks least comes last."""
        grid = tuple(self.grid) or GRIDS[self.estimator]
        return tuple(sorted(grid, reverse=self.estimator in RISING))

    def plain(self, t: Rows, mean: Mean) -> Tensor:
        """The estimator with the least shrinkage of the grid."""
        return self._at(t, mean, self.strengths[-1])

    def _at(self, t: Rows, mean: Mean, strength: float) -> Tensor:
        shrunk: Callable[..., Tensor] = self.estimator
        return shrunk(t, mean, strength)

    def columns(self, t: Rows, mean: Mean) -> Tensor:
        """(4, G, ..., P): mean, mean square and estimated bias of the terms, by strength, and the
        mean squared weight."""
        whole = UNSHRUNK[self.estimator](t, each)  # (P, n)
        found = []
        for strength in self.strengths:
            term = self._at(t, each, strength)  # (P, n)
            moments = mean(term), mean(term * term), mean(term - whole), mean(t.ww)
            found.append(torch.stack(moments))
        return torch.stack(found, dim=1)

    @torch.no_grad()
    def choice(self, columns: Tensor, n: Tensor) -> Tensor:
        """Which strength (..., P), from `columns` and the number of rows n.

        Of strengths that shrink no row differently it is the least shrinkage: on other rows, those
        of the other half say, they may differ.
        """
        value, square, bias, ww = columns
        variance = (square - value * value).clamp(min=0)
        if self.highest is not None:
            bias = bias_bound(bias, ww, n, highest=self.highest, delta=self.delta)
        if self.by == "mse":
            best = least(squared_error(variance, bias, n), bias)
        else:
            df = (n - 1).clamp(min=1)
            quantile = torch.as_tensor(stdtrit(df.numpy(), 1 - self.delta))
            best = slope(value, quantile * (variance / df).sqrt())
        return last_alike(value, square, best)

    def choose(self, columns: Tensor, n: Tensor) -> Tensor:
        """The value (..., P) with the strength that was chosen."""
        return self._take(columns, self.choice(columns, n))

    def cross(self, columns: Sequence[Tensor], n: Sequence[Tensor]) -> Tensor:
        """The value (..., P) of two halves, from the columns and rows of each: a half is valued
        with the strength that the other chose, and counts by its rows."""
        chosen = [self.choice(*half) for half in zip(columns, n, strict=True)]
        first, last = self._take(columns[0], chosen[1]), self._take(columns[1], chosen[0])
        return (n[0] * first + n[1] * last) / (n[0] + n[1])

    def _take(self, columns: Tensor, choice: Tensor) -> Tensor:
        return columns[0].gather(0, choice[None])[0]
