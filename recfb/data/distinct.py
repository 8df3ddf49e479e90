"""One row for each distinct pair of a log."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from recfb.data.log import Log


def distinct(log: Log, *, clicked: bool) -> Log:
    """The first row of each (user, item) that was clicked or shown, in the order of `log.clicks` or
    `log.shown`.

    >>> from recfb.data.log import Log
    >>> log = Log.of({"item": [1, 0, 1], "reward": [1, 1, 1], "position": [3, 1, 2]})
    >>> distinct(log, clicked=True).frame["position"].to_list()
    [1, 3]
    >>> distinct(log, clicked=True).clicks.item.tolist()
    [0, 1]
    """
    frame = log.frame.filter(pl.col("reward") > 0) if clicked else log.frame
    if "user" not in frame.columns:
        frame = frame.with_columns(user=pl.lit(0, pl.Int32))
    pair = ["user", "item"]
    return log.with_frame(frame.unique(pair, keep="first", maintain_order=True).sort(pair))
