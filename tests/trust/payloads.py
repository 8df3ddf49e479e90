"""A payload that leaves a mark where it runs, and the command line as it is typed."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recfb.cli import main
from recfb.errors import RecfbError

EVIL = "trust_evil"
MODULE = """
from pathlib import Path
Path({mark!r}).write_text("ran")
from recfb.policies import Uniform
class Mine(Uniform):
    pass
def make() -> Uniform:
    return Uniform()
"""


@dataclass
class Payload:
    """A module on the path that leaves a mark once it is imported; a shell command that does."""

    mark: Path
    intact: Callable[[], bool] = lambda: True

    @property
    def command(self) -> str:
        return f"touch {self.mark}"

    def __reduce__(self) -> Any:
        """Pickled, the command runs when it is read."""
        import os

        return os.system, (self.command,)

    def clean(self) -> bool:
        """Whether nothing has run."""
        return not self.mark.exists() and EVIL not in sys.modules

    def ran(self) -> bool:
        """Whether it has run; forgotten by that."""
        found = self.mark.exists()
        self.mark.unlink(missing_ok=True)
        sys.modules.pop(EVIL, None)
        return found


def payload(folder: Path, monkeypatch: Any) -> Payload:
    """A payload whose module can be imported."""
    there = folder / "modules"
    there.mkdir()
    (there / f"{EVIL}.py").write_text(MODULE.format(mark=str(folder / "mark")))
    monkeypatch.syspath_prepend(there)
    return Payload(folder / "mark")


def typed(*words: str) -> int:
    """The exit code of `recfb ...`; what it refuses is raised again."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(words))
    if code == 1:
        raise RecfbError(err.getvalue())
    return code


def spec(path: Any, /, **arguments: Any) -> dict[str, Any]:
    """A class path with its arguments."""
    return {"class_path": path, "init_args": arguments}
