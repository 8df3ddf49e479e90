"""Scores of items from what a user has clicked: vectors of items are given, and only the user
encoder learns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from recfb.contracts import Batch, Context, Scorer, best_of
from recfb.data.attributes import attributes
from recfb.errors import ConfigError, LogError

if TYPE_CHECKING:
    from recfb.data.log import Log
    from recfb.data.pairs import Pairs


class HistoryScorer(Scorer, ABC):
    """s(h, i) = encode(x_h1, x_h2, ...) . x_i over frozen vectors x of the items.

    Histories come with the batch or the request, as ids with -1 for none, the oldest first. Train
    with `samplers.Visits`, which carries them.

    Args:
        items: columns of `log.items` that make x.
        rewrite: columns that make the vectors of a rewrite of each text, for
            `objectives.SourceConsistency`.
        project: take the artefact direction, the mean difference of copies and originals, out of
            all vectors; needs the columns source and twin of `log.items`.

    Raises:
        ConfigError: no columns; on binding, a column that is missing.
        LogError: a batch or a request without a history.
    """

    vectors: Tensor  # (n_items, d)
    rewrites: Tensor | None  # (n_items, d)

    def __init__(
        self, items: Sequence[str] = ("x",), *, rewrite: Sequence[str] = (), project: bool = False
    ) -> None:
        super().__init__()
        if not items:
            raise ConfigError(
                f"{type(self).__name__} reads vectors of items: name columns of log.items, "
                'items=["x"].'
            )
        self.items, self.rewrite, self.project = tuple(items), tuple(rewrite), project

    @abstractmethod
    def encode(self, x: Tensor, there: Tensor) -> Tensor:
        """Vectors of histories, 0 where there is none, (B, H, d), and where there are, (B, H):
        -> (B, d)."""

    def bind(self, log: Log) -> Self:
        vectors = attributes(log.items, self.items, "items")  # (n_items, d)
        rewrites = attributes(log.items, self.rewrite, "items") if self.rewrite else None
        if self.project:
            pair = attributes(log.items, ["source", "twin"], "items").long()  # (n_items, 2)
            human = (pair[:, 0] == 0).nonzero().squeeze(1)
            change = (vectors[pair[human, 1]] - vectors[human]).double().mean(0)  # (d,)
            v = (change / change.norm().clamp(min=1e-12)).float()
            vectors = without(vectors, v)
            rewrites = None if rewrites is None else without(rewrites, v)
        like = next(self.parameters(), vectors)
        self.register_buffer("vectors", vectors.to(like), persistent=False)
        self.register_buffer(
            "rewrites", None if rewrites is None else rewrites.to(like), persistent=False
        )
        return super().bind(log)

    def user_vectors(self, history: Tensor, swapped: Tensor | None = None) -> Tensor:
        """(B, H) ids -> (B, d); where `swapped`, texts are read as their rewrites."""
        there = history >= 0  # (B, H)
        index = history.clamp(min=0)
        x = self.vectors[index]  # (B, H, d)
        if swapped is not None:
            if self.rewrites is None:
                raise ConfigError(
                    "histories are rewritten only by a scorer that has the rewrites of texts: "
                    f'{type(self).__name__}(rewrite=["rewrite"]).'
                )
            x = torch.where(swapped[:, :, None], self.rewrites[index], x)
        return self.encode(x * there[:, :, None], there)

    def forward(self, user: Tensor, item: Tensor, batch: Batch | None = None) -> Tensor:
        u = self.user_vectors(_history(batch, self))  # (B, d)
        v = self.vectors[item]  # (B, [C,] d)
        score: Tensor = torch.linalg.vecdot(u if item.dim() == 1 else u[:, None], v)
        return score

    def scores(self, context: Context) -> Tensor:
        u = self.user_vectors(_history(context, self))  # (B, d)
        if context.candidates is None:
            return u @ self.vectors.T  # (B, n_items)
        return torch.einsum("bd,bcd->bc", u, self.vectors[context.candidates])  # (B, C)

    def score_of(self, context: Context, item: Tensor) -> Tensor:
        u = self.user_vectors(_history(context, self))  # (B, d)
        score: Tensor = torch.linalg.vecdot(
            u if item.dim() == 1 else u[:, None], self.vectors[item]
        )
        return score

    @torch.no_grad()
    def top(self, context: Context, k: int, *, hide: Pairs | None = None) -> Tensor:
        if hide is not None:
            raise ConfigError(
                f"{type(self).__name__} ranks requests that bring a history, not users: hide "
                "nothing, or leave items out by context.available."
            )
        return best_of(context, self.scores(context), k)


def without(x: Tensor, v: Tensor) -> Tensor:
    """Vectors less their part along a unit direction: x - (x . v) v, (n, d), (d,) -> (n, d).

    >>> without(torch.tensor([[3.0, 4.0]]), torch.tensor([0.0, 1.0])).tolist()
    [[3.0, 0.0]]
    """
    return x - (x @ v)[:, None] * v


def _history(rows: Batch | Context | None, who: Scorer) -> Tensor:
    if rows is None or rows.history is None:
        raise LogError(
            f"{type(who).__name__} needs a history with every row. Train it by samplers.Visits() "
            "on a log with the column history, and rank requests that have one."
        )
    return rows.history
