"""`recfb prepare NAME --from FOLDER`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recfb.cli.common import parse, parser_of, say
from recfb.shelf import prepare


def main(argv: Sequence[str]) -> int:
    """Read the user's own copy of a data set, check its counts and keep it in recfb's cache."""
    parser = parser_of("prepare", "Read your own copy of a data set, check it and keep it.")
    parser.add_argument("name", type=str, help="a data set from `recfb list datasets`")
    parser.add_argument("--from", dest="source", type=Path, metavar="FOLDER", required=True)
    cfg = parse(parser, argv)
    say(f"{cfg.name} is ready in {prepare(cfg.name, cfg.source)}")
    return 0
