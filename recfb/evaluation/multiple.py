"""Many tests at once."""

from __future__ import annotations

import torch
from torch import Tensor

from recfb.errors import ConfigError


def benjamini_hochberg(p: Tensor, level: float) -> Tensor:
    """Which of m hypotheses are rejected with a false discovery rate of at most `level`: (m,) bool.

    With p_(1) <= ... <= p_(m) the k smallest are rejected, k the largest with p_(k) <= k level / m.
    The rate holds for independent tests and for positively dependent ones. Benjamini and Hochberg,
    "Controlling the false discovery rate", J. R. Stat. Soc. B 57 (1995), eq. 1.

    Args:
        p: (m,) p-values; NaN for a test that was not made: it is never rejected and not counted.
        level: of the false discovery rate, in (0, 1).

    Raises:
        ConfigError: a level outside (0, 1).

    >>> benjamini_hochberg(torch.tensor([0.02, 0.5, 0.01, float("nan")]), 0.05).tolist()
    [True, False, True, False]
    """
    if not 0 < level < 1:
        raise ConfigError(f"level is a rate in (0, 1), found {level}. Try 0.01.")
    m = int((~p.isnan()).sum())
    order = p.sort().values[:m].to(torch.float64)  # (m,) NaN comes last
    bound = torch.arange(1, m + 1, dtype=torch.float64, device=p.device) * level / max(m, 1)
    passed = (order <= bound).nonzero()[:, 0]
    if not len(passed):
        return torch.zeros_like(p, dtype=torch.bool)
    return p.to(torch.float64) <= order[passed[-1]]


__all__ = ["benjamini_hochberg"]
