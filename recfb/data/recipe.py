"""Recipes: a YAML page that says where a data set's files are, what they must contain, and whose
they are."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
import polars as pl

from recfb.data.files import PARQUET, collect, open_columns, suffix
from recfb.data.log import Log, Meta
from recfb.data.product import sha256
from recfb.errors import ConfigError, PrepareError, nearest

D = TypeVar("D")
PACKED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
    b"x\x01": "zlib",
    b"x\x9c": "zlib",
    b"x\xda": "zlib",
}
"""How packed files begin. None is read: what is in one may be larger than any memory."""
_ROWS_A_BYTE = 1000


@dataclass(frozen=True, slots=True)
class File:
    """One file of a recipe: beside the recipe, in an installed package, or in the user's own
    copy."""

    path: str
    sha256: str | None = None
    package: str | None = None
    layout: Literal["table", "matrix"] = "table"  # a matrix is users x items, 0 = not rated
    key: str | None = None  # inside a YAML file: "all.alpha"

    def find(self, folder: Path) -> Path:
        """Where the file is; its checksum is compared."""
        root = package_folder(self.package) if self.package else folder
        try:
            found = (root / self.path).resolve()
            inside, there = found.is_relative_to(root.resolve()), found.is_file()
        except (OSError, ValueError, RuntimeError) as error:  # a link to itself is the last
            raise ConfigError(f"{self.path[:80]!r} is no path of a file: {error}.") from None
        if not inside:
            raise ConfigError(
                f"{self.path!r} leaves {root}. A recipe names files inside its folder."
            )
        if not there:
            where = f"the installed package {self.package}" if self.package else str(root)
            raise PrepareError(f"{where} has no file {self.path}.")
        if self.sha256 is not None and sha256(found) != self.sha256.lower():
            raise PrepareError(
                f"{found} is not the file of the recipe: its SHA-256 differs. "
                f"Install the version the recipe names, or correct the recipe."
            )
        refuse_packed(found)
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
                file = self.files[side].find(folder)
                log = attach(log, collect(open_columns(file), file), id=self.id)
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


def refuse_packed(file: Path) -> None:
    """Refuse archives and packed files, and a table of far more rows than its size can hold.

    Raises:
        PrepareError: with how to go on.
    """
    with file.open("rb") as stream:
        head = stream.read(262)
    kinds = [kind for start, kind in PACKED.items() if head.startswith(start)]
    if kinds or head[257:] == b"ustar":
        raise PrepareError(
            f"{file} is packed ({(kinds or ['tar'])[0]}). Unpack it, and name the file inside."
        )
    if suffix(file) in PARQUET:
        rows = int(collect(open_columns(file).select(pl.len()), file).item())
        if rows > _ROWS_A_BYTE * file.stat().st_size:
            raise PrepareError(
                f"{file} unpacks to {rows:,} rows, which is no log: write it again from its source."
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
    try:
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
    except ValueError:  # of __main__
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise PrepareError(f"the package {package!r} is not installed. Type: pip install {package}")
    return Path(next(iter(spec.submodule_search_locations)))


def recipe_of(page: Any, variant: str, where: Path) -> Recipe:
    """A recipe from its YAML page; a variant overrides the keys it names."""
    page = dict(mapping(page, "", where))
    variants = mapping(page.pop("variants", {}), "variants", where)
    if variant:
        if variant not in variants:
            raise ConfigError(
                f"{where} has no variant {variant!r}; it has "
                f"{list(variants)}.{nearest(variant, variants)}"
            )
        chosen = mapping(variants[variant], variant, where)
        both = [mapping(one.get("meta", {}), "meta", where) for one in (page, chosen)]
        page = {**page, **chosen, "meta": {**both[0], **both[1]}}
    elif variants and "files" not in page:
        raise ConfigError(
            f"choose a variant of {where.parent.name}: "
            f"{[f'{where.parent.name}/{v}' for v in variants]}"
        )
    files = mapping(page.get("files", {}), "files", where)
    page["files"] = {name: strict(File, file, where) for name, file in files.items()}
    meta = dict(mapping(page.get("meta", {}), "meta", where))
    if isinstance(meta.get("reward_range"), list):
        meta["reward_range"] = tuple(meta["reward_range"])
    page["meta"] = strict(Meta, meta, where)
    recipe = strict(Recipe, page, where)
    odd = sorted(set(recipe.files) - {"log", "train", "test", "items", "users"})
    if odd or not {"log", "train"} & set(recipe.files):
        raise ConfigError(
            f"{where}: files are named log, or train and test, and items, users; found "
            f"{list(recipe.files)}."
        )
    for name in ("n_users", "n_items", "meta", "like"):
        if name in recipe.columns:
            raise ConfigError(f"{where}: {name!r} is no column. Write it beside columns.")
    return recipe


def mapping(value: Any, name: str, where: Path) -> dict[str, Any]:
    """A value that must be a mapping."""
    if not isinstance(value, dict):
        raise ConfigError(f"{where}{': ' if name else ''}{name} is no mapping of keys: {value!r}.")
    return value


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
    hints = get_type_hints(kind)
    for key, value in data.items():
        if not fits(value, hints[key]):
            what = str(hints[key]).replace("typing.", "").replace("<class '", "").replace("'>", "")
            raise ConfigError(f"{where}: {key} is {what}, found {value!r}.")
    try:
        return kind(**data)
    except TypeError as error:
        raise ConfigError(f"{where}: {str(error).replace('.__init__()', '')}.") from None


def fits(value: Any, hint: Any) -> bool:
    """Whether plain data are of a type.

    >>> fits({"rows": 3}, dict[str, int]), fits({"rows": "3"}, dict[str, int]), fits(True, int)
    (True, False, False)
    """
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(fits(value, one) for one in inner)
    if origin is Literal:
        return isinstance(value, str) and value in inner
    if origin is tuple:
        sized = isinstance(value, tuple) and len(value) == len(inner)
        return sized and all(map(fits, value, inner))
    if origin is dict:
        return isinstance(value, dict) and all(
            fits(key, inner[0]) and fits(one, inner[1]) for key, one in value.items()
        )
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return hint is Any or isinstance(value, hint)
