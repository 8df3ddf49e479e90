"""The plan of an evaluation: what one pass over a log sums, and the report of the sums."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import polars as pl
import torch
from torch import Tensor

from recfb.contracts import Block, Estimator, Interval, Model, Policy
from recfb.data.door import Problems
from recfb.errors import ConfigError
from recfb.estimate import Rows
from recfb.evaluation.binding import ready
from recfb.evaluation.cell import Cell
from recfb.evaluation.collect import pilot_of, with_sequence
from recfb.evaluation.crossfit import Learner, solved
from recfb.evaluation.needs import check_asked, check_interval, collected
from recfb.evaluation.prepare import Inputs, Prepared, pseudo_inverses, shape_of, slates_missing
from recfb.evaluation.reduction import known_rows, reduce, unknown_rows
from recfb.evaluation.report import Report, finish
from recfb.evaluation.results import Settings
from recfb.evaluation.sequences import Pilot
from recfb.evaluation.slate_rows import design_faults, reduce_slates
from recfb.evaluation.state import Facts, State, merge_faults, total
from recfb.evaluation.tables import group_of, strata
from recfb.evaluation.tally import (
    Grouping,
    Source,
    Tally,
    check_columns,
    range_faults,
    value_faults,
)
from recfb.evaluation.work import (
    Part,
    digest,
    door_faults,
    facts_of,
    functions_of,
    sorted_parts,
)

if TYPE_CHECKING:
    from recfb.data import Log


class Evaluation:
    """The plan of an evaluation: picklable, without data.

    `scan` gives a State of a log or of one of its parts, anywhere; States add up; `report` turns
    them into a Report. `evaluate` does all three.

    Args:
        policies: name -> policy. What is not bound is bound to the log's sizes, without its rows.
        estimators: names of `recfb.estimate.ESTIMATORS`, or name -> function (rows, mean).
        reward_model: what dm and dr predict rewards with: an `evaluation.CrossFit`, or what was
            fitted on another log; None: cross-fitted cell means by (position, item).
        loggers: the policies that logged, by their number in the column `logger`: what balanced
            forms mix; None: the column `mu` is that mixture.
        interval: of its reports, by name; a sequence must be named here, to be summed in the pass.
        by: a column whose values are reported apart.
        unit: the column of clusters; default unit, user or slate where the log has them, else the
            row.
        buckets: how many hash buckets of units carry the standard errors; a power of 2.
        reward_range: the declared range of rewards; default the log's own, else (0, 1).
        seed: of the hashes and of the bootstrap.

    >>> from recfb import Log
    >>> from recfb.policies import Uniform
    >>> rows = {"item": [0, 1, 0, 1], "reward": [1, 0, 1, 1], "propensity": 0.5}
    >>> plan = Evaluation({"uniform": Uniform()}, estimators=["snips"])
    >>> log = Log.of({**rows, "propensity": [0.5] * 4})
    >>> plan.report(plan.scan(log)).table["value"].to_list()
    [0.75]
    """

    def __init__(
        self,
        policies: Mapping[str, Policy],
        *,
        estimators: Sequence[str] | Mapping[str, Estimator] = ("snips", "dr"),
        reward_model: Model | None = None,
        loggers: Mapping[int, Policy] | None = None,
        interval: str | None = None,
        by: str | None = None,
        unit: str | None = None,
        buckets: int = 4096,
        reward_range: tuple[float, float] | None = None,
        seed: int = 0,
    ) -> None:
        if not policies or not estimators:
            raise ConfigError('evaluate needs a policy and an estimator: {"uniform": Uniform()}')
        if buckets < 4 or buckets & (buckets - 1):
            raise ConfigError(f"buckets is a power of 2, at least 4; found {buckets}. Try 4096.")
        if reward_range is not None and not reward_range[0] < reward_range[1]:
            raise ConfigError(f"reward_range is (low, high), found {reward_range}. Try (0, 1).")
        self.policies = dict(policies)
        self.estimators = estimators
        self.reward_model = reward_model
        self.loggers = None if loggers is None else dict(loggers)
        self.interval = interval
        self.by = by
        self.unit = unit
        self.buckets = buckets
        self.reward_range = reward_range
        self.seed = seed
        self.facts: Facts | None = None  # set by fit
        self.n_items = 0
        self.ids: pl.Series | None = None  # of the items
        self.prepared = Prepared()
        self.pilot: Pilot | None = None
        self.functions = functions_of(estimators)
        check_interval(interval, self.functions)

    @cached_property
    def settings(self) -> Settings:
        """The statistics that a pass sums."""
        names, plan = tuple(self.policies), self.interval
        shape = shape_of(self.facts, self.functions)
        return Settings(names, self.functions, self.seed, summed=plan, shape=shape)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "settings"} | {
            "ids": None  # workers do not name items
        }

    def fit(self, log: Log, executor: Executor | None = None) -> Evaluation:
        """This plan made ready for a log: policies bound, cell means fitted. Needed once before
        parts are scanned apart; takes a pass over the log if an estimator reads a reward model."""
        plan = copy.copy(self)
        plan.policies = {
            name: ready(policy, log, f"policies[{name!r}]", self.seed)
            for name, policy in self.policies.items()
        }
        loggers = self.loggers and {
            name: ready(policy, log, f"loggers[{name}]", self.seed)
            for name, policy in self.loggers.items()
        }
        given = self.reward_model, loggers, self.unit, self.seed, train
        inputs = Inputs(self.functions, plan.policies, *given)
        plan.n_items, plan.prepared = log.n_items, inputs.prepare(log, executor)
        plan.ids = log.items["id"]
        facts = facts_of(log, Facts("", by=self.by), self.reward_range, unit=self.unit)
        ids = log.vocabulary  # states of other items do not add up, nor those of other clusters
        if facts.unit != "user":
            ids = replace(ids, users=ids.users.clear())
        plan.facts = plan.prepared.facts(replace(facts, plan=plan._digest(ids.digest)))
        plan.__dict__.pop("settings", None)  # those of a plan that knew no log
        plan.pilot = pilot_of(log, plan.policies, self.interval, plan.facts.reward_range)
        return plan

    def _digest(self, *more: object) -> str:
        policies = {**self.policies, **{f"logger {k}": v for k, v in (self.loggers or {}).items()}}
        summed = collected(self.interval, self.functions)
        words = (list(self.functions), self.buckets, self.seed, self.unit, self.by, summed)
        return digest(policies, *words, *self.prepared.words, *more)

    def scan(self, log: Log, part: Part | None = None) -> State:
        """One pass over a log, or over one part of it, after `fit(log)` if that was not done.

        Nothing is raised for bad rows: they are counted, and `report` raises them all at once.
        """
        plan = self if self.facts is not None else self.fit(log)
        assert plan.facts is not None
        parts = sorted_parts(log) if part is None else [part]
        return total(map(plan.scan_part, parts), plan.facts)

    def scan_part(self, part: Part) -> State:
        """One part of the log that the plan was fitted to."""
        facts = self._ready()
        problems = Problems()
        whole = part.record(problems, self.unit, self.by, mu=self.prepared.mu)
        if facts.slots:
            return self._scan_slates(whole, problems, facts)
        keep = known_rows(whole)
        groups = whole.labels or ("",)
        block, lost = whole[keep], whole[unknown_rows(whole)]
        reduced = reduce(
            block,
            self.policies,
            self.prepared.predictor,
            n_items=self.n_items,
            groups=len(groups),
            lost=lost,
            place=keep,
            reward_range=facts.reward_range,
        )
        rows, odd = self.prepared.complete(block, reduced.rows, self.policies)
        source = Source.of(block, keep)
        cells = self._tally(facts, rows, source, Grouping(block.by, groups))
        told = strata(block, lost, rows, len(groups))
        missing = torch.bincount(group_of(lost), minlength=len(groups)).tolist()
        beyond = _by_group(reduced.beyond, block, len(groups))
        named = {
            label: cell._replace(
                missing=missing[g],
                items=reduced.items[g],
                strata=told[g][0],
                span=told[g][1],
                beyond=beyond[g],
            )
            for g, (label, cell) in enumerate(cells.items())
        }
        faults = merge_faults(
            door_faults(problems), reduced.faults, odd, range_faults(rows.r, facts, source)
        )
        return State(facts, {part.name: named}, faults)

    def _scan_slates(self, block: Block, problems: Problems, facts: Facts) -> State:
        found, part = reduce_slates(block, self.policies, facts.slots, self.n_items), block.part
        groups = Grouping(found.by, block.labels or ("",))
        source = Source(part, found.unit, torch.arange(len(found.rows)))
        cells = self._tally(facts, found.rows, source, groups)
        gone = slates_missing(found.rows, self.functions)
        unknown = [int(gone[mine].sum()) for mine in groups.places(len(gone))]
        missing = torch.bincount(found.missing, minlength=len(groups.labels)).tolist()
        named = {
            label: cell._replace(missing=missing[g], unknown=unknown[g])
            for g, (label, cell) in enumerate(cells.items())
        }
        reward = block.feedback.reward[:, 0]
        rows = Source(part, block.unit, torch.arange(len(block)))
        faults = (
            found.faults,
            range_faults(reward, facts, rows),
            design_faults(found.rows, pseudo_inverses(self.functions), part),
        )
        return State(facts, {part: named}, merge_faults(door_faults(problems), *faults))

    def scan_rows(self, rows: Rows, unit: Tensor, part: str, *, weights: bool = False) -> State:
        """Rows that were reduced before: r, p (n,), pe, v (P, n), q, and the unit (n,) int64.

        With `weights`, pe / p is a known weight and pe no probability. Items and times are not
        known here, so neither support nor calibration can be checked (gates G5, G6, G11).
        """
        check_columns(rows, unit, len(self.policies))
        facts = self.facts or Facts(
            plan=self._digest(),
            reward_range=self.reward_range or (0.0, 1.0),
            declared=self.reward_range is not None,
            model="unknown" if self.settings.models else "none",
        )
        source = Source(part, unit, torch.arange(len(rows)))
        cells = self._tally(facts, rows, source, Grouping())
        odd = value_faults(rows, self.policies, source, weights=weights)
        faults = merge_faults(range_faults(rows.r, facts, source), odd)
        return State(facts, {part: cells}, faults)

    def _tally(self, facts: Facts, rows: Rows, source: Source, groups: Grouping) -> dict[str, Cell]:
        terms, views = self.settings.terms, self.settings.views
        cells = Tally(terms, facts, self.buckets, self.seed, views)(rows, source, groups)
        return with_sequence(cells, rows, groups, self.interval, facts.reward_range, self.pilot)

    def _ready(self) -> Facts:
        if self.facts is None:
            raise ConfigError("this plan is not fitted to a log: plan = plan.fit(log).")
        return self.facts

    def report(
        self,
        state: State,
        *,
        interval: str | Interval | None = None,
        alpha: float = 0.05,
        base: str | None = None,
    ) -> Report:
        """The report of a state that this plan, or one like it, has scanned.

        `interval` is the plan's unless another is named that the state has the sums for.
        """
        interval = self.interval if interval is None else interval
        check_asked(interval, alpha, self.interval, self.functions)
        names, plan = tuple(self.policies), self.interval
        shape = shape_of(state.facts, self.functions)
        given = self.seed, interval, alpha, plan, shape, self.ids
        return finish(state, Settings(names, self.functions, *given), base)


def _by_group(rows: Tensor | None, block: Block, groups: int) -> list[int] | list[None]:
    """How many of some rows (n,) bool each group has; not known, where they are not."""
    if rows is None:
        return [None] * groups
    return [int(x) for x in torch.bincount(group_of(block)[rows], minlength=groups)]


def train(log: Log, model: Model | Learner, seed: int) -> Model | Learner:
    """A model of a CrossFit fitted to the rows of the other folds: by itself, else by `fit`."""
    if hasattr(model, "solve"):
        return solved(log, model, seed)
    from recfb.fit import fit  # heavy, and for recommenders only

    return fit(log, model, seed=seed, enable_progress_bar=False)  # type: ignore[type-var]
