"""Requests and items as the rows of a table, for models that learn rewards from one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from scipy.sparse import csr_array
from torch import Tensor

from recfb.contracts import Block, Context, cat
from recfb.data import Log
from recfb.data.door import Problems
from recfb.errors import ConfigError, LogError
from recfb.evaluation.reduction import known_rows

MOST_CELLS = 1 << 22
"""At most so many numbers of a table that is predicted from are held at once."""


class Formula(Protocol):
    """What was learnt: rows (B, C) and items (B, M), or all of them -> rewards, float64."""

    def __call__(self, rows: Tensor, item: Tensor | None) -> Tensor: ...


@dataclass(frozen=True)
class Heads:
    """A linear formula for each item: rows . slope[item]."""

    slope: Tensor  # (n_items, C)
    logit: bool = False

    def __call__(self, rows: Tensor, item: Tensor | None) -> Tensor:
        value = rows @ self.slope.T if item is None else self._each(rows, item)
        return torch.sigmoid(value) if self.logit else value

    def _each(self, rows: Tensor, item: Tensor) -> Tensor:
        return (self.slope[item] * rows[:, None]).sum(2)  # (B, M)


@dataclass(frozen=True)
class Rowwise:
    """An estimator of [rows, what is known of the item]; a classifier's classes are rewards."""

    estimator: Any
    items: Tensor  # (n_items, E)

    def __call__(self, rows: Tensor, item: Tensor | None) -> Tensor:
        if item is None:
            item = torch.arange(len(self.items)).expand(len(rows), -1)  # (B, n_items)
        some = max(1, MOST_CELLS // max(1, item.shape[1] * (rows.shape[1] + self.items.shape[1])))
        made = [torch.empty(0, item.shape[1], dtype=torch.float64)]
        for start in range(0, len(rows), some):
            at = item[start : start + some]  # (b, M)
            x = rows[start : start + some, None].expand(-1, at.shape[1], -1)  # (b, M, C)
            table = torch.cat([x, self.items[at]], 2).flatten(0, 1)  # (b * M, C + E)
            made.append(self._predict(table).view(at.shape))
        return torch.cat(made)

    def _predict(self, table: Tensor) -> Tensor:
        if not len(table):
            return torch.empty(0, dtype=torch.float64)
        if hasattr(self.estimator, "classes_"):
            chance = torch.as_tensor(self.estimator.predict_proba(table.numpy()))  # (N, classes)
            return chance.to(torch.float64) @ torch.as_tensor(self.estimator.classes_).double()
        return torch.as_tensor(self.estimator.predict(table.numpy())).to(torch.float64)


@dataclass(frozen=True)
class Inputs:
    """What is known of a request: [one-hot position, features of the row, columns of its user].

    Position 0 stands for none, and for those that the log did not show. Features are in standard
    deviations from their mean over the rows.
    """

    users: Tensor  # (n_users, U)
    width: int  # of the row's features
    positions: int  # the largest
    mean: Tensor  # (D + U,)
    spread: Tensor  # (D + U,)

    @classmethod
    def of(cls, context: Context, users: Tensor) -> Inputs:
        """The inputs that the rows of a log have."""
        features, position = context.features, context.position
        width = 0 if features is None else features.shape[-1]
        told = position is not None and bool((position != position[0]).any())
        last = int(position.max()) if position is not None and told else 0
        none = torch.zeros(0, dtype=torch.float64)
        raw = cls(users, width, last, none, none)._known(context)
        spread = (raw - raw.mean(0)).square().mean(0).sqrt()
        return cls(users, width, last, raw.mean(0), torch.where(spread > 0, spread, 1.0))

    def table(self, context: Context) -> Tensor:
        """(B, 1 + positions + D + U) float64."""
        position = context.position
        if position is None:
            position = torch.zeros(len(context), dtype=torch.int64)
        position = torch.where(position <= self.positions, position, 0)
        hot = torch.nn.functional.one_hot(position, 1 + self.positions)  # (B, 1 + positions)
        return torch.cat([hot, (self._known(context) - self.mean) / self.spread], 1)

    def _known(self, context: Context) -> Tensor:
        features = context.features
        if features is not None and features.dim() != 2:
            raise ConfigError(
                f"Reward reads features of the request, (B, {self.width}), found "
                f"{tuple(features.shape)}. What is known of items goes into columns of log.items."
            )
        found = 0 if features is None else features.shape[1]
        if found != self.width:
            raise ConfigError(
                f"this Reward was fitted to rows with {self.width} features, the request has "
                f"{found}. Give both the same column: features."
            )
        own = self.users[context.user]  # (B, U)
        return own if features is None else torch.cat([features.to(torch.float64), own], 1)


def crossed(rows: Tensor, item: Tensor, z: Tensor | None, n_items: int) -> Any:
    """The product of what is known of the item and of the request: (n, E * C), sparse.

    Args:
        rows: (n, C) requests.
        item: (n,) items.
        z: (n_items, E) what is known of items; None: which one it is, E = n_items.
        n_items: how many there are.

    >>> rows = torch.tensor([[1.0, 5.0]])
    >>> crossed(rows, torch.tensor([1]), None, 2).toarray().tolist()
    [[0.0, 0.0, 1.0, 5.0]]
    >>> crossed(rows, torch.tensor([1]), torch.tensor([[0.0], [2.0]]), 2).toarray().tolist()
    [[2.0, 10.0]]
    """
    n, width = rows.shape
    if z is not None:
        return csr_array((z[item][:, :, None] * rows[:, None]).flatten(1).numpy())
    place = item[:, None] * width + torch.arange(width)  # (n, C)
    ends = torch.arange(0, n * width + 1, width)
    own = rows.flatten().clone()  # zeros are taken out in place
    parts = (own.numpy(), place.flatten().int().numpy(), ends.int().numpy())
    table = csr_array(parts, shape=(n, n_items * width))
    table.eliminate_zeros()
    return table


def rows_of(log: Log, unit: str | None = None) -> Block:
    """All rows of a log as one Block.

    Raises:
        LogError: there are none, or rows of files that are no rows of a log.
    """
    problems = Problems()
    blocks = [replace(part.record(problems, unit), part="") for part in log.parts()]
    problems.raise_any()
    if not blocks:
        raise LogError(f"{log!r} has no rows to learn from.")
    return cat(blocks)


def known_rewards(log: Log) -> Block:
    """The rows of a log with a known reward.

    Raises:
        LogError: there are none.
    """
    whole = rows_of(log)
    block = whole[known_rows(whole)]
    if not len(block):
        raise LogError(f"{log!r} has no known reward to learn from.")
    return block


__all__ = ["Formula", "Heads", "Inputs", "Rowwise", "crossed", "known_rewards", "rows_of"]
