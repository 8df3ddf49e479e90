"""Logs of human texts in which some are replaced by machine-written copies: what a dial says, and
what it does not."""

from __future__ import annotations

import polars as pl
import torch
from torch import Generator

from recfb.data import Log
from recfb.errors import ConfigError


def contaminated(
    log: Log, clicks: float, others: float | None = None, *, generator: Generator
) -> Log:
    """The log with each clicked text replaced by the item's other text with probability `clicks`,
    and each unclicked one with probability `others` (default: the same).

    The gradient on a model's weight of the artefact carries the difference of both shares. With
    `others` at .5 and fewer copies among the clicks a model learns that copies are not clicked, so
    the bias is reversed: always look at `shares`.

    Raises:
        ConfigError: a share outside [0, 1].

    >>> from recfb.random import stream
    >>> rows = {"item": [0, 1], "reward": [1, 0]}
    >>> log = Log.of(rows, n_items=4).with_items({"id": range(4), "twin": [2, 3, 0, 1]})
    >>> contaminated(log, 1.0, 0.0, generator=stream(0)).frame["item"].to_list()
    [2, 1]
    """
    others = clicks if others is None else others
    if not 0 <= clicks <= 1 or not 0 <= others <= 1:
        raise ConfigError(f"shares of copies are in [0, 1], found {clicks} and {others}.")
    item, clicked = log.tensor("item"), log.tensor("reward") > 0
    twin = log.items["twin"].to_torch().long()  # (n_items,)
    u = torch.rand(len(item), generator=generator)
    swap = u < torch.where(clicked, clicks, others)
    item = torch.where(swap, twin[item], item)
    column = pl.Series("item", item.numpy(), dtype=pl.Int32)
    return log.with_frame(log.frame.with_columns(column))


def shares(log: Log) -> dict[str, float]:
    """p_pos and p_neg: the shares of machine-written texts among clicked and unclicked rows.

    >>> rows = {"item": [0, 1, 1], "reward": [1, 0, 1]}
    >>> shares(Log.of(rows, n_items=2).with_items({"id": [0, 1], "source": [0, 1]}))
    {'p_pos': 0.5, 'p_neg': 1.0}
    """
    source = log.items["source"].to_torch()[log.tensor("item")].double()  # (rows,)
    reward = log.tensor("reward")
    return {
        "p_pos": float(source[reward > 0].mean()),
        "p_neg": float(source[reward <= 0].mean()),
    }
