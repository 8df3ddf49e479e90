"""From blocks of requests to compact rows: the only place where (rows, items) tensors exist."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from recfb.contracts import Block, Context, Model, Policy
from recfb.estimate import Rows
from recfb.evaluation.state import Faults

BLOCK = 2048
"""Rows of a (rows, items) tensor: it stays in cache."""

CELLS = 1 << 21
"""The most (group, position, item) cells that a support table may have."""


class RewardModel(Protocol):
    """Predicted rewards of a block: (B, n_items). It may look at the unit, never at the reward."""

    def predict(self, block: Block) -> Tensor: ...


@dataclass(frozen=True)
class Fixed:
    """A model that was fitted elsewhere: the same for all rows of a block."""

    model: Model

    def predict(self, block: Block) -> Tensor:
        """The model's scores."""
        return self.model.scores(block.context)


@dataclass(frozen=True)
class Reduced:
    """Compact rows of a part, and how much the targets ask of items the log never showed."""

    rows: Rows
    mass: Tensor | None  # (P, G, L, K) target probability by (group, position, item)
    seen: Tensor | None  # (G, L, K) logged rows
    faults: Faults


def _bad_rows(probs: Tensor, context: Context, n_items: int) -> Mapping[str, Tensor]:
    """What is wrong with rows of probabilities -> which rows (B,)."""
    total = probs.sum(1)  # (B,)
    finite = torch.isfinite(total)
    bad = {
        "have NaN or infinite probabilities": ~finite,
        "have negative probabilities": (probs < 0).any(1),
        "do not sum to 1: return probs / probs.sum(1, keepdim=True)": finite
        & ((total - 1).abs() > 1e-5),
    }
    if context.available is not None:
        away = probs.masked_fill(context.available, 0.0)  # (B, n_items)
        bad["give probability to unavailable items"] = (away > 0).any(1)
    return bad


class _Guard:
    """Counts rows that are no distribution, and goes on: one error comes after the pass."""

    def __init__(self, part: str, n_items: int) -> None:
        self.part = part
        self.n_items = n_items
        self.faults: Faults = {}

    def check(self, name: str, probs: Tensor, context: Context, start: int) -> Tensor:
        """The probabilities in float64; zeros stand in for a wrong shape."""
        who, first = f"policies[{name!r}].probs", f"row {start:,} of part {self.part!r}"
        expected = (len(context), self.n_items)
        if tuple(probs.shape) != expected:
            what = f"have shape {tuple(probs.shape[1:])}, expected ({self.n_items},)"
            self._add(who, what, len(context), first)
            return torch.zeros(expected, dtype=torch.float64)
        probs = probs.to("cpu", torch.float64)
        for what, rows in _bad_rows(probs, context, self.n_items).items():
            count = int(rows.sum())
            if count:
                place = start + int(rows.to(torch.int8).argmax())
                self._add(who, what, count, f"row {place:,} of part {self.part!r}")
        return probs

    def _add(self, who: str, what: str, count: int, first: str) -> None:
        old = self.faults.get(("policy", who, what), (0, first))
        self.faults["policy", who, what] = (old[0] + count, old[1])


class _Support:
    """Target mass and logged rows by (group, position, item)."""

    def __init__(self, block: Block, policies: int, groups: int, n_items: int) -> None:
        position = block.context.position
        levels = 1 if position is None or not len(block) else 1 + int(position.max())
        if groups * levels * n_items > CELLS:
            levels, position = 1, None
        self.shape = (groups, levels, n_items)
        self.on = groups * levels * n_items <= CELLS
        group = torch.zeros(len(block), dtype=torch.int64) if block.by is None else block.by
        self.row = group * levels + (0 if position is None else position)  # (n,)
        self.mass = torch.zeros(policies, groups * levels, n_items, dtype=torch.float64)
        self.seen = torch.zeros(groups * levels, n_items, dtype=torch.float64)
        if self.on:
            ones = torch.ones(len(block), dtype=torch.float64)
            self.seen.index_put_((self.row, block.slate.item[:, 0]), ones, accumulate=True)

    def add(self, policy: int, rows: slice, probs: Tensor) -> None:
        """Add a block of target probabilities (B, n_items)."""
        if self.on:
            self.mass[policy].index_add_(0, self.row[rows], probs)

    def tables(self) -> tuple[Tensor | None, Tensor | None]:
        """(P, G, L, K) and (G, L, K), or nothing where the tables would be too large."""
        if not self.on:
            return None, None
        return self.mass.view(len(self.mass), *self.shape), self.seen.view(self.shape)


@torch.no_grad()
def reduce(
    block: Block,
    policies: Mapping[str, Policy],
    model: RewardModel | None,
    *,
    n_items: int,
    groups: int = 1,
) -> Reduced:
    """All rows of a part -> compact rows, in blocks of 2,048.

    Rows of probabilities that are no distribution are counted in `faults`, not raised.
    """
    n, item = len(block), block.slate.item  # (n, 1)
    pe = torch.empty(len(policies), n, dtype=torch.float64)
    v = torch.empty_like(pe) if model is not None else None
    q = torch.empty(n, dtype=torch.float64) if model is not None else None
    guard, support = _Guard(block.part, n_items), _Support(block, len(policies), groups, n_items)
    for start in range(0, n, BLOCK):
        part = slice(start, start + BLOCK)
        some = block[part]
        predicted = None if model is None else model.predict(some).to("cpu", torch.float64)
        if predicted is not None and q is not None:
            q[part] = predicted.gather(1, item[part])[:, 0]
        for k, (name, policy) in enumerate(policies.items()):
            probs = guard.check(name, policy.probs(some.context), some.context, start)
            pe[k, part] = probs.gather(1, item[part])[:, 0]
            if predicted is not None and v is not None:
                v[k, part] = torch.einsum("bk,bk->b", probs, predicted)
            support.add(k, part, probs)
    p = block.slate.propensity
    p = torch.full((n,), torch.nan, dtype=torch.float64) if p is None else p[:, 0]
    rows = Rows(block.feedback.reward[:, 0].to(torch.float64), p.to(torch.float64), pe, v, q)
    return Reduced(rows, *support.tables(), guard.faults)


def known_rows(block: Block) -> Tensor:
    """The rows of a block whose reward is known."""
    return block.feedback.reward[:, 0].isfinite().nonzero()[:, 0]


__all__ = ["BLOCK", "Fixed", "Reduced", "RewardModel", "known_rows", "reduce"]
