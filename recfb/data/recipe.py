"""Recipes: a YAML page that says where a data set's files are, what they must contain, and whose
they are."""

from __future__ import annotations

import importlib.util
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
import yaml

from recfb.data.log import Log, Meta
from recfb.data.product import sha256
from recfb.errors import ConfigError, PrepareError, nearest

D = TypeVar("D")


class _Loader(yaml.SafeLoader):
    """Plain data only: no tags that run code, no aliases, no key twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise ConfigError("YAML aliases (*name) are not allowed here. Write the value out.")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if name in seen:
                line = key.start_mark.line + 1
                raise ConfigError(f"the key {name!r} stands twice (line {line}). Keep one of them.")
            seen.add(name)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """Plain data from a YAML file; ConfigError where it is not YAML, PrepareError where it is not
    there."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        first = " ".join(str(error).split())
        raise ConfigError(f"{path} is no plain YAML: {first}") from None
    except OSError as error:
        raise PrepareError(f"cannot read {path}: {error.strerror or error}.") from None


@dataclass(frozen=True, slots=True)
class File:
    """One file of a recipe: beside the recipe, in an installed package, or in the user's own
    copy."""

    path: str
    sha256: str | None = None
    package: str | None = None
    layout: str = "table"  # or "matrix": users x items of ratings, 0 = not rated
    key: str | None = None  # inside a YAML file: "all.alpha"

    def find(self, folder: Path) -> Path:
        """Where the file is; its checksum is compared."""
        root = package_folder(self.package) if self.package else folder
        found = (root / self.path).resolve()
        if not found.is_relative_to(root.resolve()):
            raise ConfigError(
                f"{self.path!r} leaves {root}. A recipe names files inside its folder."
            )
        if not found.is_file():
            where = f"the installed package {self.package}" if self.package else str(root)
            raise PrepareError(f"{where} has no file {self.path}.")
        if self.sha256 is not None and sha256(found) != self.sha256:
            raise PrepareError(
                f"{found} is not the file of the recipe: its SHA-256 differs. "
                f"Install the version the recipe names, or correct the recipe."
            )
        return found


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a recipe.yaml says. `files` are named log, train, test, items or users."""

    summary: str
    source: str
    licence: str
    files: dict[str, File]
    columns: dict[str, Any] = field(default_factory=dict)
    id: str = "id"  # the column of the original ids in `items` and `users` files
    n_users: int | None = None
    n_items: int | None = None
    binarise: float | None = None
    meta: Meta = field(default_factory=Meta)
    counts: dict[str, int] = field(default_factory=dict)
    policies: dict[str, Any] = field(default_factory=dict)
    own_copy: str | None = None  # how to get the files, where they may not be shipped

    def read(self, name: str, folder: Path) -> Log:
        """One of log, train and test, checked, with item and user features attached."""
        log = self._table(self.files[name], folder)
        for side, attach in (("items", Log.with_items), ("users", Log.with_users)):
            if side in self.files:
                log = attach(log, pl.read_parquet(self.files[side].find(folder)), id=self.id)
        return log.binarise(self.binarise) if self.binarise is not None else log

    def _table(self, file: File, folder: Path) -> Log:
        path = file.find(folder)
        options: dict[str, Any] = {
            "n_users": self.n_users,
            "n_items": self.n_items,
            "meta": self.meta,
        }
        if file.layout == "matrix":
            return Log.of(matrix_rows(path), **options)
        return Log.read(path, **options, **self.columns)

    def check(self, found: Mapping[str, int]) -> None:
        """Compare what was prepared with the recipe's counts."""
        odd = {
            name: found.get(name) for name, count in self.counts.items() if found.get(name) != count
        }
        if odd:
            expected = {name: self.counts[name] for name in odd}
            raise PrepareError(
                f"the files hold {odd}, but the recipe counts {expected}: other files?"
            )


def matrix_rows(path: Path) -> pl.DataFrame:
    """A text matrix users x items of ratings, 0 = not rated, as rows."""
    try:
        ratings = np.loadtxt(path, ndmin=2)
    except (ValueError, OSError) as error:
        raise PrepareError(f"{path} is no matrix of numbers: {error}") from None
    user, item = np.nonzero(ratings)
    return pl.DataFrame({"user": user, "item": item, "reward": ratings[user, item]})


def package_folder(package: str) -> Path:
    """The folder of an installed package, without importing it."""
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise PrepareError(f"the package {package!r} is not installed. Type: pip install {package}")
    return Path(next(iter(spec.submodule_search_locations)))


def recipe_of(page: Any, variant: str, where: Path) -> Recipe:
    """A recipe from its YAML page; a variant overrides the keys it names."""
    if not isinstance(page, dict):
        raise ConfigError(f"{where} is no mapping of keys.")
    page = dict(page)
    variants = page.pop("variants", {})
    if variant:
        if variant not in variants:
            raise ConfigError(
                f"{where} has no variant {variant!r}; it has "
                f"{list(variants)}.{nearest(variant, variants)}"
            )
        chosen = variants[variant]
        page = {**page, **chosen, "meta": {**page.get("meta", {}), **chosen.get("meta", {})}}
    elif variants and "files" not in page:
        raise ConfigError(
            f"choose a variant of {where.parent.name}: "
            f"{[f'{where.parent.name}/{v}' for v in variants]}"
        )
    page["files"] = {
        name: strict(File, file, where) for name, file in page.get("files", {}).items()
    }
    meta = dict(page.get("meta", {}))
    if "reward_range" in meta:
        meta["reward_range"] = tuple(meta["reward_range"])
    page["meta"] = strict(Meta, meta, where)
    recipe = strict(Recipe, page, where)
    odd = sorted(set(recipe.files) - {"log", "train", "test", "items", "users"})
    if odd or not {"log", "train"} & set(recipe.files):
        raise ConfigError(
            f"{where}: files are named log, or train and test, and items, users; found "
            f"{list(recipe.files)}."
        )
    return recipe


def strict(kind: type[D], data: Any, where: Path) -> D:
    """A dataclass from a mapping; an unknown or missing key is refused by name."""
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: expected the keys {known}, found {data!r}.")
    for key in data:
        if key not in known:
            raise ConfigError(
                f"{where}: unknown key {key!r}; there are {known}.{nearest(str(key), known)}"
            )
    try:
        return kind(**data)
    except TypeError as error:
        raise ConfigError(f"{where}: {str(error).replace('.__init__()', '')}.") from None
