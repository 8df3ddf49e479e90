"""The table of everything that was tried, printed at the end of the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from ledger import SHORT, WHOLE, Ledger, table

from recfb.cli.common import table_text


@pytest.fixture
def ledger(request: pytest.FixtureRequest) -> Callable[..., Ledger]:
    """ledger(family): a line of the table. Ledgers made otherwise are not printed."""
    call = getattr(request.node, "callspec", None)
    place = WHOLE if call is not None and call.params.get("whole") else SHORT

    def opened(family: str, **checks: Any) -> Ledger:
        place.append(Ledger(family, **checks))
        return place[-1]

    return opened


@pytest.fixture(params=[False, pytest.param(True, marks=pytest.mark.claims)], ids=["short", "all"])
def whole(request: pytest.FixtureRequest) -> bool:
    """Whether every case is to be tried (`make claims`), or a short form (`make test`)."""
    return bool(request.param)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for title, ledgers in {"trust": SHORT, "trust, all cases": WHOLE}.items():
        if ledgers:
            terminalreporter.section(title)
            terminalreporter.write_line(table_text(table(ledgers)))
