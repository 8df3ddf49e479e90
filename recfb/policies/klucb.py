"""KL-UCB: optimism in the geometry of Bernoulli rewards."""

from __future__ import annotations

import torch
from torch import Tensor

from recfb.contracts import Context
from recfb.errors import ConfigError
from recfb.policies.counted import Counted
from recfb.policies.drawn import by_row
from recfb.policies.slates import Certain

STEPS = 8
LEAST = 1e-12


def bernoulli_kl(p: Tensor, q: Tensor) -> Tensor:
    """Divergence of Bernoulli distributions, p ln(p / q) + (1 - p) ln((1 - p) / (1 - q)).

    >>> p, q = torch.tensor([0.5]).double(), torch.tensor([0.25]).double()
    >>> bernoulli_kl(p, q).round(decimals=6).tolist()
    [0.143841]
    """
    p, q = p.clamp(LEAST, 1 - LEAST), q.clamp(LEAST, 1 - LEAST)
    return p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()


def klucb(mean: Tensor, budget: Tensor) -> Tensor:
    """max {q >= mean: kl(mean, q) <= budget}, elementwise in float64, by Newton's method.

    kl is convex in q, so from above the steps fall to the root and never pass it. They begin at the
    lesser of two bounds: mean + sqrt(budget / 2), by Pinsker's inequality, and the root of
    p ln p + (1 - p) ln((1 - p) / (1 - q)) = budget, which is near where q is near 1.

    >>> mean, budget = torch.tensor([[0.5, 0.1, 0.9], [0.2, 0.2, 0.4]]).double()
    >>> klucb(mean, budget).round(decimals=5).tolist()
    [0.78709, 0.37839, 0.99929]
    """
    mean, budget = mean.to(torch.float64), budget.to(torch.float64)
    p = mean.clamp(LEAST, 1 - LEAST)
    rest = 1 - p
    most = budget - p * p.log()
    limit = most - rest * rest.log()  # of -p ln q - (1 - p) ln(1 - q)
    q = torch.minimum(mean + (budget / 2).sqrt(), 1 - rest * (-most / rest).exp())
    for _ in range(STEPS):
        q = torch.maximum(q, p).clamp_(max=1 - LEAST)
        excess = (limit + p * q.log() + rest * (1 - q).log()).clamp_(max=0.0)  # budget - kl
        q = q + excess * q * (1 - q) / (q - p).clamp_(min=LEAST)
    return torch.maximum(q, mean)


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
        log = self.pulls.sum(1, keepdim=True).clamp(min=1.0).log()  # (G, 1) ln t
        bound = log + self.c * log.clamp(min=1.0).log()
        upper = klucb(self.means(), bound / self.pulls.clamp(min=1.0))  # (G, n_items)
        score = by_row(context, torch.where(self.pulls > 0, upper, torch.inf))  # (B, n_items)
        return score if context.candidates is None else score.gather(1, context.candidates)
