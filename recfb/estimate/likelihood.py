"""The value of a policy by empirical likelihood."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recfb.errors import ConfigError
from recfb.estimate.rows import Counted, Mean, Rows

INF = float("inf")


def likelihood_value(means: Tensor, n: Tensor, *, highest: float = INF) -> Tensor:
    """The value under the reweighting of n rows, and of one more, that is nearest to the log among
    those with mean weight 1.

    Nearest by the Cressie-Read divergence of power -2: with N = n + 1, sums S over the rows, a
    phantom row of weight f (`highest` where mean w < 1, else 0), a = (f + Sw) / N, b = (f^2 + Sww)
    / N, gam = (b - a) / (a^2 - b) and bet = (1 - a) / (a^2 - b), it is

        (-gam Swr - bet Swwr) / N + max(0, 1 + (gam Sw + bet Sww) / N) Sr / n.

    The second part is the mass of the phantom row, whose reward is taken to be the mean reward.
    With an infinite f the first is mean(w r) and the second (1 - mean w) mean(r). Where no row has
    weight the phantom row would be all there is, so there the value is NaN. Karampatziakis,
    Langford and Mineiro (2020), section 4.

    Args:
        means: (5, ..., P) of w, w^2, w r, w^2 r and r.
        n: rows, (..., P) or one number for all.
        highest: the largest weight that could occur.

    >>> means = torch.tensor([0.5, 0.5, 0.2, 0.3, 0.4], dtype=torch.float64)
    >>> round(float(likelihood_value(means, torch.tensor(10.0))), 4)  # 0.2 + 0.5 x 0.4
    0.4
    """
    w, ww, wr, wwr, r = means
    many = n / (n + 1)
    low = w < 1
    fake = low.to(w.dtype) * (0.0 if highest == INF else highest)
    a = fake / (n + 1) + many * w
    b = fake * fake / (n + 1) + many * ww
    spread = a * a - b
    spread = torch.where(spread < 0, spread, -1.0)  # else no row has weight
    gam, bet = (b - a) / spread, (1 - a) / spread
    rest = (1 + many * (gam * w + bet * ww)).clamp(min=0)
    value = -many * (gam * wr + bet * wwr) + rest * r
    if highest == INF:
        value = torch.where(low, wr + (1 - w) * r, value)
    return torch.where(w == 0, torch.nan, value)


@dataclass(frozen=True)
class EmpiricalLikelihood(Counted):
    """The empirical likelihood estimate: what `el` is, with the largest weight that could occur.

    It is the value that the interval `likelihood` is built around: the rewards of the log under the
    nearest reweighting whose weights average 1, as those of the right propensities do. So it shifts
    with the reward as `snips` does. Bias of order 1/n. See `likelihood_value`.

    Args:
        highest: the largest weight that could occur, 1 / the smallest propensity; the more is known
            of it, the less is left to the mean reward where weights average below 1.

    Raises:
        ConfigError: a largest weight below 1: weights average 1.

    >>> from recfb.estimate import average
    >>> one = torch.tensor([1.0, 0.0], dtype=torch.float64)
    >>> rows = Rows(one, 0.5 + 0 * one, torch.tensor([[0.3, 0.2]], dtype=torch.float64))
    >>> round(float(EmpiricalLikelihood()(rows, average)), 4)  # mean(w r) + (1 - mean w) / 2
    0.55
    """

    highest: float = INF

    def __post_init__(self) -> None:
        if not self.highest >= 1:
            raise ConfigError(
                f"highest is the largest weight that could occur, found {self.highest}: weights "
                "average 1, so it is at least 1. Try 1 / the smallest propensity."
            )

    def columns(self, t: Rows, mean: Mean) -> Tensor:
        """(5, ..., P): the means of w, w^2, w r, w^2 r and r."""
        w, ww, wr, wwr = (mean(x) for x in (t.w, t.ww, t.wr, t.wwr))
        return torch.stack([w, ww, wr, wwr, mean(t.r).expand_as(w)])

    def choose(self, columns: Tensor, n: Tensor) -> Tensor:
        """The value (..., P)."""
        return likelihood_value(columns, n, highest=self.highest)


el = EmpiricalLikelihood()
"""Empirical likelihood where any weight could occur."""
