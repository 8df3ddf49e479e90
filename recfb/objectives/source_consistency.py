"""Consistency under rewriting: scores that do not depend on who wrote a text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from recfb.contracts import Batch, Objective, Pairing, Score, Step
from recfb.data.attributes import attributes
from recfb.errors import ConfigError
from recfb.objectives.bpr import bpr

if TYPE_CHECKING:
    from recfb.data.log import Log


def item_gap(user: Tensor, text: Tensor, rewrite: Tensor) -> Tensor:
    """mean_c |u . e(x_c) - u . e(x~_c)|: (B, d), (B, C, d), (B, C, d) -> (B,).

    >>> u, x = torch.tensor([[1.0, 0.0]]), torch.tensor([[[1.0, 0.0], [2.0, 0.0]]])
    >>> item_gap(u, x, x + 0.5).tolist()
    [0.5]
    """
    gap: Tensor = torch.linalg.vecdot(user[:, None], text - rewrite)  # (B, C)
    return gap.abs().mean(1)


def user_gap(user: Tensor, rewritten: Tensor, text: Tensor) -> Tensor:
    """mean_c |u . e(x_c) - u~ . e(x_c)|: (B, d), (B, d), (B, C, d) -> (B,).

    >>> u, x = torch.tensor([[1.0, 0.0]]), torch.tensor([[[1.0, 0.0], [2.0, 0.0]]])
    >>> user_gap(u, 2 * u, x).tolist()
    [1.5]
    """
    gap: Tensor = torch.linalg.vecdot((user - rewritten)[:, None], text)  # (B, C)
    return gap.abs().mean(1)


def entropy(user: Tensor) -> Tensor:
    """H(u) = -sum_j p_j log(p_j + 1e-10), p = softmax(u) over the coordinates: (B, d) -> (B,).

    >>> round(float(entropy(torch.zeros(1, 2))), 4)
    0.6931
    """
    p = F.softmax(user, dim=1)
    return -(p * (p + 1e-10).log()).sum(1)


class SourceConsistency(Objective):
    """Estimates a ranking that ignores provenance: BPR, plus what scores change under rewriting.

    The debiasing of Zhou et al., "Exploring the escalation of source bias in user, data, and
    recommender system feedback loop" (2025). Whoever wrote a text, its rewrite means the same, so
    no label of provenance is needed:

        L = -log sigmoid(y_+ - y_-) + alpha mean_c |u . e(x_c) - u . e(x~_c)|
            + beta mean_c |u . e(x_c) - u~ . e(x_c)| + concentration (H(u) + H(u~))

    over the candidates c of the batch, with x~ the rewrite of a text and u~ the vector of the
    history in which each text is rewritten with probability `swap`. At one negative the first term
    is the cross entropy of a positive against a negative. Needs a scorer of histories that has the
    rewrites, `scorers.HistoryMean(rewrite=["rewrite"])`, and `samplers.Visits`.

    Args:
        alpha: weight of the items' term.
        beta: weight of the users' term.
        concentration: weight of the entropies, beta as published; None: beta. It pushes user
            vectors to few coordinates and has no link to the source.
        swap: how likely a text of the history is rewritten.

    Raises:
        ConfigError: a negative weight, a swap that is no probability; in training, a scorer without
            histories or rewrites.

    >>> SourceConsistency(3.0, concentration=0.0)
    SourceConsistency(alpha=3.0, concentration=0.0)
    """

    needs: ClassVar[tuple[Pairing, ...]] = ("shown_negative", "free_negative")

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 0.01,
        *,
        concentration: float | None = None,
        swap: float = 0.5,
    ) -> None:
        super().__init__()
        if min(alpha, beta, concentration or 0.0) < 0 or not 0 <= swap <= 1:
            raise ConfigError(
                "weights are not negative and swap is a probability, found "
                f"alpha={alpha}, beta={beta}, concentration={concentration}, swap={swap}."
            )
        self.alpha, self.beta, self.concentration, self.swap = alpha, beta, concentration, swap

    def forward(self, score: Score, batch: Batch, step: Step = Step()) -> Tensor:
        s = score(batch.user, batch.item)  # (B, 1 + S)
        losses = bpr(s[:, :1], s[:, 1:])  # (B, S)
        encoder = encoder_of(score)
        history = batch.history
        assert history is not None  # the scorer has asked for it
        u = encoder.user_vectors(history)  # (B, d)
        coin = torch.rand(history.shape, generator=step.generator, device=history.device)
        v = encoder.user_vectors(history, coin < self.swap)  # (B, d)
        x, y = encoder.vectors[batch.item], encoder.rewrites[batch.item]  # (B, 1 + S, d)
        extra = self.alpha * item_gap(u, x, y) + self.beta * user_gap(u, v, x)  # (B,)
        weight = self.beta if self.concentration is None else self.concentration
        if weight:
            extra = extra + weight * (entropy(u) + entropy(v))
        return losses + extra[:, None]


class SourceHinge(Objective):
    """Estimates a ranking by BPR, and keeps the machine-written texts of clicked items from
    outscoring the human ones.

        L = -log sigmoid(y_+ - y_-) + weight max(0, y(AI text of +) - y(human text of +))

    The constraint of Dai et al., "Neural retrievers are biased towards LLM-generated content"
    (2024). It needs to know who wrote what: the columns source and twin of `log.items`.

    Args:
        weight: of the hinge.

    Raises:
        ConfigError: a negative weight; on binding, a missing column.

    >>> SourceHinge(0.5)
    SourceHinge(weight=0.5)
    """

    needs: ClassVar[tuple[Pairing, ...]] = ("shown_negative", "free_negative")

    source: Tensor  # (n_items,)
    twin: Tensor  # (n_items,)

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        if weight < 0:
            raise ConfigError(f"the weight of a hinge is not negative, found {weight}.")
        self.weight = weight

    def bind(self, log: Log) -> Self:
        columns = attributes(log.items, ["source", "twin"], "items").long()  # (n_items, 2)
        self.register_buffer("source", columns[:, 0], persistent=False)
        self.register_buffer("twin", columns[:, 1], persistent=False)
        return super().bind(log)

    def forward(self, score: Score, batch: Batch, step: Step = Step()) -> Tensor:
        clicked = batch.item[:, :1]  # (B, 1)
        item = torch.cat([batch.item, self.twin[clicked]], 1)  # (B, 2 + S)
        s = score(batch.user, item)
        gap = (s[:, -1:] - s[:, :1]) * (1 - 2 * self.source[clicked])  # AI less human: (B, 1)
        return bpr(s[:, :1], s[:, 1:-1]) + self.weight * gap.clamp(min=0)


def encoder_of(score: Score) -> Any:
    """The scorer behind a score function, if it encodes histories and knows rewrites.

    Raises:
        ConfigError: it does not.
    """
    encoder: Any = getattr(score, "func", None)
    if getattr(encoder, "rewrites", None) is None:
        raise ConfigError(
            "SourceConsistency compares texts with their rewrites, which this scorer does not "
            'have. Use scorers.HistoryMean(rewrite=["rewrite"]).'
        )
    return encoder
