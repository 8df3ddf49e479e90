"""The reward model that `dr` and `dm` use when none is given: cross-fitted cell means."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from recfb.contracts import Block
from recfb.errors import UnboundError
from recfb.evaluation.reduction import known_rows
from recfb.evaluation.tables import grown
from recfb.random import mix64


def fold_of(unit: Tensor, folds: int, seed: int) -> Tensor:
    """The fold of each row: a hash of its unit, so every partition of the rows agrees. (B,)"""
    return mix64(unit ^ seed) % folds


def cell_counts(block: Block, *, folds: int, seed: int, n_items: int) -> tuple[Tensor, Tensor]:
    """Rows and reward sums by (fold, position, item): two (folds, L, n_items), L fits the block."""
    block = block[known_rows(block)]
    position = _level(block)
    levels = 1 + int(position.max()) if len(block) else 1
    cell = (fold_of(block.unit, folds, seed) * levels + position) * n_items
    cell = cell + block.slate.item[:, 0]  # (B,)
    reward = block.feedback.reward[:, 0].to(torch.float64)
    count = torch.zeros(folds * levels * n_items, dtype=torch.float64)
    total = torch.zeros_like(count)
    count.index_add_(0, cell, torch.ones_like(reward))
    total.index_add_(0, cell, reward)
    shape = (folds, levels, n_items)
    return count.view(shape), total.view(shape)


def _level(block: Block) -> Tensor:
    """Position as a row of the table; row 0 is for rows without one."""
    position = block.context.position
    return torch.zeros(len(block), dtype=torch.int64) if position is None else position


class CellMeans:
    """The mean reward of (position, item), shrunk to its position's mean, fitted without a row's
    own fold.

    (sum + k * position mean) / (n + k), with folds by a hash of the unit.

    Args:
        k: rows that the position's mean counts for.
        folds: how many models; each row is predicted by the one that did not see its unit.
        seed: of the hash.
    """

    def __init__(self, *, k: float = 50.0, folds: int = 3, seed: int = 0) -> None:
        self.k = k
        self.folds = folds
        self.seed = seed
        self.table: Tensor | None = None  # (folds, levels, n_items)

    def __repr__(self) -> str:
        return f"cell means by (position, item), k = {self.k:g}, {self.folds} folds by unit"

    def fit(self, counts: Iterable[tuple[Tensor, Tensor]]) -> CellMeans:
        """Fill the table from what `cell_counts` gave for every part."""
        parts = list(counts)
        levels = max(part[0].shape[1] for part in parts)
        n = torch.stack([grown(part[0], levels) for part in parts]).sum(0)  # (folds, L, n_items)
        r = torch.stack([grown(part[1], levels) for part in parts]).sum(0)
        n, r = n.sum(0) - n, r.sum(0) - r  # the other folds
        overall = r.sum((1, 2), keepdim=True) / n.sum((1, 2), keepdim=True).clamp(min=1)
        rows = n.sum(2, keepdim=True)  # (folds, levels, 1)
        position = torch.where(rows > 0, r.sum(2, keepdim=True) / rows.clamp(min=1), overall)
        self.table = (r + self.k * position) / (n + self.k)
        return self

    def predict(self, block: Block) -> Tensor:
        """Predicted rewards, each row by the model that did not see its unit: (B, n_items)."""
        if self.table is None:
            raise UnboundError("these cell means are not fitted yet: plan = plan.fit(log).")
        fold = fold_of(block.unit, self.folds, self.seed)
        position = _level(block)
        position = torch.where(position < self.table.shape[1], position, 0)
        return self.table[fold, position]  # (B, n_items)
