"""From the rows of a part to whole slates, and what policies say of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recfb.contracts import Block, Context, Policy
from recfb.evaluation.reduction import BLOCK, Guard
from recfb.evaluation.slates import SlateRows
from recfb.evaluation.state import Faults, merge_faults

Parts = dict[str, Tensor]
"""at_e, prefix_e, display_e: (L, P, n)."""


@dataclass(frozen=True)
class Slates:
    """The slates of a part whose rewards are all known."""

    rows: SlateRows
    unit: Tensor  # (n,)
    by: Tensor | None  # (n,)
    missing: Tensor  # (slates,) index into labels of slates without a reward
    faults: Faults


def unsorted(block: Block) -> Tensor:
    """Rows that are not where (slate, position 1, 2, ...) puts them: (rows,) bool.

    >>> from recfb.data import Log
    >>> rows = {"item": [0, 1, 2], "reward": [1, 0, 0], "slate": [7, 7, 9], "position": [1, 2, 2]}
    >>> unsorted(next(Log.of(rows).blocks())).tolist()
    [False, False, True]
    """
    visit, position = block.visit, block.context.position
    assert visit is not None and position is not None
    start = torch.ones(len(block), dtype=torch.bool)
    start[1:] = visit[1:] != visit[:-1]
    run = start.cumsum(0) - 1  # (rows,) the run of equal slates that a row is in
    first = start.nonzero()[:, 0][run]
    return position != torch.arange(len(block)) - first + 1  # a log has no (slate, position) twice


@torch.no_grad()
def reduce_slates(block: Block, policies: Mapping[str, Policy], slots: int, n_items: int) -> Slates:
    """The slates of a part, each with its rewards, and its probabilities under logger and targets.

    Rows out of order are faults of the log; then there are no slates.
    """
    odd = unsorted(block)
    if bool(odd.any()):
        what = (
            "are not sorted by slate and position 1, 2, ..., or lack a position: sort the log, "
            'pl.col("slate", "position")'
        )
        first = f"row {int(odd.to(torch.int8).argmax()):,} of part {block.part!r}"
        faults: Faults = {("log", "slate", what): (int(odd.sum()), first)}
        return replace(reduce_slates(block[:0], policies, slots, n_items), faults=faults)
    position, reward = block.context.position, block.feedback.reward[:, 0]
    assert position is not None
    head = (position == 1).nonzero()[:, 0]  # (slates,)
    slate = (position == 1).cumsum(0) - 1  # (rows,)
    unknown = torch.zeros(len(head), dtype=torch.int64)
    unknown.index_add_(0, slate, reward.isnan().to(torch.int64))
    kept = (unknown == 0).nonzero()[:, 0]  # (n,)
    grid = _Grid(slate, position - 1, (len(head), slots), kept)
    label = torch.zeros(len(block), dtype=torch.int64) if block.by is None else block.by
    item = grid.fill(block.slate.item[:, 0], -1).T  # (n, L)
    context = replace(block.context[head[kept]], position=None)
    target, faults = _target(context, item, policies, block.part, n_items)
    rows = _rows(grid, block, target)
    faults = merge_faults(faults, _rising(rows, block.part))
    by = None if block.by is None else block.by[head[kept]]
    return Slates(rows, block.unit[head[kept]], by, label[head[unknown > 0]], faults)


@dataclass(frozen=True)
class _Grid:
    """Where each row lies in (slots, slates), and which slates are kept."""

    slate: Tensor  # (rows,)
    slot: Tensor  # (rows,) from 0
    shape: tuple[int, int]  # slates, slots
    kept: Tensor  # (n,)

    def fill(self, column: Tensor, pad: float) -> Tensor:
        """A column of rows as (L, n); `pad` where a slate has no such slot."""
        table = torch.full(self.shape, pad, dtype=column.dtype)
        table[self.slate, self.slot] = column
        return table[self.kept].T.contiguous()


def _rows(grid: _Grid, block: Block, target: Parts) -> SlateRows:
    ones = torch.ones(len(block), dtype=torch.float64)
    here = grid.fill(ones, 0.0)  # (L, n)
    reward = grid.fill(block.feedback.reward[:, 0].to(torch.float64), 0.0)

    def logged(column: Tensor | None) -> Tensor:
        return grid.fill(torch.nan * ones if column is None else column[:, 0].double(), 1.0)

    at, prefix = logged(block.slate.propensity), logged(block.slate.p_prefix)
    last = (here.sum(0).to(torch.int64) - 1).clamp(min=0)[None]  # (1, n)
    p = prefix.gather(0, last)[0]
    pe = target["prefix_e"].gather(0, last[:, None].expand(1, *target["prefix_e"].shape[1:]))[0]
    return SlateRows(
        reward.sum(0), p, pe, slot=reward, here=here, at=at, prefix=prefix,
        at_e=target["at_e"], prefix_e=target["prefix_e"], display_e=target["display_e"],
    )  # fmt: skip


def _rising(rows: SlateRows, part: str) -> Faults:
    """Slates that the logger is said to have shown more surely than the part above a slot."""
    before, after = rows.prefix[:-1], rows.prefix[1:]
    odd = ((after > before * (1 + 1e-9)) & (rows.here[1:] > 0)).any(0)  # (n,)
    if not bool(odd.any()):
        return {}
    what = "have a p_prefix that rises with the position: it is P(items 1..k in this order)"
    first = f"slate {int(odd.to(torch.int8).argmax()):,} of part {part!r}"
    return {("log", "p_prefix", what): (int(odd.sum()), first)}


def _target(
    context: Context, item: Tensor, policies: Mapping[str, Policy], part: str, n_items: int
) -> tuple[Parts, Faults]:
    """What every policy says of the slates (n, L), slates of one length at a time."""
    n, slots = item.shape
    shape = (slots, len(policies), n)
    names = {"at_e": "propensity", "prefix_e": "p_prefix", "display_e": "p_display"}
    found = {name: torch.ones(shape, dtype=torch.float64) for name in names}
    faults: Faults = {}
    length = (item >= 0).sum(1)  # (n,)
    for size in torch.unique(length).tolist():
        for rows in torch.split((length == size).nonzero()[:, 0], BLOCK):
            some, shown = context[rows], item[rows, :size]
            for k, (who, policy) in enumerate(policies.items()):
                guard = Guard(part, n_items, rows, "slate")
                said = policy.propensities(some, shown)
                if said.probs is not None:
                    guard.check(who, said.probs, some, 0)
                for name, field in names.items():
                    p = getattr(said, field)
                    found[name][:size, k, rows] = guard.slots(who, field, p, shown).T
                faults = merge_faults(faults, guard.faults)
    return found, faults


def design_faults(rows: SlateRows, names: Collection[str], part: str) -> Faults:
    """Slates that the logger cannot have drawn as a pseudo-inverse estimator takes it to have."""
    found: Faults = {}
    places = torch.arange(len(rows.here))[:, None]  # (L, 1)
    items = (1 / rows.at[:1]).round()  # (1, n)
    uniform = (1 / (items - places).clamp(min=1)).where(rows.here > 0, 1.0).cumprod(0)  # (L, n)
    for name, prefix, fix in (
        ("pi_product", rows.at.cumprod(0), "are not of independently drawn slots: ask for rips"),
        ("pi_ranking", uniform, "are not of uniform rankings: ask for rips or iips"),
    ):
        if name not in names:
            continue
        odd = ((rows.prefix - prefix).abs() > 1e-6 * prefix).where(rows.here > 0, False)
        if name == "pi_ranking":
            odd |= ((rows.at * items - 1).abs() > 1e-6).where(rows.here > 0, False)
        if bool(odd.any()):
            bad = odd.any(0)
            first = f"slate {int(bad.to(torch.int8).argmax()):,} of part {part!r}"
            found["log", name, fix] = (int(bad.sum()), first)
    return found


__all__ = ["Slates", "design_faults", "reduce_slates", "unsorted"]
