"""Whether the requests that a policy is meant for are those of the log that it is judged on."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import polars as pl
import torch
from torch import Tensor

from recfb.contracts import cat
from recfb.data import Log
from recfb.errors import ConfigError, OverlapWarning
from recfb.evaluation.cell_means import fold_of
from recfb.interop.design import Inputs, rows_of

FAR = 0.9
"""Above this area the requests are others."""


@dataclass(frozen=True)
class Window:
    """How well the requests of a log can be told from those of a window.

    Attributes:
        auc: the chance that a request of the window looks more like one than one of the log does:
            .5 where they are alike, 1 where they have nothing in common.
        inputs: auc of each input alone, the most telling first: columns input, auc.
    """

    auc: float
    inputs: pl.DataFrame

    @property
    def inside(self) -> bool:
        """Whether the log has requests like those of the window: auc at most .9."""
        return self.auc <= FAR


def area(score: Tensor, label: Tensor) -> float:
    """The area under the ROC curve: P(score of a 1 > score of a 0), ties as one half.

    Mann and Whitney (1947), by ranks.

    >>> area(torch.tensor([0.1, 0.4, 0.4, 0.8]), torch.tensor([0, 0, 1, 1]))
    0.875
    """
    _, place, count = torch.unique(score, return_inverse=True, return_counts=True)
    rank = (count.cumsum(0) - (count - 1) / 2).to(torch.float64)[place]  # (n,) mid-ranks from 1
    one = label > 0
    many, others = int(one.sum()), int((~one).sum())
    return float((rank[one].sum() - many * (many + 1) / 2) / (many * others))


def compare(
    log: Log,
    window: Log,
    *,
    folds: int = 3,
    unit: str | None = None,
    seed: int = 0,
) -> Window:
    """Tells the requests of a log from those of a window, such as next month's, by a classifier.

    An evaluation answers for requests like those of its log. Where a logistic regression of
    position and features tells the two apart, cross-fitted by unit, with an
    area above .9, the window has others, and no gate of the log's report can see it (the second
    half of gate G11). Rows are read into memory.

    Args:
        log: what is evaluated.
        window: rows of the requests that the policy is meant for; items and rewards are not read.
        folds: how many classifiers, at least 2.
        unit: the column of clusters; default unit, user or slate, else the row.
        seed: of the folds.

    Raises:
        ConfigError: fewer than 2 folds; a log or window without rows.

    Warns:
        OverlapWarning: the area is above .9.

    >>> early = Log.of({"item": [0] * 400, "reward": [1] * 400, "position": [1, 2] * 200})
    >>> compare(early, early).inside
    True
    """
    if folds < 2 or not len(log) or not len(window):
        raise ConfigError(
            f"comparing needs 2 folds and rows on both sides, found folds={folds}, "
            f"{len(log):,} rows of the log and {len(window):,} of the window."
        )
    blocks = [rows_of(log, unit), rows_of(window, unit)]
    context = cat([block.context for block in blocks])
    label = torch.repeat_interleave(torch.arange(2), torch.tensor([len(b) for b in blocks]))
    fold = fold_of(torch.cat([block.unit for block in blocks]), folds, seed)  # (n,)
    none = torch.zeros(1 + int(context.user.max()), 0, dtype=torch.float64)  # of users
    inputs = Inputs.of(context, none)
    rows = inputs.table(context)  # (n, C)
    auc = area(_told(rows, label, fold), label)
    one = [max(found, 1 - found) for found in (area(column, label) for column in rows.T)]
    names = [f"position {k}" for k in range(1 + inputs.positions)]
    names += [f"features[{k}]" for k in range(inputs.width)]
    table = pl.DataFrame({"input": names, "auc": one})
    found = Window(auc, table.sort("auc", descending=True))
    if not found.inside:
        warnings.warn(
            f"the requests of the window are told from those of the log with an area of {auc:.2f}, "
            f"most of all by {found.inputs['input'][0]}: its value is not that of the window.",
            OverlapWarning,
            stacklevel=2,
        )
    return found


def _told(rows: Tensor, label: Tensor, fold: Tensor) -> Tensor:
    """Log-odds of the window for each row, by a classifier of the other folds: (n,)."""
    from sklearn.linear_model import LogisticRegression

    score = torch.zeros(len(rows), dtype=torch.float64)
    for k in torch.unique(fold).tolist():
        mine = fold == k
        model = LogisticRegression(max_iter=1000, class_weight="balanced")
        model.fit(rows[~mine].numpy(), label[~mine].numpy())
        score[mine] = torch.as_tensor(model.decision_function(rows[mine].numpy())).double()
    return score


__all__ = ["Window", "area", "compare"]
