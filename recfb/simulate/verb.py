"""The verb `simulate`, and what a run leaves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import polars as pl
import torch

from recfb.contracts import Policy, Probe, World
from recfb.data import Log, Meta
from recfb.data.product import atomic_folder, verify
from recfb.errors import ConfigError, PrepareError, RecfbError, nearest
from recfb.metrics.loops import METRICS
from recfb.simulate.refit import Refit
from recfb.simulate.rounds import Plan, Played, Snapshot, play
from recfb.simulate.saved import settings, unfinished


@dataclass(frozen=True)
class Run:
    """What a simulation leaves: the platform's log, the truth apart, and how both developed.

    `log` is an ordinary `Log`. `truth` has the same rows in the same order, with the same key
    (slate, position, replication); nothing that learns is ever given it. `metrics` has one row a
    policy, replication and round, and so has `probes`. `state` goes to `simulate(state=...)`.
    """

    log: Log
    metrics: pl.DataFrame
    probes: pl.DataFrame
    state: tuple[Snapshot, ...]
    kept: pl.DataFrame | Path = field(repr=False)

    @property
    def truth(self) -> pl.DataFrame:
        """One row a shown item, as in `log`; read from its files where the run wrote them."""
        if isinstance(self.kept, Path):
            verify(self.kept)
            return pl.read_parquet(sorted(self.kept.glob("part-*.parquet")))
        return self.kept


def simulate(
    world: World[Any],
    policy: Policy,
    *,
    rounds: int,
    slate: int = 1,
    replications: int = 1,
    refit: Refit = Refit(),
    probes: Sequence[Probe] = (),
    metrics: Sequence[str] = (),
    seed: int = 0,
    state: Sequence[Snapshot] | None = None,
    keep: Literal["log", "metrics"] = "log",
    out: str | Path | None = None,
    device: str = "cpu",
    executor: Executor | None = None,
) -> Run:
    """Play a policy in a world, round after round, and log what it showed.

    A round: refit if due, observe, act, respond, log, update with what became known, probes, step.
    World and policy draw from streams of their own, so two policies under one seed meet the same
    users, and a run does not depend on which metrics or probes watch it. The policy that is passed
    in is not changed.

    Args:
        world: the population; the only holder of the truth.
        policy: what acts. One that can run its replications side by side does so where the world
            can too; others are played one replication after the other.
        rounds: how many rounds to play.
        slate: how many items a request is shown.
        replications: independent runs.
        refit: when the policy's model is trained again, and on which rows.
        probes: functions of a finished `Round`, for what the log and the truth do not hold.
        metrics: names out of `recfb.metrics.loops.METRICS`.
        seed: the seed of every stream.
        state: `state` of an earlier run to go on from. A policy that reads like the one which made
            it goes on with what that one had learned; another begins with its prior, and is
            trained on the log so far.
        keep: "metrics" drops log and truth at the end, and asks policies for no probabilities that
            they would have to work out for the log; probes go without them too.
        out: a folder for the Parquet parts of log and truth, as `out/log` and `out/truth`. If the
            process is killed, the same call goes on from the last part it wrote.
        device: where to compute.
        executor: runs replications that cannot run side by side.

    Raises:
        ConfigError: a slate longer than the items of a request, an unknown metric, a state that
            does not fit.
        PrepareError: `out` holds a run already, or half of another; another process is writing it;
            the disk is full.
        RecfbError: a worker of the executor was killed.
        SupportError: what the policy returned is no slate.

    >>> from recfb.policies import Ranked
    >>> from recfb.beliefs import Linear
    >>> from recfb.worlds import Arms
    >>> policy = Ranked(Linear(), epsilon=0.1)
    >>> run = simulate(Arms([0.2, 0.8]), policy, rounds=50, replications=4, metrics=["regret"])
    >>> len(run.log), run.metrics.columns
    (200, ['policy', 'replication', 'round', 'regret'])
    """
    _check(rounds, slate, replications, metrics)
    together = world.vectorised and policy.vectorised
    loops, learners = (1, replications) if together else (replications, 1)
    before = _before(state, loops, policy, bool(metrics))
    told = out is not None or keep == "log" or policy.retrained
    hold = (out is None and keep == "log") or bool(metrics) or policy.retrained
    with _workers(), _folders(
        out, world=world, policy=policy, rounds=rounds, slate=slate, replications=replications,
        refit=refit, seed=seed, device=device,
    ) as folders:  # fmt: skip
        plans = [
            Plan(world, policy, rounds, slate, learners, r, refit, probes, seed, device, before[r],
                 hold, told, folders)
            for r in range(loops)
        ]  # fmt: skip
        played = list(executor.map(play, plans)) if executor else [play(plan) for plan in plans]
        meta = replace(played[0].opening.meta, propensity="exact", horizon=played[0].state.time)
        if folders:
            _write_shape(folders, played[0].opening, meta, sum(one.rows for one in played))
    table = pl.concat([_measure(one, metrics, repr(policy)) for one in played])
    watched = pl.concat([_watched(one, repr(policy)) for one in played])
    states = tuple(one.state for one in played)
    if out is not None:
        return Run(Log.scan(Path(out) / "log"), table, watched, states, Path(out) / "truth")
    log, truth = (pl.concat(frames) for frames in zip(*map(_new, played), strict=True))
    if keep == "metrics":
        states = tuple(replace(one, log=pl.DataFrame(), truth=pl.DataFrame()) for one in states)
        log, truth = played[0].opening.frame.clear(), truth.clear()
    return Run(played[0].opening.with_frame(log, meta), table, watched, states, truth)


@contextmanager
def _workers() -> Iterator[None]:
    """A worker of an executor that is gone, as an error that says so."""
    try:
        yield
    except BrokenExecutor as error:
        raise RecfbError(
            "a worker process was killed, often because memory ran out. Give the executor fewer "
            "workers and run it again; with out= it goes on from the last part."
        ) from error


def _check(rounds: int, slate: int, replications: int, metrics: Sequence[str]) -> None:
    for name, value in {"rounds": rounds, "slate": slate, "replications": replications}.items():
        if value < 1:
            raise ConfigError(f"{name} is a positive number, found {value}.")
    for metric in metrics:
        if metric not in METRICS:
            raise ConfigError(
                f"there is no metric {metric!r} of a loop.{nearest(metric, METRICS)} All of them: "
                "recfb.metrics.loops.METRICS"
            )


def _before(
    state: Sequence[Snapshot] | None, loops: int, policy: Policy, measured: bool
) -> Sequence[Snapshot | None]:
    """The snapshot each plan begins with."""
    if state is None:
        return [None] * loops
    if len(state) != loops:
        raise ConfigError(
            f"the state is of {len(state)} runs one after the other, but this is {loops}. Pass the "
            "replications and the kind of policy of the run it is from."
        )
    for one in state:
        if one.time and not one.log.height and (measured or policy.retrained):
            raise ConfigError(
                "the state has no log to train or measure on: the run it is from dropped it. "
                'Run that one with keep="log" and without out.'
            )
    return state


@contextmanager
def _folders(out: str | Path | None, **run: Any) -> Iterator[tuple[Path, Path] | None]:
    """Folders for the parts of log and truth on their way, in place once the run is whole; an
    interrupted one goes on if `run` says the same."""
    if out is None:
        yield None
        return
    log, truth = Path(out) / "log", Path(out) / "truth"
    with unfinished(Path(out), settings(**run)) as folder:
        yield folder / "log", folder / "truth"
        for place in (truth, log):  # of which the log comes last: it says that the run is whole
            with atomic_folder(place, replace=place == truth) as part:
                for file in (folder / place.name).iterdir():
                    if file.suffix in (".parquet", ".json"):  # no sums, nothing half written
                        _link(file, part / file.name)


def _write_shape(folders: Sequence[Path], opening: Log, meta: Meta, rows: int) -> None:
    """What makes a folder of parts a written log, vocabularies and meta, once all rows are there.

    Raises:
        PrepareError: parts are missing or damaged.
    """
    for folder in folders:
        parts = sorted(folder.glob("part-*.parquet"))
        try:
            found = sum(pl.scan_parquet(part).select(pl.len()).collect().item() for part in parts)
        except (pl.exceptions.PolarsError, OSError) as error:
            found = f"no file of them can be read: {error}"
        if found != rows:
            raise PrepareError(
                f"{folder} lost parts of the run, which has {rows:,} rows: {found}. Begin anew: "
                f"rm -r {folder.parent}"
            )
    opening.users.write_parquet(folders[0] / "users.parquet")
    opening.items.write_parquet(folders[0] / "items.parquet")
    text = json.dumps({"rows": rows, "meta": asdict(meta)}, indent=1)
    (folders[0] / "log.json").write_text(text)


def _link(file: Path, place: Path) -> None:
    """A second name of a file, or a copy: what a killed process was about to finish is kept."""
    try:
        place.hardlink_to(file)
    except OSError:  # a file system without links
        shutil.copyfile(file, place)


def _new(one: Played) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Log and truth without the rows of an earlier run."""
    if not one.log.height:
        return one.log, one.truth
    fresh = one.log["time"] >= one.start
    return one.log.filter(fresh), one.truth.filter(fresh)


