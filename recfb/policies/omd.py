"""Mirror descent on the simplex, loss estimates, and couplings: the maths of bandits with switching
costs.

Orabona, "A modern introduction to online learning", 2019, chapter 6, has the updates; Zimmert and
Seldin, JMLR 2021, the 1/2-Tsallis entropy; Geulen, Vocking and Winkler, COLT 2010, the shrinking
dartboard. Losses are in [0, 1], tensors are (G, K): a row a learner, a column an item.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Regulariser = Literal["tsallis", "entropy"]
Mode = Literal["bandit_mean", "bandit_one", "full_one", "flex_one", "bernoulli_full"]
Coupling = Literal["independent", "dartboard", "dartboard_shifted", "maximal"]

NO_ANSWER = (
    "{who} asked for outcomes and this world does not answer. Wrap it: Budgeted(world, extra=1000)"
)
LEAST = 1e-300
"""The least probability: above the smallest double, so that it can be divided by."""


def tsallis_solve(loss: Tensor, eta: float | Tensor) -> Tensor:
    """argmin_p <p, loss> - (4 / eta) sum_i sqrt(p_i) over the simplex: (G, K) -> (G, K).

    p_i = 4 / (eta (loss_i - x))^2 with x < min loss such that p sums to 1. With g = eta (loss -
    min loss) / 2 this is p = (u + g)^-2, and u is found by Newton's method on the concave function
    (sum_i (u + g_i)^-2)^(-1/2) = 1, from u = 1, where it is at most 1: monotone, never beyond the
    root, and exact in one step where one item has all the mass. The number of steps is fixed by the
    number of items: the sum is 1 within 1e-14 before it is normalised. For two items the equation
    is quadratic in (u + g / 2)^2, and solved outright.

    >>> p = tsallis_solve(torch.tensor([[0.0, 0.0, 3.0]]).double(), eta=1.0)
    >>> [round(x, 6) for x in p[0].tolist()]  # u = 3/2: (2/3)^2, (2/3)^2, (1/3)^2
    [0.444444, 0.444444, 0.111111]
    """
    g = (loss - loss.amin(1, keepdim=True)) * (0.5 * eta)  # (G, K)
    n = loss.shape[1]
    if n == 2:
        return _between_two(g.amax(1, keepdim=True)).add(g).pow_(-2)
    v = 1 / (1 + g)
    u: float | Tensor = 1.0
    for _ in range(4 if n <= 10 else 6):
        square = v * v
        s = square.sum(1, keepdim=True)  # (G, 1)
        u = u + (s.pow(1.5) - s) / (square * v).sum(1, keepdim=True)
        v = 1 / (u + g)
    p = v * v
    return p / p.sum(1, keepdim=True)


def _between_two(g: Tensor) -> Tensor:
    """u >= 1 with u^-2 + (u + g)^-2 = 1. With h = g / 2 and w = u + h, (w^2 - h^2)^2 =
    2 (w^2 + h^2), so w^2 = h^2 + 1 + r with r = sqrt(4 h^2 + 1), and u = (w^2 - h^2) / (w + h)."""
    h = g * 0.5
    square = h * h
    one = square.mul(4.0).add_(1.0).sqrt_().add_(1.0)  # 1 + r
    return one / square.add_(one).sqrt_().add_(h)


def entropy_step(loss: Tensor, eta: float | Tensor) -> Tensor:
    """argmin_p eta <p, loss> + sum_i p_i ln p_i over the simplex: (G, K) -> (G, K).

    Hedge: exp(-eta loss), normalised. No probability is below 1e-300.

    >>> p = entropy_step(torch.tensor([[0.0, 1.0]]).double(), eta=1.0)
    >>> [round(x, 6) for x in p[0].tolist()]
    [0.731059, 0.268941]
    """
    return (loss * -eta).softmax(1).clamp_(min=LEAST)


def importance(loss: Tensor, item: Tensor, propensity: Tensor, n_items: int) -> Tensor:
    """Unbiased estimates of every item's loss from that of the item played: loss / p on it, else 0.

    (G, 1), (G, 1), (G, 1) -> (G, K). The second moment under p is at most K. A loss that is NaN is
    left out.

    >>> played, p = torch.tensor([[1]]), torch.tensor([[0.25]])
    >>> importance(torch.tensor([[0.5]]), played, p, 3).tolist()
    [[0.0, 2.0, 0.0]]
    """
    value = (loss / propensity).nan_to_num_(nan=0.0).double()
    return value.new_zeros(item.shape[0], n_items).scatter_(1, item, value)


def asked(outcome: Tensor, weight: float) -> Tensor:
    """Estimates of every item's loss from the rewards that were asked for, NaN where they were not:
    (G, K) -> (G, K).

    loss x weight, and 0 where nothing was learnt. The weight is 1 / P(the reward is asked for): 1
    for all items in one round, K for one item at random, 1 / q for all items with probability q.

    >>> asked(torch.tensor([[torch.nan, 0.75]]), weight=2.0).tolist()
    [[0.0, 0.5]]
    """
    return torch.rsub(outcome.double(), weight, alpha=weight).nan_to_num_(nan=0.0)


def couple_dartboard(p_next: Tensor, item: Tensor, estimate: Tensor, eta: float | Tensor) -> Tensor:
    """The law of the next item given this one: keep it with probability exp(-eta estimate), else
    draw anew (the shrinking dartboard).

    (G, K), (G, 1), (G, K) -> (G, K). If this item has law p, p_next is in proportion to
    p exp(-eta estimate) and the estimate is not negative, then the next one has law p_next. Valid
    only where the estimate does not depend on the items played.

    >>> p_next = torch.tensor([[0.25, 0.75]])
    >>> couple_dartboard(p_next, torch.tensor([[0]]), torch.zeros(1, 2), eta=1.0).tolist()
    [[1.0, 0.0]]
    """
    keep = estimate.gather(1, item).mul_(-eta).exp_()  # (G, 1)
    return _stay(p_next, item, keep)


def couple_maximal(p: Tensor, p_next: Tensor, item: Tensor) -> Tensor:
    """The law of the next item given this one that moves least: keep it with probability
    min(1, p_next / p), else draw from the positive part of p_next - p.

    (G, K), (G, K), (G, 1) -> (G, K). The probability of a move is the total variation distance.
    Valid only where p_next does not depend on the items played.

    >>> p, p_next = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.25, 0.75]])
    >>> couple_maximal(p, p_next, torch.tensor([[0]])).tolist()
    [[0.5, 0.5]]
    """
    keep = (p_next / p).gather(1, item).clamp(max=1.0)  # (G, 1)
    gain = (p_next - p).clamp(min=0.0)  # (G, K)
    total = gain.sum(1, keepdim=True)
    fresh = torch.where(total > 0, gain / total.clamp(min=torch.finfo(gain.dtype).tiny), p_next)
    return _stay(fresh, item, keep)


def _stay(fresh: Tensor, item: Tensor, keep: Tensor) -> Tensor:
    """keep on the item, the rest as fresh."""
    keep = keep.to(fresh.dtype)
    return torch.addcmul(fresh, fresh, keep, value=-1.0).scatter_add_(1, item, keep)


def stability(mode: Mode, n_items: int, query: float = 1.0) -> float:
    """What one block adds to the regret of Hedge, over eta: at most 1/8 for losses in [0, 1], which
    looking at all items at once gives, else half the second moment of the estimate under p.

    >>> stability("full_one", 4), stability("flex_one", 4), stability("bernoulli_full", 4, 0.1)
    (0.125, 2.0, 5.0)
    """
    if mode == "full_one":
        return 0.125
    return 0.5 / query if mode == "bernoulli_full" else 0.5 * n_items
