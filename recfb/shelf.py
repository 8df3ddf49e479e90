"""Data sets and simulators by name: from ./, $RECFB_PATH, entry points, the wheel and the
checkout."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal

from recfb.config import build
from recfb.contracts import Policy
from recfb.data.log import Log
from recfb.data.plain import read_yaml
from recfb.data.product import atomic_folder
from recfb.data.recipe import File, Recipe, recipe_of, strict
from recfb.errors import ConfigError, PrepareError, nearest
from recfb.simulate import Simulator

Kind = Literal["datasets", "simulators"]
_NAME = re.compile(r"[A-Za-z0-9_@-][A-Za-z0-9_@.-]*(/[A-Za-z0-9_@-][A-Za-z0-9_@.-]*)*")


def shelves(kind: Kind) -> Iterator[Path]:
    """The folders in which names are looked up, in order. An entry point of the group
    `recfb.shelves` loads the path of a folder with `datasets` or `simulators` in it."""
    here = Path(__file__).parent
    roots = [Path.cwd()]
    roots += [Path(part) for part in os.environ.get("RECFB_PATH", "").split(os.pathsep) if part]
    roots += [Path(str(point.load())) for point in entry_points(group="recfb.shelves")]
    roots += [here / "_shelf", here.parent]
    for root in dict.fromkeys(root.expanduser().resolve() for root in roots):
        if (root / kind).is_dir():
            yield root / kind


def pages(kind: Kind) -> dict[str, Path]:
    """Every name on the shelves with its YAML page; the first shelf that has a name wins."""
    pattern = "*/recipe.yaml" if kind == "datasets" else "*.yaml"
    found: dict[str, Path] = {}
    for shelf in shelves(kind):
        for page in sorted(shelf.glob(pattern)):
            found.setdefault(page.parent.name if kind == "datasets" else page.stem, page)
    return found


def page_of(kind: Kind, name: str) -> tuple[Path, str]:
    """The page of `name` and the variant after its first slash."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} is no name of a shelf; names look like 'open_bandit/all/random'."
        )
    known = pages(kind)
    first, _, variant = name.partition("/")
    if first not in known:
        raise ConfigError(
            f"there is no {kind[:-1]} {first!r}; there are {list(known)}.{nearest(first, known)}"
        )
    return known[first], variant


def home() -> Path:
    """Where prepared files are kept: $RECFB_HOME, else the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("RECFB_HOME") or f"{cache}/recfb").expanduser()


@dataclass(frozen=True)
class Dataset:
    """A named data set: its card (the recipe), its logs and its reference policies, each read when
    asked for."""

    name: str
    card: Recipe
    folder: Path

    @cached_property
    def log(self) -> Log:
        """All rows; of a set with a test file, the training rows."""
        log = self._read("log" if "log" in self.card.files else "train")
        if "log" in self.card.files:
            self.card.check({"rows": len(log), "users": log.n_users, "items": log.n_items})
        return log

    @cached_property
    def train(self) -> Log:
        """The training file, else the earliest 80 % of the log."""
        return self.log if "train" in self.card.files else self.log.split_by_time(0.8)[0]

    @cached_property
    def test(self) -> Log:
        """The test file, else the latest 20 % of the log."""
        if "test" in self.card.files:
            return self._read("test").recode(self.train.vocabulary)
        return self.log.split_by_time(0.8)[1]

    @cached_property
    def policies(self) -> dict[str, Policy]:
        """The reference policies of the recipe, bound to the log's sizes."""
        shape = Log.empty(0, 0, vocabulary=self.log.vocabulary)
        return {
            str(name): build(Policy, self._fill(page)).bind(shape)
            for name, page in self.card.policies.items()
        }

    def _fill(self, value: Any) -> Any:
        """Replace {package, path, key} by what the file says under that key."""
        if isinstance(value, dict) and {"path", "key"} <= set(value):
            file = strict(File, value, self.folder / "recipe.yaml")
            found = read_yaml(file.find(self.folder))
            for key in (file.key or "").split("."):
                if not isinstance(found, dict) or key not in found:
                    raise ConfigError(f"{file.path} has no key {file.key!r}; {key!r} is not there.")
                found = found[key]
            return found
        if isinstance(value, dict):
            return {key: self._fill(item) for key, item in value.items()}
        return value

    def _read(self, name: str) -> Log:
        if self.card.own_copy is None:
            return self.card.read(name, self.folder)
        prepared = home() / self.name
        if not prepared.is_dir():
            raise PrepareError(f"{self.name} is not shipped with recfb. {self.card.own_copy}")
        return Log.read(prepared / name)


def dataset(name: str) -> Dataset:
    """A data set by name; nothing is read yet.

    >>> dataset("movietweetings").card.licence
    'MIT'
    """
    page, variant = page_of("datasets", name)
    return Dataset(name, recipe_of(read_yaml(page), variant, page), page.parent)


def prepare(name: str, source: str | Path) -> Path:
    """Read the user's own copy of a data set, check its counts, and keep it in `home()`.

    Raises:
        PrepareError: a file is missing or is not what the recipe says.
    """
    found = dataset(name)
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise PrepareError(f"{folder} is no folder. {found.card.own_copy or ''}".rstrip())
    logs = {
        part: found.card.read(part, folder)
        for part in found.card.files
        if part in ("log", "train", "test")
    }
    some = next(iter(logs.values()))
    counts = {"rows": sum(map(len, logs.values())), "users": some.n_users, "items": some.n_items}
    found.card.check({**counts, **{part: len(log) for part, log in logs.items()}})
    target = home() / name
    with atomic_folder(target, replace=True) as part:
        for kind, log in logs.items():
            log.write(part / kind)
    return target


def simulator(name: str) -> Simulator:
    """A named, configured world with its policies and claims."""
    page, variant = page_of("simulators", name)
    if variant:
        raise ConfigError(f"simulators have no variants; there are {list(pages('simulators'))}.")
    page_data = {"class_path": "recfb.simulate.Simulator", "init_args": read_yaml(page)}
    return build(Simulator, page_data)
