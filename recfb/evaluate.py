"""Evaluate policies from logged feedback: what would they have earned?"""

from __future__ import annotations

import copy
import hashlib
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from functools import cached_property, partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from recfb.contracts import Estimator, Interval, Model, Policy
from recfb.data.door import Problems
from recfb.errors import ConfigError, OverlapWarning, nearest
from recfb.estimate import Rows
from recfb.evaluation.binding import check_vocabulary, origin, ready
from recfb.evaluation.cells import CellMeans
from recfb.evaluation.intervals import INTERVALS
from recfb.evaluation.reduction import Fixed, RewardModel, known_rows, reduce
from recfb.evaluation.report import Report, finish
from recfb.evaluation.results import Settings
from recfb.evaluation.state import Cell, Facts, State, merge_faults, total
from recfb.evaluation.tally import Grouping, range_faults, tally
from recfb.evaluation.work import Part, count_part, door_faults, functions_of, ordered

if TYPE_CHECKING:
    from recfb.data import Log


class Evaluation:
    """The plan of an evaluation: picklable, without data.

    `scan` gives a State of a log or of one of its parts, anywhere; States add up; `report` turns
    them into a Report. `evaluate` does all three.

    Args:
        policies: name -> policy. What is not bound is bound to the log's sizes, without its rows.
        estimators: names of `recfb.estimate.ESTIMATORS`, or name -> function (rows, mean).
        reward_model: what dm and dr predict rewards with, fitted on another log; None: cross-fitted
            cell means by (position, item).
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
        self.by = by
        self.unit = unit
        self.buckets = buckets
        self.reward_range = reward_range
        self.seed = seed
        self.facts: Facts | None = None  # set by fit
        self.n_items = 0
        self.predictor: RewardModel | None = None
        self.functions = functions_of(estimators)

    @cached_property
    def settings(self) -> Settings:
        """The statistics that a pass sums."""
        return Settings(tuple(self.policies), self.functions, self.seed)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "settings"}

    def fit(self, log: Log, executor: Executor | None = None) -> Evaluation:
        """This plan made ready for a log: policies bound, cell means fitted. Needed once before
        parts are scanned apart; takes a pass over the log if an estimator reads a reward model."""
        plan = copy.copy(self)
        plan.policies = {
            name: ready(policy, log, f"policies[{name!r}]", self.seed)
            for name, policy in self.policies.items()
        }
        plan.n_items, described, source = log.n_items, "", "none"
        if self.settings.models and self.reward_model is None:
            means = CellMeans(seed=self.seed)
            count = partial(
                count_part, unit=self.unit, n_items=log.n_items, folds=means.folds, seed=self.seed
            )
            plan.predictor = means.fit(ordered(count, log.parts(), executor)) if len(log) else None
            described, source = f"cross-fitted {means!r}", "cross-fitted"
        elif self.settings.models and self.reward_model is not None:
            check_vocabulary(self.reward_model, log, "reward_model")
            plan.predictor = Fixed(self.reward_model)
            described, source = repr(self.reward_model), origin(self.reward_model, log)
        meta = log.meta
        declared = self.reward_range or meta.reward_range
        low, high = declared or (0.0, 1.0)
        plan.facts = Facts(
            plan=self._digest(),
            reward_range=(float(low), float(high)),
            declared=declared is not None,
            source=meta.propensity,
            draws=meta.draws,
            floor=meta.floor,
            model=source,  # type: ignore[arg-type]
            described=described,
            by=self.by,
        )
        return plan

    def _digest(self) -> str:
        policies = {
            name: repr(policy) if isinstance(policy, Policy) else type(policy).__name__
            for name, policy in self.policies.items()
        }
        words = (policies, list(self.functions), self.buckets, self.seed, self.unit, self.by)
        return hashlib.blake2b(repr(words).encode(), digest_size=8).hexdigest()

    def scan(self, log: Log, part: Part | None = None) -> State:
        """One pass over a log, or over one part of it, after `fit(log)` if that was not done.

        Nothing is raised for bad rows: they are counted, and `report` raises them all at once.
        """
        plan = self if self.facts is not None else self.fit(log)
        assert plan.facts is not None
        return total(map(plan.scan_part, log.parts() if part is None else [part]), plan.facts)

    def scan_part(self, part: Part) -> State:
        """One part of the log that the plan was fitted to."""
        facts = self._ready()
        problems = Problems()
        block = part.record(problems, self.unit, self.by)
        keep = known_rows(block)
        groups = Grouping(block.by, block.labels or ("",))
        missing = groups.count(~torch.isin(torch.arange(len(block)), keep))
        block = block[keep]
        groups = Grouping(block.by, groups.labels)
        reduced = reduce(
            block, self.policies, self.predictor, n_items=self.n_items, groups=len(groups.labels)
        )
        cells = self._tally(facts, reduced.rows, block.unit, part.name, groups)
        faults = merge_faults(
            door_faults(problems), reduced.faults, range_faults(reduced.rows, facts, part.name)
        )
        named = {}
        for g, (label, cell) in enumerate(cells.items()):
            mass = None if reduced.mass is None else reduced.mass[:, g].contiguous()
            seen = None if reduced.seen is None else reduced.seen[g].contiguous()
            named[label] = cell._replace(missing=missing[g], mass=mass, seen=seen)
        return State(facts, {part.name: named}, faults)

    def scan_rows(self, rows: Rows, unit: Tensor, part: str) -> State:
        """Rows that were reduced before: r, p (n,), pe, v (P, n), q, and the unit (n,) int64.

        Support (gate G5) cannot be checked here, since items are not known.
        """
        facts = self.facts or Facts(
            plan=self._digest(),
            reward_range=self.reward_range or (0.0, 1.0),
            declared=self.reward_range is not None,
            model="unknown" if self.settings.models else "none",
        )
        cells = self._tally(facts, rows, unit, part, Grouping())
        return State(facts, {part: cells}, range_faults(rows, facts, part))

    def _tally(
        self, facts: Facts, rows: Rows, unit: Tensor, part: str, groups: Grouping
    ) -> dict[str, Cell]:
        terms, size, seed = self.settings.terms, self.buckets, self.seed
        return tally(terms, rows, unit, facts, buckets=size, seed=seed, groups=groups, part=part)

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
        """The report of a state that this plan, or one like it, has scanned."""
        if isinstance(interval, str) and interval not in INTERVALS:
            known = list(INTERVALS)
            raise ConfigError(
                f"interval={interval!r} is none of {known}.{nearest(interval, known)}"
            )
        if not 0 < alpha < 1:
            raise ConfigError(f"alpha is the error rate of the intervals, found {alpha}. Try 0.05.")
        settings = Settings(tuple(self.policies), self.functions, self.seed, interval, alpha)
        return finish(state, settings, base)


def evaluate(
    log: Log,
    policies: Mapping[str, Policy],
    *,
    estimators: Sequence[str] | Mapping[str, Estimator] = ("snips", "dr"),
    reward_model: Model | None = None,
    interval: str | Interval | None = None,
    alpha: float = 0.05,
    by: str | None = None,
    unit: str | None = None,
    base: str | None = None,
    reward_range: tuple[float, float] | None = None,
    buckets: int = 4096,
    executor: Executor | None = None,
    seed: int = 0,
) -> Report:
    """What policies would have earned, from the rows that another policy logged.

    Every estimate comes with an interval, its effective sample size and a verdict: `usable`,
    `usable with care` or `do not use`, with the reasons. What is undefined is null with a reason,
    never 0.

    Args:
        log: rows with item, reward and propensity; in memory or scanned.
        policies: name -> policy.
        estimators: of ips, cips, snips, dm, dr, dros, switch, replay; or name -> function.
        reward_model: for dm and dr, fitted on another log; None: cross-fitted cell means.
        interval: student, bootstrap, likelihood, or a function; None: each estimator's own.
        alpha: error rate of the intervals.
        by: a column whose values are reported apart.
        unit: the column of clusters; default unit, user or slate, else the row.
        base: the policy that the others are compared with.
        reward_range: declared range of rewards; default the log's own, else (0, 1).
        buckets: hash buckets that carry the standard errors.
        executor: any `concurrent.futures` executor; parts of the log are the units of work. The
            numbers are the same to the last bit. Processes must be spawned, not forked:
            `ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn"))`.
        seed: of hashes and bootstrap.

    Raises:
        LogError: with the count of every kind of bad row.
        SupportError: a policy's rows are no distribution, with counts.

    Warns:
        OverlapWarning: the log and a policy overlap too little (gate G1).

    >>> from recfb import Log
    >>> from recfb.policies import Uniform
    >>> log = Log.of({"item": [0, 1] * 500, "reward": [1, 0] * 500, "propensity": [0.5] * 1000})
    >>> evaluate(log, {"uniform": Uniform()}, estimators=["ips"]).table["verdict"].to_list()
    ['usable']
    """
    plan = Evaluation(
        policies,
        estimators=estimators,
        reward_model=reward_model,
        by=by,
        unit=unit,
        buckets=buckets,
        reward_range=reward_range,
        seed=seed,
    ).fit(log, executor)
    assert plan.facts is not None
    state = total(ordered(plan.scan_part, log.parts(), executor), plan.facts)
    report = plan.report(state, interval=interval, alpha=alpha, base=base)
    failed = report.gates.filter(gate="G1", level="fail")
    if len(failed):
        names = sorted({f"{row['policy']} ({row['estimator']})" for row in failed.to_dicts()})
        text = f"too little overlap with the log to use: {', '.join(names)}. See report.gates."
        warnings.warn(text, OverlapWarning, stacklevel=2)
    return report
