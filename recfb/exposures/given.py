"""Exposure that is known beforehand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from recfb.contracts import Batch, Exposure
from recfb.errors import ConfigError

if TYPE_CHECKING:
    from recfb.data.log import Log


class Given(Exposure):
    """P(seen) of every item, or of every pair, as you give it: an oracle's, or an estimate of your
    own.

    The values are kept in float32 and belong to the configuration, so a saved model writes all of
    them into its YAML.

    Args:
        theta: (n_items,) or (n_users, n_items), in the order of `log.items` and `log.users`.

    Raises:
        ConfigError: values outside (0, 1] or another number of dimensions; on binding, a log of
            another size.

    >>> from recfb.data import Log
    >>> log = Log.of({"user": [0, 1], "item": [0, 1], "reward": [1, 1]})
    >>> exposure = Given([0.5, 0.25]).bind(log)
    >>> row = torch.tensor([1])
    >>> exposure(Batch(row, row, row)).tolist()
    [0.25]
    """

    def __init__(self, theta: Tensor | list[float] | list[list[float]]) -> None:
        super().__init__()
        self.register_buffer("theta", _checked(theta), persistent=False)

    def bind(self, log: Log) -> Self:
        found = tuple(self.theta.shape)
        expected = (log.n_users, log.n_items)[2 - len(found) :]
        if found != expected:
            raise ConfigError(
                f"theta is given for {found}, but the log has {log.n_users} users and "
                f"{log.n_items} items: expected {expected}. Give a value for every row of "
                "log.items (and of log.users), in their order, also for what was never shown."
            )
        return super().bind(log)

    def forward(self, batch: Batch) -> Tensor:
        theta: Tensor = self.theta
        if theta.dim() == 1:
            return theta[batch.item]
        owner = batch.user[:, None] if batch.item.dim() > 1 else batch.user
        return theta[owner, batch.item]


def _checked(theta: Tensor | list[float] | list[list[float]]) -> Tensor:
    try:
        table = torch.as_tensor(theta, dtype=torch.float32).detach()
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"theta is no table of numbers: {error}. Give a tensor or lists of equal lengths: "
            "Given([0.9, 0.5, 0.1])."
        ) from None
    if table.dim() not in (1, 2):
        raise ConfigError(
            "theta is (n_items,) or (n_users, n_items), found "
            f"{tuple(table.shape)}. One value for all items: Given(torch.full((n_items,), 0.5))."
        )
    wrong = ~((table > 0) & (table <= 1))
    if bool(wrong.any()):
        place = tuple(wrong.nonzero()[0].tolist())
        fill = ".nan_to_num(1.0)" if bool(table.isnan().any()) else ""
        raise ConfigError(
            f"exposures are probabilities in (0, 1], found {int(wrong.sum())} values outside, the "
            f"first {float(table[place])} at {place}. Keep them inside: "
            f"Given(theta{fill}.clamp(0.01, 1))."
        )
    return table
