"""Every public component, written and read as plain data."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from ledger import Ledger

from recfb.contracts import World
from recfb.testing.outcome import outcome, ready, same


@cache
def conformance() -> Any:
    """The table of all components, and the log that each is checked with."""
    path = Path(__file__).parents[1] / "test_conformance.py"
    found = importlib.util.spec_from_file_location("trust_conformance", path)
    assert found and found.loader
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def weights(ledger: Ledger, folder: Path, whole: bool) -> None:
    """Bound, written, read with weights_only=True by another of its kind: the same output."""
    names = list(conformance().COMPONENTS)
    for name in names if whole else names[::4]:
        if not isinstance(conformance().COMPONENTS[name](), World):  # worlds hold no weights
            file = folder / f"{name}.pt"
            ledger.gives(name, lambda n=name, f=file: again(n, f), lambda found: found is True)


def again(name: str, file: Path) -> bool:
    """Whether a component computes what another with its weights does."""
    with torch.no_grad():
        one, other = (conformance().COMPONENTS[name]() for _ in "ab")
        rows = conformance().log_for(one)
        one = ready(one, rows, seed=1)
        torch.save(one.state_dict(), file)
        other = other.bind(rows)
        other.load_state_dict(torch.load(file, weights_only=True))
        return bool(same(outcome(one, rows, seed=4), outcome(other, rows, seed=4)))


def test_components_are_plain_data(
    ledger: Callable[..., Ledger], whole: bool, tmp_path: Path
) -> None:
    with ledger("products: components") as each:
        weights(each, tmp_path, whole)


def test_the_family_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that are not written, or not read."""
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", lambda self, state: None)
    each = Ledger("x")
    weights(each, tmp_path, False)
    assert each.counts["silent"] > 3, each.faults
