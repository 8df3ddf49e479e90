"""What estimators are given: compact rows, and `mean`, the only door to them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from torch import Tensor

Mean = Callable[[Tensor], Tensor]
"""The mean over the last axis: (n,) or (P, n) -> () or (P,)."""

Estimator = Callable[["Rows", Mean], Tensor]
"""One value a policy. No other reduction over rows, no branch on data, no Python number of rows."""


def average(x: Tensor) -> Tensor:
    """The mean over the last axis: what a training loss passes as `mean`."""
    return x.mean(-1)


def each(x: Tensor) -> Tensor:
    """The column as it is: with it as `mean`, an estimator that is one mean gives its terms."""
    return x


@dataclass(frozen=True)
class Rows:
    """What estimators read of n logged rows: shared columns (n,), and a line a policy (P, n).

    In training with one policy `pe` and `v` are (n,). What the log or the plan does not have is
    None (`v`, `q`: no reward model) or NaN (`p`: no propensity).
    """

    r: Tensor  # (n,) reward
    p: Tensor  # (n,) propensity of the logged item
    pe: Tensor  # (P, n) the target policy's probability of the logged item
    v: Tensor | None = None  # (P, n) sum over items of the target's probability x predicted reward
    q: Tensor | None = None  # (n,) or (P, n) predicted reward of the logged item
    vm: Tensor | None = None  # (P, n) as v, by the model of least variance (MRDR)
    qm: Tensor | None = None  # (P, n) as q, by that model
    pbar: Tensor | None = None  # (n,) probability of the logged item under the loggers' mixture
    logger: Tensor | None = None  # (J, n) 1 where the row is logger j's, else 0

    def __len__(self) -> int:
        return self.r.shape[-1]

    def __getitem__(self, rows: slice | Tensor) -> Rows:
        columns: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        kept: dict[str, Any] = {
            name: None if x is None else x[..., rows] for name, x in columns.items()
        }
        return type(self)(**kept)

    @cached_property
    def w(self) -> Tensor:
        """The weight pe / p."""
        return self.pe / self.p

    @cached_property
    def wr(self) -> Tensor:
        """The weighted reward."""
        return self.w * self.r

    @cached_property
    def ww(self) -> Tensor:
        """The squared weight."""
        return self.w * self.w

    @cached_property
    def wwr(self) -> Tensor:
        """The reward weighted twice."""
        return self.ww * self.r

    @cached_property
    def e(self) -> Tensor:
        """The residual of the reward model at the logged item."""
        return self.r - known(self.q)

    @cached_property
    def we(self) -> Tensor:
        """The weighted residual."""
        return self.w * self.e

    @cached_property
    def mixed(self) -> Rows:
        """These rows as if one logger, the mixture of all, had written them."""
        return Rows(self.r, logged(self.pbar), self.pe, self.v, self.q)

    @cached_property
    def robust(self) -> Rows:
        """These rows with the reward model of least variance."""
        return Rows(self.r, self.p, self.pe, known(self.vm), known(self.qm))


class Counted(ABC):
    """An estimator that also reads how many rows there are: means first, then the value of them.

    What a pass sums are its `columns`; `choose` makes values of sums, of resampled sums and of a
    part's.
    """

    @abstractmethod
    def columns(self, t: Rows, mean: Mean) -> Tensor:
        """What is read of the rows, through `mean` alone: (..., P)."""

    @abstractmethod
    def choose(self, columns: Tensor, n: Tensor) -> Tensor:
        """The value (..., P), from `columns` and the number of rows n, (..., P) or one for all."""

    def __call__(self, t: Rows, mean: Mean) -> Tensor:
        columns = self.columns(t, mean)
        return self.choose(columns, columns.new_tensor(len(t)))


def known(column: Tensor | None) -> Tensor:
    """A column of the reward model, which the caller must have given."""
    if column is None:
        raise TypeError("this estimator reads a reward model: give Rows(..., v=..., q=...).")
    return column


def logged(column: Tensor | None) -> Tensor:
    """A column of several loggers, which the caller must have given."""
    if column is None:
        raise TypeError(
            "this estimator reads several loggers: give Rows(..., pbar=..., logger=...)."
        )
    return column
