"""`recfb recommend MODEL`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from recfb.cli.common import parse, parser_of, say, show
from recfb.cli.fit import split_imports
from recfb.data.product import atomic_file
from recfb.errors import ConfigError
from recfb.store import load


def main(argv: Sequence[str]) -> int:
    """Write the k best items of each user, in original ids."""
    modules, argv = split_imports(argv)
    parser = parser_of("recommend", "The best items of a fitted model for users.", modules)
    parser.add_argument("model", type=Path, help="a model's folder, or runs/NAME")
    parser.add_argument(
        "--users", type=str | None, metavar="ID,ID", help="ids; all users without it"
    )
    parser.add_argument("--k", type=int, default=10, help="items a user")
    parser.add_argument(
        "--out", type=Path | None, help="a .parquet or .csv file; the terminal without it"
    )
    cfg = parse(parser, argv)
    model = load(cfg.model, modules=modules)
    ids = model.vocabulary.users["id"]
    if cfg.users is not None:
        wanted = pl.Series("user", cfg.users.split(","))
        ids = wanted.cast(ids.dtype, strict=False)
        if ids.null_count():
            odd = wanted.filter(ids.is_null()).to_list()
            raise ConfigError(f"{odd} are no user ids of this model, which are {ids.dtype}.")
    table = model.recommend(ids, cfg.k)
    if cfg.out is None:
        show(table.head(200))
        if table.height > 200:
            say(f"... {table.height - 200:,} more rows; write them with --out FILE")
        return 0
    if cfg.out.suffix not in (".parquet", ".csv"):
        raise ConfigError(f"{cfg.out} is neither .parquet nor .csv.")
    with atomic_file(cfg.out) as part:
        table.write_csv(part) if cfg.out.suffix == ".csv" else table.write_parquet(part)
    say(f"{table.height:,} rows in {cfg.out}")
    return 0
