"""What the verbs share: parsing, reading logs, run folders and tables on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import yaml
from jsonargparse import SUPPRESS as HIDDEN
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from recfb.config import allow, explain, new_parser
from recfb.data.columns import COLUMNS
from recfb.data.log import Log
from recfb.data.plain import read_yaml
from recfb.data.product import atomic_folder
from recfb.errors import ConfigError, PrepareError, nearest
from recfb.shelf import dataset, pages

SHOWN = ("user", "item", "reward", "propensity", "time", "position", "unit", "slate", "logger")
"""Canonical columns whose options are shown in the help; the others work too."""


def parser_of(verb: str, about: str, modules: Sequence[str] = ()) -> ArgumentParser:
    """A parser for a verb; class names in its values resolve under the allowlist."""
    allow(modules)
    return new_parser(prog=f"recfb {verb}", description=about, allow_abbrev=False)


def parse(parser: ArgumentParser, argv: Sequence[str]) -> Namespace:
    """Parse, or refuse with the nearest valid name in at most three lines."""
    for file in _pages(argv):
        _check_page(parser, file)
    try:
        cfg = parser.parse_args(list(argv))
    except ArgumentError as error:
        names = [name for action in parser._actions for name in action.option_strings]
        options = [n.lstrip("-") for n in names if n.startswith("--") and not n.endswith("help")]
        raise ConfigError(explain(str(error), options)) from None
    for action in parser._actions:
        kind = str(getattr(action, "_typehint", "None"))
        if cfg.get(action.dest, 0) is None and action.default is not None and "None" not in kind:
            raise ConfigError(
                f"--{action.dest} takes {kind}, found null. Leave it out, or give it."
            )
    return cfg


def _pages(argv: Sequence[str]) -> list[Path]:
    """The files named by --config."""
    joined = [word.partition("=")[2] for word in argv if word.startswith("--config=")]
    apart = [file for word, file in pairwise(argv) if word == "--config"]
    return [Path(file) for file in joined + apart]


def _check_page(parser: ArgumentParser, file: Path) -> None:
    page = read_yaml(file)
    if not isinstance(page, dict):
        raise ConfigError(f"{file}: expected options, one a line, batch_size: 256; found {page!r}.")
    known = {action.dest.partition(".")[0] for action in parser._actions}
    for key in page:
        name = str(key).partition(".")[0]
        if name not in known:
            raise ConfigError(f"{file}: there is no option {name!r}.{nearest(name, known)}")


def add_log(parser: ArgumentParser, *, without: Sequence[str] = ()) -> None:
    """The positional log, and --user, --item and so on: the names its columns have in the file."""
    parser.add_argument("log", type=str, help="a file, a folder, or the name of a data set")
    group = parser.add_argument_group("columns of your file")
    for column, spec in COLUMNS.items():
        if column in without:
            continue
        shown = f"column with: {spec.meaning}" if column in SHOWN else HIDDEN
        group.add_argument(f"--{column}", type=str | None, metavar="COLUMN", help=shown)
    about = "rewards of at least this are clicks"
    group.add_argument("--binarise", type=float | None, metavar="AT", help=about)


def mapping_of(cfg: Namespace) -> dict[str, Any]:
    """canonical=theirs as typed; a number stands for all rows."""
    chosen = {name: cfg.get(name) for name in COLUMNS if cfg.get(name) is not None}
    return {name: _number(text) for name, text in chosen.items()}


def _number(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


def read_log(
    name: str,
    cfg: Namespace | None = None,
    *,
    scan: bool = False,
    like: Any = None,
    keep: Sequence[str] = (),
) -> Log:
    """A log by path or by name; NAME:train and NAME:test are the halves of a data set.

    `like` is a log or a fitted model whose users and items the ids are of; an id that it does not
    know is an error. `keep` are further columns of a file.
    """
    columns = mapping_of(cfg) if cfg is not None else {}
    at = cfg.get("binarise") if cfg is not None else None
    if Path(name).expanduser().exists() or any(mark in name for mark in "*?["):
        read = Log.scan if scan else Log.read
        log = read(name, like=like, keep=list(keep), **columns)
    else:
        first, _, half = name.partition(":")
        if first.partition("/")[0] not in pages("datasets"):
            raise PrepareError(
                f"{name} is neither a file nor a data set. The data sets are "
                f"{', '.join(pages('datasets'))}; a file is named by its path."
            )
        if half not in ("", "train", "test"):
            raise ConfigError(
                f"{name}: the halves of a data set are {first}:train and {first}:test."
            )
        log = _recoded(getattr(dataset(first), half or "log"), like, name)
    return log.binarise(at) if at is not None else log


def _recoded(log: Log, like: Any, name: str) -> Log:
    """A data set with the ids of another log or of a model."""
    if like is None:
        return log
    known = log.recode(like.vocabulary)
    if len(known) < len(log):
        raise ConfigError(
            f"{len(log) - len(known):,} of {len(log):,} rows of {name} have users or items that "
            "the model, or the log of --like, does not know."
        )
    return known


@contextmanager
def run_folder(name: str | None, verb: str, config: Any) -> Iterator[Path | None]:
    """runs/NAME with config.yaml and versions.txt; whole or not at all. Without a name: nothing."""
    if name is None:
        yield None
        return
    with atomic_folder(Path("runs") / name) as folder:
        (folder / "config.yaml").write_text(
            yaml.safe_dump({"verb": verb, **config}, sort_keys=False)
        )
        packages = ("recfb", "torch", "polars", "pytorch-lightning", "numpy")
        lines = [f"python {sys.version.split()[0]}", *(f"{p} {version(p)}" for p in packages)]
        (folder / "versions.txt").write_text("\n".join(lines) + "\n")
        yield folder
    say(f"written to runs/{name}")


def plain(cfg: Namespace) -> dict[str, Any]:
    """A parsed namespace as plain data for config.yaml."""
    kept = {key: value for key, value in cfg.as_dict().items() if value is not None}
    return {key: value for key, value in kept.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, (bool, int, float, str))


def say(text: str) -> None:
    """A line on the terminal."""
    sys.stdout.write(f"{text}\n")


def show(table: pl.DataFrame, digits: int = 4) -> None:
    """A table on the terminal: plain columns, numbers to a few digits, no frame."""
    say(table_text(table, digits))


def table_text(table: pl.DataFrame, digits: int = 4) -> str:
    """A frame as aligned text; null is a dash."""
    cells = [
        [column.name, *(_cell(value, digits) for value in column.to_list())] for column in table
    ]
    right = [column.dtype.is_numeric() for column in table]
    widths = [max(map(len, column)) for column in cells]
    lines = []
    for row in zip(*cells, strict=True):
        padded = [
            text.rjust(width) if number else text.ljust(width)
            for text, width, number in zip(row, widths, right, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def _cell(value: Any, digits: int) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.{digits}g}" if abs(value) >= 1000 else f"{value:.{digits}f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, list):
        return "; ".join(str(item) for item in value)
    return str(value)
