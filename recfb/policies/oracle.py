"""The policy that knows the truth: what the best possible slates would give."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from recfb.contracts import Context
from recfb.policies.slates import Certain


class Oracle(Certain):
    """Shows the K items with the largest true expected reward of the round.

    The yardstick of a simulation, and no policy for a platform: before it acts, `simulate` lets it
    look at the world's `values`.

    >>> from recfb.data import Log
    >>> import torch
    >>> oracle = Oracle().bind(Log.empty(1, 3))
    >>> oracle.look(torch.tensor([[0.1, 0.7, 0.4]]))
    >>> oracle.act(Context(torch.tensor([0])), torch.Generator(), k=2).item.tolist()
    [[1, 2]]
    """

    privileged: ClassVar[bool] = True

    values: Tensor  # (B, n_items), of this round only

    def look(self, values: Tensor) -> None:
        self.register_buffer("values", values, persistent=False)

    def index(self, context: Context) -> Tensor:
        if context.candidates is None:
            return self.values
        return self.values.gather(1, context.candidates)
