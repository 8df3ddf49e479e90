"""A named, configured world with its policies, and the claims it must meet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

import polars as pl

from recfb.contracts import Policy, Probe, World, alter
from recfb.contracts.describe import Described
from recfb.errors import ConfigError, nearest
from recfb.metrics.loops import METRICS
from recfb.random import stream
from recfb.simulate.refit import Refit
from recfb.simulate.verb import Run, simulate

LOGGER = 1 << 50
"""Slates of the p-th policy of a joint run are numbered from p * LOGGER."""


@dataclass(frozen=True)
class Claim:
    """What a simulator must show: a metric of one policy, less or over that of another, in bounds.

    Args:
        metric: a name out of `recfb.metrics.loops.METRICS`.
        policy: whose metric.
        minus: the policy whose metric is subtracted.
        over: the policy whose metric it is divided by.
        above: the value must be larger.
        below: the value must be smaller.
        round: in which round; -1 is the last.
        seeds: "every" seed must show it, or the "mean" over the seeds.

    >>> Claim("gini", "als", minus="random", above=0.4)
    gini[als] - gini[random] > 0.4
    """

    metric: str
    policy: str
    minus: str | None = None
    over: str | None = None
    above: float | None = None
    below: float | None = None
    round: int = -1
    seeds: Literal["every", "mean"] = "every"

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ConfigError(
                f"a claim is about a metric of a loop, found {self.metric!r}."
                f"{nearest(self.metric, METRICS)} All of them: recfb.metrics.loops.METRICS"
            )
        if self.above is None and self.below is None:
            raise ConfigError("a claim needs a bound: above=0.4 or below=0.1")
        if self.minus is not None and self.over is not None:
            raise ConfigError("a claim is a difference (minus) or a ratio (over), not both")

    @property
    def policies(self) -> list[str]:
        """The policies it compares."""
        return [name for name in (self.policy, self.minus, self.over) if name is not None]

    def value(self, table: pl.DataFrame) -> float:
        """The number the claim is about, from one seed's metrics: a mean over the replications."""
        this = self._mean(table, self.policy)
        if self.minus is not None:
            return this - self._mean(table, self.minus)
        return this / self._mean(table, self.over) if self.over is not None else this

    def holds(self, values: Sequence[float]) -> bool:
        """Whether the seeds' numbers are in bounds; a NaN never is."""
        if self.seeds == "mean":
            values = [sum(values) / len(values)]
        above = self.above is None or all(value > self.above for value in values)
        below = self.below is None or all(value < self.below for value in values)
        return above and below and all(value == value for value in values)

    def _mean(self, table: pl.DataFrame, policy: str) -> float:
        rounds = table["round"].unique().sort()
        rows = table.filter(pl.col("policy") == policy, pl.col("round") == rounds[self.round])
        return float(rows.select(pl.col(self.metric).mean()).item())

    def __repr__(self) -> str:
        shown = f"{self.metric}[{self.policy}]"
        if self.minus is not None:
            shown += f" - {self.metric}[{self.minus}]"
        if self.over is not None:
            shown += f" / {self.metric}[{self.over}]"
        shown = shown if self.round == -1 else f"{shown} in round {self.round}"
        shown = shown if self.above is None else f"{shown} > {self.above:g}"
        shown = shown if self.below is None else f"{shown} < {self.below:g}"
        return shown if self.seeds == "every" else f"{shown} in the mean"


