"""Small logs and fixed policies for the tests of evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recfb import Log, Meta
from recfb.contracts import Context, Policy
from recfb.random import stream


class Fixed(Policy):
    """The same distribution for every request."""

    def __init__(self, given: Sequence[float]) -> None:
        super().__init__()
        self.given = list(given)

    def probs(self, context: Context) -> Tensor:
        return torch.tensor([self.given], dtype=torch.float64).expand(len(context), -1)


LOGGER = [0.4, 0.3, 0.2, 0.1]
TARGET = [0.1, 0.2, 0.3, 0.4]
RATES = [0.3, 0.4, 0.5, 0.6]
VALUE = sum(p * q for p, q in zip(TARGET, RATES, strict=True))


def draw(
    n: int = 2000,
    *,
    seed: int = 0,
    logger: Sequence[float] = LOGGER,
    rates: Sequence[float] = RATES,
    unit: bool | Tensor = True,
    meta: Meta | None = Meta(reward_range=(0, 1), propensity="exact"),
    **more: object,
) -> Log:
    """n rows of a logger over len(logger) items; a click has its item's rate."""
    g = stream(seed, "log")
    p = torch.tensor(logger, dtype=torch.float64)
    item = torch.multinomial(p, n, replacement=True, generator=g) if n else torch.empty(0).long()
    click = torch.rand(n, generator=g) < torch.tensor(rates)[item]
    columns: dict[str, object] = {
        "item": item,
        "reward": click.float(),
        "propensity": p[item],
        "position": 1 + torch.arange(n) % 3,
    }
    if unit is not False:
        columns["unit"] = unit if isinstance(unit, Tensor) else torch.arange(n)
    return Log.of({**columns, **more}, n_items=len(logger), meta=meta)
