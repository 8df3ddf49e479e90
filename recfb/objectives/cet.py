"""Coupled estimation of relevance and selection."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from recfb.contracts import Batch, Exposure, Objective, Pairing, Score, Step
from recfb.errors import ConfigError
from recfb.objectives.bce import bce
from recfb.objectives.bpr import bpr

Anchor = Literal["none", "bce", "center"]
Mode = Literal["ratio", "posterior"]

_ANCHOR = 0.1  # the weight of the point-wise term


def ratio(other: Tensor, temperature: float, cap: float) -> Tensor:
    """min(1 / (1 - sigmoid(z / T)), cap) = min(1 + exp(z / T), cap): the weight of a negative by
    the logit z of the other model.

    >>> ratio(torch.tensor([0.0, 90.0]), 2.0, 20.0).tolist()
    [2.0, 20.0]
    """
    return (1 + torch.exp(other / temperature)).clamp(max=cap)


def posterior(own: Tensor, other: Tensor) -> Tensor:
    """(1 - rho) / (1 - rho pi) at the logits of rho = sigmoid(own) and of pi = sigmoid(other).

    For a label that is relevance times selection, the probability that a row without one is not
    relevant, or with the models swapped, that it was not selected. In (0, 1].

    >>> round(float(posterior(torch.tensor(0.0), torch.tensor(0.0))), 4)
    0.6667
    """
    return torch.sigmoid(-own - F.logsigmoid(-other))


def centered(logit: Tensor) -> Tensor:
    """Logits less the mean of their row: (B, C) -> (B, C).

    >>> centered(torch.tensor([[1.0, 3.0]])).tolist()
    [[-1.0, 1.0]]
    """
    return logit - logit.mean(1, keepdim=True)


def weighed(logit: Tensor, weight: Tensor) -> Tensor:
    """w / mean(w) * -log sigmoid(z+ - z-) of rows with z+ in column 0, the weights without
    gradient: (B, 1 + S), (B, S) -> (B, S).

    >>> weighed(torch.zeros(2, 2), torch.tensor([[1.0], [3.0]]))
    tensor([[0.3466],
            [1.0397]])
    """
    weight = weight.detach()
    return weight / weight.mean() * bpr(logit[:, :1], logit[:, 1:])


def cet(
    relevance: Tensor,
    selection: Tensor,
    *,
    temperature: float,
    cap: float,
    anchor: Anchor,
    mode: Mode,
) -> tuple[Tensor, Tensor]:
    """The losses of both models from their logits, each weighed by the other: (B, 1 + S) each ->
    (B, S) each.

    >>> f, h = torch.zeros(2, 2), torch.tensor([[0.0, 0.0], [0.0, 9.0]])
    >>> relevance, selection = cet(
    ...     f, h, temperature=1.0, cap=6.0, anchor="none", mode="ratio"
    ... )
    >>> (relevance / f.new_tensor(2.0).log()).tolist()  # weights 2 and 6 over their mean
    [[0.5], [1.5]]
    """
    both = [centered(z) if anchor == "center" else z for z in (relevance, selection)]
    f, h = (z[:, 1:] for z in both)  # (B, S)
    if mode == "ratio":
        weights = ratio(h, temperature, cap), ratio(f, temperature, cap)
    else:
        weights = posterior(f, h), posterior(h, f)
    return weighed(relevance, weights[0]), weighed(selection, weights[1])


class CET(Objective):
    """Estimates a ranking by relevance where labels exist only for what was selected: coupled
    estimation.

    Cai et al., "Hard negatives or false negatives: correcting pooling bias in training neural
    ranking models" (2022). A click is relevance times selection, so that a missing one says little
    about an item that was hardly selected. The scorer f learns relevance, `selection` h selection,
    both from pairs of a click and a negative, and each weighs the negatives of the other:

        L_rel = 1 / (1 - sigmoid(h-/T)) * -log sigmoid(f+ - f-)
        L_sel = 1 / (1 - sigmoid(f-/T)) * -log sigmoid(h+ - h-)

    Weights carry no gradient and are divided by their mean over the batch, so that equal ones are
    `BPR`. Losses are L_rel + L_sel, (B, S); only f ranks. Give h inputs that f does not have: with
    the same ones both learn the same, and nothing is corrected. Where it is known what was
    selected, do not estimate it: a selected row without a click is a true negative.

    A pair loss leaves the level of its model open, and the weights depend on it: see `anchor`.

    Args:
        selection: an exposure that is learned: `exposures.Selection(...)`.
        temperature: T; large values weigh all negatives alike.
        cap: the largest weight, before the division.
        burn_in: share of the steps, at first, in which all negatives weigh the same; without effect
            where training has no planned end (`max_time`).
        anchor: what sets the levels. "none" the first values, as in the paper's programs; "bce"
            adds .1 times the log loss of h against the clicks, at the odds of the sample; "center"
            takes logits less their row's mean, of click and negatives, for the weights.
        mode: "ratio" the weights above; "posterior" P(not relevant | no click), and for h P(not
            selected | no click), at rho = sigmoid(f) and pi = sigmoid(h), neither of which is
            calibrated. T and cap do not act then.

    Raises:
        ConfigError: an exposure that is not learned; a burn-in that is no share.

    >>> from recfb.exposures import Selection
    >>> CET(Selection(["popularity", "position"]), temperature=1.0)
    CET(Selection(inputs=('popularity', 'position')), temperature=1.0)
    """

    needs: ClassVar[tuple[Pairing, ...]] = ("free_negative", "shown_negative")
    monitor: ClassVar[str] = "ndcg@10:snips"  # plain validation clicks are selected, too

    def __init__(
        self,
        selection: Exposure,
        *,
        temperature: float = 2.0,
        cap: float = 20.0,
        burn_in: float = 0.1,
        anchor: Anchor = "none",
        mode: Mode = "ratio",
    ) -> None:
        super().__init__()
        if type(selection).logit is Exposure.logit:
            raise ConfigError(
                f"CET learns its selection model, and exposures.{type(selection).__name__} is not "
                'learned. Use exposures.Selection(["position"], items=["age"]), for example.'
            )
        if not 0 <= burn_in <= 1:
            raise ConfigError(f"burn_in is a share of the steps, found {burn_in}. Try 0.1.")
        self.selection, self.temperature, self.cap = selection, temperature, cap
        self.burn_in, self.anchor, self.mode = burn_in, anchor, mode

    def forward(self, score: Score, batch: Batch, step: Step = Step()) -> Tensor:
        f = score(batch.user, batch.item)  # (B, 1 + S)
        h = self.selection.logit(batch)  # (B, 1 + S)
        if step.index < self.burn_in * step.total:
            losses = bpr(f[:, :1], f[:, 1:]) + bpr(h[:, :1], h[:, 1:])  # (B, S)
        else:
            relevance, selection = cet(
                f,
                h,
                temperature=self.temperature,
                cap=self.cap,
                anchor=self.anchor,
                mode=self.mode,
            )
            losses = relevance + selection  # (B, S)
        if self.anchor == "bce":
            click = (batch.reward > 0).to(h.dtype)  # (B, 1 + S)
            losses = losses + _ANCHOR * bce(h, click).mean(1, keepdim=True)
        return losses
