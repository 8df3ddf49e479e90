"""Propensities that were never logged, estimated from the log itself, and how far to trust them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import polars as pl
import torch
from torch import Tensor

from recfb.data import Log
from recfb.data.attributes import attributes
from recfb.errors import ConfigError, LogError, RecfbWarning, nearest
from recfb.evaluation.cell_means import fold_of
from recfb.interop.calibration import (
    CALIBRATORS,
    balance,
    calibration,
    cross_calibrated,
    recalibration,
)
from recfb.interop.design import Inputs, rows_of


@dataclass(frozen=True)
class Estimated:
    """A log with estimated propensities, and numbers that say whether they can be believed.

    Attributes:
        log: with the column `propensity`; its meta says "estimated", so gate G7 warns.
        error: expected calibration error, in probability: the mean over 20 equal-count bins of
            (request, item) pairs of abs(share shown - mean estimate).
        bins: estimate, shown (its share) and n of each bin.
        items: of each item, mean of 1[shown] / propensity, which is 1 if propensities are right,
            with its standard error, z, p-value, and whether it is rejected (`balance`).
        slope, intercept: of log-odds as shown on log-odds as estimated (logistic recalibration of
            shown on the estimate): 1 and 0 where calibrated; a slope outside [0.8, 1.25] says not.
            NaN where the estimates hardly differ: a logger without preferences.
    """

    log: Log
    error: float
    bins: pl.DataFrame
    items: pl.DataFrame
    slope: float
    intercept: float

    @property
    def calibrated(self) -> bool:
        """Whether the slope lies in [0.8, 1.25], or there is none, and no item is rejected."""
        return not _off(self.slope) and not self.items["rejected"].any()


def estimate(
    log: Log,
    *,
    kind: Literal["logistic", "boosting"] = "logistic",
    users: Sequence[str] = (),
    folds: int = 3,
    l2: float = 1.0,
    unit: str | None = None,
    calibrate: Literal["temperature", "isotonic"] | None = None,
    seed: int = 0,
) -> Estimated:
    """P(item | request) of the logging policy, learnt from what it showed: each row's by a model
    that did not see its unit.

    Multinomial logistic regression, or boosted trees, of the item on position, features of the row
    and columns of its user. Estimates hold where these are all that the logger looked at; intervals
    of `recfb.evaluate` leave their error out. Rows are read into memory; the log must not have
    availability sets.

    Args:
        log: its column `propensity` is replaced, if there is one.
        kind: the model.
        users: columns of `log.users`.
        folds: how many models, at least 2, in folds by a hash of the unit.
        l2: ridge of the logistic regression, in standard deviations; penalty on leaves of trees.
        unit: the column of clusters; default unit, user or slate, else the row.
        calibrate: correct the estimates of each fold by what those of the other folds got wrong:
            "temperature" by one number, for models that are too sure or too timid throughout;
            "isotonic" by a monotone curve, for any other shape, in thousands of rows. Neither adds
            what the model does not look at.
        seed: of the folds.

    Raises:
        ConfigError: fewer than 2 folds, l2 that is not positive, or an unknown `calibrate`.
        LogError: a log with availability sets, or with fewer than two items shown; an item that is
            shown in one fold only, so that the others do not know it.

    >>> log = Log.of({"item": [0, 1, 1] * 300, "reward": [1] * 900, "unit": range(900)})
    >>> made = estimate(log)
    >>> made.log.meta.propensity, [round(p, 1) for p in made.log.frame["propensity"][:2]]
    ('estimated', [0.3, 0.7])
    """
    _check(log, folds, l2, calibrate)
    known = attributes(log.users, users, "users").to(torch.float64)
    block = rows_of(log, unit)
    item, fold = block.slate.item[:, 0], fold_of(block.unit, folds, seed)  # (n,)
    rows = Inputs.of(block.context, known).table(block.context)  # (n, C)
    chance = _chances(rows, item, fold, _model(kind, l2), log.n_items)  # (n, n_items)
    if calibrate is not None:
        chance = cross_calibrated(chance, item, fold, CALIBRATORS[calibrate])
    own = chance.gather(1, item[:, None])[:, 0]  # (n,)
    frame = log.frame.with_columns(propensity=pl.Series(own.numpy(), dtype=pl.Float64))
    meta = replace(log.meta, propensity="estimated", draws=None, floor=None)
    made = Log(frame, log.vocabulary, meta)
    shown = torch.nn.functional.one_hot(item, log.n_items).bool()  # (n, n_items)
    bins = calibration(chance, shown)
    gap = (pl.col("shown") - pl.col("estimate")).abs() * pl.col("n")
    off = bins.select(gap.sum() / pl.col("n").sum()).item()
    slope, intercept = recalibration(chance, shown)
    return Estimated(made, float(off), bins, balance(own, item, log), slope, intercept)


def _check(log: Log, folds: int, l2: float, calibrate: str | None) -> None:
    if folds < 2 or not l2 > 0:
        raise ConfigError(f"folds is at least 2 and l2 positive, found folds={folds}, l2={l2}.")
    if calibrate is not None and calibrate not in CALIBRATORS:
        raise ConfigError(
            f"calibrate is one of {[None, *CALIBRATORS]}, found {calibrate!r}."
            f"{nearest(calibrate, CALIBRATORS)}"
        )
    if "available" in log.columns:
        raise LogError(
            "propensities under availability sets are not estimated here, since a model of all "
            "items would give some to those that could not be shown. Log them: docs/logging.md."
        )
    if log.frame["item"].n_unique() < 2:
        raise LogError(f"{log!r} shows fewer than two items, so there is nothing to learn.")


def _chances(rows: Tensor, item: Tensor, fold: Tensor, model: Any, n_items: int) -> Tensor:
    """The probability of every item, each row's by a model of the other folds: (n, n_items)."""
    chance = torch.zeros(len(rows), n_items, dtype=torch.float64)
    for k in fold.unique(sorted=True).tolist():  # type: ignore[no-untyped-call]
        mine = fold == k
        _check_support(item, mine)
        model.fit(rows[~mine].numpy(), item[~mine].numpy())
        found = torch.as_tensor(model.predict_proba(rows[mine].numpy())).double()
        place = mine.nonzero(), torch.as_tensor(model.classes_)
        chance[place] = found
    return chance


