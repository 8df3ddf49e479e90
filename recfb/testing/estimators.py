"""Is a function of (rows, mean) an estimator that can be merged?"""

from __future__ import annotations

import torch

from recfb.estimate import Estimator, Rows, average
from recfb.evaluation.shape import Shape
from recfb.evaluation.terms import Terms
from recfb.random import stream


def check_estimator(estimator: Estimator) -> None:
    """One value on the whole log, on blocks of 37 rows, and row by row.

    A reduction that does not go through `mean`, or a branch on data, fails.

    >>> from recfb.estimate import snips
    >>> check_estimator(snips)
    >>> check_estimator(lambda t, mean: mean(t.wr / t.w.mean()))
    Traceback (most recent call last):
    AssertionError: check_estimator: the value on blocks of 37 rows differs from the whole

    Raises:
        AssertionError: the values differ.
    """
    generator = stream(0, "check_estimator")
    n, policies = 300, 2

    def uniform(*size: int) -> torch.Tensor:
        return torch.rand(*size, generator=generator, dtype=torch.float64)

    pe = uniform(policies, n)
    pe[:, ::5] = 1.0  # rows that a deterministic policy picks
    own = torch.arange(n) % 3 == torch.arange(3)[:, None]  # (3, n)
    rows = Rows(
        uniform(n).round(),
        0.1 + 0.9 * uniform(n),
        pe,
        uniform(policies, n),
        uniform(n),
        vm=uniform(policies, n),
        qm=uniform(policies, n),
        pbar=0.1 + 0.9 * uniform(n),
        logger=own.to(torch.float64),
    )
    whole = estimator(rows, average)
    terms = Terms({"it": estimator}, policies=policies, shape=Shape(loggers=3))
    for size in (n, 37, 1):
        blocks = [rows[k : k + size] for k in range(0, n, size)]
        sums = torch.stack([terms.columns(block).sum(-1) for block in blocks]).sum(0)  # (m, P)
        near = torch.allclose(terms.value("it", sums), whole, rtol=1e-10, atol=1e-12)
        assert near, f"check_estimator: the value on blocks of {size} rows differs from the whole"
