"""Tables that explain a report: which rows and which items carry a number, and how calibrated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import polars as pl
import torch

from recfb.evaluation.cell import Cell
from recfb.evaluation.gates.support import odds_z
from recfb.evaluation.tables import of_items

if TYPE_CHECKING:
    from recfb.evaluation.results import Settings

DRIVERS = {
    "policy": pl.String,
    "part": pl.String,
    "row": pl.Int64,
    "item": pl.Int64,
    "position": pl.Int64,
    "weight": pl.Float64,
    "reward": pl.Float64,
    "share": pl.Float64,
}
ITEMS = {
    "policy": pl.String,
    "position": pl.Int64,
    "item": pl.Int64,
    "n": pl.Int64,
    "could": pl.Int64,
    "odds": pl.Float64,
    "z": pl.Float64,
    "mass": pl.Float64,
    "mean_weight": pl.Float64,
    "share": pl.Float64,
}


def driver_table(cells: Mapping[str, Cell], settings: Settings, by: str | None) -> pl.DataFrame:
    """The rows with the largest weighted rewards, the largest first: where they are, and their
    share of sum(w r)."""
    rows = []
    for label, cell in cells.items():
        total = _contributions(cell, settings)
        for policy, mine, whole in zip(settings.policies, cell.drivers, total, strict=False):
            for d in mine:
                share = d.weight * d.reward / whole if whole else None
                numbers = (d.part, d.row, d.item, d.position, d.weight, d.reward, share)
                rows.append((label, policy, *numbers))
    table = pl.DataFrame(rows, schema={"": pl.String, **DRIVERS}, orient="row")
    known = pl.col("item", "position").replace({-1: None})
    return _labelled(table.with_columns(known), settings, by)


def _contributions(cell: Cell, settings: Settings) -> list[float]:
    """The sum of w r of every policy."""
    if cell.sketch is None:
        return [0.0] * len(settings.policies)
    return [float(x) for x in cell.sketch[:, 2].sum(1)]


def item_table(cells: Mapping[str, Cell], settings: Settings, by: str | None) -> pl.DataFrame:
    """Every item at every position: rows that show it, the mean of 1[shown] / propensity, which is
    1 where propensities are right, with its z; the target's mass on it, the mean weight of its
    rows, and its share of sum(w r)."""
    found = [
        _items_of(cell, policy, name).select(pl.lit(label).alias(""), pl.all())
        for label, cell in cells.items()
        for policy, name in enumerate(settings.policies)
        if cell.items is not None and cell.n
    ]
    table = pl.concat(found) if found else pl.DataFrame(schema={"": pl.String, **ITEMS})
    return _labelled(table, settings, by)


def _items_of(cell: Cell, policy: int, name: str) -> pl.DataFrame:
    items = of_items(cell.items)
    assert items is not None
    levels, many = items.seen.shape
    place, item = torch.arange(levels).repeat_interleave(many), torch.arange(many).repeat(levels)
    columns = {
        "position": place,
        "item": item,
        "n": items.seen.long().flatten(),
        "could": items.could.long().flatten(),
        "odds": (items.odds / items.could).flatten(),
        "z": odds_z(items).flatten(),
        "mass": (items.mass[policy] / items.mass[policy].sum()).flatten(),
        "mean_weight": (items.w[policy] / items.seen).flatten(),
        "share": (items.wr[policy] / items.wr[policy].sum()).flatten(),
    }
    frame = pl.DataFrame({key: column.numpy() for key, column in columns.items()})
    used = frame.filter((pl.col("n") > 0) | (pl.col("mass") > 0))
    return used.select(pl.lit(name).alias("policy"), pl.all().fill_nan(None))


def _labelled(table: pl.DataFrame, settings: Settings, by: str | None) -> pl.DataFrame:
    """Items by their ids; the group as a first column, or none."""
    if settings.ids is not None:
        table = table.with_columns(settings.ids.gather(table["item"]).alias("item"))
    if by is None:
        return table.drop("")
    return table.drop(by, strict=False).rename({"": by})  # a group's item or position is its name


__all__ = ["driver_table", "item_table"]