def _check_support(item: Tensor, mine: Tensor) -> None:
    unseen = sorted(set(item[mine].tolist()) - set(item[~mine].tolist()))
    if unseen:
        raise LogError(
            f"items {unseen[:5]} are shown in one fold only, so the others say 0 for them. Leave "
            "their rows out, or take fewer folds, or another unit."
        )


def _model(kind: Literal["logistic", "boosting"], l2: float) -> Any:
    if kind == "logistic":
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(C=1 / l2, tol=1e-8, max_iter=2000)
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(
        l2_regularization=l2, early_stopping=False, random_state=0
    )


@dataclass(frozen=True)
class Comparison:
    """Logged propensities beside estimated ones.

    Attributes:
        slope, intercept: of log-odds as estimated on log-odds as logged, a logistic regression of
            the estimate over the shown items: 1 and 0 where the two agree. Above 1 the logged ones
            are too even, below 1 too extreme; the intercept is a factor on the odds of all. The
            slope is NaN where the logged ones hardly differ.
        items: `balance` of the logged ones, which reads no estimate.
        estimated: what they are compared with.
    """

    slope: float
    intercept: float
    items: pl.DataFrame
    estimated: Estimated

    @property
    def agrees(self) -> bool:
        """Whether the slope lies in [0.8, 1.25], or there is none, and no item is rejected."""
        return not _off(self.slope) and not self.items["rejected"].any()


def compare(log: Log, estimated: Estimated | None = None) -> Comparison:
    """Whether logged propensities fit what the log shows: against estimated ones, and item by item.

    The slope finds propensities that are too even or too extreme everywhere: another temperature,
    a mixture that was not logged, those of another policy. `items` finds items whose propensities
    are wrong on average. Neither finds errors that cancel over the rows of an item and keep the
    spread. A slope below 1 is also what right propensities give where the logger looked at more
    than the estimate did: judge it only where the estimate knows what the logger knew.

    Args:
        log: rows with propensities.
        estimated: what `estimate` made of this log; None: made here with its defaults.

    Raises:
        LogError: a log without propensities, with some that are null, or an estimate of other rows.

    Warns:
        RecfbWarning: a slope outside [0.8, 1.25], or items that are rejected.

    >>> rows = {"item": [0, 1, 1] * 300, "reward": [1] * 900, "unit": range(900)}
    >>> log = Log.of({**rows, "propensity": [1 / 3, 2 / 3, 2 / 3] * 300})
    >>> made = compare(log)
    >>> round(made.slope, 1), made.agrees
    (1.0, True)
    """
    log.require("propensity")
    logged = log.frame["propensity"]
    if logged.null_count():
        raise LogError(
            f"{logged.null_count():,} of {len(logged):,} rows have no propensity to compare. Leave "
            'them out: log.filter(pl.col("propensity").is_not_null()).'
        )
    estimated = estimate(log) if estimated is None else estimated
    other, item = estimated.log.frame, log.tensor("item")
    if not other["item"].equals(log.frame["item"]):
        raise LogError("the estimate is of other rows than the log: compare(log, estimate(log)).")
    own = log.tensor("propensity").double()
    slope, intercept = recalibration(own, estimated.log.tensor("propensity"))
    made = Comparison(slope, intercept, balance(own, item, log), estimated)
    if not made.agrees:
        wrong = made.items.filter("rejected")["id"].to_list()
        found = [f"slope {slope:.2f} against the estimate"] * _off(slope)
        found += [f"items shown more or less often than they say: {wrong[:5]}"] * bool(wrong)
        text = f"logged propensities do not fit the log: {'; '.join(found)}."
        warnings.warn(text, RecfbWarning, stacklevel=2)
    return made


def _off(slope: float) -> bool:
    return slope < 0.8 or slope > 1.25


__all__ = ["Comparison", "Estimated", "compare", "estimate"]
