"""What a fitted model keeps of its log besides weights, and recommendations in original ids."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import polars as pl
import torch
from torch import Tensor

from recfb.data.batch import Context
from recfb.data.pairs import Pairs
from recfb.data.vocabulary import Vocabulary, encode
from recfb.errors import ConfigError
from recfb.metrics import top_k

if TYPE_CHECKING:
    from recfb.data.log import Log


@dataclass(frozen=True)
class History:
    """Who and what a model knows, and which items each user has clicked already.

    >>> from recfb.data import Log
    >>> log = Log.of({"user": ["a", "b"], "item": [7, 9], "reward": [1, 0]})
    >>> History.of(log).seen.per_user.tolist()
    [1, 0]
    """

    vocabulary: Vocabulary
    seen: Pairs

    @classmethod
    def of(cls, log: Log) -> History:
        """The history that a log holds."""
        return cls(log.vocabulary, copy.copy(log.clicks))


@dataclass(frozen=True)
class Validation:
    """How well the weights that `fit(valid=...)` kept rank held-out clicks."""

    metric: str
    value: float
    epoch: int  # how many epochs they were trained for


class Top(Protocol):
    """`model.top`: the k best available items of each request that are not hidden."""

    def __call__(self, context: Context, k: int, *, hide: Pairs | None = None) -> Tensor: ...


def recommend(
    history: History,
    top: Top,
    users: Sequence[Any] | pl.Series,
    k: int,
    device: torch.device | str = "cpu",
) -> pl.DataFrame:
    """The k best items each user has not clicked, as rows user, rank, item, by.

    Users and items are original ids. Users without a click in the history, also unknown ones, get
    the most clicked items; column `by` says which rows came from "model" and which from
    "popularity". A user with fewer than k items left gets fewer rows.

    Raises:
        ConfigError: k below 1.
        LogError: ids of another type than the vocabulary's.
    """
    if k < 1:
        raise ConfigError(f"recommend(users, k) gives the k best items, found k={k}. Try k=10.")
    ids = pl.Series("user", users)
    if not len(ids):
        ids = ids.cast(history.vocabulary.users["id"].dtype)
    code = encode(ids, history.vocabulary.users, "user")  # null: unknown
    dense = torch.from_numpy(code.fill_null(-1).to_numpy().copy()).to(torch.int64)  # (U,)
    width = min(k, history.seen.n_items)
    clicks = torch.cat([history.seen.per_user.to("cpu"), torch.zeros(1, dtype=torch.int64)])
    known = clicks[dense] > 0  # (U,); an unknown user is the last, who has none
    pick = torch.full((len(dense), width), -1)  # (U, k); -1: nothing left
    pick[known] = _best(history, top, dense[known].to(device), width).to("cpu")
    pick[~known] = _popular(history, width)
    return _frame(history, ids, pick, known)


def _best(history: History, top: Top, user: Tensor, k: int) -> Tensor:
    """The k best items of known users, -1 where a user has clicked all: (U,) -> (U, k)."""
    seen = copy.copy(history.seen).to(user.device)
    pick = top(Context(user), k, hide=seen)  # (U, k)
    again = seen.has(user[:, None] * seen.n_items + pick)  # where fewer than k are left
    return torch.where(again, -1, pick)


def _popular(history: History, k: int) -> Tensor:
    count = history.seen.per_item.to("cpu", torch.float32)  # (n_items,)
    return top_k(count[None], k, torch.zeros(1, dtype=torch.int64))  # (1, k)


def _frame(history: History, ids: pl.Series, pick: Tensor, known: Tensor) -> pl.DataFrame:
    shown = pick >= 0  # (U, k)
    row, place = shown.nonzero(as_tuple=True)  # (R,), (R,)
    rank = shown.cumsum(1)[row, place]
    items = history.vocabulary.items["id"]
    by = pl.Series(["popularity", "model"]).gather(known.int().numpy())  # (U,)
    return pl.DataFrame(
        {
            "user": ids.gather(row.numpy()),
            "rank": pl.Series(rank.numpy(), dtype=pl.Int32),
            "item": items.gather(pick[row, place].numpy()),
            "by": by.gather(row.numpy()),
        }
    )
