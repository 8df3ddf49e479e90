"""`recfb doctor LOG`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recfb.cli.common import add_log, mapping_of, parse, parser_of, read_log, say
from recfb.doctor import describe_log, examine


def main(argv: Sequence[str]) -> int:
    """Print what a log holds, which columns to map, and what it can be used for."""
    parser = parser_of("doctor", "What a log holds, and which columns to map.")
    add_log(parser)
    cfg = parse(parser, argv)
    path = Path(cfg.log).expanduser()
    is_file = path.exists() and not (path / "log.json").exists()
    say(str(examine(path, mapping_of(cfg)) if is_file else describe_log(read_log(cfg.log, cfg))))
    return 0
