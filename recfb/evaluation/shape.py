"""How many policies, loggers and slots the columns of a pass have, and what an estimator reads."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import torch

from recfb.contracts.evaluating import Traits
from recfb.estimate import UNSHRUNK, Estimator, Mean, Rows, Tuned, average
from recfb.evaluation.slates import VIEWS, SlateRows


@dataclass(frozen=True)
class Shape:
    """Lines of a policy's, a logger's and a slot's columns.

    >>> Shape(policies=2).probe(3).pe.shape
    torch.Size([2, 3])
    """

    policies: int = 1
    loggers: int = 1
    slots: int = 0  # 0: rows are single items

    def probe(self, rows: int = 4, shift: float = 0.0) -> Rows:
        """A few plain rows for every policy; the first is one that a deterministic target picks."""
        line = torch.linspace(0.1, 0.9, rows, dtype=torch.float64)  # (rows,)
        pe = line.flip(0).expand(self.policies, -1).clone()  # (P, rows)
        pe[:, :1] = 1.0
        if self.slots:
            return SlateRows.of(line, pe, self.slots, shift)
        v = (1 - line).expand(self.policies, -1)
        q = line.expand(self.policies, -1)
        row, logger = torch.arange(rows), torch.arange(self.loggers)
        own = (row % self.loggers == logger[:, None]).to(line.dtype)  # (J, rows)
        return Rows(line**2 + shift, 0.5 * line, pe, v, line, 0.7 * v, 0.6 * q, 0.6 * line, own)


def plain(estimator: Estimator) -> Estimator:
    """The function under its fixed or tuned parameters."""
    if isinstance(estimator, Tuned):
        return estimator.estimator
    return estimator.func if isinstance(estimator, functools.partial) else estimator


def traits(estimator: Estimator, shape: Shape = Shape()) -> Traits:
    """What an estimator reads, whether it shifts with the reward, and what it shrinks.

    It reads a field if the value is another one where the field is NaN.

    >>> from recfb.estimate import dr, snips
    >>> traits(snips).equivariant, traits(dr).equivariant, sorted(traits(snips).fields)
    (True, False, ['p', 'pe', 'r'])
    """
    origin = plain(estimator)
    if isinstance(estimator, Tuned):
        estimator = estimator.plain
    rows = shape.probe()
    value = estimator(rows, average)
    change = estimator(shape.probe(shift=1.0), average) - value
    read = set()
    for field in dataclasses.fields(rows):
        column: torch.Tensor | None = getattr(rows, field.name)
        if column is None:
            continue
        blind: dict[str, Any] = {field.name: torch.full_like(column, torch.nan)}
        found = estimator(dataclasses.replace(rows, **blind), average)
        read |= set() if torch.equal(found, value) else {field.name}
    slots = max(1, shape.slots)  # a constant added to every slot adds so much to a slate
    return Traits(
        frozenset(read),
        bool((change - slots).abs().max() < 1e-9),
        UNSHRUNK.get(origin),
        VIEWS.get(origin) or _view(read),
    )


def _view(read: set[str]) -> str:
    """Which view of the rows shows the weights and the model of a single-item estimator."""
    if "pbar" in read:
        return "mixed"
    return "robust" if "qm" in read else ""


@functools.cache
def through(view: str, statistic: Estimator) -> Estimator:
    """A statistic of a view of the rows, such as `mixed`: the same function for the same words."""
    return statistic if not view else functools.partial(_seen, view=view, statistic=statistic)


def _seen(t: Rows, mean: Mean, *, view: str, statistic: Estimator) -> torch.Tensor:
    seen: Rows = getattr(t, view)
    return statistic(seen, mean)
