"""What a pass sums of a part for the confidence sequence that its plan asks for."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from recfb.contracts import Policy
from recfb.data.door import Problems
from recfb.estimate import Rows
from recfb.evaluation.cell import Cell
from recfb.evaluation.reduction import known_rows, reduce
from recfb.evaluation.sequences import (
    SEQUENCES,
    Pilot,
    bounded_terms,
    candidates,
    log_wealth,
    running_sums,
)
from recfb.evaluation.tally import Grouping

if TYPE_CHECKING:
    from recfb.data import Log

PILOT = 16_384
"""Rows at the head of a log that start the bets of its later parts."""


def pilot_of(
    log: Log, policies: Mapping[str, Policy], kind: str | None, reward_range: tuple[float, float]
) -> Pilot | None:
    """What `betting` knows of the first rows of a log of several parts; None where it is not used.

    The first part's bets start from nothing and those of later parts from here, so each bet is made
    before the rows that it is on.
    """
    parts = list(islice(log.parts(), 2)) if kind == "betting" else []
    if len(parts) < 2:
        return None
    block = parts[0].record(Problems())
    block = block[known_rows(block)[:PILOT]]
    rows = reduce(block, policies, None, n_items=log.n_items, groups=1).rows
    x = bounded_terms(rows.w, rows.r, *reward_range)  # (2, P, n)
    return Pilot(len(rows), x.sum(-1), x.square().sum(-1))


def with_sequence(
    cells: Mapping[str, Cell],
    rows: Rows,
    groups: Grouping,
    kind: str | None,
    reward_range: tuple[float, float],
    pilot: Pilot | None = None,
) -> dict[str, Cell]:
    """The cells of a part with a sequence's statistics in `seq`, (2, P, k) a group."""
    if kind is None or kind not in SEQUENCES:
        return dict(cells)
    named = {}
    for place, (label, cell) in zip(groups.places(len(rows)), cells.items(), strict=True):
        mine = rows[place]
        sides = [
            _collect(kind, bounded_terms(w, mine.r, *reward_range), policy, pilot)
            for policy, w in enumerate(mine.w)
        ]
        named[label] = cell._replace(seq=torch.stack(sides, 1))  # (2, P, k)
    return named


def _collect(kind: str, x: Tensor, policy: int, pilot: Pilot | None) -> Tensor:
    """One policy's statistics of both sides: (2, n) -> (2, k)."""
    if kind == "gamma_exponential":
        return running_sums(x)
    start = None
    if pilot is not None:
        start = Pilot(pilot.n, pilot.total[:, policy], pilot.square[:, policy])
    return log_wealth(x, candidates(), start)
