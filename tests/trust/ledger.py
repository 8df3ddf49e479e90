"""What was tried against recfb, and what came of it: one line of a table for each family."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import polars as pl

from recfb.errors import RecfbError

Act = Callable[[], Any]
Check = Callable[[], bool]


class Ledger:
    """Counts the cases of one family; leaving the `with` block fails if one went wrong.

    A case is right, or one of: silent (wrong numbers came back without an error), lost (rows or
    files are gone), executed (foreign code ran), rude (an error that is not recfb's, or does not
    say what it must). `intact` and `clean` are asked after every case.
    """

    def __init__(
        self, family: str, *, intact: Check = lambda: True, clean: Check = lambda: True
    ) -> None:
        self.family = family
        self.intact = intact
        self.clean = clean
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []

    def refuses(
        self, case: str, act: Act, *says: str, error: type[BaseException] = RecfbError
    ) -> None:
        """`act` must raise `error`, with every word of `says` in its text."""
        self._count(case, act, None, error, says)

    def gives(self, case: str, act: Act, right: Callable[[Any], bool]) -> None:
        """`act` must return a value that is `right`."""
        self._count(case, act, right, (), ())

    def settles(self, case: str, act: Act, right: Callable[[Any], bool]) -> None:
        """`act` must raise a RecfbError or return a value that is `right`."""
        self._count(case, act, right, RecfbError, ())

    def _count(
        self,
        case: str,
        act: Act,
        right: Callable[[Any], bool] | None,
        error: type[BaseException] | tuple[()],
        says: tuple[str, ...],
    ) -> None:
        kind, why = "right", ""
        try:
            value = act()
        except KeyboardInterrupt:
            raise
        except error as refusal:
            unsaid = [word for word in says if word not in str(refusal)]
            if unsaid:
                kind, why = "rude", f"{refusal} does not say {unsaid}"
        except BaseException as other:
            kind, why = "rude", f"{type(other).__name__}: {other}"
        else:
            if right is None or not right(value):
                kind, why = "silent", repr(value)[:300]
        if not self.intact():
            kind, why = "lost", f"rows or files are gone; {why}"
        if not self.clean():
            kind, why = "executed", f"a payload ran; {why}"
        self.counts[kind] += 1
        if kind != "right":
            self.faults.append(f"{case}: {kind}: {why}")

    @property
    def tried(self) -> int:
        return self.counts.total()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            assert self.tried, f"{self.family}: no case was tried"
            assert not self.faults, f"{self.family}:\n" + "\n".join(self.faults)


SHORT: list[Ledger] = []
WHOLE: list[Ledger] = []
"""What was tried in this run, in its two forms."""


def table(ledgers: list[Ledger]) -> pl.DataFrame:
    """One row a family, and the total."""
    names = ["right", "silent", "lost", "executed", "rude"]
    rows = [
        {"family": each.family, "cases": each.tried} | {name: each.counts[name] for name in names}
        for each in ledgers
    ]
    frame = pl.DataFrame(rows).group_by("family", maintain_order=True).sum()
    total = frame.select(pl.lit("all").alias("family"), pl.exclude("family").sum())
    return pl.concat([frame, total]).rename(
        {"right": "as they should be", "silent": "silent wrong", "rude": "wrong error"}
    )


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under `folder` and its bytes: equal before and after means nothing changed."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
