"""The table of everything that was tried, printed at the end of the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from ledger import Ledger, table

LEDGERS: list[Ledger] = []


@pytest.fixture
def ledger() -> Callable[..., Ledger]:
    """ledger(family): a line of the table. Ledgers made otherwise are not printed."""

    def opened(family: str, **checks: Any) -> Ledger:
        LEDGERS.append(Ledger(family, **checks))
        return LEDGERS[-1]

    return opened


@pytest.fixture(params=[False, pytest.param(True, marks=pytest.mark.claims)], ids=["short", "all"])
def whole(request: pytest.FixtureRequest) -> bool:
    """Whether every case is to be tried (`make claims`), or a short form (`make test`)."""
    return bool(request.param)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if LEDGERS:
        from recfb.cli.common import table_text

        terminalreporter.section("trust")
        terminalreporter.write_line(table_text(table(LEDGERS)))
