"""Records that flow between the verbs: frozen, slotted, rows first.

`x[rows]` takes rows, `x.to(device)` moves every tensor (Lightning moves what has `.to`),
`cat([...])` joins. A field that is None is absent; a field that is a number (a round) or has one
row for all is left as
it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

R = TypeVar("R", bound="Record")


class Record:
    """What all records can do. Subclasses are frozen, slotted dataclasses whose first field has one
    entry a row."""

    __slots__ = ()

    def __len__(self) -> int:
        first: Tensor | Record = getattr(self, type(self).__match_args__[0])  # type: ignore[attr-defined]
        return first.shape[0] if isinstance(first, Tensor) else len(first)

    def _map(self: R, change: Any) -> R:
        changed: dict[str, Any] = {}
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, (Tensor, Record)):
                changed[field.name] = change(value)
        return replace(self, **changed)  # type: ignore[type-var]

    def __getitem__(self: R, rows: Tensor | slice) -> R:
        n = len(self)
        return self._map(lambda x: x[rows] if len(x) == n else x)

    def to(self: R, device: torch.device | str, non_blocking: bool = False) -> R:
        return self._map(
            lambda x: (
                x.to(device, non_blocking=non_blocking) if isinstance(x, Tensor) else x.to(device)
            )
        )


def cat(records: Sequence[R]) -> R:
    """Join records row by row; a field must be present in all of them or in none.

    >>> a = Feedback(torch.tensor([[1.0]]))
    >>> len(cat([a, a]))
    2
    """
    first = records[0]
    joined: dict[str, Any] = {}
    for field in fields(first):  # type: ignore[arg-type]
        values = [getattr(record, field.name) for record in records]
        if isinstance(values[0], Tensor):
            joined[field.name] = torch.cat(values)
        elif isinstance(values[0], Record):
            joined[field.name] = cat(values)
    return replace(first, **joined)  # type: ignore[type-var]


@dataclass(frozen=True, slots=True)
class Batch(Record):
    """B rows to learn from, as a Sampler emits them.

    `user` is (B,); every other column is (B,) or, where a row carries C candidates, (B, C). Column
    0 of C is the row that was drawn, the others are its negatives. A NaN reward means that the
    feedback was not
    observed.
    """

    user: Tensor  # (B,) int64
    item: Tensor  # (B,) | (B, C) int64
    reward: Tensor  # like item, float32
    propensity: Tensor | None = None
    time: Tensor | None = None
    position: Tensor | None = None
    features: Tensor | None = None  # (B, [C,] D)
    history: Tensor | None = None  # (B, H), -1 pads
    weight: Tensor | None = (
        None  # sampling correction, set by a Sampler, applied once, by the Recommender
    )


@dataclass(frozen=True, slots=True)
class Context(Record):
    """What a policy may know about B requests: no ground truth, no reward, no logged item."""

    user: Tensor  # (B,) int64
    time: int | Tensor = 0  # the round, from 0; (B,) for rows of a log
    learner: Tensor | None = None  # (B,) only when rows are ragged
    features: Tensor | None = None  # (B, D), or per item (B, n_items, D)
    available: Tensor | None = None  # (B or 1, n_items) bool
    candidates: Tensor | None = None  # (B, C) ids, duplicates allowed; None: the catalogue
    history: Tensor | None = None  # (B, H) ids as the platform holds them, -1 pads
    position: Tensor | None = None  # (B,) 1-based, in logs of single positions


@dataclass(frozen=True, slots=True)
class Slate(Record):
    """What was shown, how likely that was, and what else is asked for. No exact value is None,
    never a fake 1."""

    item: Tensor  # (B, K) int64
    propensity: Tensor | None = None  # (B, K) float64, P(item at this position)
    p_prefix: Tensor | None = (
        None  # (B, K) P(items 1..k in this order); the last column is P(slate)
    )
    p_display: Tensor | None = None  # (B, K) P(item anywhere in the slate)
    probs: Tensor | None = None  # (B, n_items) the published mixed policy: auditors read this
    observe: Tensor | None = None  # (B, n_items) bool: outcomes asked for


@dataclass(frozen=True, slots=True)
class Feedback(Record):
    """What the platform learns; NaN means not revealed. May alias the truth: never write into
    it."""

    reward: Tensor  # (B, K)
    extra: Tensor | None = None  # (B, n_items) granted outcomes, NaN elsewhere
    cost: Tensor | None = None  # (B,)
    complaint: Tensor | None = None  # (B,) the auditors' ordered pair as signs: +1, -1, 0
    delay: Tensor | None = None  # (B, K) int64 rounds until known


@dataclass(frozen=True, slots=True)
class Block(Record):
    """Consecutive rows of a log as acting records, for `evaluate` and statistics: K = 1, one row a
    shown item."""

    context: Context
    slate: Slate
    feedback: Feedback
    unit: Tensor  # (B,) int64, the cluster of each row
    part: str = ""  # which part of the log: file or content, and row range
    by: Tensor | None = None  # (B,) int64, index into `labels`
    labels: tuple[str, ...] = ()  # the subgroups of this part
    logger: Tensor | None = None  # (B,) int64, which logging policy
    visit: Tensor | None = None  # (B,) int64, the slate that a row is of
