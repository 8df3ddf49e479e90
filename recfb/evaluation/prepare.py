"""What a plan must know of a log before its pass: reward models, loggers, slates."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from recfb.contracts import Block, Estimator, Model, Policy
from recfb.data.blocks import unit_column
from recfb.data.door import Problems
from recfb.errors import LogError, UnboundError
from recfb.estimate import Rows
from recfb.evaluation.binding import bound, check_vocabulary, origin
from recfb.evaluation.cell_means import CellMeans
from recfb.evaluation.crossfit import CrossFit, Train, cross_fitted, solved
from recfb.evaluation.loggers import Counts, Loggers, check_mixture, logger_counts
from recfb.evaluation.mrdr import CellMRDR, Normal, equations
from recfb.evaluation.reduction import Fixed, RewardModel
from recfb.evaluation.shape import Shape, plain, traits
from recfb.evaluation.slates import SLATES
from recfb.evaluation.state import Facts, Faults
from recfb.evaluation.work import Part, count_part, ordered

if TYPE_CHECKING:
    from recfb.data import Log

Origin = Literal["none", "cross-fitted", "other log", "same log", "unknown"]


def of_slates(functions: Mapping[str, Estimator]) -> bool:
    """Whether a plan's estimators value whole slates."""
    return any(plain(f) in SLATES.values() for f in functions.values())


def pseudo_inverses(functions: Mapping[str, Estimator]) -> set[str]:
    """The estimators of a plan that take the logger to have drawn slates in a certain way."""
    used = {plain(f) for f in functions.values()}
    return {name for name in ("pi_product", "pi_ranking") if SLATES[name] in used}


def shape_of(facts: Facts | None, functions: Mapping[str, Estimator]) -> Shape:
    """The lines of a pass's columns; before a log is known, of the smallest log there could be."""
    if facts is None:
        return Shape(slots=int(of_slates(functions)))
    return Shape(loggers=facts.loggers, slots=facts.slots)


def fields_of(functions: Mapping[str, Estimator]) -> frozenset[str]:
    """All that a plan's estimators read of the rows."""
    shape = shape_of(None, functions)
    return frozenset().union(*(traits(f, shape).fields for f in functions.values()))


@dataclass(frozen=True)
class Prepared:
    """What a plan learnt from a log."""

    predictor: RewardModel | None = None
    described: str = ""
    source: Origin = "none"
    loggers: Loggers | None = None
    robust: CellMRDR | None = None
    mixes: bool = False
    slots: int = 0

    @property
    def mu(self) -> bool:
        """Whether the pass reads the column `mu`."""
        return self.mixes and self.loggers is not None and self.loggers.policies is None

    @property
    def words(self) -> tuple[object, ...]:
        """What makes the columns of two plans differ."""
        if self.loggers is None:
            return ()
        return self.loggers.ids.tolist(), self.loggers.stratum.tolist(), self.mixes

    def facts(self, facts: Facts) -> Facts:
        """A plan's facts, with those of the log that were found."""
        strata = 1 if self.loggers is None else self.loggers.strata
        return replace(
            facts,
            model=self.source,
            described=self.described,
            loggers=strata,
            slots=self.slots,
        )

    def complete(
        self, block: Block, rows: Rows, policies: Mapping[str, Policy]
    ) -> tuple[Rows, Faults]:
        """Rows with the columns of several loggers and of the model of least variance."""
        faults: Faults = {}
        if self.robust is not None:
            vm, qm = self.robust.columns(block, policies)
            rows = replace(rows, vm=vm, qm=qm)
        if self.loggers is not None:
            pbar = self.loggers.mixture(block) if self.mixes else None
            rows = replace(rows, logger=self.loggers.lines(block), pbar=pbar)
            faults = {} if pbar is None else self.loggers.faults(block, pbar)
        return rows, faults


