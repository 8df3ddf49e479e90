"""Who may import whom (the rooms of the design), and what must not be imported at all."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "recfb"
LAYER = {
    "errors": 0,
    "random": 0,
    "data": 1,
    "estimate": 1,
    "metrics": 1,
    "optim": 1,
    "network": 1,
    "contracts": 2,
    "scorers": 3,
    "samplers": 3,
    "exposures": 3,
    "objectives": 3,
    "solvers": 3,
    "beliefs": 2,  # policies are built over them
    "policies": 3,
    "worlds": 3,
    "evaluation": 3,
    "recommender": 4,
    "learner": 4,
    "fit": 5,
    "measure": 5,
    "simulate": 6,
    "evaluate": 6,
    "tune": 6,
    "config": 7,
    "doctor": 7,
    "store": 7,
    "shelf": 7,
    "testing": 7,
    "plots": 7,
    "interop": 7,
    "cli": 8,
    "__main__": 8,
    "__init__": 8,
}
ROOMS = {name for name, layer in LAYER.items() if layer == 3}
CORNERS = {
    "pytorch_lightning": {"recommender", "learner", "fit"},
    "obp": {"interop"},
    "sklearn": {"interop", "exposures"},
    "gymnasium": {"interop"},
    "matplotlib": {"plots"},
    "jsonargparse": {"config", "cli"},
    "safetensors": {"store"},
    "pandas": set(),
}
HEAVY = ("torch", "pytorch_lightning", "sklearn", "obp", "polars", "matplotlib")


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path) -> list[tuple[str, bool]]:
    """Absolute modules a file imports, and whether only for type checking."""
    found: list[tuple[str, bool]] = []

    def visit(node: ast.AST, typing_only: bool) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            typing_only = True
        if isinstance(node, ast.Import):
            found.extend((alias.name, typing_only) for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            found.append((node.module, typing_only))
            found.extend((f"{node.module}.{alias.name}", typing_only) for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child, typing_only)

    visit(ast.parse(path.read_text()), False)
    return found


FILES = sorted(path for path in ROOT.rglob("*.py") if "_shelf" not in path.parts)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_point_down(path: Path) -> None:
    me = room_of(path)
    assert me in LAYER, f"{me} has no layer: add it to the design and to this table"
    for module, typing_only in imports(path):
        parts = module.split(".")
        if parts[0] == "recfb" and len(parts) > 1 and parts[1] in LAYER:
            other = parts[1]
            if other == me or typing_only:
                continue
            assert LAYER[other] <= LAYER[me], f"{me} (layer {LAYER[me]}) imports {module}"
            assert not (me in ROOMS and other in ROOMS), f"sibling rooms: {me} imports {module}"
        if parts[0] in CORNERS and not typing_only:
            assert me in CORNERS[parts[0]], f"{parts[0]} is imported outside its corner, in {me}"


def test_importing_recfb_is_light() -> None:
    code = f"import sys, recfb; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_verbs_are_functions_even_after_their_modules_are_imported() -> None:
    verbs = ("fit", "measure", "evaluate", "simulate")
    imports = "; ".join(f"import recfb.{verb}" for verb in verbs)
    code = f"{imports}; print(all(callable(getattr(recfb, verb)) for verb in {verbs}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_shelves_are_no_packages() -> None:
    root = ROOT.parent
    assert not [
        str(p) for shelf in ("datasets", "simulators") for p in (root / shelf).rglob("__init__.py")
    ]


def test_every_public_name_exists() -> None:
    import recfb

    assert all(getattr(recfb, name) is not None for name in recfb.__all__)
