"""`recfb list [KIND]`."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import entry_points

import polars as pl

from recfb.cli.common import parse, parser_of, say, show
from recfb.config import ROOMS
from recfb.data.recipe import read_yaml
from recfb.errors import ConfigError, nearest
from recfb.shelf import pages

KINDS = ("datasets", "simulators", *ROOMS)


def main(argv: Sequence[str]) -> int:
    """List data sets, simulators and components: name, one line, source."""
    parser = parser_of("list", f"What there is, by kind: {', '.join(KINDS)}.")
    parser.add_argument(
        "kind", type=str | None, nargs="?", help="one of these kinds; all without it"
    )
    kind = parse(parser, argv).kind
    if kind is not None and kind not in KINDS:
        raise ConfigError(f"no kind {kind!r}; there are {', '.join(KINDS)}.{nearest(kind, KINDS)}")
    for each in KINDS if kind is None else (kind,):
        rows = listing(each)
        if kind is None:
            say(f"\n{each}")
        show(pl.DataFrame(rows, schema=["name", "what", "source"], orient="row"))
    return 0


def listing(kind: str) -> list[tuple[str, str, str]]:
    """(name, what, source) of everything of a kind."""
    if kind not in ROOMS:
        rows = []
        for name, page in pages("datasets" if kind == "datasets" else "simulators").items():
            card = read_yaml(page)
            variants = list(card.get("variants", {})) or [""]
            names = [f"{name}/{variant}" if variant else name for variant in variants]
            rows += [(full, card.get("summary", ""), card.get("source", "")) for full in names]
        return rows
    room = import_module(f"recfb.{kind}")
    classes = [getattr(room, name) for name in getattr(room, "__all__", [])]
    named = {point.name: point for point in entry_points(group="recfb.components")}
    classes += [point.load() for point in named.values() if point.name.startswith(f"{kind}.")]
    return [(cls.__name__, *_lines(cls)) for cls in classes if inspect.isclass(cls)]


def _lines(cls: type) -> tuple[str, str]:
    """The first two sentences of a docstring: what it does, and where it is from."""
    paragraphs = [" ".join(block.split()) for block in (inspect.getdoc(cls) or "").split("\n\n")]
    paragraphs += ["", ""]
    source = paragraphs[1] if not paragraphs[1].startswith((">>>", "Args")) else ""
    return paragraphs[0], source
