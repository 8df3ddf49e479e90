"""Exposure estimated from how often items are clicked or shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from torch import Tensor

from recfb.contracts import Batch, Exposure

if TYPE_CHECKING:
    from recfb.data.log import Log


class Popularity(Exposure):
    """Estimates P(seen) of an item as (clicks / clicks of the most clicked item) ** power.

    Saito et al., "Unbiased recommender learning from missing-not-at-random implicit feedback"
    (2020), section 4. It is relative: only ratios of its values mean anything, so relevance that is
    learned with it ranks, but is not calibrated. An item without clicks counts as one with a single
    click, which keeps every value positive.

    Where the log holds what was shown, and not only clicks, `of="shown"` estimates P(shown) as
    (users the item was shown to / all users) ** power, which with power=1 is a probability and not
    only a ratio. An item that was never shown counts as shown once.

    Args:
        power: 0 makes every item equally exposed, 1 trusts popularity fully.
        of: "clicks", relative to the most clicked item, or "shown", relative to all users.

    >>> from recfb.data import Log
    >>> log = Log.of({"user": [0, 1, 0, 0], "item": [0, 0, 1, 2], "reward": [1, 1, 1, 0]})
    >>> [round(x, 4) for x in Popularity(power=0.5).bind(log).theta.tolist()]
    [1.0, 0.7071, 0.7071]
    >>> Popularity(power=1.0, of="shown").bind(log).theta.tolist()
    [1.0, 0.5, 0.5]
    """

    theta: Tensor  # (n_items,)

    def __init__(self, power: float = 0.5, *, of: Literal["clicks", "shown"] = "clicks") -> None:
        super().__init__()
        self.power, self.of = power, of

    def bind(self, log: Log) -> Self:
        super().bind(log)
        pairs = log.clicks if self.of == "clicks" else log.shown
        count = pairs.per_item.clamp(min=1).float()  # (n_items,)
        most: Tensor | float = max(1, log.n_users)
        if self.of == "clicks":
            most = count.max() if len(count) else 1.0
        self.register_buffer("theta", (count / most) ** self.power)
        return self

    def forward(self, batch: Batch) -> Tensor:
        return self.theta[batch.item]
