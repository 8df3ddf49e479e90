"""Two towers: what is known of users and items, turned into vectors of one space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Self

import torch
from torch import Generator, Tensor, nn

from recfb.contracts import Component
from recfb.data.attributes import Side, attributes
from recfb.errors import ConfigError
from recfb.network import Network, network
from recfb.optim import table
from recfb.scorers.factors import Factored, Factors

if TYPE_CHECKING:
    from recfb.data.log import Log

_SCALE = 0.1  # of the first values: a tower's vectors have about this size a coordinate


class TwoTower(Factored):
    """Estimates s(u, i) = U_u . V_i + b_i from columns of `log.users` and `log.items`.

    Yi et al., "Sampling-bias-corrected neural modeling for large corpus item recommendations"
    (2019), for the towers. Each is a network of its columns, plus a row of its own for each id:

        U_u      = phi(x_u) + n_u / (n_u + shrink) e_u
        [V, b]_i = psi(x_i) + n_i / (n_i + shrink) e_i

    with n the distinct clicks of the log. Rows learn what columns cannot say, the more the more
    clicks there are; who or what was never clicked is scored by columns alone. A side without
    columns and ids is left out: without a user side s(u, i) = b_i, one ranking for all, linear in
    the columns for `hidden=()`.

    Both towers are computed once a step for all users and items, whatever the batch: use large
    ones. Columns are numbers, booleans or Arrays of them, taken as they are: scale them to about 1.
    They belong to the log's vocabulary, which is saved with the model.

    Args:
        dim: length of the vectors.
        hidden: widths of the layers with ReLU between columns and vectors; () is linear.
        users, items: columns of `log.users` and of `log.items`.
        ids: which side has a row of its own for each id.
        shrink: clicks at which such a row has half its weight.
        l2: weight of half the squared length of the vectors a batch uses, a mean over the batch;
            b_i is free.

    Raises:
        ConfigError: nothing tells items apart; on binding, a column that is not there, holds no
            numbers, or has a null, NaN or infinity.

    >>> from recfb.data import Log
    >>> from recfb.random import stream
    >>> log = Log.of({"user": [0, 1], "item": [0, 1], "reward": [1, 1]}, n_items=3)
    >>> log = log.with_items({"id": [0, 1, 2], "year": [0.1, 0.5, 0.9]})
    >>> model = TwoTower(dim=4, items=["year"], ids="users").bind(log)
    >>> model.reset(stream(0))
    >>> model.all(torch.tensor([0])).shape
    torch.Size([1, 3])
    """

    def __init__(
        self,
        dim: int = 64,
        *,
        hidden: Sequence[int] = (256,),
        users: Sequence[str] = (),
        items: Sequence[str] = (),
        ids: Literal["both", "items", "users", "none"] = "both",
        shrink: float = 10.0,
        l2: float = 0.007,
    ) -> None:
        super().__init__()
        self.dim, self.hidden, self.ids, self.shrink, self.l2 = dim, tuple(hidden), ids, shrink, l2
        self.users, self.items = tuple(users), tuple(items)
        rows = {"users": ids in ("both", "users"), "items": ids in ("both", "items")}
        if not items and not rows["items"]:
            raise ConfigError(
                f"TwoTower(ids={ids!r}) has nothing that tells items apart. Name columns of "
                'log.items, items=["..."], or give items rows of their own: ids="items".'
            )
        width = dim if users or rows["users"] else 0
        self.user = Tower(
            "users", width, self.users, rows=rows["users"], hidden=self.hidden, shrink=shrink
        )
        self.item = Tower(
            "items", width + 1, self.items, rows=rows["items"], hidden=self.hidden, shrink=shrink
        )

    def ready(self) -> Factors:
        """The vectors of both towers, with their graph."""
        item = self.item()  # (n_items, dim + 1)
        return Factors(self.user(), item[:, :-1], item_bias=item[:, -1:], l2=self.l2)


class Tower(Component):
    """The vectors of one side: a network of its columns plus a shrunk row for each id: (n, width).

    Args:
        side: which frame of the log, and whose clicks count.
        width: length of the vectors; 0 where there are neither columns nor rows.
        columns: of that frame.
        rows: whether each id has a row of its own.
        hidden, shrink: as in `TwoTower`.
    """

    features: Tensor  # (n, D)
    share: Tensor  # (n, 1): the weight of each row
    row: nn.Parameter | None  # (n, width)
    network: Network | None

    def __init__(
        self,
        side: Side,
        width: int,
        columns: Sequence[str],
        *,
        rows: bool,
        hidden: Sequence[int],
        shrink: float,
    ) -> None:
        super().__init__()
        self.side, self.width, self.columns, self.rows = side, width, columns, rows
        self.hidden, self.shrink = hidden, shrink

    def bind(self, log: Log) -> Self:
        super().bind(log)
        frame = log.users if self.side == "users" else log.items
        features = attributes(frame, self.columns, self.side)  # (n, D)
        old = getattr(self, "row", None)
        self.row = table(old, frame.height, self.width) if self.rows else None
        sizes = [features.shape[1], *self.hidden, self.width]
        self.network = network(getattr(self, "network", None), sizes) if self.columns else None
        like = next(self.parameters(), features)
        clicks = log.clicks.per_user if self.side == "users" else log.clicks.per_item
        share = clicks / (clicks + self.shrink).clamp(min=1e-12)  # (n,), 0 without clicks
        self.register_buffer("features", features.to(like), persistent=False)
        self.register_buffer("share", share[:, None].to(like))
        return self

    def reset(self, generator: Generator) -> None:
        super().reset(generator)
        if self.network is not None:
            self.network.reset(generator, last=_SCALE)
        if self.row is not None:
            with torch.no_grad():
                self.row.normal_(0.0, _SCALE, generator=generator)

    def forward(self) -> Tensor:
        """(n, width)."""
        parts = [] if self.network is None else [self.network(self.features)]  # (n, width)
        parts += [] if self.row is None else [self.share * self.row]  # (n, width)
        return sum(parts[1:], parts[0]) if parts else self.features  # (n, 0) without either
