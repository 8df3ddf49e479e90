"""The ledger itself: every kind of fault is counted, and fails the test that met it."""

from __future__ import annotations

from typing import Any

import pytest
from ledger import Ledger, table

from recfb.errors import LogError


def raises(error: BaseException) -> Any:
    raise error


def test_what_is_right_is_counted() -> None:
    with Ledger("f") as ledger:
        ledger.refuses("a", lambda: raises(LogError("no rows")), "rows")
        ledger.gives("b", lambda: 3, lambda value: value == 3)
        ledger.settles("c", lambda: 3, lambda value: value == 3)
        ledger.settles("d", lambda: raises(LogError("no")), lambda value: False)
    assert table([ledger])["as they should be"].to_list() == [4, 4]


FAULTS = {
    "silent": lambda each: each.refuses("a", lambda: 3),
    "silent ": lambda each: each.gives("a", lambda: 3, lambda value: value == 4),
    "silent  ": lambda each: each.settles("a", lambda: 3, lambda value: value == 4),
    "rude": lambda each: each.refuses("a", lambda: raises(KeyError("x"))),
    "rude ": lambda each: each.refuses("a", lambda: raises(LogError("no")), "rows"),
    "rude  ": lambda each: each.gives("a", lambda: raises(LogError("no")), lambda value: True),
    "rude   ": lambda each: each.settles("a", lambda: raises(SystemExit(1)), lambda value: True),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_what_is_wrong_fails(kind: str) -> None:
    with pytest.raises(AssertionError, match="f:\na: " + kind.strip()), Ledger("f") as ledger:
        FAULTS[kind](ledger)
    assert ledger.counts == {kind.strip(): 1}


@pytest.mark.parametrize(("check", "kind"), [("intact", "lost"), ("clean", "executed")])
def test_checks_are_asked_after_each_case(check: str, kind: str) -> None:
    with pytest.raises(AssertionError, match=kind), Ledger("f", **{check: lambda: False}) as each:
        each.refuses("a", lambda: raises(LogError("no")))
    assert each.counts == {kind: 1}


def test_an_empty_family_fails() -> None:
    with pytest.raises(AssertionError, match="no case"), Ledger("f"):
        pass
