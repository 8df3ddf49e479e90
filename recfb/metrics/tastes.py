"""Where tastes go: bubbles, drift and polarisation, from the vectors that the truth holds.

`taste` is the user's taste that produced the clicks of the row, `content` the shown item's, both
columns of arrays. A user's initial taste is that of the first request in the log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from recfb.metrics.cells import Cells, cells_of, first_of, lead, truth_of

if TYPE_CHECKING:
    import polars as pl

    from recfb.data.log import Log


def bubble(log: Log, truth: pl.DataFrame, *, so_far: bool = False) -> Tensor:
    """Mean cosine of a slate's centre and the user's initial taste: (R, T). Its trend is
    `loop_strength.slope`."""
    cells = cells_of(log)
    names, slate = torch.unique(log.tensor("slate"), return_inverse=True)
    content = truth_of(truth, "content")  # (rows, d)
    centre = content.new_zeros(len(names), content.shape[1]).index_add_(0, slate, content)
    cosine = F.cosine_similarity(centre[slate], _home(log, cells, truth), dim=1)  # (rows,)
    return cells.mean(cosine, lead(log), so_far)


def drift(log: Log, truth: pl.DataFrame) -> Tensor:
    """Mean distance |taste(t) - taste(0)| of the users of the round: (R, T). Growth without bound
    is degeneracy: Jiang, Chiappa, Lattimore, Gyorgy and Kohli, AIES 2019."""
    cells = cells_of(log)
    moved = truth_of(truth, "taste") - _home(log, cells, truth)
    return cells.mean(moved.norm(dim=1), lead(log))


def turn(log: Log, truth: pl.DataFrame) -> Tensor:
    """Mean angle between taste(t) and taste(0), in radians, for tastes of fixed length: (R, T)."""
    cells = cells_of(log)
    now, home = truth_of(truth, "taste"), _home(log, cells, truth)
    return cells.mean(angle(now, home), lead(log))


def angle(first: Tensor, second: Tensor) -> Tensor:
    """The angle between vectors, exact for small ones: (..., d), (..., d) -> (...,) in [0, pi].

    2 atan2(|a - b|, |a + b|) of unit vectors. Kahan, 2006.

    >>> round(float(angle(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0]))), 4)
    1.5708
    """
    a, b = (F.normalize(x.to(torch.float64), dim=-1) for x in (first, second))
    return 2 * torch.atan2((a - b).norm(dim=-1), (a + b).norm(dim=-1))


def polarisation(log: Log, truth: pl.DataFrame) -> Tensor:
    """How far the groups are apart, in units of how far their members are: (R, T).

    The mean distance of two groups' centroids of tastes over the mean distance of a user from the
    own centroid. Needs `group` and `taste` in the truth; NaN for one group.
    """
    cells, taste = cells_of(log), truth_of(truth, "taste")
    group = truth_of(truth, "group").to(torch.int64)
    groups, cell_count = int(group.max()) + 1, cells.replications * cells.rounds
    key, weight = cells.cell * groups + group, lead(log)
    size = torch.bincount(key, weights=weight, minlength=cell_count * groups)
    total = taste.new_zeros(cell_count * groups, taste.shape[1])
    centroid = total.index_add_(0, key, taste * weight[:, None]) / size[:, None]
    within = cells.mean((taste - centroid[key]).norm(dim=1), weight)
    first, second = torch.triu_indices(groups, groups, offset=1)
    centroid = centroid.view(cell_count, groups, -1)
    apart = (centroid[:, first] - centroid[:, second]).norm(dim=2)  # (R * T, pairs)
    return cells.fold(apart.nanmean(1)) / within


def _home(log: Log, cells: Cells, truth: pl.DataFrame) -> Tensor:
    """The initial taste of each row's user: (rows, d)."""
    home = first_of(log, cells, truth_of(truth, "taste"))  # (R, U, d)
    return home[cells.run, log.tensor("user")]


__all__ = ["angle", "bubble", "drift", "polarisation", "turn"]
