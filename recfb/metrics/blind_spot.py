"""What a model never lets anyone see, and how well it knows what it does not show: probes, since
they read the model's scores of all pairs.

Pass them as `simulate(probes=[...])`; their numbers are in `Run.probes`, one row a round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from recfb.errors import UnboundError
from recfb.metrics.ranking import top_k
from recfb.metrics.utility import calibration_error, ideal

if TYPE_CHECKING:
    from recfb.contracts import Probe, Round

    Predict = Callable[[Round], Tensor | None]


def blind_share(
    score: Tensor, relevant: Tensor, threshold: Tensor, available: Tensor | None = None
) -> Tensor:
    """The share of the relevant items that no user's threshold lets through: -> () float64.

    After Sun, Khenissi, Nasraoui and Shafto (2019), whose exact threshold is not known to us. An
    item counts if it is available and relevant to a user; NaN where there is none.

    Args:
        score: (B, n) of the model.
        relevant: (B, n) bool, by the truth.
        threshold: (B,) a score below it is not shown.
        available: (B or 1, n) bool; None: all.

    >>> score = torch.tensor([[0.9, 0.1, 0.2], [0.8, 0.3, 0.1]])
    >>> relevant = torch.tensor([[False, True, True], [True, False, False]])
    >>> float(blind_share(score, relevant, torch.tensor([0.2, 0.5])).round(decimals=4))
    0.3333
    """
    there = torch.ones_like(relevant) if available is None else available.expand_as(relevant)
    wanted = (relevant & there).any(0)  # (n,)
    seen = ((score >= threshold[:, None]) & there).any(0)  # (n,)
    return (wanted & ~seen).sum().to(torch.float64) / wanted.sum()


def model_scores(done: Round) -> Tensor | None:
    """The scores of the policy's model for all pairs, (B, n_items); None if there is none that was
    trained."""
    policy: Any = done.policy
    while not hasattr(policy, "model") and hasattr(policy, "policy"):
        policy = policy.policy
    try:
        return None if not hasattr(policy, "model") else policy.model.scores(done.context)
    except UnboundError:
        return None


def blind_spot(relevant: float = 0.5, predict: Predict = model_scores) -> Probe:
    """A probe: `blind_spot`, the share of the items relevant to someone that are in nobody's K best
    by the model, K the length of a slate.

    Args:
        relevant: the true value from which an item is relevant.
        predict: the model's scores of a round, (B, n_items); None is not measured.
    """

    def probe(done: Round) -> Mapping[str, Tensor]:
        score = predict(done)
        if score is None:
            return {"blind_spot": torch.full((), torch.nan, dtype=torch.float64)}
        live, k = done.context.available, done.slate.item.shape[1]
        if live is not None:
            score = score.masked_fill(~live, -torch.inf)
        best = top_k(score, k, done.context.user)  # (B, K), ties broken by a hash
        shown = torch.zeros_like(score).scatter_(1, best, 1.0)
        wanted = done.world.values(done.state) >= relevant
        return {"blind_spot": blind_share(shown, wanted, torch.ones(len(shown)), live)}

    return probe


def calibration(predict: Predict = model_scores, bins: int = 10) -> Probe:
    """A probe: `ece` of the predictions over all available pairs, `ece_shown` over what was shown
    in the round, and `selection`, the first less the second.

    Args:
        predict: predicted probabilities of a round, (B, n_items); None is not measured.
        bins: of equal width.
    """

    def probe(done: Round) -> Mapping[str, Tensor]:
        p = predict(done)
        if p is None:
            none = torch.full((), torch.nan, dtype=torch.float64)
            return dict.fromkeys(("ece", "ece_shown", "selection"), none)
        true, item = done.world.values(done.state), done.slate.item
        live = done.context.available
        weight = None if live is None else live.expand_as(true)
        whole = calibration_error(p, true, weight, bins=bins)
        shown = calibration_error(p.gather(1, item), true.gather(1, item), bins=bins)
        return {"ece": whole, "ece_shown": shown, "selection": whole - shown}

    return probe


def headroom(done: Round) -> Mapping[str, Tensor]:
    """A probe: `ideal`, the mean true value of each request's K best available items; `shown`, of
    what it was shown; and `headroom`, the first less the second: the regret of the round."""
    values, item = done.world.values(done.state), done.slate.item
    best = ideal(values, item.shape[1], done.context.available).mean()
    shown = values.gather(1, item).to(torch.float64).mean()
    return {"ideal": best, "shown": shown, "headroom": best - shown}


__all__ = ["blind_share", "blind_spot", "calibration", "headroom", "model_scores"]
