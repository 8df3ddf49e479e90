"""What a newcomer meets: the README's programs, the examples, and the wheel installed elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def run(command: list[str], folder: Path, **environment: str) -> str:
    """Run in a folder of its own, warnings of recfb aside as a user sees them; its output."""
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (
        f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    )
    return done.stdout


def pages() -> list[tuple[str, int, str]]:
    found = []
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        fences = FENCE.findall(page.read_text())
        found += [(page.name, k, code) for k, code in enumerate(fences)]
    return found


@pytest.mark.parametrize(
    ("page", "place", "code"), pages(), ids=[f"{page}-{k}" for page, k, _ in pages()]
)
def test_programs_on_the_pages_run_as_printed(
    page: str, place: int, code: str, tmp_path: Path
) -> None:
    run([sys.executable, "-c", code], tmp_path)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [], f"the program leaves {left} in the working folder"


@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.stem)
def test_examples_run(script: Path, tmp_path: Path) -> None:
    assert run([sys.executable, str(script)], tmp_path).strip()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel, unpacked in a folder that is not the checkout."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    run([*command, str(ROOT)], out)
    (wheel,) = out.glob("*.whl")
    target = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def test_the_wheel_holds_the_shelves_and_nothing_else(installed: Path) -> None:
    top = sorted(path.name for path in installed.iterdir() if not path.name.endswith(".dist-info"))
    assert top == ["recfb"]
    shelf = installed / "recfb" / "_shelf"
    assert (shelf / "datasets" / "movietweetings" / "ratings.parquet").is_file()
    assert (shelf / "simulators" / "popularity_loop.yaml").is_file()
    assert (installed / "recfb" / "py.typed").is_file()


def test_the_wheel_runs_the_demo_in_another_folder(installed: Path, tmp_path: Path) -> None:
    where = "import recfb; print(recfb.__file__)"
    path = {"PYTHONPATH": str(installed)}
    assert str(installed) in run([sys.executable, "-c", where], tmp_path, **path)
    text = run([sys.executable, "-m", "recfb", "demo"], tmp_path, **path)
    assert "rel-mf" in text
    pictures = sorted(path.name for path in (tmp_path / "runs" / "demo").glob("*.png"))
    assert len(pictures) == 3, text