class Simulator(Described):
    """A world, the policies that meet in it, and what must come out.

    Args:
        world: the population.
        policies: by name; all of them meet the same random numbers.
        rounds, slate, replications, refit: as `simulate` takes them.
        metrics: what `run` measures; the metrics of the claims are added.
        seeds: how many seeds, from 0, `check` runs.
        summary: one sentence, what there is to see.
        source: the publication the claim is from.
        expect: the claims.
        sweep: values of hyperparameters, by dotted path: {"world.drift.eta": [0.0, 0.02]}.

    Raises:
        ConfigError: a claim names a policy that is not there, or a sweep no hyperparameter.
    """

    def __init__(
        self,
        world: World,  # type: ignore[type-arg]
        policies: dict[str, Policy],
        *,
        rounds: int,
        slate: int = 1,
        replications: int = 1,
        refit: Refit = Refit(),
        metrics: list[str] = [],  # noqa: B006
        seeds: int = 1,
        summary: str = "",
        source: str = "",
        expect: list[Claim] = [],  # noqa: B006
        sweep: dict[str, list[Any]] = {},  # noqa: B006
    ) -> None:
        self.world = world
        self.policies = dict(policies)
        self.rounds = rounds
        self.slate = slate
        self.replications = replications
        self.refit = refit
        self.metrics = list(dict.fromkeys([*metrics, *(claim.metric for claim in expect)]))
        self.seeds = seeds
        self.summary = summary
        self.source = source
        self.expect = list(expect)
        for claim in self.expect:
            for name in claim.policies:
                self.policy(name)
        self.sweep = {path: list(values) for path, values in sweep.items()}
        for path, values in self.sweep.items():
            if values:
                alter(self, {"sweep": {}, path: values[0]})

    def cells(self) -> Iterator[tuple[dict[str, Any], Simulator]]:
        """Every combination of the values of the sweep, and the simulator that has them."""
        for values in product(*self.sweep.values()):
            setting = dict(zip(self.sweep, values, strict=True))
            yield setting, alter(self, {"sweep": {}, **setting})

    def swept(
        self, policies: Sequence[str] = (), *, seed: int = 0, probes: Sequence[Probe] = ()
    ) -> pl.DataFrame:
        """The metrics of policies, by default all, in every cell of the sweep, with a column a
        path; all cells have the same seed, so they differ by what is swept alone."""
        return pl.concat([
            cell._table(name, seed, probes).select(
                *(pl.lit(value).alias(path) for path, value in setting.items()), pl.all()
            )
            for setting, cell in self.cells()
            for name in policies or cell.policies
        ])  # fmt: skip

    def rows(self) -> int:
        """How many rows the log of one policy will have, if every round is like the first."""
        together = self.world.vectorised
        state = self.world.start(stream(0), self.replications if together else 1)
        requests = len(self.world.observe(state)) * (1 if together else self.replications)
        return requests * self.rounds * self.slate

    def run(
        self,
        policy: Policy | str | None = None,
        *,
        seed: int = 0,
        probes: Sequence[Probe] = (),
    ) -> Run:
        """One policy, by name or as an object, or all of them.

        All of them give one run: `metrics` and `probes` by name, the log with the column `logger`,
        the policy's place in `policies`.
        """
        if isinstance(policy, Policy):
            return self._simulate(policy, seed, "log", probes)
        if policy is not None:
            return _named(self._simulate(self.policy(policy), seed, "log", probes), policy)
        names = list(self.policies)
        runs = [self.run(name, seed=seed, probes=probes) for name in names]
        first = runs[0]
        log = pl.concat([_numbered(run.log.frame, p) for p, run in enumerate(runs)])
        truth = pl.concat([_numbered(run.truth, p) for p, run in enumerate(runs)], how="diagonal")
        return Run(
            first.log.with_frame(log),
            pl.concat([run.metrics for run in runs]),
            pl.concat([run.probes for run in runs]),
            tuple(state for run in runs for state in run.state),
            truth,
        )

    def check(self, seeds: int | None = None) -> pl.DataFrame:
        """Play every policy of the claims under every seed, and compare (`judge`)."""
        wanted = dict.fromkeys(name for claim in self.expect for name in claim.policies)
        return self.judge(self.measured(list(wanted), seeds=seeds))

    def measured(self, policies: Sequence[str] = (), *, seeds: int | None = None) -> pl.DataFrame:
        """The metrics of policies, by default all, under seeds from 0: one row a seed, policy,
        replication and round."""
        return pl.concat([
            self._table(name, seed).select(pl.lit(seed).alias("seed"), pl.all())
            for seed in range(seeds or self.seeds)
            for name in policies or self.policies
        ])  # fmt: skip

    def judge(self, table: pl.DataFrame) -> pl.DataFrame:
        """What `measured` gave, against the claims.

        Returns one row a claim: `claim`, `holds`, the `least`, `mean` and `most` over the seeds,
        and how many `seeds`.
        """
        each = table.partition_by("seed", maintain_order=True)
        rows = []
        for claim in self.expect:
            values = [claim.value(one) for one in each]
            rows.append({
                "claim": repr(claim),
                "holds": claim.holds(values),
                "least": min(values),
                "mean": sum(values) / len(values),
                "most": max(values),
                "seeds": len(values),
            })  # fmt: skip
        return pl.DataFrame(rows)

    def _table(self, name: str, seed: int, probes: Sequence[Probe] = ()) -> pl.DataFrame:
        return _named(self._simulate(self.policy(name), seed, "metrics", probes), name).metrics

    def _simulate(
        self,
        policy: Policy,
        seed: int,
        keep: Literal["log", "metrics"],
        probes: Sequence[Probe] = (),
    ) -> Run:
        return simulate(
            self.world,
            policy,
            rounds=self.rounds,
            slate=self.slate,
            replications=self.replications,
            refit=self.refit,
            metrics=self.metrics,
            probes=probes,
            seed=seed,
            keep=keep,
        )

    def policy(self, name: str) -> Policy:
        """The policy of this name."""
        if name not in self.policies:
            raise ConfigError(
                f"this simulator has no policy {name!r}; it has {list(self.policies)}."
                f"{nearest(name, self.policies)}"
            )
        return self.policies[name]


def _named(run: Run, name: str) -> Run:
    """The run under the name its policy has in the simulator."""
    column = pl.lit(name).alias("policy")
    return replace(
        run,
        metrics=run.metrics.with_columns(column),
        probes=run.probes.with_columns(column),
    )


def _numbered(frame: pl.DataFrame, place: int) -> pl.DataFrame:
    """The rows of the policy at this place: slates of different policies stay apart."""
    logger = pl.lit(place, dtype=pl.Int16).alias("logger")
    return frame.with_columns(pl.col("slate") + place * LOGGER, logger)
