"""The best fair policy in hindsight, by a linear programme."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from recfb.errors import ConfigError


def fair_mixture(
    answers: Tensor, labels: Tensor, limit: Tensor, *, tolerance: float = 1e-9
) -> tuple[Tensor, float]:
    """The mixture of rules that errs least among those no auditor objects to, and its mistakes.

        min_w  sum_h w_h sum_i 1[h(x_i) != y_i] / T   s.t.   pi(x) - pi(x') <= limit(x, x')

    for all pairs of a round, pi = sum_h w_h h. Bechavod and Roth, ICML 2023 (the comparator). For
    the strictest panel limit = min_j d_j + alpha - eps; for the most lenient one, max_j.
    Constraints are added as they are violated.

    Args:
        answers: (T, k, H) 0/1, what each rule says.
        labels: (T, k) 0/1.
        limit: (T, k, k) by how much the first of a pair may be treated better.
        tolerance: by how much a constraint may be missed.

    Returns:
        (H,) weights, and mistakes a round.

    Raises:
        ConfigError: no mixture meets the limits.

    >>> answers = torch.tensor([[[0.0, 1.0, 1.0], [0.0, 1.0, 0.0]]])  # nobody, everybody, x alone
    >>> limit = torch.full((1, 2, 2), 0.25)
    >>> w, mistakes = fair_mixture(answers, torch.tensor([[1.0, 0.0]]), limit)
    >>> round(float(w[2]), 6), round(mistakes, 6)
    (0.25, 0.75)
    """
    from scipy.optimize import linprog  # heavy, and for this comparator only

    T, k, H = answers.shape
    x = answers.to(torch.float64)
    cost = (x != labels.to(torch.float64)[:, :, None]).to(torch.float64).sum((0, 1)) / T  # (H,)
    rows: list[np.ndarray] = []
    bounds: list[np.ndarray] = []
    used = torch.zeros(T, k, k, dtype=torch.bool)
    while True:
        found = linprog(
            cost.numpy(),
            A_ub=np.concatenate(rows) if rows else None,
            b_ub=np.concatenate(bounds) if bounds else None,
            A_eq=np.ones((1, H)),
            b_eq=[1.0],
            method="highs",
        )
        if found.status != 0:
            raise ConfigError(
                "no mixture of these rules meets the limits; limits of at least 0 are met by a "
                f"constant rule. The smallest limit is {float(limit.min()):g}."
            )
        w = torch.from_numpy(np.asarray(found.x))
        pi = x @ w  # (T, k)
        over = pi[:, :, None] - pi[:, None, :] - limit  # (T, k, k)
        new = (over > tolerance) & ~used
        if not bool(new.any()):
            return w, float(cost @ w)
        t, i, j = new.nonzero(as_tuple=True)
        worst = over[t, i, j].topk(min(200, len(t))).indices
        t, i, j = t[worst], i[worst], j[worst]
        used[t, i, j] = True
        rows.append((x[t, i] - x[t, j]).numpy())
        bounds.append(limit[t, i, j].to(torch.float64).numpy())
