"""Clicks resampled by their loss: small losses of a user first."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from recfb.contracts import Batch, Pairing, Sampler, Score, Step
from recfb.samplers.clicks import Clicks


def resample(loss: Tensor, temperature: float, generator: Generator) -> Tensor:
    """One column a row, drawn with probability softmax(-loss / temperature): (B, k) -> (B, 1).

    The argmax of -loss / temperature plus Gumbel noise, in float64, so that at small temperatures
    equal losses still have equal chances.

    >>> from recfb.random import stream
    >>> resample(torch.tensor([[5.0, 0.0], [0.0, 5.0]]), 0.01, stream(0)).tolist()
    [[1], [0]]
    """
    u = torch.rand(loss.shape, generator=generator, dtype=torch.float64, device=loss.device)
    gumbel = -torch.log(-torch.log(u))  # (B, k)
    return (gumbel - loss.double() / temperature).argmax(1, keepdim=True)  # (B, 1)


class PLD(Sampler):
    """Draws users, a pool of clicks of each, and from the pool a click that is likely no mistake.

    Zhang et al., "Personalized denoising implicit feedback for robust recommender system" (2025).
    Within one user, clicks by mistake have larger losses than the others. So users are drawn
    uniformly over those with a click, each with k of their clicks (without replacement where there
    are k) and one item that they never clicked, and of the k clicks the one to learn from is drawn
    with probability softmax(-loss / temperature). The loss to learn by stays what it is; the draw
    carries no gradient.

    Args:
        k: clicks in a pool. 1 draws as `Clicks(by="user")` does, to the bit.
        temperature: above 0, in units of the loss, so it hangs on the loss and on the size of the
            scores. Large values denoise nothing; small ones leave the easiest clicks only, which
            suppresses rare tastes too.
        warmup: epochs without denoising. Losses of a model that knows nothing say nothing.
        loss: "bpr" -log sigmoid(s_ui - s_uj) against the one item j of the pool; "bce"
            -log sigmoid(s_ui). Take the loss that the objective has.

    Batches have user (B,), item (B, 2) with the click in column 0, reward 1 and 0. An epoch has as
    many rows as there are clicks.

    Raises:
        ConfigError: on binding a log in which some user has clicked every item.

    >>> from recfb.data import Log
    >>> from recfb.random import stream
    >>> log = Log.of({"user": [0, 0], "item": [0, 1], "reward": [1, 1]}, n_users=1, n_items=3)
    >>> sampler = PLD(k=2, temperature=0.01, warmup=0).bind(log)
    >>> score = lambda user, item: 1.0 * item
    >>> sampler(torch.tensor([0, 0]), score, Step(generator=stream(0))).item.tolist()
    [[1, 2], [1, 2]]
    """

    gives: ClassVar[Pairing] = "free_negative"

    def __init__(
        self,
        k: int = 5,
        *,
        temperature: float = 0.1,
        warmup: int = 5,
        loss: Literal["bpr", "bce"] = "bpr",
    ) -> None:
        super().__init__()
        self.k, self.temperature, self.warmup, self.loss = k, temperature, warmup, loss
        self.clicks = Clicks(by="user")

    def __len__(self) -> int:
        return len(self.clicks)

    def rows(self, generator: Generator) -> Tensor:
        """User ids, uniform over users with a click, drawn with replacement."""
        return self.clicks.rows(generator)

    @torch.no_grad()
    def forward(self, rows: Tensor, score: Score, step: Step) -> Batch:
        generator = step.generator
        assert generator is not None
        k = self.k if step.epoch >= self.warmup else 1
        pool = self.clicks.pairs.pool(rows, k, generator)  # (B, k)
        free = self.clicks.pairs.negatives(rows, 1, generator)  # (B, 1)
        if k > 1:
            loss = self.losses(score(rows, torch.cat([pool, free], 1)))  # (B, k)
            pool = pool.gather(1, resample(loss, self.temperature, generator))  # (B, 1)
        item = torch.cat([pool, free], dim=1)  # (B, 2)
        reward = torch.zeros(item.shape, device=item.device)
        reward[:, 0] = 1.0
        return Batch(rows, item, reward)

    def losses(self, score: Tensor) -> Tensor:
        """Losses of a pool from scores of its clicks and of its free item: (B, k + 1) -> (B, k).

        >>> PLD(loss="bce").losses(torch.tensor([[0.0, 9.0]]))
        tensor([[0.6931]])
        """
        clicked, free = score[:, :-1], score[:, -1:]  # (B, k), (B, 1)
        return F.softplus(free - clicked if self.loss == "bpr" else -clicked)
