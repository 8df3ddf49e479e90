"""What users get: true utility of what they are shown and click, and what they could have got."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from recfb.errors import ConfigError
from recfb.metrics.cells import blocks, cells_of, lead, requests, truth_of

if TYPE_CHECKING:
    import polars as pl

    from recfb.data.log import Log

IDEAL_CELLS = 1 << 22


def shown(log: Log, truth: pl.DataFrame, column: str, *, so_far: bool = False) -> Tensor:
    """The mean of a column of the truth over what was shown: (R, T)."""
    cells = cells_of(log)
    return cells.mean(truth_of(truth, column), torch.ones(len(log), dtype=torch.float64), so_far)


def consumed(log: Log, truth: pl.DataFrame, column: str, *, so_far: bool = False) -> Tensor:
    """The mean of a column of the truth over what was really clicked: (R, T); NaN where nothing
    was."""
    hit = (truth_of(truth, "reward") > 0).to(torch.float64)
    return cells_of(log).mean(truth_of(truth, column), hit, so_far)


def regret(log: Log, truth: pl.DataFrame, *, so_far: bool = True) -> Tensor:
    """Pseudo-regret a request, best - value of what was shown: summed over the rounds so far, or of
    the round: (R, T)."""
    cells = cells_of(log)
    lost = truth_of(truth, "best") * lead(log) - truth_of(truth, "value")  # (rows,)
    each = cells.sum(lost) / requests(log, cells)
    return each.cumsum(1) if so_far else each


def welfare(
    log: Log, truth: pl.DataFrame, *, column: str = "relevance", so_far: bool = False
) -> Tensor:
    """The sum over users of the true utility of what they clicked: (R, T).

    Args:
        log: of a run.
        truth: of the same run.
        column: where the truth holds the utility.
        so_far: of all rounds so far.
    """
    hit = (truth_of(truth, "reward") > 0).to(torch.float64)
    total = cells_of(log).sum(truth_of(truth, column) * hit)
    return total.cumsum(1) if so_far else total


def log_welfare(log: Log, truth: pl.DataFrame, *, column: str = "relevance") -> Tensor:
    """sum_u log(1 + W_u), W_u the utility of what a user clicked so far: (R, T).

    What goes to those who have little counts more. A user's utility is not negative.

    Raises:
        ConfigError: a utility at or below -1 in total.
    """
    hit = (truth_of(truth, "reward") > 0).to(torch.float64)
    gain, user, found = truth_of(truth, column) * hit, log.tensor("user"), []
    before: Tensor | float = 0.0
    for block in blocks(cells_of(log), log.n_users):
        total = block.count(user, gain, log.n_users).cumsum(1) + before  # (R, t, U)
        if bool((total <= -1).any()):
            raise ConfigError(
                f"log_welfare needs utilities that are not negative, but {column!r} adds up to "
                f"{float(total.min()):.3g} for a user. Take welfare instead."
            )
        before = total[:, -1:]
        found.append(total.log1p().sum(2))
    return torch.cat(found, 1)


def ideal(values: Tensor, k: int, available: Tensor | None = None) -> Tensor:
    """The mean of the k largest available values of each row: (B, n) -> (B,), chunk by chunk.

    Fewer than k available values give their mean.

    >>> ideal(torch.tensor([[0.125, 0.5, 0.25]]), 2).tolist()
    [0.375]
    """
    rows, n = values.shape
    found = torch.empty(rows, dtype=torch.float64, device=values.device)
    for part in torch.split(torch.arange(rows, device=values.device), max(1, IDEAL_CELLS // n)):
        x = values[part].to(torch.float64)
        if available is not None:
            x = x.masked_fill(~available.expand(rows, -1)[part], -torch.inf)
        top = x.topk(min(k, n), dim=1).values  # (b, k)
        found[part] = top.where(top.isfinite(), torch.nan).nanmean(1)
    return found


def calibration_error(
    predicted: Tensor, true: Tensor, weight: Tensor | None = None, *, bins: int = 10
) -> Tensor:
    """Expected calibration error of probabilities, over bins of equal width: any shape -> ().

        ECE = sum_b n_b / N |mean predicted in b - mean true in b|

    Naeini, Cooper and Hauskrecht, AAAI 2015. Over all pairs less over those that were shown: what
    selection hides.

    Args:
        predicted: probabilities.
        true: probabilities or outcomes, of the same shape.
        weight: of each value; None: 1. 0 leaves it out.
        bins: how many.

    Raises:
        ConfigError: predictions outside [0, 1].

    >>> float(calibration_error(torch.tensor([0.25, 0.25]), torch.tensor([1.0, 0.0])))
    0.25
    """
    p, y = predicted.to(torch.float64).flatten(), true.to(torch.float64).flatten()
    w = torch.ones_like(p) if weight is None else weight.to(torch.float64).flatten()
    used = w > 0
    p, y, w = p[used], y[used], w[used]
    if not bool(((p >= 0) & (p <= 1)).all()):
        raise ConfigError(
            f"calibration is about probabilities, found predictions in "
            f"[{float(p.min()):.3g}, {float(p.max()):.3g}]. For logits: scores.sigmoid()"
        )
    place = (p * bins).to(torch.int64).clamp(max=bins - 1)
    gap = torch.bincount(place, weights=w * (p - y), minlength=bins)
    return gap.abs().sum() / w.sum()


__all__ = ["calibration_error", "consumed", "ideal", "log_welfare", "regret", "shown", "welfare"]
