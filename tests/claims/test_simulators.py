"""What every shipped simulator claims, over all its seeds, with a picture of the rounds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

import recfb
from recfb import plots
from recfb.shelf import pages

RESULTS = Path(__file__).parents[2] / "docs" / "results"


@pytest.mark.claims
@pytest.mark.parametrize("name", list(pages("simulators")))
def test_a_simulator_keeps_its_claims(name: str, page: Callable[..., None]) -> None:
    loop = recfb.simulator(name)
    metrics = loop.measured()
    table = loop.judge(metrics)
    shown = metrics.columns[4:]
    plots.write(plots.by_round(metrics, shown[:4], loop.summary), RESULTS / f"{name}.png")
    last = metrics.filter(pl.col("round") == pl.col("round").max())
    means = last.group_by("policy", maintain_order=True).agg(pl.col(shown).mean())
    page(
        name,
        f"Simulator {name}",
        {
            f"{loop.summary} Source: {loop.source}. Paired seeds: a claim holds in every seed "
            "unless "
            "it says otherwise.": table,
            "After the last round, means over the seeds.": means,
        },
        (f"{name}.png",),
    )
    assert bool(table["holds"].all())
