"""Whether estimated probabilities can be believed, and maps that make them more believable."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import polars as pl
import torch
from torch import Tensor

from recfb.data import Log
from recfb.evaluation.gates.support import FLOOR, SHARE
from recfb.evaluation.multiple import benjamini_hochberg

BINS = 20
"""Bins of equal counts that calibration is judged in."""

RATE = 0.01
"""The false discovery rate of the tests of items."""

Map = Callable[[Tensor], Tensor]
"""Probabilities (n, n_items) -> calibrated ones."""


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


def recalibration(chance: Tensor, outcome: Tensor) -> tuple[float, float]:
    """Slope and intercept of a logistic regression of an outcome on log-odds: 1 and 0 where the
    probabilities are right.

    Cox, "Two further applications of a model for binary regression" (1958). A slope within 3
    standard errors of 0 is not told from noise, as where all probabilities are nearly the same: it
    is NaN, and the intercept that at slope 1.

    Args:
        chance: probabilities, of any shape.
        outcome: what they are judged by, of the same shape: bool, or itself a probability, as in
            Papke and Wooldridge, "Econometric methods for fractional response variables" (1996).

    >>> p = torch.tensor([[0.2, 0.8]] * 100, dtype=torch.float64)
    >>> hit = torch.tensor([[False, True]] * 80 + [[True, False]] * 20)
    >>> slope, intercept = recalibration(p, hit)
    >>> round(slope, 6), round(intercept, 6) + 0
    (1.0, 0.0)
    """
    odds = torch.logit(chance.double(), eps=1e-9).flatten()  # (N,)
    y, one = outcome.flatten().double(), torch.ones_like(odds)[:, None]
    if float(odds.std(correction=0)) > 1e-6:
        beta, se = logistic(torch.cat([one, odds[:, None]], 1), y, torch.zeros_like(odds))
        if abs(float(beta[1])) > 3 * float(se[1]):
            return float(beta[1]), float(beta[0])
    return float("nan"), float(logistic(one, y, odds)[0][0])


def logistic(x: Tensor, y: Tensor, offset: Tensor, steps: int = 100) -> tuple[Tensor, Tensor]:
    """Coefficients (C,) of a logistic regression by Newton's steps, none of which moves log-odds by
    more than 2, and their standard errors (C,) by the sandwich of rows.

    Args:
        x: (N, C) inputs.
        y: (N,) outcomes in [0, 1].
        offset: (N,) added to the log-odds.
        steps: of Newton.

    >>> one, y = torch.ones(8, 1).double(), torch.tensor([1.0, 0, 0, 0] * 2).double()
    >>> beta, se = logistic(one, y, torch.zeros_like(y))  # log(1/3), 1 / sqrt(8 * 3 / 16)
    >>> round(float(beta.exp()), 6), round(float(se), 6)
    (0.333333, 0.816497)
    """
    beta = torch.zeros(x.shape[1], dtype=torch.float64)
    ridge = 1e-9 * len(x) * torch.eye(x.shape[1], dtype=torch.float64)  # where outcomes are certain
    for _ in range(steps):
        p = torch.sigmoid(offset + x @ beta)
        bend = torch.linalg.inv(x.T @ (x * (p * (1 - p))[:, None]) + ridge)  # (C, C)
        step = bend @ (x.T @ (y - p))
        far = float((x @ step).abs().max())
        beta = beta + step * min(1.0, 2 / max(far, 1e-12))
        if far < 1e-12:
            break
    pull = x * (y - torch.sigmoid(offset + x @ beta))[:, None]  # (N, C)
    return beta, (bend @ (pull.T @ pull) @ bend).diagonal().sqrt()


def balance(own: Tensor, item: Tensor, log: Log) -> pl.DataFrame:
    """For each item the mean of 1[shown] / propensity, which is 1 where propensities are right.

    It finds items whose propensities are off on average, not errors that cancel over the rows of an
    item; for estimates with an intercept an item they nearly always do. An item is not tested
    (null) where its rows count as fewer than 30; nor where it was shown less often than they say
    and one row counts as more than 1 % of all: rarer rows that happen to be missing would explain
    it. Without that, right propensities with a heavy tail were rejected in up to 98 of 100 logs.

    Args:
        own: (n,) propensities of the shown items.
        item: (n,) the shown items.
        log: what the items are called.

    Returns:
        id, mean, its standard error if the propensities are right, sqrt((sum 1/p^2 / sum 1/p - 1) /
        n), z, p, and rejected: by Benjamini and Hochberg at 1 % over items. Rows count as
        independent.
    """
    n, odds = len(own), 1 / own
    empty = torch.zeros(log.n_items, dtype=torch.float64)
    total, square = empty.index_add(0, item, odds), empty.index_add(0, item, odds.square())
    largest = empty.scatter_reduce(0, item, odds, "amax")
    mean = total / n
    se = ((square / total.clamp(min=1) - 1).clamp(min=0) / n).sqrt()
    z = torch.where(se > 0, (mean - 1) / se, 0.0)
    tested = (se > 0) & (total.square() >= FLOOR * square) & ((z > 0) | (largest <= SHARE * n))
    p = torch.where(tested, torch.special.erfc(z.abs() / 2**0.5), torch.nan)
    columns = {"mean": mean, "se": se, "z": z, "p": p, "rejected": benjamini_hochberg(p, RATE)}
    return pl.DataFrame(
        {"id": log.items["id"], **{key: column.numpy() for key, column in columns.items()}}
    ).with_columns(pl.col("p").fill_nan(None))


def temperature(chance: Tensor, item: Tensor, steps: int = 40) -> float:
    """The T whose p^(1/T) / sum p^(1/T) makes the shown items most likely, in [1/16, 16]: above 1
    where the probabilities were too sure of themselves.

    Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks" (2017), section 4.2.
    The log-likelihood is concave in 1 / T; Newton's steps, kept in a bracket that halves.

    Args:
        chance: (n, n_items) probabilities.
        item: (n,) shown items.
        steps: of Newton.

    >>> sure = torch.tensor([[0.2, 0.8]] * 3, dtype=torch.float64)
    >>> round(temperature(sure, torch.tensor([0, 1, 1])), 6)  # shown 2 to 1, said 4 to 1
    2.0
    """
    log, some = chance.double().log(), chance > 0  # (n, n_items)
    value = torch.where(some, log, 0.0)
    own = value.gather(1, item[:, None]).sum()
    low, high, b = 1 / 16, 16.0, 1.0
    for _ in range(steps):
        p = torch.softmax(b * log, 1)
        mean = (p * value).sum(1)  # (n,)
        slope = float(mean.sum() - own)  # of minus the log-likelihood in b = 1 / T
        curve = float((p * (value - mean[:, None]).square()).sum())
        if curve <= 1e-12 * len(item):  # all items alike: no T changes anything
            break
        low, high = (low, b) if slope > 0 else (b, high)
        b = b - slope / curve
        b = b if low < b < high else (low + high) / 2
    return 1 / b


def by_temperature(chance: Tensor, item: Tensor) -> Map:
    """p^(1/T) / sum p^(1/T), with T fitted to these rows."""
    t = temperature(chance, item)
    return lambda other: torch.softmax(other.double().log() / t, 1)


def by_isotonic(chance: Tensor, item: Tensor) -> Map:
    """The monotone curve that fits shares shown best, over all (row, item) pairs of these rows, and
    then divided by its sum over the items of a row.

    Zadrozny and Elkan, "Transforming classifier scores into accurate multiclass probability
    estimates" (2002), with one curve for all items. Its lowest step counts as at least half a shown
    item, so that no estimate is 0; an estimate that was 0 stays 0.
    """
    from sklearn.isotonic import IsotonicRegression

    shown = torch.nn.functional.one_hot(item, chance.shape[1])
    some = chance > 0
    curve = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip")
    found = curve.fit_transform(chance[some].numpy(), shown[some].numpy())
    never = int((found == 0).sum())
    floor = 0.5 / (1 + never) if never else 0.0

    def calibrated(other: Tensor) -> Tensor:
        value = torch.as_tensor(curve.predict(other.flatten().numpy())).view_as(other).double()
        value = torch.where(other > 0, value.clamp(min=floor), 0.0)
        return value / value.sum(1, keepdim=True)

    return calibrated


CALIBRATORS: Mapping[str, Callable[[Tensor, Tensor], Map]] = {
    "temperature": by_temperature,
    "isotonic": by_isotonic,
}
"""Name -> (probabilities, shown items) -> a map of probabilities."""


def cross_calibrated(
    chance: Tensor, item: Tensor, fold: Tensor, fit: Callable[[Tensor, Tensor], Map]
) -> Tensor:
    """Probabilities of held-out rows, those of each fold by a map that was fitted to the other
    folds: (n, n_items).

    A row's own item is in no map that it is given. It has reached the models of the other folds,
    whose probabilities a map is fitted to: one number, or one curve, of all of them.
    """
    made = torch.empty_like(chance)
    for k in fold.unique(sorted=True).tolist():  # type: ignore[no-untyped-call]
        mine = fold == k
        made[mine] = fit(chance[~mine], item[~mine])(chance[mine])
    return made


__all__ = [
    "CALIBRATORS",
    "balance",
    "by_isotonic",
    "by_temperature",
    "calibration",
    "cross_calibrated",
    "logistic",
    "recalibration",
    "temperature",
]
