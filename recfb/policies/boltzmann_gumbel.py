"""Boltzmann-Gumbel exploration: the softmax's noise, scaled by what is known of each arm."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from recfb.contracts import Context, Slate
from recfb.errors import ConfigError
from recfb.policies.counted import Counted
from recfb.policies.drawn import by_row
from recfb.policies.slates import check_supply

REACH = (-3.4, 28.0)
"""Scales outside which a Gumbel variable has less than 1e-12 of its mass."""
STEP = 0.35
"""Of the least scale; the trapezoid rule is then off by exp(-28)."""


def gumbel_largest(mean: Tensor, scale: Tensor, live: Tensor) -> Tensor:
    """P(item i has the largest mean_i + scale_i Gumbel) among the live ones: (G, K) -> (G, K).

        P_i = integral of f_i(y) prod_{j != i} F_j(y) dy,  F(z) = exp(-exp(-z))

    by the trapezoid rule. With equal scales this is the softmax of mean / scale.

    >>> mean, scale = torch.tensor([[0.0, 1.0]]).double(), torch.ones(1, 2).double()
    >>> gumbel_largest(mean, scale, scale > 0).round(decimals=6).tolist()
    [[0.268941, 0.731059]]
    """
    low = (mean + REACH[0] * scale).masked_fill(~live, torch.inf).amin()
    top = (mean + REACH[1] * scale).masked_fill(~live, -torch.inf).amax()
    step = STEP * scale.masked_fill(~live, torch.inf).amin()
    nodes = int(((top - low) / step).ceil()) + 1
    y = torch.linspace(float(low), float(top), nodes, dtype=mean.dtype, device=mean.device)
    z = (y - mean[..., None]) / scale[..., None]  # (G, K, N)
    fall = (-z).exp().masked_fill(~live[..., None], 0.0)  # minus the log of F
    log = -fall.sum(1, keepdim=True) - z - scale.log()[..., None]  # (G, K, N) of f_i prod F_j
    p = log.exp().sum(2) * live  # (G, K), up to the step
    return p / p.sum(1, keepdim=True)


class BoltzmannGumbel(Counted):
    """Shows the items with the largest mean + scale Gumbel / sqrt(n); each item once first.

    Cesa-Bianchi, Gentile, Lugosi and Neu, "Boltzmann exploration done right", NIPS 2017: any
    monotone temperature of a softmax (`Softmax`) fails on some instance; this does not, and its
    regret is of the order K ln^2 T / gap. Items that were not yet shown come first, in random
    order. `probs` is an integral, `act` draws without it and logs no propensity.

    Args:
        scale: of the noise, in units of the reward.

    Raises:
        ConfigError: a scale that is not positive, or a slate longer than the items of a request.

    >>> from recfb.data import Log
    >>> BoltzmannGumbel().bind(Log.empty(1, 2)).probs(Context(torch.tensor([0]))).tolist()
    [[0.5, 0.5]]
    """

    def __init__(self, scale: float = 0.5) -> None:
        super().__init__()
        if not scale > 0:
            raise ConfigError(f"the scale of the noise is positive, found {scale}. Try scale=0.5")
        self.scale = scale

    def probs(self, context: Context) -> Tensor:
        live = self._live(context)  # (B, n_items)
        new = (live & (by_row(context, self.pulls) == 0)).to(torch.float64)
        fresh = new.amax(1, keepdim=True) > 0  # (B, 1)
        mean = by_row(context, self.means())
        spread = by_row(context, self.scale / self.pulls.clamp(min=1.0).sqrt())
        p = gumbel_largest(mean, spread, live)
        return torch.where(fresh, new / new.sum(1, keepdim=True).clamp(min=1), p)

    def act(self, context: Context, generator: Generator, *, k: int = 1) -> Slate:
        check_supply(context, self.n_items, k)
        live = self._live(context)
        u = torch.rand(live.shape, generator=generator, dtype=torch.float64, device=live.device)
        gumbel = -(-u.clamp(min=torch.finfo(u.dtype).tiny).log()).log()  # (B, n_items)
        pulls = by_row(context, self.pulls)
        score = by_row(context, self.means()) + self.scale * gumbel / pulls.clamp(min=1.0).sqrt()
        score = torch.where(pulls > 0, score, NEVER + gumbel).masked_fill(~live, -torch.inf)
        return Slate(score.topk(k, dim=1).indices)

    def propensities(self, context: Context, item: Tensor) -> Slate:
        """Those of `probs` are not what `act` logs: none."""
        return Slate(item)

    def _live(self, context: Context) -> Tensor:
        shape, device = (len(context), self.n_items), context.user.device
        live = torch.ones(shape, dtype=torch.bool, device=device)
        if context.available is not None:
            live = live & context.available
        if context.candidates is not None:
            live = live & torch.zeros_like(live).scatter_(1, context.candidates, True)
        return live


NEVER = 1e9
"""What an item without pulls has ahead of all others."""
