"""All pairs of users and items, with their labels."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Literal, Self

import torch
from torch import Generator, Tensor

from recfb.contracts import Batch, Pairing, Sampler, Score, Step
from recfb.data.carried import LOGGED, Carried
from recfb.data.pairs import Pairs
from recfb.errors import ConfigError

if TYPE_CHECKING:
    from recfb.data.log import Log


class AllPairs(Sampler):
    """Draws pairs (u, i) over all users and items, labelled 1 where there is a click.

    What Saito et al., "Unbiased recommender learning from missing-not-at-random implicit feedback"
    (2020), average over. With P the clicked pairs and D all pairs, an epoch has 2 |P| rows:

    - "uniform": uniform over D. Unbiased for the mean over D; hardly ever meets a click.
    - "balanced": the clicked pairs, each once, interleaved with pairs uniform over the others, so
      any even slice is half and half. It multiplies all that hangs on clicks by |D| / (2 |P|): a
      biased estimate of the mean over D.
    - "balanced_iw": as balanced, with weights 2 |P| / |D| on clicks and 2 (|D| - |P|) / |D| on the
      others. Unbiased for the mean over D.

    Batches have user (B,), item (B,), reward (B,) and, for "balanced_iw", weight (B,). Where the
    log has propensity, time or position, so do the pairs of P, as in their first row; NaN and 0
    stand for the others.

    Args:
        draw: from what, and with which weights.
        labels: "clicks" labels every pair, 1 or 0; with "shown" P is the pairs in the log with
            their logged rewards, ratings for example, and all other pairs have NaN, not observed.

    Raises:
        ConfigError: on binding a log in which every pair is in P, where others are to be drawn.

    >>> from recfb.data import Log
    >>> from recfb.random import stream
    >>> log = Log.of({"user": [0], "item": [1], "reward": [1]}, n_users=2, n_items=2)
    >>> sampler = AllPairs(draw="balanced_iw").bind(log)
    >>> rows = sampler.rows(stream(0))
    >>> batch = sampler(rows, None, Step(generator=stream(1)))
    >>> batch.reward.tolist(), batch.weight.tolist()
    ([1.0, 0.0], [0.5, 1.5])
    """

    pairs: Pairs
    logged: Carried

    def __init__(
        self,
        draw: Literal["uniform", "balanced", "balanced_iw"] = "balanced_iw",
        *,
        labels: Literal["clicks", "shown"] = "clicks",
    ) -> None:
        super().__init__()
        self.draw, self.labels = draw, labels

    @property
    def gives(self) -> Pairing:
        """By `labels`."""
        return "pairs" if self.labels == "clicks" else "shown_pairs"

    def bind(self, log: Log) -> Self:
        super().bind(log)
        clicks = self.labels == "clicks"
        self.pairs = copy.copy((log.clicks if clicks else log.shown).index())
        if self.draw != "uniform" and len(self.pairs) and len(self.pairs) == self._cells():
            raise ConfigError(
                f"all {self._cells()} pairs of this log are {'clicked' if clicks else 'shown'}, so "
                'there is no other pair to draw. Use AllPairs(draw="uniform").'
            )
        names = LOGGED if clicks else (*LOGGED, "reward")
        self.logged = Carried(log, names, clicked=clicks)
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
        inside = self.pairs.has(rows)  # (B,)
        logged = self.logged(rows, self.pairs)
        reward = logged.pop("reward", inside.to(torch.float32))
        weight = None
        if self.draw == "balanced_iw":
            share = len(self.pairs) / self._cells()
            weight = 2 * (1 - share) + inside.to(torch.float32) * (4 * share - 2)  # 2 share on P
        return Batch(user, rows - user * self.pairs.n_items, reward, weight=weight, **logged)
