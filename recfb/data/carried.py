"""What was logged of pairs, looked up by their keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from recfb.data.distinct import distinct
from recfb.data.pairs import Pairs

if TYPE_CHECKING:
    from recfb.data.log import Log


LOGGED = ("propensity", "time", "position")
"""Columns of a click's first row that exposures may read."""


class Carried(nn.Module):
    """Columns of the first row of each pair that was clicked or shown.

    A module, so that it moves with what holds it; its buffers are training data and never enter a
    state_dict.

    Args:
        log: where the columns are from; those it lacks are left out.
        names: of the columns.
        clicked: pairs of `log.clicks`, or else of `log.shown`.

    >>> from recfb.data.log import Log
    >>> log = Log.of({"item": [0, 1], "reward": [1, 0], "position": [5, 6]}, n_items=3)
    >>> carried = Carried(log, ["position", "time"], clicked=True)
    >>> carried(torch.tensor([0, 1, 2]), log.clicks)
    {'position': tensor([5, 0, 0])}
    """

    def __init__(self, log: Log, names: Sequence[str], *, clicked: bool) -> None:
        super().__init__()
        self.names = [name for name in names if name in log.columns]
        rows = distinct(log, clicked=clicked) if self.names else log
        for name in self.names:
            self.register_buffer(name, rows.tensor(name), persistent=False)

    def forward(self, key: Tensor, pairs: Pairs) -> dict[str, Tensor]:
        """The columns at these keys, shaped like key; NaN and 0 where the pair is not in the set.

        `pairs` is `log.clicks` or `log.shown`.
        """
        if not self.names or not len(pairs):
            return {}
        inside = pairs.has(key)  # like key
        place = torch.searchsorted(pairs.key, key).clamp_(max=len(pairs) - 1)
        found = {}
        for name in self.names:
            values: Tensor = getattr(self, name)
            empty = torch.nan if values.is_floating_point() else 0
            found[name] = torch.where(inside, values[place], empty)
        return found
