"""The command line: one module a verb, imported when its verb is typed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from recfb import __version__
from recfb.errors import RecfbError, nearest

VERBS = {
    "demo": "fit, evaluate and simulate on shipped data; three tables, three pictures",
    "list": "data sets, simulators and components, with their sources",
    "doctor": "what a log holds, and which columns to map",
    "prepare": "read your own copy of a data set that recfb may not ship",
    "fit": "fit a recommender to a log",
    "measure": "rank a later log with fitted models",
    "evaluate": "what other policies would have earned, and whether the number may be used",
    "simulate": "run a named feedback loop, and check its claims",
    "recommend": "write the best items of a fitted model for users",
}


def usage() -> str:
    """The help of `recfb` itself."""
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {what}" for verb, what in VERBS.items())
    return (
        "usage: recfb VERB [options]      recfb VERB --help\n\n"
        "Fit recommenders from biased feedback, simulate the loops they start, evaluate "
        "policies.\n\n"
        f"{verbs}\n\n"
        "A log is a file, a folder, or a name from `recfb list datasets`; NAME:train and "
        "NAME:test\n"
        "are its halves. Products go to runs/NAME."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code is 0, 1 for a RecfbError, 2 for a wrong call, or the verb's
    own."""
    arguments = [*(sys.argv[1:] if argv is None else argv)]  # `list` is a module of this package
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(usage() + "\n")
        return 0
    verb = arguments[0]
    if verb == "--version":
        sys.stdout.write(f"recfb {__version__}\n")
        return 0
    if verb not in VERBS:
        sys.stderr.write(f"recfb: no verb {verb!r}.{nearest(verb, VERBS)} See recfb --help.\n")
        return 2
    try:
        return int(import_module(f"recfb.cli.{verb}").main(arguments[1:]))
    except RecfbError as error:
        sys.stderr.write(f"recfb {verb}: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"recfb {verb}: interrupted; nothing half-written is left.\n")
        return 130
    except BrokenPipeError:
        return 0
