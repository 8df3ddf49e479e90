"""Where a reward model is wrong: its residuals by position and by decile of the prediction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import polars as pl
import torch
from torch import Tensor

from recfb.contracts import Model, Policy
from recfb.data.door import Problems
from recfb.errors import LogError
from recfb.estimate import dr
from recfb.evaluation.binding import ready
from recfb.evaluation.prepare import Inputs
from recfb.evaluation.reduction import RewardModel, known_rows, reduce
from recfb.evaluation.state import Facts, Faults, State, merge_faults
from recfb.evaluation.work import Part, door_faults, ordered

if TYPE_CHECKING:
    from recfb.data import Log

BINS = 10
"""Bins of the prediction, of equal counts."""

_SCHEMA: dict[str, Any] = {
    "policy": pl.String,
    "by": pl.String,
    "group": pl.Int64,
    "rows": pl.Int64,
    "prediction": pl.Float64,
    "residual": pl.Float64,
    "se": pl.Float64,
    "z": pl.Float64,
    "ess": pl.Float64,
}


def residuals(
    log: Log,
    policies: Mapping[str, Policy],
    model: Model | None = None,
    *,
    unit: str | None = None,
    seed: int = 0,
    executor: Executor | None = None,
) -> pl.DataFrame:
    """What a reward model misses: mean residuals of the logged rows, and weighted to each policy.

    D = sum w e / sum w with e = r - q, w = 1 under the logger and pe / p under a policy. A model
    that is right has D near 0 in every group. A D under a policy is the error of its dm, as gate
    G10 reads it over all rows; dr repairs it. A D that rises or falls over the deciles says that
    predictions are too flat, or too steep. It cannot find errors at items that were never logged,
    nor those that cancel within a group.

    Compact rows are held in memory: two numbers a row and one a policy.

    Args:
        log: rows with item and reward; propensities where policies are asked for.
        policies: name -> policy, as in `recfb.evaluate`.
        model: as `reward_model` there: a `CrossFit`, fitted to this log if it is not yet fitted; a
            model of another log; None: cross-fitted cell means.
        unit: the column of clusters; default unit, user or slate, else the row.
        seed: of the folds.
        executor: parts of the log and folds of the model are worked on side by side.

    Returns:
        policy (null: the logger, all rows alike), by ("all", "position" or "decile"), group (the
        position; the decile of the prediction at the logged item, 1 the lowest: equal predictions
        are in one), rows, mean prediction, residual D, its standard error by clusters, z and the
        effective sample size. What is undefined is null.

    Raises:
        LogError: bad rows, or some rows without a propensity, with counts.
        SupportError: a policy's rows are no distribution, with counts.

    >>> from recfb import Log
    >>> from recfb.policies import Uniform
    >>> rows = {"item": [0, 1] * 300, "reward": [1, 0] * 300, "propensity": [0.5] * 600}
    >>> table = residuals(Log.of({**rows, "unit": range(600)}), {"uniform": Uniform()})
    >>> flat = table.filter(by="decile", policy="uniform")["residual"]  # shrunk means are too flat
    >>> round(flat[0], 1), round(flat[-1], 1)
    (-0.1, 0.1)
    """
    bound = {
        name: ready(policy, log, f"policies[{name!r}]", seed) for name, policy in policies.items()
    }
    found = Inputs({"dr": dr}, bound, model, None, unit, seed).prepare(log, executor)
    scan = partial(_scan, policies=bound, model=found.predictor, unit=unit, n_items=log.n_items)
    parts = list(ordered(scan, log.parts(), executor)) if len(log) else []
    State(Facts(""), faults=merge_faults(*(part.faults for part in parts))).raise_any()
    rows = _table(_Rows.of(parts), list(policies)) if parts else []
    return pl.DataFrame(list(rows), schema=_SCHEMA, orient="row")


@dataclass(frozen=True)
class _Rows:
    """Rows with a known reward."""

    e: Tensor  # (n,) residual at the logged item
    q: Tensor  # (n,) prediction there
    w: Tensor  # (1 + P, n) weights, the logger's ones first
    unit: Tensor  # (n,), as a whole numbers from 0
    position: Tensor | None  # (n,)
    faults: Faults

    @classmethod
    def of(cls, parts: list[_Rows]) -> _Rows:
        """All parts as one; some rows without a propensity are an error."""
        position = [part.position for part in parts if part.position is not None]
        whole = cls(
            torch.cat([part.e for part in parts]),
            torch.cat([part.q for part in parts]),
            torch.cat([part.w for part in parts], 1),
            torch.unique(torch.cat([part.unit for part in parts]), return_inverse=True)[1],
            torch.cat(position) if position else None,
            {},
        )
        gone = int(whole.w.isnan().any(0).sum())
        if 0 < gone < len(whole.e):
            raise LogError(
                f"{gone:,} of {len(whole.e):,} rows have no propensity, which weights divide by. "
                'Leave them out: log.filter(pl.col("propensity").is_not_null()).'
            )
        return whole


def _scan(
    part: Part,
    *,
    policies: Mapping[str, Policy],
    model: RewardModel | None,
    unit: str | None,
    n_items: int,
) -> _Rows:
    problems = Problems()
    block = part.record(problems, unit)
    keep = known_rows(block)
    block = block[keep]
    reduced = reduce(block, policies, model, n_items=n_items, place=keep)
    rows = reduced.rows
    assert rows.q is not None
    w = torch.cat([torch.ones_like(rows.r)[None], rows.w])  # (1 + P, n)
    faults = merge_faults(door_faults(problems), reduced.faults)
    return _Rows(rows.e, rows.q, w, block.unit, block.context.position, faults)


def deciles(q: Tensor, bins: int = BINS) -> Tensor:
    """Bins of equal counts by value, from 1; equal values are in one bin. (n,)

    >>> deciles(torch.tensor([0.4, 0.1, 0.1, 0.9]), bins=4).tolist()
    [3, 1, 1, 4]
    """
    below = torch.searchsorted(q.sort().values, q)  # (n,) values that are less
    return 1 + bins * below // max(1, len(q))


def _table(rows: _Rows, policies: list[str]) -> Iterator[tuple[object, ...]]:
    groupings = {"all": torch.zeros_like(rows.unit)}
    if rows.position is not None:
        groupings["position"] = rows.position
    groupings["decile"] = deciles(rows.q)
    for k, name in enumerate([None, *policies]):
        for by, code in groupings.items():
            group, place = torch.unique(code, return_inverse=True)
            count = torch.bincount(place).tolist()
            means = weighted_means(rows.e, rows.q, rows.w[k], place, rows.unit)  # five (G,)
            for g, values in enumerate(torch.stack(means, 1).tolist()):
                label = None if by == "all" else int(group[g])
                yield name, by, label, count[g], *map(_plain, values)


def _plain(value: float) -> float | None:
    return value if abs(value) < float("inf") else None


def weighted_means(
    e: Tensor, q: Tensor, w: Tensor, code: Tensor, unit: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Of each group: mean prediction, D = sum w e / sum w, its standard error, z, and effective
    sample size, all (G,).

    The error is that of a ratio by clusters: with u_c = sum over rows of cluster c of w (e - D), it
    is sqrt(sum u_c^2 C / (C - 1)) / sum w; NaN for a single cluster.

    Args:
        e: (n,) residuals.
        q: (n,) predictions.
        w: (n,) weights.
        code: (n,) the row's group, 0 to G - 1.
        unit: (n,) the row's cluster, a number from 0.

    >>> one, zero = torch.ones(2, dtype=torch.float64), torch.zeros(2, dtype=torch.int64)
    >>> e = torch.tensor([1.0, 0.0], dtype=torch.float64)
    >>> [float(x) for x in weighted_means(e, one, one, zero, torch.tensor([0, 1]))[:3]]
    [1.0, 0.5, 0.5]
    """
    many = 1 + int(code.max()) if len(code) else 0
    total = _sum(w, code, many)  # (G,)
    mean = _sum(w * e, code, many) / total
    size = 1 + int(unit.max()) if len(unit) else 1
    pair, place = torch.unique(code * size + unit, return_inverse=True)  # (group, cluster)
    u = _sum(w * (e - mean[code]), place, len(pair))
    group = pair.div(size, rounding_mode="floor")
    clusters = torch.bincount(group, minlength=many)
    spread = _sum(u.square(), group, many) * clusters / (clusters - 1)  # 0 / 0 of one cluster
    se = spread.sqrt() / total
    return (
        _sum(w * q, code, many) / total,
        mean,
        se,
        mean / se,
        total.square() / _sum(w * w, code, many),
    )


def _sum(x: Tensor, code: Tensor, many: int) -> Tensor:
    return torch.zeros(many, dtype=torch.float64).index_add_(0, code, x)


__all__ = ["deciles", "residuals", "weighted_means"]
