"""All pairs of users and items, with their labels."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import torch
from torch import Generator, Tensor

from recfb.contracts import Batch, Pairing, Sampler, Score, Step
from recfb.data.pairs import Pairs
from recfb.errors import ConfigError

if TYPE_CHECKING:
    from recfb.data.log import Log


class AllPairs(Sampler):
    """Draws pairs (u, i) over all users and items, labelled 1 where there is a click.

    With P the clicked pairs and D all pairs, an epoch has 2 |P| rows:

    - "uniform": uniform over D. Unbiased for the mean over D; hardly ever meets a click.
    - "balanced": the clicked pairs, each once, interleaved with pairs uniform over the others, so
      any even slice is half and half. It multiplies all that hangs on clicks by |D| / (2 |P|): a
      biased estimate of the mean over D.
    - "balanced_iw": as balanced, with weights 2 |P| / |D| on clicks and 2 (|D| - |P|) / |D| on the
      others. Unbiased for the mean over D.

    Batches have user (B,), item (B,), reward (B,) and, for "balanced_iw", weight (B,).

    Raises:
        ConfigError: on binding a log in which every pair is clicked, where pairs without a click
            are to be drawn.

    >>> from recfb.data import Log
    >>> from recfb.random import stream
    >>> log = Log.of({"user": [0], "item": [1], "reward": [1]}, n_users=2, n_items=2)
    >>> sampler = AllPairs(draw="balanced_iw").bind(log)
    >>> rows = sampler.rows(stream(0))
    >>> batch = sampler(rows, None, Step(generator=stream(1)))
    >>> batch.reward.tolist(), batch.weight.tolist()
    ([1.0, 0.0], [0.5, 1.5])
    """

    gives: ClassVar[Pairing] = "pairs"

    pairs: Pairs

    def __init__(self, draw: Literal["uniform", "balanced", "balanced_iw"] = "balanced_iw") -> None:
        super().__init__()
        self.draw = draw

    def bind(self, log: Log) -> Self:
        super().bind(log)
        self.pairs = copy.copy(log.clicks.index())
        if self.draw != "uniform" and len(self.pairs) and len(self.pairs) == self._cells():
            raise ConfigError(
                f"all {self._cells()} pairs of this log are clicked, so there is no other pair to "
                f'draw. Use AllPairs(draw="uniform").'
            )
        return self

    def _cells(self) -> int:
        return self.pairs.n_users * self.pairs.n_items

    def __len__(self) -> int:
        return 2 * len(self.pairs)

    def rows(self, generator: Generator) -> Tensor:
        """Pair keys u * n_items + i."""
        n, device = len(self.pairs), generator.device
        if self.draw == "uniform":
            return torch.randint(
                max(1, self._cells()), (2 * n,), generator=generator, device=device
            )
        order = torch.randperm(n, generator=generator, device=device)
        free = self.pairs.free(n, generator)
        return torch.stack([self.pairs.key[order], free], dim=1).reshape(-1)  # (2 |P|,)

    @torch.no_grad()
    def forward(self, rows: Tensor, score: Score, step: Step) -> Batch:
        user = rows // self.pairs.n_items
        reward = self.pairs.has(rows).to(torch.float32)
        weight = None
        if self.draw == "balanced_iw":
            share = len(self.pairs) / self._cells()
            weight = 2 * (1 - share) + reward * (4 * share - 2)  # 2 share on clicks
        return Batch(user, rows - user * self.pairs.n_items, reward, weight=weight)
