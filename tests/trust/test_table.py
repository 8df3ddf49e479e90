"""The table over all families; of the files of this folder it runs last."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from ledger import WHOLE, table

ABOUT = (
    "As they should be: refused with an error of recfb that names the culprit, or the right value. "
    "Silent wrong: a wrong number without an error. Lost: rows or files are gone. Executed: a "
    "payload ran. Wrong error: of another kind, or one that does not say what it must."
)
FAMILIES = [
    "configs: bombs",
    "configs: hostile classes",
    "configs: values",
    "faults: fits resumed",
    "faults: full disks",
    "faults: killed while writing",
    "faults: killed, then resumed",
    "faults: two on one run",
    "faults: what may not be used",
    "faults: workers that die",
    "load: numbers under a memory limit",
    "logs: files",
    "logs: random frames",
    "logs: text",
    "logs: values",
    "policies: in evaluate",
    "policies: scores and slates",
    "products: components",
    "products: cut files",
    "products: flipped bits",
    "products: of others",
    "products: tampered",
    "recipes: files and pages",
    "recipes: policies",
    "recipes: what is right",
]


@pytest.mark.claims
def test_the_whole_table(page: Callable[..., None]) -> None:
    found = table(WHOLE)
    assert sorted(found["family"])[1:] == FAMILIES, "run the whole folder"
    page("trust", "Trust: what was tried, and what came of it", {ABOUT: found})
    total = found.row(-1, named=True)
    assert total["cases"] == total["as they should be"]
