"""How much each logged row counts when a reward model is fitted for one target policy."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from recfb.contracts import Block, Policy
from recfb.errors import LogError, SupportError
from recfb.evaluation.reduction import BLOCK, chance_of

Weighting = Literal["normal", "iw", "mrdr"]
"""Names of the weightings of a fit."""


def fit_weight(pe: Tensor, p: Tensor, weighting: Weighting) -> Tensor:
    """What a row's squared residual counts for in the fit of a reward model: (n,) or (P, n).

    - "normal" 1: the error on the items that the logger shows;
    - "iw" pe / p: the error on the items that the target shows, which is what dm is read from. Su
      et al., "Doubly robust off-policy evaluation with shrinkage" (2020);
    - "mrdr" pe (1 - p) / p^2: the variance of dr, up to a constant, where the target is certain of
      one item; for others `mrdr.variance` is the variance and this is not. Farajtabar, Chow and
      Ghavamzadeh, "More robust doubly robust off-policy evaluation" (2018).

    Args:
        pe: the target's probability of the logged item.
        p: (n,) the propensity of the logged item.

    >>> p = torch.tensor([0.5, 0.25], dtype=torch.float64)
    >>> fit_weight(torch.ones_like(p), p, "iw").tolist()
    [2.0, 4.0]
    >>> fit_weight(torch.ones_like(p), p, "mrdr").tolist()
    [2.0, 12.0]
    """
    if weighting == "normal":
        return torch.ones_like(pe)
    return pe / p if weighting == "iw" else pe * (1 - p) / p.square()


@torch.no_grad()
def chances(block: Block, policy: Policy) -> Tensor:
    """The policy's probability of each logged item, in blocks of 2,048 rows: (n,) float64.

    Raises:
        SupportError: values that are no probabilities.
    """
    who, found = type(policy).__name__, [torch.empty(0, dtype=torch.float64)]
    for start in range(0, len(block), BLOCK):
        found.append(chance_of(policy, block[start : start + BLOCK], who))
    chance = torch.cat(found)
    odd = ~((chance >= 0) & (chance <= 1 + 1e-5))  # (n,) NaN is odd
    if bool(odd.any()):
        first = int(odd.to(torch.int8).argmax())
        raise SupportError(
            f"{who}.prob_of gives {int(odd.sum()):,} of {len(chance):,} logged items no "
            f"probability, the first in row {first:,}: {float(chance[first]):g}. Probabilities "
            "are in [0, 1], and those of a request sum to 1."
        )
    return chance


def row_weights(block: Block, target: Policy, weighting: Weighting) -> Tensor:
    """`fit_weight` of the rows of a block for a target that is bound: (n,).

    Raises:
        LogError: rows without a propensity in (0, 1]; a target that plays none of the items.
    """
    p = block.slate.propensity
    known = torch.full((len(block),), torch.nan, dtype=torch.float64) if p is None else p[:, 0]
    odd = ~((known > 0) & (known <= 1))  # (n,) NaN is odd
    if bool(odd.any()):
        raise LogError(
            f"weighting={weighting!r} divides by propensities, and {int(odd.sum()):,} of "
            f"{len(block):,} rows have none in (0, 1]. Leave them out: "
            'log.filter(pl.col("propensity").is_not_null()), or fit with weighting="normal".'
        )
    weight = fit_weight(chances(block, target), known.to(torch.float64), weighting)
    if not bool((weight > 0).any()):
        raise LogError(
            f"weighting={weighting!r} gives every row the weight 0: {target!r} plays none of the "
            'logged items, or the logger was certain of them. Fit with weighting="normal".'
        )
    return weight


__all__ = ["Weighting", "chances", "fit_weight", "row_weights"]