@dataclass(frozen=True)
class Inputs:
    """What a plan was given, as far as preparing reads it."""

    functions: Mapping[str, Estimator]
    policies: Mapping[str, Policy]  # bound
    reward_model: Model | None
    loggers: Mapping[int, Policy] | None  # bound
    unit: str | None
    seed: int
    train: Train = solved  # how the models of a CrossFit are fitted

    def prepare(self, log: Log, executor: Executor | None) -> Prepared:
        """One pass over the log for each thing that its estimators need to know."""
        if of_slates(self.functions):
            return Prepared(slots=self._slots(log, executor))
        reads = fields_of(self.functions)
        found = Prepared(mixes="pbar" in reads)
        if reads & {"v", "q"}:
            found = self._model(found, log, executor)
        if "logger" in reads:
            found = replace(found, loggers=self._loggers(log, executor, "pbar" in reads))
        if "qm" in reads:
            found = replace(found, robust=self._robust(log, executor))
            if not found.described:
                about = "mrdr's own, cross-fitted cells by (position, item) of least variance"
                found = replace(found, described=about, source="cross-fitted")
        return found

    def _model(self, found: Prepared, log: Log, executor: Executor | None) -> Prepared:
        if self.reward_model is not None:
            check_vocabulary(self.reward_model, log, "reward_model")
            if isinstance(self.reward_model, CrossFit):
                return self._cross_fitted(found, self.reward_model, log, executor)
            if hasattr(self.reward_model, "solve") and not bound(self.reward_model):
                kind = type(self.reward_model).__name__
                raise UnboundError(
                    f"reward_model is a {kind} that was never fitted. Let evaluate fit it, each "
                    "row by the others: reward_model=evaluation.CrossFit(model)."
                )
            model, source = Fixed(self.reward_model), origin(self.reward_model, log)
            return replace(found, predictor=model, described=repr(self.reward_model), source=source)
        means = CellMeans(seed=self.seed)
        count = partial(
            count_part, unit=self.unit, n_items=log.n_items, folds=means.folds, seed=self.seed
        )
        fitted = means.fit(ordered(count, log.parts(), executor)) if len(log) else None
        about = f"cross-fitted {means!r}"
        return replace(found, predictor=fitted, described=about, source="cross-fitted")

    def _cross_fitted(
        self, found: Prepared, model: CrossFit, log: Log, executor: Executor | None
    ) -> Prepared:
        """Folds by unit; of a log of another name, rows without units cannot be told apart."""
        fitted = cross_fitted(model, log, self.train, self.unit, executor)
        source: Origin = "cross-fitted"
        if fitted.fitted_on != log.name:
            source = "other log" if unit_column(log, self.unit) else "unknown"
        return replace(found, predictor=fitted, described=fitted.words, source=source)

    def _loggers(self, log: Log, executor: Executor | None, mixes: bool) -> Loggers:
        log.require("logger")
        if mixes:
            check_mixture(log.columns, self.loggers)
        count = partial(_count_loggers, mu=mixes and self.loggers is None)
        if not len(log):
            one = torch.zeros(1, dtype=torch.int64)
            return Loggers(one, torch.ones(1), one, self.loggers)
        return Loggers.of(ordered(count, log.parts(), executor), self.loggers)

    def _robust(self, log: Log, executor: Executor | None) -> CellMRDR | None:
        log.require("mu")
        model = CellMRDR(seed=self.seed)
        count = partial(_equations, inputs=self, folds=model.folds, n_items=log.n_items)
        return model.fit(ordered(count, log.parts(), executor)) if len(log) else None

    def _slots(self, log: Log, executor: Executor | None) -> int:
        """Slots of the longest slate; a slate in two parts is refused."""
        reads = fields_of(self.functions)
        log.require("slate", "position")
        log.require(*(["propensity"] if "at" in reads else []))
        log.require(*(["p_prefix"] if reads & {"p", "prefix"} else []))
        ends = list(ordered(_ends, log.parts(), executor))
        for before, after in pairwise(ends):
            if before[1] == after[0]:
                raise LogError(
                    f"slate {after[0]} lies in two parts of the log. Read the log into memory, "
                    "Log.read(path), or write the file so that no slate crosses row 262,144."
                )
        return max((end[2] for end in ends), default=1)


def _count_loggers(part: Part, *, mu: bool) -> Counts:
    return logger_counts(part.record(Problems(), mu=mu))


def _equations(part: Part, *, inputs: Inputs, folds: int, n_items: int) -> Normal:
    block = part.record(Problems(), inputs.unit, mu=True)
    return equations(block, inputs.policies, folds=folds, seed=inputs.seed, n_items=n_items)


def _ends(part: Part) -> tuple[int, int, int]:
    """The first slate of a part, its last, and the slots of its longest."""
    block = part.record(Problems())
    visit, position = block.visit, block.context.position
    assert visit is not None and position is not None
    if not len(block):
        return -1, -2, 1
    return int(visit[0]), int(visit[-1]), int(position.max())


def slates_missing(rows: Rows, functions: Mapping[str, Estimator]) -> Tensor:
    """Slates without a logged probability that the estimators read: (n,) bool."""
    reads = fields_of(functions)
    gone = torch.zeros(len(rows), dtype=torch.bool)
    if reads & {"p", "prefix"}:
        gone |= rows.prefix.isnan().any(0)  # type: ignore[attr-defined]
    if "at" in reads:
        gone |= rows.at.isnan().any(0)  # type: ignore[attr-defined]
    return gone


__all__ = [
    "Inputs",
    "Prepared",
    "fields_of",
    "of_slates",
    "pseudo_inverses",
    "shape_of",
    "slates_missing",
]
