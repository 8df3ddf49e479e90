"""UCB1: optimism over the means of independent arms."""

from __future__ import annotations

import torch
from torch import Tensor

from recfb.contracts import Context
from recfb.errors import ConfigError
from recfb.policies.counted import Counted
from recfb.policies.drawn import by_row
from recfb.policies.slates import Certain


def ucb1(mean: Tensor, pulls: Tensor, rounds: Tensor, alpha: float = 1.0) -> Tensor:
    """mean + alpha sqrt(2 ln t / n), infinite for an arm without pulls: (G, K), (G, K), (G, 1) ->
    (G, K).

    >>> mean, pulls = torch.tensor([[0.5, 0.0]]), torch.tensor([[8.0, 0.0]])
    >>> ucb1(mean, pulls, torch.tensor([[torch.e**4]])).round(decimals=4).tolist()
    [[1.5, inf]]
    """
    width = rounds.clamp(min=1.0).log_().mul_(2.0) / pulls.clamp(min=1.0)
    return width.sqrt_().mul_(alpha).add_(mean).masked_fill_(pulls == 0.0, torch.inf)


class UCB1(Counted, Certain):
    """Shows the items with the largest mean + alpha sqrt(2 ln t / n); each item once first.

    Auer, Cesa-Bianchi and Fischer, "Finite-time analysis of the multiarmed bandit problem", Machine
    Learning 2002. Regret is at most sum_k 8 ln T / gap_k plus a constant. Items that were not yet
    shown come in the order of a hash of learner and item. Unlike `UCB(Linear())` its width grows
    with the rounds and its means are not shrunken.

    Args:
        alpha: how wide; 1 has the bound.

    Raises:
        ConfigError: a negative alpha, or a slate longer than the items of a request.

    >>> from recfb.data import Log
    >>> UCB1().bind(Log.empty(1, 2)).index(Context(torch.tensor([0]))).tolist()
    [[inf, inf]]
    """

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        if alpha < 0:
            raise ConfigError(f"alpha is not negative, found {alpha}. For greedy: alpha=0.0")
        self.alpha = alpha

    def index(self, context: Context) -> Tensor:
        rounds = self.pulls.sum(1, keepdim=True)  # (G, 1)
        score = by_row(context, ucb1(self.means(), self.pulls, rounds, self.alpha))  # (B, n_items)
        return score if context.candidates is None else score.gather(1, context.candidates)
