"""Reading logs from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recfb.data.log import Log


def read(path: str | Path, **options: Any) -> Log:
    """Read."""
    raise NotImplementedError


def scan(path: str | Path, **options: Any) -> Log:
    """Scan."""
    raise NotImplementedError
