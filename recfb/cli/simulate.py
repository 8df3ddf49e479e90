"""`recfb simulate NAME`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from torch import Tensor
from tqdm import tqdm

from recfb import plots
from recfb.cli.common import parse, parser_of, plain, run_folder, say, show
from recfb.contracts import Probe, Round, alter, describe
from recfb.errors import ConfigError, RecfbError
from recfb.shelf import simulator
from recfb.simulate import Simulator

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def moves(bar: Any) -> Probe:
    """A probe that moves a progress bar, and measures nothing."""

    def probe(round: Round) -> Mapping[str, Tensor]:
        bar.update()
        return {}

    return probe


def reader() -> ArgumentParser:
    """What the command takes."""
    parser = parser_of("simulate", "Run a named feedback loop, and check its claims.")
    parser.add_argument("simulator", type=str, help="a name from `recfb list simulators`")
    parser.add_argument(
        "--policy", type=str, nargs="*", default=[], help="some of its policies; all without it"
    )
    parser.add_argument("--rounds", type=int | None, help="other than the simulator's own")
    parser.add_argument("--replications", type=int | None, help="other than the simulator's own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--claims", action="store_true", help="check the simulator's claims")
    parser.add_argument(
        "--sweep",
        type=dict[str, list[Any]] | None,
        help="hyperparameters by dotted path, and their values: '{world.offset: [-2.0, -1.0]}'",
    )
    parser.add_argument(
        "--name", type=str | None, help="write log, metrics and picture to runs/NAME"
    )
    return parser


def main(argv: Sequence[str]) -> int:
    """Run a named loop with its policies; with --claims, check what it says of them."""
    cfg = parse(reader(), argv)
    world = simulator(cfg.simulator)
    say(f"{cfg.simulator}: {world.summary}\n{world.source}\n")
    if cfg.claims:
        table = world.check()
        show(table)
        return 0 if bool(table["holds"].all()) else 1
    changed = {k: cfg[k] for k in ("rounds", "replications") if cfg[k] is not None}
    for key, value in changed.items():
        setattr(world, key, value)
    names = cfg.policy or list(world.policies)
    if cfg.sweep is not None:
        _check(world, cfg.sweep)
        world = alter(world, {"sweep": cfg.sweep})
    say(f"{world.rows():,} rows a policy{' and cell' if world.sweep else ''}.\n")
    with run_folder(cfg.name, "simulate", {**plain(cfg), "simulator": describe(world)}) as folder:
        with tqdm(unit="round", leave=False, disable=None) as bar:
            if world.sweep:
                return sweeps(world, names, cfg.seed, bar, folder)
            runs = {name: world.run(name, seed=cfg.seed, probes=[moves(bar)]) for name in names}
        metrics = pl.concat([run.metrics for run in runs.values()])
        show(last_round(metrics))
        if folder is not None:
            metrics.write_parquet(folder / "table.parquet")
            for name, run in runs.items():
                run.log.write(folder / "log" / name)
                run.truth.write_parquet(folder / f"truth-{name}.parquet")
            keys = [
                name for name in metrics.columns if name not in ("policy", "replication", "round")
            ]
            plots.write(plots.by_round(metrics, keys[:4], world.summary), folder / "rounds.png")
    return 0


def _check(world: Simulator, sweep: Mapping[str, Sequence[Any]]) -> None:
    """Refuse values that a hyperparameter cannot have."""
    for path, values in sweep.items():
        for value in values:
            try:
                alter(world, {path: value})
            except RecfbError:
                raise
            except (TypeError, ValueError) as error:
                raise ConfigError(f"--sweep: {path} cannot be {value!r}: {error}.") from None


def sweeps(world: Simulator, names: Sequence[str], seed: int, bar: Any, folder: Path | None) -> int:
    """Play every cell of a sweep, and write the metrics."""
    metrics = world.swept(names, seed=seed, probes=[moves(bar)])
    show(last_round(metrics, tuple(world.sweep)))
    if folder is not None:
        metrics.write_parquet(folder / "table.parquet")
    return 0


def last_round(metrics: pl.DataFrame, cell: Sequence[str] = ()) -> pl.DataFrame:
    """Each policy's metrics after the last round: the mean over replications, and half the width of
    its 95 % interval where there are several; a cell of a sweep has a row of its own."""
    keys = (*cell, "policy", "replication", "round")
    last = metrics.filter(pl.col("round") == pl.col("round").max())
    columns = []
    for name in (name for name in metrics.columns if name not in keys):
        columns.append(pl.col(name).mean())
        if metrics["replication"].n_unique() > 1:
            half = 1.96 * pl.col(name).std() / pl.len().sqrt()
            columns.append(half.alias(f"+-{name}"))
    each = last.group_by(*cell, "policy", maintain_order=True)
    return each.agg(pl.col("round").first(), *columns)
