"""Matrix factorisation: one vector a user, one vector an item."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

import torch
from torch import Generator, nn

from recfb.optim import table
from recfb.scorers.factors import Factored, Factors

if TYPE_CHECKING:
    from recfb.data.log import Log

_SCALE = 0.01  # standard deviation of the first values


class MF(Factored):
    """Estimates s(u, i) = U_u . V_i + b_i + c, optionally with b_u.

    Koren, Bell and Volinsky, "Matrix factorization techniques for recommender systems" (2009).

    Args:
        dim: length of the vectors.
        l2: weight of half the squared length of the vectors a batch uses, a mean over the batch.
            Without it a ranking fitted to clicks loses to popularity on most logs. Biases are free.
        bias: "none"; "item" adds b_i and a constant c; "full" adds b_u as well, which objectives
            on probabilities can use and rankings cannot.

    >>> from recfb.data import Log
    >>> from recfb.random import stream
    >>> mf = MF(dim=4).bind(Log.empty(n_users=3, n_items=5))
    >>> mf.reset(stream(0))
    >>> mf.all(torch.tensor([0, 2])).shape
    torch.Size([2, 5])
    """

    user: nn.Parameter  # (n_users, dim)
    item: nn.Parameter  # (n_items, dim)
    user_bias: nn.Parameter | None  # (n_users, 1)
    item_bias: nn.Parameter | None  # (n_items, 1)
    offset: nn.Parameter | None  # (1, 1)

    def __init__(
        self, dim: int = 64, *, l2: float = 0.007, bias: Literal["none", "item", "full"] = "item"
    ) -> None:
        super().__init__()
        self.dim, self.l2, self.bias = dim, l2, bias

    def bind(self, log: Log) -> Self:
        super().bind(log)
        self.user = table(getattr(self, "user", None), log.n_users, self.dim)
        self.item = table(getattr(self, "item", None), log.n_items, self.dim)
        names = ("user_bias", "item_bias", "offset")
        users, items, offset = (getattr(self, name, None) for name in names)
        self.user_bias = table(users, log.n_users, 1) if self.bias == "full" else None
        self.item_bias = table(items, log.n_items, 1) if self.bias != "none" else None
        self.offset = table(offset, 1, 1) if self.bias != "none" else None
        return self

    def reset(self, generator: Generator) -> None:
        super().reset(generator)
        with torch.no_grad():
            for parameter in (self.user, self.item):
                parameter.normal_(0.0, _SCALE, generator=generator)
            for bias in (self.user_bias, self.item_bias, self.offset):
                if bias is not None:
                    bias.zero_()

    def ready(self) -> Factors:
        """The tables with a memory of the rows read in this step."""
        return Factors(
            self.user,
            self.item,
            user_bias=self.user_bias,
            item_bias=self.item_bias,
            offset=self.offset,
            l2=self.l2,
        )
