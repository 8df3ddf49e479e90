"""Rows and estimates made by hand, for the tests of intervals."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recfb.estimate import ESTIMATORS, Rows, replay
from recfb.evaluation.bounds import matches
from recfb.evaluation.estimates import BucketEstimates
from recfb.evaluation.terms import Terms, accumulate, moments

F64 = torch.float64


def rows_of(w: Tensor | Sequence[float], r: Tensor | Sequence[float]) -> Rows:
    """Rows of one policy with these weights: propensities are 1."""
    w, r = torch.as_tensor(w, dtype=F64), torch.as_tensor(r, dtype=F64)
    return Rows(r, torch.ones_like(r), w.reshape(-1, len(r)))


def estimates_of(
    rows: Rows,
    estimator: str = "ips",
    *,
    unit: Tensor | None = None,
    reward_range: tuple[float, float] | None = (0.0, 1.0),
    top: float = float("inf"),
    sequence: Tensor | None = None,
) -> BucketEstimates:
    """Every unit in a bucket of its own; without units every row."""
    policies, n = rows.pe.shape
    f = ESTIMATORS[estimator]
    statistics = {estimator: f, "moments": moments}
    if f is replay:
        statistics["matches"] = matches
    terms = Terms(statistics, policies=policies)
    bucket = torch.arange(n) if unit is None else unit
    size = max(1, int(bucket.max()) + 1) if n else 1
    sums = accumulate(terms, rows, bucket, size)
    return BucketEstimates(estimator, terms, sums, 0, reward_range, (0.0, top), sequence)
