"""Statistics as columns to sum: run on zero rows they declare columns, on sums they give values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from recfb.errors import ConfigError
from recfb.estimate import Counted, Estimator, Mean, Rows
from recfb.evaluation.shape import Shape


class Terms:
    """Runs every statistic with a recording `mean`: which columns a pass must sum, and what they
    make.

    Column 0 counts rows. A tensor that two statistics share (`t.w`) is one column.

    >>> from recfb.estimate import ips, snips
    >>> terms = Terms({"ips": ips, "snips": snips}, policies=1)
    >>> terms.size, terms.calls
    (3, {'ips': [1], 'snips': [1, 2]})
    """

    def __init__(
        self, statistics: Mapping[str, Estimator], *, policies: int, shape: Shape = Shape()
    ) -> None:
        self.statistics = dict(statistics)
        self.policies = policies
        self.calls: dict[str, list[int]] = {}
        self.empty = replace(shape, policies=policies).probe()[:0]
        seen: list[Tensor] = []
        for name, statistic in self.statistics.items():
            self.calls[name] = []

            def mean(x: Tensor, indices: list[int] = self.calls[name]) -> Tensor:
                known = [k for k, old in enumerate(seen) if old is x]
                if not known:
                    seen.append(x)
                indices.append(1 + (known[0] if known else len(seen) - 1))
                return torch.ones(self.policies, dtype=torch.float64)

            self._check(name, recorded(statistic)(self.empty, mean))
        self.size = 1 + len(seen)

    def _check(self, name: str, value: Tensor) -> None:
        if not isinstance(value, Tensor) or value.shape[-1:] != (self.policies,):
            found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ConfigError(
                f"estimator {name!r} returned {found}, expected ({self.policies},), one value a "
                "policy: combine results of mean(column), as in mean(t.wr) / mean(t.w)."
            )

    def columns(self, rows: Rows) -> Tensor:
        """The columns of these rows: (m, P, n) float64."""
        out = torch.empty(self.size, self.policies, len(rows), dtype=torch.float64)
        out[0] = 1.0
        filled = 1
        for name, statistic in self.statistics.items():
            calls = iter(self.calls[name])

            def mean(x: Tensor, calls: Iterator[int] = calls) -> Tensor:
                nonlocal filled
                index = next(calls)
                if index == filled:  # columns are numbered in the order of their first use
                    out[index] = x
                    filled += 1
                return torch.ones(self.policies, dtype=torch.float64)

            recorded(statistic)(rows, mean)
        return out

    def means(self, name: str, sums: Tensor) -> Tensor:
        """What a statistic makes of means alone, from sums (..., m, P): its value, or the columns
        of one that also counts rows."""
        calls = iter(self.calls[name])

        def mean(x: Tensor) -> Tensor:
            return sums[..., next(calls), :] / sums[..., 0, :]

        return recorded(self.statistics[name])(self.empty, mean)

    def value(self, name: str, sums: Tensor) -> Tensor:
        """A statistic from sums (..., m, P): (..., P), or what it stacks in front of that."""
        found, statistic = self.means(name, sums), self.statistics[name]
        return statistic.choose(found, sums[..., 0, :]) if isinstance(statistic, Counted) else found

    def gradient(self, name: str, totals: Tensor) -> tuple[list[int], Tensor]:
        """The columns (m',) a statistic uses, and its derivative by their sums: (m', P)."""
        used = sorted({0, *self.calls[name]})
        with torch.enable_grad():
            sums = totals.detach().clone().requires_grad_()  # (m, P)
            (slope,) = torch.autograd.grad(self.value(name, sums).sum(), sums)
        return used, slope[used]


def recorded(statistic: Estimator) -> Estimator:
    """What a pass runs for a statistic: of one that counts rows, its columns."""
    return statistic.columns if isinstance(statistic, Counted) else statistic


def moments(t: Rows, mean: Mean) -> Tensor:
    """What diagnostics and the likelihood interval read: (6, P) means of w, w^2, wr, (wr)^2, w^2 r
    and r."""
    terms = (t.w, t.ww, t.wr, t.wr * t.wr, t.wwr, t.r)
    return torch.stack([mean(x) for x in terms])


def weight(t: Rows, mean: Mean) -> Tensor:
    """The mean weight: 1 where the propensities are right and the target is supported."""
    return mean(t.w)


def reward(t: Rows, mean: Mean) -> Tensor:
    """The mean reward: what the logging policy earned."""
    return mean(t.r)


def residual(t: Rows, mean: Mean) -> Tensor:
    """D = mean(w e) / mean(w): what the reward model misses under the target policy."""
    return mean(t.we) / mean(t.w)


def accumulate(terms: Terms, rows: Rows, bucket: Tensor, size: int, chunk: int = 16384) -> Tensor:
    """Sums of every column by bucket: (m, P, size)."""
    sums = torch.zeros(terms.size * terms.policies, size, dtype=torch.float64)
    for start in range(0, len(rows), chunk):
        part = slice(start, start + chunk)
        columns = terms.columns(rows[part]).flatten(0, 1)  # (m * P, chunk)
        sums.index_add_(1, bucket[part], columns)
    return sums.view(terms.size, terms.policies, size)
