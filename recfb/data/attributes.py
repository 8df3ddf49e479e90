"""What is known of users and items, as numbers: columns of `log.users` and `log.items`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import polars as pl
import torch
from torch import Tensor

from recfb.errors import ConfigError, nearest

Side = Literal["users", "items"]


def attributes(frame: pl.DataFrame, names: Sequence[str], side: Side) -> Tensor:
    """Columns of `log.users` or `log.items`, side by side: (n, D) float32.

    A column of numbers or booleans has width 1, an Array of them its own. Values are taken as they
    are.

    Raises:
        ConfigError: a column that is not there, that holds no numbers, or that has a null, NaN or
            infinity.

    >>> frame = pl.DataFrame({"id": [7, 8], "year": [0.5, 2.0], "new": [True, False]})
    >>> attributes(frame, ["year", "new"], "items").tolist()
    [[0.5, 1.0], [2.0, 0.0]]
    """
    known = [name for name in frame.columns if name != "id"]
    for name in names:
        if name not in known:
            raise ConfigError(
                f"log.{side} has no column {name!r}; it has {known}.{nearest(name, known)} Attach "
                f'what you know of {side}: log = log.with_{side}(frame, id="...").'
            )
    columns = [_numbers(frame["id"], frame[name], side) for name in names]
    return torch.cat(columns, dim=1) if columns else torch.zeros(frame.height, 0)


def _numbers(ids: pl.Series, column: pl.Series, side: Side) -> Tensor:
    """One column: (n, width)."""
    name, kind = column.name, column.dtype
    inner, width = (kind.inner, kind.size) if isinstance(kind, pl.Array) else (kind, 1)
    if not (inner.is_numeric() or inner == pl.Boolean):
        raise ConfigError(
            f"the column {name!r} of log.{side} holds {kind}, not numbers. Convert it before "
            f"log.with_{side}: categories by frame.to_dummies({name!r}), lists of one length by "
            f"pl.col({name!r}).cast(pl.Array(pl.Float32, length))."
        )
    wide = pl.Array(pl.Float32, width) if isinstance(kind, pl.Array) else pl.Float32
    values = torch.tensor(column.cast(wide, strict=False).to_numpy()).view(len(column), width)
    wrong = ~torch.isfinite(values).all(1)  # (n,); null became NaN
    if bool(wrong.any()):
        first = ids[int(wrong.nonzero()[0])]
        raise ConfigError(
            f"the column {name!r} of log.{side} is null, NaN or infinite for {int(wrong.sum())} of "
            f"{len(column)} {side} (first: {first!r}). Give every id a row, and fill the column "
            f"before log.with_{side}: frame.with_columns(pl.col({name!r}).fill_null(0))."
        )
    return values
