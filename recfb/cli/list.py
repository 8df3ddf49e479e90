"""`recfb list [KIND]`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import entry_points

from recfb.cli.common import parse, parser_of, say
from recfb.config import ROOMS
from recfb.data.plain import read_yaml
from recfb.data.recipe import mapping
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
        width = max((len(name) for name, _, _ in rows), default=0)
        for name, what, source in rows:
            say(f"{name:<{width}}  {what}" + (f"\n{'':<{width}}  {source}" if source else ""))
    return 0


def listing(kind: str) -> list[tuple[str, str, str]]:
    """(name, what, source) of everything of a kind."""
    if kind not in ROOMS:
        rows = []
        for name, page in pages("datasets" if kind == "datasets" else "simulators").items():
            card = mapping(read_yaml(page), "", page)
            variants = list(mapping(card.get("variants", {}), "variants", page)) or [""]
            names = [f"{name}/{variant}" if variant else name for variant in variants]
            rows += [(full, card.get("summary", ""), card.get("source", "")) for full in names]
        return rows
    room = import_module(f"recfb.{kind}")
    classes = [getattr(room, name) for name in getattr(room, "__all__", [])]
    named = {point.name: point for point in entry_points(group="recfb.components")}
    classes += [point.load() for point in named.values() if point.name.startswith(f"{kind}.")]
    found = (cls for cls in classes if inspect.isclass(cls) and hasattr(cls, "bind"))
    return [(cls.__name__, *_lines(cls)) for cls in found if not inspect.isabstract(cls)]


def _lines(cls: type) -> tuple[str, str]:
    """What a docstring says first, and the first work that it cites."""
    paragraphs = [" ".join(block.split()) for block in (inspect.getdoc(cls) or "").split("\n\n")]
    text = " ".join(paragraphs[1:]).partition(">>>")[0]
    cited = re.search(r"[A-Z][a-z-]+(?:, | et al\.| and | \()[^>]*?\(?\d{4}\)", text)
    return paragraphs[0], cited[0] if cited else ""
