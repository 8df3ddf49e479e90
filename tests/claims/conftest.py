"""Long tables go to docs/results: Markdown with the command and the date, and pictures beside."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from recfb.cli.common import table_text

RESULTS = Path(__file__).parents[2] / "docs" / "results"
Page = Callable[..., None]


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
