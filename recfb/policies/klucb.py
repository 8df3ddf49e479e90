"""KL-UCB: optimism in the geometry of Bernoulli rewards."""

from __future__ import annotations

import torch
from torch import Tensor

from recfb.contracts import Context
from recfb.errors import ConfigError
from recfb.policies.counted import Counted
from recfb.policies.drawn import by_row
from recfb.policies.slates import Certain

STEPS = 2
LEAST = 1e-12
FLAT = 1e-15
"""The least square of a slope (times q) that is told from errors of rounding."""


def bernoulli_kl(p: Tensor, q: Tensor) -> Tensor:
    """Divergence of Bernoulli distributions, p ln(p / q) + (1 - p) ln((1 - p) / (1 - q)).

    >>> p, q = torch.tensor([0.5]).double(), torch.tensor([0.25]).double()
    >>> bernoulli_kl(p, q).round(decimals=6).tolist()
    [0.143841]
    """
    p, q = p.clamp(LEAST, 1 - LEAST), q.clamp(LEAST, 1 - LEAST)
    return p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()


def klucb(mean: Tensor, budget: Tensor) -> Tensor:
    """max {q >= mean: kl(mean, q) <= budget}, elementwise in float64, by two steps of third order.

    In y = ln(1 - q) the slope of kl is (p - q) / q and its curvature p (1 - q) / q^2. A step goes
    to the root of the parabola that touches kl - budget: kl is one near p, where it is quadratic,
    and for p = 0, where it is linear, and the start is right in both cases. After two steps q is
    off by less than 1e-9, or by the square root of rounding where the budget is next to nothing.

    >>> mean, budget = torch.tensor([[0.5, 0.1, 0.9], [0.2, 0.2, 0.4]]).double()
    >>> klucb(mean, budget).round(decimals=5).tolist()
    [0.78709, 0.37839, 0.99929]
    """
    mean, budget = mean.double(), budget.double()
    p = mean.clamp(LEAST, 1 - LEAST)
    rest = torch.rsub(p, 1.0)
    log_rest, far = rest.log(), budget / rest
    base = (p.xlogy(p) - budget).addcmul_(rest, log_rest)
    y = log_rest - (p * far).mul_(2.0).sqrt_().add_(far)
    for _ in range(STEPS):
        q = y.expm1().neg_()
        over, bend = q - p, torch.addcmul(p, p, q, value=-1.0)
        excess = torch.addcmul(base, rest, y, value=-1.0).addcmul_(p, q.log(), value=-1.0)
        root = over.square().addcmul_(bend, excess, value=-2.0).clamp_(min=FLAT).sqrt_()
        y.addcdiv_(excess.mul_(q), root.add_(over), value=2.0)
    return torch.maximum(y.expm1_().neg_(), mean)


class KLUCB(Counted, Certain):
    """Shows the items with the largest mean that is not too unlikely, n kl(mean, q) <= ln t +
    c ln ln t; each item once first. Rewards are in [0, 1].

    Garivier and Cappe, "The KL-UCB algorithm for bounded stochastic bandits and beyond", COLT 2011.
    For Bernoulli rewards regret grows as ln T sum_k gap_k / kl(mean_k, best), the least there is.

    Args:
        c: 0 in practice, 3 in the proof.

    Raises:
        ConfigError: a negative c, or a slate longer than the items of a request.

    >>> from recfb.data import Log
    >>> KLUCB().bind(Log.empty(1, 2)).index(Context(torch.tensor([0]))).tolist()
    [[inf, inf]]
    """

    def __init__(self, c: float = 0.0) -> None:
        super().__init__()
        if c < 0:
            raise ConfigError(f"c is at least 0, found {c}. In practice: c=0.0")
        self.c = c

    def index(self, context: Context) -> Tensor:
        pulls = self.pulls
        bound = pulls.sum(1, keepdim=True).clamp_(min=1.0).log_()  # (G, 1) ln t
        if self.c:
            bound = bound + self.c * bound.clamp(min=1.0).log()
        some = pulls.clamp(min=1.0)
        upper = klucb(self.total / some, bound / some)  # (G, n_items)
        score = by_row(context, upper.masked_fill_(pulls == 0.0, torch.inf))  # (B, n_items)
        return score if context.candidates is None else score.gather(1, context.candidates)
