"""Clicks, each with what was shown beside it and not clicked."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import Generator, Tensor

from recfb.contracts import Batch, Pairing, Sampler, Score, Step
from recfb.data.pairs import choose
from recfb.errors import LogError
from recfb.samplers.logged import COLUMNS

if TYPE_CHECKING:
    from recfb.data.log import Log


class Slates(Sampler):
    """Draws clicked rows of the log, and for each `negatives` unclicked rows of the same slate.

    A negative was shown and passed over, so it says more than an item that was never shown, and
    says it about what the logging policy chose to show. Rows are rows: an item that comes up twice
    in a slate counts twice, and has a position and features of its own each time. Negatives are a
    uniform set of distinct rows where the slate has that many, else drawn with replacement. Left
    out are clicks whose slate has no unclicked row, and rows whose reward was never revealed.

    Batches have user (B,), and item, reward (B, 1 + negatives) with the click in column 0; where
    the log has them, propensity, time, position (B, 1 + negatives) and features (B, 1 + negatives,
    D).

    Args:
        negatives: rows drawn beside each click.

    Raises:
        LogError: on binding a log with rows but without the column `slate`; with slates of several
            users; with no click beside an unclicked row.

    >>> from recfb.data import Log
    >>> from recfb.random import stream
    >>> rows = {"item": [4, 5, 6], "reward": [0, 1, 1], "slate": [8, 8, 9], "position": [2, 1, 1]}
    >>> sampler = Slates().bind(Log.of(rows))
    >>> len(sampler)  # the other click is alone in its slate
    1
    >>> batch = sampler(torch.tensor([0]), None, Step(generator=stream(0)))
    >>> batch.item.tolist(), batch.position.tolist()
    ([[1, 0]], [[1, 2]])
    """

    gives: ClassVar[Pairing] = "shown_negative"

    user: Tensor  # (n,) of all rows, like the other columns
    item: Tensor  # (n,)
    reward: Tensor  # (n,)
    click: Tensor  # (P,) the clicked rows that have a negative
    first: Tensor  # (P,) where the negatives of its slate start in `other`
    count: Tensor  # (P,) how many there are
    other: Tensor  # (N,) the unclicked rows, by slate

    def __init__(self, negatives: int = 1) -> None:
        super().__init__()
        self.negatives = negatives

    def bind(self, log: Log) -> Self:
        super().bind(log)
        for name in COLUMNS:
            there = name in ("user", "item", "reward") or name in log.columns
            self.register_buffer(name, log.tensor(name) if there else None, persistent=False)
        if len(log):
            log.require("slate")
        slate = log.tensor("slate") if len(log) else self.item  # (n,)
        order = slate.argsort(stable=True)  # (n,)
        _one_user_each(slate[order], self.user[order])
        other = order[self.reward[order] <= 0]  # (N,); NaN is neither this nor a click
        click = (self.reward > 0).nonzero().squeeze(1)  # (P,)
        first = torch.searchsorted(slate[other], slate[click])  # (P,)
        count = torch.searchsorted(slate[other], slate[click], right=True) - first  # (P,)
        usable = count > 0  # (P,)
        if len(log) and not bool(usable.any()):
            raise LogError(
                f"none of the {len(click)} clicks of this log has an unclicked row beside it, in "
                "its slate. Log what was shown, with reward 0 where nothing came of it; for a log "
                "of clicks only, use samplers.Clicks()."
            )
        found = {"click": click[usable], "first": first[usable], "count": count[usable]}
        for name, values in {**found, "other": other}.items():
            self.register_buffer(name, values, persistent=False)
        return self

    def __len__(self) -> int:
        return len(self.click)

    def rows(self, generator: Generator) -> Tensor:
        """Which of the clicks, each once."""
        return torch.randperm(len(self), generator=generator, device=generator.device)

    def beside(self, rows: Tensor, generator: Generator) -> Tensor:
        """Rows of the log to learn from beside each click: (B,) -> (B, negatives)."""
        pick = choose(self.count[rows], self.negatives, generator)  # (B, S)
        return self.other[self.first[rows][:, None] + pick]

    @torch.no_grad()
    def forward(self, rows: Tensor, score: Score, step: Step) -> Batch:
        assert step.generator is not None
        click = self.click[rows]  # (B,)
        every = torch.cat([click[:, None], self.beside(rows, step.generator)], dim=1)  # (B, 1 + S)
        columns = ((name, getattr(self, name)) for name in COLUMNS if name != "user")
        taken = {name: values[every] for name, values in columns if values is not None}
        return Batch(self.user[click], **taken)


def _one_user_each(slate: Tensor, user: Tensor) -> None:
    """Refuse sorted slates that hold rows of several users."""
    mixed = (slate.diff() == 0) & (user.diff() != 0)  # (n - 1,)
    wrong = torch.unique(slate[1:][mixed])
    if len(wrong):
        raise LogError(
            f"{len(wrong)} slates (first: {int(wrong[0])}) hold rows of several users: a slate is "
            "what one user was shown at one time. If they are numbered anew for each user, map "
            'both: slate=pl.format("{}-{}", "user", "slate").'
        )
