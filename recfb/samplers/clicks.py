"""Clicks, each with other items."""

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


class Clicks(Sampler):
    """Draws clicks (u, i) and for each `negatives` items uniform over what u never clicked, or over
    all but i.

    Rendle et al., "BPR: Bayesian personalized ranking from implicit feedback" (2009). The negatives
    are exact: no draw is a click of the user, however much the user has clicked.

    Args:
        by: "click" takes every click once an epoch; "user" draws as many users, uniform over those
            with a click, and one of the user's clicks for each.
        negatives: items drawn beside each click.
        among: "free" draws them from what the user never clicked; "any" from all items but i,
            clicked ones included, as debiasing objectives need it.

    Batches have user (B,), item (B, 1 + negatives) with the click in column 0, and reward, 1 where
    the user clicked the item and 0 elsewhere; for "any" also propensity, time and position of
    clicks where the log has them.

    Raises:
        ConfigError: on binding a log in which some user has clicked every item, or, for "any", with
            a single item.

    >>> from recfb.data import Log
    >>> from recfb.random import stream
    >>> log = Log.of({"user": [0, 1], "item": [0, 1], "reward": [1, 1]}, n_users=2, n_items=2)
    >>> sampler = Clicks().bind(log)
    >>> step = Step(generator=stream(0))
    >>> sampler(torch.tensor([0, 1]), None, step).item.tolist()
    [[0, 1], [1, 0]]
    """

    pairs: Pairs
    logged: Carried
    active: Tensor  # users with a click

    def __init__(
        self,
        by: Literal["click", "user"] = "click",
        *,
        negatives: int = 1,
        among: Literal["free", "any"] = "free",
    ) -> None:
        super().__init__()
        self.by, self.negatives, self.among = by, negatives, among

    @property
    def gives(self) -> Pairing:
        """By `among`."""
        return "free_negative" if self.among == "free" else "any_negative"

    def bind(self, log: Log) -> Self:
        super().bind(log)
        if self.among == "free":
            log.clicks.require_free()
        elif log.n_items == 1:
            raise ConfigError(
                "the log has a single item, so there is no other item to draw beside a click. Keep "
                "the items that were never clicked: Log.read(path, n_items=...)."
            )
        self.pairs = copy.copy(log.clicks.index())
        self.logged = Carried(log, LOGGED if self.among == "any" else (), clicked=True)
        active = (self.pairs.per_user > 0).nonzero().squeeze(1)
        self.register_buffer("active", active, persistent=False)
        return self

    def __len__(self) -> int:
        return len(self.pairs)

    def rows(self, generator: Generator) -> Tensor:
        """By click: ranks of the pairs, each once; by user: user ids, drawn with replacement."""
        device = generator.device
        if self.by == "click":
            return torch.randperm(len(self), generator=generator, device=device)
        draw = torch.randint(
            max(1, len(self.active)), (len(self),), generator=generator, device=device
        )
        return self.active[draw]

    @torch.no_grad()
    def forward(self, rows: Tensor, score: Score, step: Step) -> Batch:
        generator = step.generator
        assert generator is not None
        if self.by == "click":
            key = self.pairs.key[rows]  # (B,)
            user = key // self.pairs.n_items
            item = key - user * self.pairs.n_items
        else:
            user = rows
            item = self.pairs.pool(user, 1, generator)[:, 0]
        if self.among == "any":
            size = (len(user), self.negatives)
            most = self.pairs.n_items - 1
            other = torch.randint(most, size, generator=generator, device=item.device)  # (B, S)
            other += other >= item[:, None]  # uniform over all but the click
            item = torch.cat([item[:, None], other], dim=1)  # (B, 1 + S)
            key = user[:, None] * self.pairs.n_items + item  # (B, 1 + S)
            reward = self.pairs.has(key).to(torch.float32)
            return Batch(user, item, reward, **self.logged(key, self.pairs))
        free = self.pairs.negatives(user, self.negatives, generator)  # (B, S)
        item = torch.cat([item[:, None], free], dim=1)  # (B, 1 + S)
        reward = torch.zeros(item.shape, device=item.device)
        reward[:, 0] = 1.0
        return Batch(user, item, reward)
