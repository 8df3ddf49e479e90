"""Which of several independent Gaussian draws is the largest: a probability, by an integral."""

from __future__ import annotations

import torch
from torch import Tensor

REACH = 6.7
"""Standard deviations beyond which a draw does not count: 2e-11 of the mass."""
STEP = 0.85
"""Of the scale on which the integrand varies; the trapezoid rule is then off by exp(-27)."""
MOST_NODES = 1 << 15
MOST_CELLS = 1 << 21
"""At most so many numbers in one temporary tensor."""
FEW_CELLS = 1 << 14
"""So few that rows are not grouped."""


def p_largest(mean: Tensor, width: Tensor, live: Tensor | None = None) -> Tensor:
    """P(item i has the largest draw) for independent N(mean_i, width_i^2): (B, n) -> (B, n).

        P_i = integral of phi_i(y) prod_{j != i} Phi_j(y) dy

    by the trapezoid rule, whose error falls exponentially for such integrands: with the step a
    fraction of (sum_j width_j^-2)^(-1/2) it is below 1e-9. Rows are grouped by the nodes they need.
    A width below 1 / 16,384 of the range counts as that much; rows where every width is 0 have the
    largest mean, ties in equal parts.

    Args:
        mean: (B, n).
        width: (B, n) standard deviations, not negative.
        live: (B, n) bool: who takes part; None: all. At least one a row.

    >>> mean, width = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.6, 0.8]])
    >>> p_largest(mean, width).round(decimals=6).tolist()  # Phi(-1), Phi(1)
    [[0.158655, 0.841345]]
    """
    mean, width = mean.to(torch.float64), width.to(torch.float64)
    if live is not None:
        mean = mean.masked_fill(~live, -torch.inf)
    low, top = _ends(mean, width)  # (B, 1) each
    least_width = (top - low) * (2 / MOST_NODES)
    if bool((width < least_width).any()):
        width = torch.maximum(width, least_width)
        low, top = _ends(mean, width)
    span = top - low
    plays = mean + REACH * width > low  # (B, n)
    scale = (plays / width.square()).sum(1, keepdim=True).rsqrt()  # (B, 1)
    need = (span / (STEP * scale)).squeeze(1)  # (B,) intervals; NaN where no one has a width
    need = need.nan_to_num_(nan=0.0)
    least, most = (float(x) for x in need.aminmax()) if len(need) else (0.0, 0.0)
    if least > 0 and (most + 1) * mean.numel() <= FEW_CELLS:
        return _integral(mean, width, low, span, int(most) + 2)
    out = (mean == mean.amax(1, keepdim=True)).to(torch.float64)
    out /= out.sum(1, keepdim=True)
    level = need.clamp(1, MOST_NODES).log2().mul(2).ceil()  # (B,) in half powers of two
    for each in sorted(set(level.tolist())):
        rows = ((need > 0) & (level == each)).nonzero().squeeze(1)
        nodes = int(2 ** (each / 2)) + 1
        for part in rows.split(max(1, MOST_CELLS // (nodes * mean.shape[1]))):
            out[part] = _integral(mean[part], width[part], low[part], span[part], nodes)
    return out


def _ends(mean: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
    """Where the largest draw lies: someone is surely above the first, no one above the second."""
    reach = REACH * width
    return (mean - reach).amax(1, keepdim=True), (mean + reach).amax(1, keepdim=True)


def _integral(mean: Tensor, width: Tensor, low: Tensor, span: Tensor, nodes: int) -> Tensor:
    """(b, n) for rows that share the number of nodes."""
    y = low + span * torch.linspace(0, 1, nodes, dtype=low.dtype, device=low.device)  # (b, N)
    z = (y[:, None] - mean[..., None]) / width[..., None]  # (b, n, N); +inf where not live
    below = torch.special.ndtr(z).clamp_(min=1e-30)  # a draw that is so low has no density here
    others = below.prod(1, keepdim=True) / below  # (b, n, N)
    density = z.square_().mul_(-0.5).exp_().div_(width[..., None])  # (b, n, N)
    mass = density.mul_(others).sum(2)  # (b, n)
    p: Tensor = mass / mass.sum(1, keepdim=True)
    return p
