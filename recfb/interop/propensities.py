"""Propensities that were never logged, estimated from the log itself, and how far to trust them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import polars as pl
import torch
from torch import Tensor

from recfb.contracts import Block, cat
from recfb.data import Log
from recfb.data.attributes import attributes
from recfb.data.door import Problems
from recfb.errors import ConfigError, LogError
from recfb.evaluation.cells import fold_of
from recfb.interop.design import Inputs

BINS = 20
"""Bins of equal counts that calibration is judged in."""


@dataclass(frozen=True)
class Estimated:
    """A log with estimated propensities, and numbers that say whether they can be believed.

    Attributes:
        log: with the column `propensity`; its meta says "estimated", so gate G7 warns.
        error: expected calibration error, in probability: the mean over 20 equal-count bins of
            (request, item) pairs of abs(share shown - mean estimate).
        bins: estimate, shown (its share) and n of each bin.
        items: of each item, mean of 1[shown] / propensity, which is 1 if propensities are right,
            with its standard error and z.
        slope, intercept: of log-odds as logged on log-odds as estimated (logistic recalibration of
            shown on the estimate): 1 and 0 where calibrated; a slope outside [0.8, 1.25] says not.
    """

    log: Log
    error: float
    bins: pl.DataFrame
    items: pl.DataFrame
    slope: float
    intercept: float

    @property
    def calibrated(self) -> bool:
        """Whether the slope lies in [0.8, 1.25]."""
        return 0.8 <= self.slope <= 1.25


def estimate(
    log: Log,
    *,
    kind: Literal["logistic", "boosting"] = "logistic",
    users: Sequence[str] = (),
    folds: int = 3,
    l2: float = 1.0,
    unit: str | None = None,
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
        seed: of the folds.

    Raises:
        ConfigError: fewer than 2 folds, or l2 that is not positive.
        LogError: a log with availability sets, or with fewer than two items shown; an item that is
            shown in one fold only, so that the others do not know it.

    >>> log = Log.of({"item": [0, 1, 1] * 300, "reward": [1] * 900, "unit": range(900)})
    >>> made = estimate(log)
    >>> made.log.meta.propensity, [round(p, 1) for p in made.log.frame["propensity"][:2]]
    ('estimated', [0.3, 0.7])
    """
    if folds < 2 or not l2 > 0:
        raise ConfigError(f"folds is at least 2 and l2 positive, found folds={folds}, l2={l2}.")
    if "available" in log.columns:
        raise LogError(
            "propensities under availability sets are not estimated here, since a model of all "
            "items would give some to those that could not be shown. Log them: docs/logging.md."
        )
    if log.frame["item"].n_unique() < 2:
        raise LogError(f"{log!r} shows fewer than two items, so there is nothing to learn.")
    known = attributes(log.users, users, "users").to(torch.float64)
    blocks = list(_blocks(log, unit))
    item = torch.cat([block.slate.item[:, 0] for block in blocks])  # (n,)
    context = cat([block.context for block in blocks])
    rows = Inputs.of(context, known).table(context)  # (n, C)
    fold = torch.cat([fold_of(block.unit, folds, seed) for block in blocks])  # (n,)
    chance = _chances(rows, item, fold, _model(kind, l2), log.n_items)  # (n, n_items)
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


def _blocks(log: Log, unit: str | None) -> Iterator[Block]:
    problems = Problems()
    for part in log.parts():
        yield part.record(problems, unit)
    problems.raise_any()


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


def calibration(chance: Tensor, shown: Tensor, bins: int = BINS) -> pl.DataFrame:
    """Estimates and shares shown in bins of equal counts: columns estimate, shown, n.

    Args:
        chance: (n, n_items) estimated probabilities.
        shown: (n, n_items) bool.
        bins: how many.

    >>> half = torch.tensor([[0.25, 0.75]] * 4)
    >>> hit = torch.tensor([[False, True]] * 3 + [[True, False]])
    >>> calibration(half, hit, bins=2).rows()
    [(0.25, 0.25, 4), (0.75, 0.75, 4)]
    """
    order = chance.flatten().argsort(stable=True)
    p, hit = chance.flatten()[order].double(), shown.flatten()[order].double()
    pieces = zip(p.tensor_split(bins), hit.tensor_split(bins), strict=True)
    rows = [(float(a.mean()), float(b.mean()), len(a)) for a, b in pieces if len(a)]
    return pl.DataFrame(rows, schema=["estimate", "shown", "n"], orient="row")


def recalibration(chance: Tensor, shown: Tensor, steps: int = 25) -> tuple[float, float]:
    """Slope and intercept of a logistic regression of `shown` on log-odds, by Newton's steps.

    >>> p = torch.tensor([[0.2, 0.8]] * 5, dtype=torch.float64)
    >>> hit = torch.tensor([[False, True]] * 4 + [[True, False]])
    >>> slope, intercept = recalibration(p, hit)
    >>> round(slope, 6), round(intercept, 6) + 0
    (1.0, 0.0)
    """
    odds = torch.logit(chance.double(), eps=1e-9).flatten()  # (N,)
    x, y = torch.stack([odds, torch.ones_like(odds)], 1), shown.flatten().double()
    beta = torch.tensor([1.0, 0.0], dtype=torch.float64)
    for _ in range(steps):
        p = torch.sigmoid(x @ beta)
        gram = x.T @ (x * (p * (1 - p))[:, None])
        ridge = 1e-9 * len(x) * torch.eye(2, dtype=torch.float64)  # where all odds are the same
        beta = beta + torch.linalg.solve(gram + ridge, x.T @ (y - p))
    return float(beta[0]), float(beta[1])


def balance(own: Tensor, item: Tensor, log: Log) -> pl.DataFrame:
    """For each item the mean of 1[shown] / propensity, which is 1 where propensities are right:
    columns id, mean, se, z, over rows as independent."""
    n = len(own)
    total = torch.zeros(log.n_items, dtype=torch.float64).index_add_(0, item, 1 / own)
    square = torch.zeros(log.n_items, dtype=torch.float64).index_add_(0, item, own**-2)
    mean = total / n
    se = ((square / n - mean.square()) / max(1, n - 1)).clamp(min=0).sqrt()
    z = torch.where(se > 0, (mean - 1) / se, 0.0)
    columns = {"mean": mean, "se": se, "z": z}
    return pl.DataFrame(
        {"id": log.items["id"], **{key: column.numpy() for key, column in columns.items()}}
    )


__all__ = ["Estimated", "balance", "calibration", "estimate", "recalibration"]
