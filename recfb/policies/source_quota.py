"""A limit on how much of a list is machine-written."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from recfb.contracts import Context, Fitted, best_of
from recfb.data.attributes import attributes
from recfb.errors import ConfigError

if TYPE_CHECKING:
    from recfb.data.log import Log
    from recfb.data.pairs import Pairs


def within_quota(machine: Tensor, k: int, most: int, there: Tensor | None = None) -> Tensor:
    """Which k places of each ranked list make the best list with at most `most` machine-written
    texts: (B, n) bool, best first -> (B, k) places, in order.

    Where too few others exist, the list is filled up with the next machine-written ones, and then
    with what is not `there`, (B, n) bool, which is ranked last.

    >>> within_quota(torch.tensor([[True, True, False, False]]), 3, 1).tolist()
    [[0, 2, 3]]
    """
    worse = (machine & (machine.cumsum(1) > most)).to(torch.uint8)  # (B, n)
    if there is not None:
        worse = worse.masked_fill(~there, 2)
    return worse.argsort(dim=1, stable=True)[:, :k].sort(1).values


class SourceQuota(Fitted):
    """A model whose top k has at most floor(share k) machine-written texts: an exposure quota.

    It acts at serving time, needs to know who wrote what (the column `source` of `log.items`), and
    leaves the model as biased as it was. Under `Ranked`.

    Args:
        model: a solver, such as `solvers.Direct`.
        share: the largest share of a list.

    Raises:
        ConfigError: a share outside [0, 1], a model without `solve`; on binding, no column
            `source`.
    """

    machine: Tensor  # (n_items,) bool

    def __init__(self, model: Fitted, share: float = 0.5) -> None:
        super().__init__()
        if not 0 <= share <= 1 or not hasattr(model, "solve"):
            raise ConfigError(
                "a quota is a share in [0, 1] of what a solver ranks, found "
                f"share={share} and {type(model).__name__}."
            )
        self.model, self.share = model, share

    def bind(self, log: Log) -> Self:
        machine = attributes(log.items, ["source"], "items")[:, 0] > 0
        self.register_buffer("machine", machine, persistent=False)
        return super().bind(log)

    def solve(self, log: Log) -> Self:
        """Fit the model inside."""
        self.model.solve(log)
        return self

    def scores(self, context: Context) -> Tensor:
        """Of the model, without the quota."""
        scores: Tensor = self.model.scores(context)
        return scores

    def score_of(self, context: Context, item: Tensor) -> Tensor:
        """Of the model, without the quota."""
        scores: Tensor = self.model.score_of(context, item)
        return scores

    @torch.no_grad()
    def top(self, context: Context, k: int, *, hide: Pairs | None = None) -> Tensor:
        scores = self.scores(context)  # (B, n), of candidates or of the catalogue
        item, there = context.candidates, torch.ones_like(scores, dtype=torch.bool)
        if item is None:
            item = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
        if context.available is not None:
            there = there & context.available
        if hide is not None:
            there = there & ~hide.has(context.user[:, None] * hide.n_items + item)
        places = replace(context, candidates=None, available=there)
        ranked = best_of(places, scores, scores.shape[1])  # (B, n) places in `item`
        item, there = item.gather(1, ranked), there.gather(1, ranked)
        within = within_quota(self.machine[item], k, int(self.share * k), there)  # (B, k)
        return item.gather(1, within)
