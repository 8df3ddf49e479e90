"""Fixtures that many tests share."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
import torch

from recfb import Log
from recfb.cli.common import table_text

RESULTS = Path(__file__).parents[1] / "docs" / "results"
Page = Callable[..., None]


@pytest.fixture(autouse=True)
def no_global_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in recfb may draw from torch's global generator."""
    torch.manual_seed(20_261_124)
    before = torch.random.get_rng_state()
    yield
    if not torch.equal(before, torch.random.get_rng_state()):
        pytest.fail("a draw was taken from torch's global generator; use recfb.random.stream")


@pytest.fixture
def small_log() -> Log:
    """Three users, five items of which item 4 is never clicked and item 3 never shown."""
    rows = pl.DataFrame(
        {
            "user": [0, 0, 0, 1, 1, 2, 2, 2],
            "item": [0, 1, 4, 1, 2, 0, 2, 4],
            "reward": [1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0],
            "propensity": [0.5, 0.25, 0.25, 0.5, 0.25, 0.5, 0.25, 0.25],
            "time": [0, 1, 2, 0, 3, 1, 2, 4],
        }
    )
    return Log.of(rows, n_users=3, n_items=5)


@pytest.fixture
def checkerboard() -> Log:
    """24 users x 24 items: even users clicked even items, odd users odd ones; some cells are held
    out."""
    user, item = torch.meshgrid(torch.arange(24), torch.arange(24), indexing="ij")
    same = (user % 2) == (item % 2)
    held_out = (user * 7 + item * 3) % 5 == 0
    keep = same & ~held_out
    return Log.of(
        {"user": user[keep], "item": item[keep], "reward": torch.ones(int(keep.sum()))},
        n_users=24,
        n_items=24,
    )


@pytest.fixture
def page() -> Page:
    """page(name, title, tables, pictures): write one page of results."""

    def write(
        name: str, title: str, tables: dict[str, pl.DataFrame], pictures: tuple[str, ...] = ()
    ) -> None:
        today = datetime.now(UTC).date()
        lines = [f"# {title}", "", f"Printed by `make claims` on {today}.", ""]
        for caption, table in tables.items():
            lines += [caption, "", "```", table_text(table), "```", ""]
        lines += [f"![{picture}]({picture})" for picture in pictures]
        RESULTS.mkdir(parents=True, exist_ok=True)
        text = "\n".join(lines).rstrip() + "\n"
        (RESULTS / f"{name}.md").write_text(text)
        print(f"\n{text}")

    return write
