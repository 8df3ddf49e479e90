"""Train and test rows of a log. Both sides keep the vocabularies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from recfb.errors import LogError
from recfb.random import derive, mix64

if TYPE_CHECKING:
    from recfb.data.log import Log


def _share(train: float) -> None:
    if not 0 < train < 1:
        raise LogError(f"the training share is between 0 and 1, found {train}. For 80 %: 0.8")


def by_time(log: Log, train: float) -> tuple[Log, Log]:
    """The earliest share of the rows, and the rest; rows of one time stay together."""
    _share(train)
    log.require("time")
    if not len(log):
        return log, log
    cut = log.frame["time"].sort()[min(len(log) - 1, int(train * len(log)))]
    return log.filter(pl.col("time") < cut), log.filter(pl.col("time") >= cut)


def by_user(log: Log, train: float, seed: int) -> tuple[Log, Log]:
    """Users whole on one side, by a hash of the user."""
    _share(train)
    log.require("user")
    salt = derive(seed, "split") >> 1
    side = (mix64(log.tensor("user") ^ salt) & 0x7FFFFFFF) < int(train * 0x80000000)  # (n,)
    mask = pl.Series(side.numpy())
    return log.with_frame(log.frame.filter(mask)), log.with_frame(log.frame.filter(~mask))


def by_row(log: Log, train: float, seed: int) -> tuple[Log, Log]:
    """Distinct pairs whole on one side, by a hash of user and item."""
    _share(train)
    salt = derive(seed, "rows") >> 1
    key = log.tensor("user") * log.n_items + log.tensor("item")  # (n,)
    side = (mix64(key ^ salt) & 0x7FFFFFFF) < int(train * 0x80000000)  # (n,)
    mask = pl.Series(side.numpy())
    return log.with_frame(log.frame.filter(mask)), log.with_frame(log.frame.filter(~mask))


def leave_last(log: Log, k: int) -> tuple[Log, Log]:
    """All but each user's last k rows in time, and those; rows of one time are ordered as they
    stand."""
    log.require("user", "time")
    rank = pl.col("time").rank("ordinal", descending=False).over("user")
    last = log.frame.select(rank > pl.len().over("user") - k).to_series()
    return log.with_frame(log.frame.filter(~last)), log.with_frame(log.frame.filter(last))


def randomised(log: Log, logger: int) -> tuple[Log, Log]:
    """The rows of the other loggers, and the rows of the logger that showed items at random."""
    log.require("logger")
    at_random = log.filter(pl.col("logger") == logger)
    if not len(at_random):
        present = log.frame["logger"].unique().sort().to_list()
        raise LogError(
            f"no row has logger {logger}; the log has {present}. Name the one that showed items at "
            "random."
        )
    return log.filter(pl.col("logger") != logger), at_random
