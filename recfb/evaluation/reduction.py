"""From blocks of requests to compact rows: the only place where (rows, items) tensors exist."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from recfb.contracts import Block, Context, Model, Policy
from recfb.errors import SupportError
from recfb.estimate import Rows
from recfb.evaluation.state import Faults
from recfb.evaluation.tables import Items

BLOCK = 2048
"""Rows of a (rows, items) tensor: it stays in cache."""


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
    """Compact rows of a part, and a table of its items for every group of rows."""

    rows: Rows
    items: list[Tensor | None]  # a group: (6 + 3 P, L, K), `tables.of_items`
    faults: Faults
    beyond: Tensor | None = None  # (n,) whether a predicted reward lies outside the range


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


class Guard:
    """Counts rows that are no distribution, and goes on: one error comes after the pass."""

    def __init__(self, part: str, n_items: int, place: Tensor, kind: str = "row") -> None:
        self.part = part
        self.kind = kind
        self.place = place  # (n,) numbers of the rows in the part
        self.n_items = n_items
        self.faults: Faults = {}

    def check(self, name: str, probs: Tensor, context: Context, start: int) -> Tensor:
        """The probabilities in float64; zeros stand in for a wrong shape."""
        who, first = f"policies[{name!r}].probs", self._name(start)
        expected = (len(context), self.n_items)
        if not isinstance(probs, Tensor) or probs.is_complex():
            kind = probs.dtype if isinstance(probs, Tensor) else type(probs).__name__
            self._add(who, f"are of type {kind}, not a real tensor", len(context), first)
            return torch.zeros(expected, dtype=torch.float64)
        if tuple(probs.shape) != expected:
            what = f"have shape {tuple(probs.shape[1:])}, expected ({self.n_items},)"
            self._add(who, what, len(context), first)
            return torch.zeros(expected, dtype=torch.float64)
        probs = probs.to("cpu", torch.float64)
        for what, rows in _bad_rows(probs, context, self.n_items).items():
            count = int(rows.sum())
            if count:
                first = self._name(start + int(rows.to(torch.int8).argmax()))
                self._add(who, what, count, first)
        return probs

    def slots(self, name: str, field: str, p: Tensor | None, item: Tensor) -> Tensor:
        """Probabilities of slates (B, size) in float64; what has no exact value is NaN."""
        unknown = torch.full(item.shape, torch.nan, dtype=torch.float64)
        if p is None:
            return unknown
        who = f"policies[{name!r}].propensities"
        if not isinstance(p, Tensor) or p.shape != item.shape:
            kind = tuple(p.shape) if isinstance(p, Tensor) else type(p).__name__
            what = f"have {field} of {kind}, expected {tuple(item.shape)}"
            self._add(who, what, len(item), self._name(0))
            return unknown
        p = p.to("cpu", torch.float64)
        bad = ~((p >= 0) & (p <= 1 + 1e-9)).all(1)  # (B,) NaN is bad
        if bool(bad.any()):
            first = self._name(int(bad.to(torch.int8).argmax()))
            self._add(who, f"have {field} outside [0, 1]", int(bad.sum()), first)
        return p

    def _name(self, row: int) -> str:
        return f"{self.kind} {int(self.place[row]):,} of part {self.part!r}"

    def _add(self, who: str, what: str, count: int, first: str) -> None:
        old = self.faults.get(("policy", who, what), (0, first))
        self.faults["policy", who, what] = (old[0] + count, old[1])


@torch.no_grad()
def reduce(
    block: Block,
    policies: Mapping[str, Policy],
    model: RewardModel | None,
    *,
    n_items: int,
    groups: int = 1,
    lost: Block | None = None,
    place: Tensor | None = None,
    reward_range: tuple[float, float] = (-torch.inf, torch.inf),
) -> Reduced:
    """All rows of a part -> compact rows, in blocks of 2,048.

    Rows of probabilities that are no distribution are counted in `faults`, not raised.

    Args:
        block: the rows with a known reward.
        policies: bound, by name.
        model: of rewards, or none.
        n_items: of the catalogue.
        groups: how many `block.by` tells apart.
        lost: the rows without a known reward.
        place: (n,) the numbers of the rows in the part; None: they are all of it.
        reward_range: what predicted rewards are compared with.
    """
    n, item = len(block), block.slate.item  # (n, 1)
    pe = torch.empty(len(policies), n, dtype=torch.float64)
    v = torch.empty_like(pe) if model is not None else None
    q = torch.empty(n, dtype=torch.float64) if model is not None else None
    beyond = torch.empty(n, dtype=torch.bool) if model is not None else None
    guard = Guard(block.part, n_items, torch.arange(n) if place is None else place)
    lost = block[:0] if lost is None else lost
    items = Items(block, lost, len(policies), groups, n_items)
    for start in range(0, n, BLOCK):
        part = slice(start, start + BLOCK)
        some = block[part]
        predicted = None if model is None else _predicted(model.predict(some), len(some), n_items)
        if predicted is not None and q is not None and beyond is not None:
            q[part] = predicted.gather(1, item[part])[:, 0]
            beyond[part] = _outside(predicted, *reward_range)
        for k, (name, policy) in enumerate(policies.items()):
            probs = guard.check(name, policy.probs(some.context), some.context, start)
            pe[k, part] = probs.gather(1, item[part])[:, 0]
            if predicted is not None and v is not None:
                v[k, part] = torch.einsum("bk,bk->b", probs, predicted)
            items.add(k, part, probs)
    p = block.slate.propensity
    p = torch.full((n,), torch.nan, dtype=torch.float64) if p is None else p[:, 0]
    rows = Rows(block.feedback.reward[:, 0].to(torch.float64), p.to(torch.float64), pe, v, q)
    items.weigh(rows)
    return Reduced(rows, items.tables(), guard.faults, beyond)


def _predicted(scores: Tensor, rows: int, n_items: int) -> Tensor:
    """Predicted rewards in float64, if they are one for each item of each row."""
    if not isinstance(scores, Tensor) or scores.shape != (rows, n_items) or scores.is_complex():
        found = type(scores).__name__
        if isinstance(scores, Tensor):
            found = f"shape {tuple(scores.shape)} of {scores.dtype}"
        raise SupportError(
            f"reward_model.scores returned {found}, expected a real tensor of shape "
            f"{(rows, n_items)}: the expected reward of every item for every row."
        )
    return scores.to("cpu", torch.float64)


def chance_of(policy: Policy, block: Block, who: str) -> Tensor:
    """A policy's probability of the logged item of each row: (n,) float64."""
    item = block.slate.item  # (n, 1)
    found = policy.prob_of(block.context, item)
    if not isinstance(found, Tensor) or found.shape != item.shape or found.is_complex():
        kind = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise SupportError(
            f"{who}.prob_of returned {kind}, expected a real tensor of shape {tuple(item.shape)}."
        )
    return found[:, 0].to("cpu", torch.float64)


def _outside(predicted: Tensor, low: float, high: float) -> Tensor:
    """Rows of predictions (B, n_items) that leave a range by more than rounding: (B,) bool."""
    least, most = predicted.aminmax(dim=1)
    slack = 1e-6 * (high - low)
    return (least < low - slack) | (most > high + slack)


def known_rows(block: Block) -> Tensor:
    """The rows of a block whose reward is known."""
    return block.feedback.reward[:, 0].isfinite().nonzero()[:, 0]


def unknown_rows(block: Block) -> Tensor:
    """Those whose reward is not known."""
    return (~block.feedback.reward[:, 0].isfinite()).nonzero()[:, 0]


__all__ = [
    "BLOCK",
    "Fixed",
    "Guard",
    "Reduced",
    "RewardModel",
    "chance_of",
    "known_rows",
    "reduce",
    "unknown_rows",
]
