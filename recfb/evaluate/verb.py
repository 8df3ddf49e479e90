"""The verb `evaluate`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING

from recfb.contracts import Estimator, Interval, Model, Policy
from recfb.errors import OverlapWarning
from recfb.evaluate.plan import Evaluation
from recfb.evaluation.report import Report
from recfb.evaluation.state import total
from recfb.evaluation.work import ordered, sorted_parts

if TYPE_CHECKING:
    from recfb.data import Log


def evaluate(
    log: Log,
    policies: Mapping[str, Policy],
    *,
    estimators: Sequence[str] | Mapping[str, Estimator] = ("snips", "dr"),
    reward_model: Model | None = None,
    loggers: Mapping[int, Policy] | None = None,
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
        estimators: names of `recfb.estimate.ESTIMATORS`; of its `LOGGERS` for logs of several
            loggers, or of `recfb.evaluation.SLATES` for whole slates; "dros:slope" and "dros:mse"
            choose the shrinkage; or name -> function.
        reward_model: for dm and dr: `evaluation.CrossFit(model)`, which is fitted to this log, each
            row by the others; a model fitted on another log; None: cross-fitted cell means.
        loggers: the policies that logged, by number, for balanced forms; None: `mu` is their
            mixture.
        interval: a name of `recfb.evaluation.INTERVALS` (docs/guide.md says which for what), or a
            function; None: each estimator's own.
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
        ConfigError: an interval without what it needs: a range of rewards, a floor, an estimator.
        RecfbError: a worker of the executor was killed.

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
        loggers=loggers,
        interval=interval if isinstance(interval, str) else None,
        by=by,
        unit=unit,
        buckets=buckets,
        reward_range=reward_range,
        seed=seed,
    ).fit(log, executor)
    assert plan.facts is not None
    state = total(ordered(plan.scan_part, sorted_parts(log), executor), plan.facts)
    report = plan.report(state, interval=interval, alpha=alpha, base=base)
    failed = report.gates.filter(gate="G1", level="fail")
    if len(failed):
        names = sorted({f"{row['policy']} ({row['estimator']})" for row in failed.to_dicts()})
        text = f"too little overlap with the log to use: {', '.join(names)}. See report.gates."
        warnings.warn(text, OverlapWarning, stacklevel=2)
    return report
