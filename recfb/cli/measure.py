"""`recfb measure LOG MODEL...`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recfb.cli.common import add_log, parse, parser_of, plain, read_log, run_folder, show
from recfb.cli.fit import split_imports
from recfb.errors import ConfigError
from recfb.measure import measure
from recfb.store import load


def main(argv: Sequence[str]) -> int:
    """Measure fitted models on a log that came later; print a table, write
    runs/NAME/table.parquet."""
    modules, argv = split_imports(argv)
    parser = parser_of("measure", "Rank a later log with fitted models.", modules)
    add_log(parser)
    parser.add_argument("models", type=str, nargs="+", help="runs/NAME folders, or NAME=FOLDER")
    parser.add_argument(
        "--exclude", type=str | None, metavar="LOG", help="pairs that are not ranked again"
    )
    parser.add_argument("--name", type=str | None, help="write the table to runs/NAME")
    skip: set[str | int] = {"log", "recommenders", "exclude"}
    parser.add_function_arguments(measure, skip=skip, as_group=False)
    cfg = parse(parser, argv)
    log = read_log(cfg.log, cfg)
    models = {}
    for word in cfg.models:
        name, _, folder = word.rpartition("=")
        name = name or (Path(word).parent.name if Path(word).name == "model" else Path(word).name)
        if name in models:
            raise ConfigError(f"two models are called {name!r}. Name them: first={word} second=...")
        models[name] = load(folder or word, modules=modules)
    exclude = read_log(cfg.exclude, cfg) if cfg.exclude else None
    options = {
        name: cfg[name]
        for name in ("metrics", "users", "candidates", "base", "by", "alpha", "seed")
    }
    with run_folder(cfg.name, "measure", plain(cfg)) as folder:
        table = measure(log, models, exclude=exclude, **options)
        show(table)
        if folder is not None:
            table.write_parquet(folder / "table.parquet")
    return 0
