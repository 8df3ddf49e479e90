"""Clicks of a log that carries histories, each with what was shown beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal, Self

import polars as pl
import torch
from torch import Generator, Tensor

from recfb.contracts import Batch, Score, Step
from recfb.data.attributes import attributes
from recfb.data.pairs import choose
from recfb.samplers.slates import Slates

if TYPE_CHECKING:
    from recfb.data.log import Log

Among = Literal["shown", "others", "balanced"]


class Visits(Slates):
    """Draws clicked rows of the log and unclicked rows of the same slate, with the user's history.

    As `Slates`, and batches have history (B, H). Logs of two texts an item (`worlds.Sources`) know
    more of their items, by columns of `log.items`.

    Args:
        negatives: rows drawn beside each click.
        among: "shown" draws from all unclicked rows of the slate, the other text of the clicked
            item included, as in the published loop; "others" from those of other items; "balanced"
            from those too, machine-written with the probability that clicks are, so that a text's
            source says nothing about its label. The last two need `source` and `original`.
        human: histories are read as the human texts of their items, as in the published loop; needs
            `original`.

    Raises:
        LogError: on binding, a log without histories or slates.
        ConfigError: a column of `log.items` that is missing.

    >>> from recfb.data import Log
    >>> from recfb.random import stream
    >>> rows = {"item": [4, 5], "reward": [0, 1], "slate": [8, 8], "history": [[1, -1], [1, -1]]}
    >>> batch = Visits().bind(Log.of(rows))(torch.tensor([0]), None, Step(generator=stream(0)))
    >>> batch.item.tolist(), batch.history.tolist()
    ([[1, 0]], [[1, -1]])
    """

    history: Tensor  # (n, H) of all rows
    share: Tensor  # (): of machine-written texts among the clicks

    place: Tensor  # (P, 2) where the negatives of each click and source start in `other`
    many: Tensor  # (P, 2) how many there are

    def __init__(self, negatives: int = 1, *, among: Among = "shown", human: bool = False) -> None:
        super().__init__(negatives)
        self.among, self.human = among, human

    def bind(self, log: Log) -> Self:
        log.require("history")
        if self.among != "shown" and len(log):
            log = _less_twins(log, _column(log, "original"))
        super().bind(log)
        history = log.tensor("history")  # (n, H)
        if self.human:
            original = _column(log, "original")  # (n_items,)
            history = torch.where(history < 0, history, original[history])
        self.register_buffer("history", history, persistent=False)
        if self.among == "balanced":
            self._by_source(log, _column(log, "source"))
        return self

    def _by_source(self, log: Log, source: Tensor) -> None:
        """Where the negatives of each click are, human and machine-written ones apart."""
        slate = log.tensor("slate")  # (n,)
        key = 2 * slate[self.other] + source[self.item[self.other]]  # (N,)
        order = key.argsort(stable=True)
        key, other = key[order], self.other[order]
        want = 2 * slate[self.click][:, None] + torch.arange(2)  # (P, 2)
        place = torch.searchsorted(key, want)
        many = torch.searchsorted(key, want, right=True) - place
        share = source[self.item[self.click]].to(torch.float64).mean()
        for name, values in {"other": other, "place": place, "many": many, "share": share}.items():
            self.register_buffer(name, values, persistent=False)

    def beside(self, rows: Tensor, generator: Generator) -> Tensor:
        if self.among != "balanced":
            return super().beside(rows, generator)
        u = torch.rand(rows.shape, generator=generator, dtype=torch.float64, device=rows.device)
        many, row = self.many[rows], torch.arange(len(rows), device=rows.device)  # (B, 2)
        source = (u < self.share).long()  # (B,)
        source = torch.where(many[row, source] > 0, source, 1 - source)
        pick = choose(many[row, source], self.negatives, generator)  # (B, S)
        return self.other[self.place[rows][row, source][:, None] + pick]

    @torch.no_grad()
    def forward(self, rows: Tensor, score: Score, step: Step) -> Batch:
        batch = super().forward(rows, score, step)
        return replace(batch, history=self.history[self.click[rows]])


def _column(log: Log, name: str) -> Tensor:
    return attributes(log.items, [name], "items")[:, 0].long()  # (n_items,)


def _less_twins(log: Log, original: Tensor) -> Log:
    """The log with the other texts of clicked items unrevealed, so that they are no negatives."""
    item = pl.Series("_item", original[log.tensor("item")].numpy())
    clicked = pl.when(pl.col("reward") > 0).then("_item").max().over("slate")
    twin = (pl.col("_item") == clicked) & (pl.col("reward") <= 0)
    frame = log.frame.with_columns(item)
    reward = pl.when(~twin.fill_null(False)).then("reward").alias("reward")
    return log.with_frame(frame.with_columns(reward).drop("_item"))
