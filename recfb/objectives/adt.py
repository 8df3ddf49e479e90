"""Adaptive denoising training: clicks with a large loss are left out, or weigh less."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from recfb.contracts import Batch, Objective, Pairing, Score, Step
from recfb.objectives.bce import bce
from recfb.objectives.bpr import bpr

Form = Literal["pointwise", "pairwise"]


def plain(score: Tensor, batch: Batch, form: Form) -> Tensor:
    """Losses before denoising: log losses (B, 1 + S), or those of pairs with a negative (B, S).

    >>> one = torch.zeros(1, 2)
    >>> plain(one, Batch(torch.zeros(1), one, torch.tensor([[1.0, 0.0]])), "pairwise")
    tensor([[0.6931]])
    """
    if form == "pointwise":
        return bce(score, batch.reward)
    return bpr(score[:, :1], score[:, 1:])


def truncated(loss: Tensor, key: Tensor, share: float) -> Tensor:
    """Losses without the `share` of them that has the largest keys: 0 there, the rest scaled up.

    Their mean is the mean of what is left. The number left out is rounded down.

    >>> truncated(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 3.0]), 0.5).tolist()
    [2.0, 0.0]
    """
    n = key.numel()
    out = int(share * n)
    if out == 0:
        return loss
    keep = torch.full((n,), n / (n - out), dtype=loss.dtype, device=loss.device)
    keep[key.detach().reshape(-1).topk(out).indices] = 0.0
    return loss * keep.view_as(loss)


def reweighted(loss: Tensor, beta: float) -> Tensor:
    """p^beta (-log p) of losses -log p, the weight p^beta without gradient.

    >>> reweighted(torch.tensor([0.0, 1.0]), 0.0).tolist()
    [0.0, 1.0]
    """
    return torch.exp(-beta * loss.detach()) * loss


class TCE(Objective):
    """Estimates P(click) without the clicks of each batch that fit worst: truncated cross entropy.

    Wang et al., "Denoising implicit feedback for recommendation" (2021). The losses of clicks are
    ranked over the batch and the largest left out; sampled negatives stay. The share grows linearly
    to `drop`. It is a share of the whole batch: with one negative a click, 0.1 leaves out a fifth
    of the clicks. Losses are (B, 1 + S), or (B, S) for pairs.

    Args:
        drop: the share left out in the end, below 1.
        ramp: steps until then.
        form: "pointwise" log losses of clicks and negatives; "pairwise" of a click being above a
            negative, where the largest losses of all pairs are left out.

    >>> TCE(drop=0.2)
    TCE(drop=0.2)
    """

    needs: ClassVar[tuple[Pairing, ...]] = ("free_negative",)

    def __init__(self, drop: float = 0.1, *, ramp: int = 30_000, form: Form = "pointwise") -> None:
        super().__init__()
        self.drop, self.ramp, self.form = drop, ramp, form

    def forward(self, score: Score, batch: Batch, step: Step = Step()) -> Tensor:
        loss = plain(score(batch.user, batch.item), batch, self.form)  # (B, 1 + S) | (B, S)
        key = loss * batch.reward if self.form == "pointwise" else loss
        return truncated(loss, key, self.drop * step.ramp(self.ramp))


class RCE(Objective):
    """Estimates P(click) with less weight on rows of large loss: reweighted cross entropy.

    Wang et al., "Denoising implicit feedback for recommendation" (2021). A row that the model gives
    probability p weighs p^beta: a click sigmoid(s)^beta, a negative sigmoid(-s)^beta. Losses are
    (B, 1 + S), or (B, S) for pairs.

    Args:
        beta: 0 weighs all rows alike.
        form: "pointwise" log losses of clicks and negatives; "pairwise" of a click being above a
            negative, weighed by sigmoid(s_ui - s_uj)^beta.

    >>> RCE(form="pairwise")
    RCE(form='pairwise')
    """

    needs: ClassVar[tuple[Pairing, ...]] = ("free_negative",)

    def __init__(self, beta: float = 0.25, *, form: Form = "pointwise") -> None:
        super().__init__()
        self.beta, self.form = beta, form

    def forward(self, score: Score, batch: Batch, step: Step = Step()) -> Tensor:
        loss = plain(score(batch.user, batch.item), batch, self.form)  # (B, 1 + S) | (B, S)
        return reweighted(loss, self.beta)