def _measure(one: Played, metrics: Sequence[str], policy: str) -> pl.DataFrame:
    """One row a replication and round."""
    stop, learners = one.state.time, one.learners
    table = _keys(policy, one.first, learners, range(one.start, stop))
    log = one.opening.with_frame(one.log)
    for name in metrics:
        values = METRICS[name](log, one.truth)[:, one.start - stop :]  # (R, T)
        table = table.with_columns(pl.Series(name, values.reshape(-1).numpy()))
    return table


def _watched(one: Played, policy: str) -> pl.DataFrame:
    """What the probes saw, one row a replication and round; a number for all, or one a
    replication."""
    table = _keys(policy, one.first, one.learners, range(one.start, one.state.time))
    for name in one.probes[0] if one.probes else ():
        values = torch.stack([found[name] for found in one.probes]).cpu()  # (T, ...)
        if values.dim() == 1:
            values = values[:, None].expand(-1, one.learners)  # (T, R)
        column = values.transpose(0, 1).flatten(0, 1)  # (R * T, ...)
        table = table.with_columns(pl.Series(name, column.numpy()))
    return table


def _keys(policy: str, first: int, learners: int, rounds: range) -> pl.DataFrame:
    each = pl.DataFrame({"round": pl.Series(rounds, dtype=pl.Int64)})
    runs = pl.DataFrame({"replication": pl.Series(range(first, first + learners), dtype=pl.Int16)})
    return runs.join(each, how="cross").select(pl.lit(policy).alias("policy"), pl.all())
