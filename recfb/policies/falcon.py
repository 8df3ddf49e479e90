"""FALCON: inverse-gap weighting around a regression that is refitted at epoch starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Generator, Tensor

from recfb.beliefs.rows import Learner, learn
from recfb.contracts import Context, Feedback, Model, Slate
from recfb.data import Log
from recfb.errors import ConfigError
from recfb.policies.explore import Explorer
from recfb.policies.igw import igw
from recfb.random import derive, stream


class FALCON(Explorer):
    """Inverse-gap weighting whose gamma follows the rows that its regression was fitted to.

        gamma = scale sqrt(K n / d),   n rows for each learner at the last refit

    Simchi-Levi and Xu, "Bypassing the monster: a faster and simpler optimal algorithm for
    contextual bandits under realizability", Mathematics of Operations Research 2022. Use it with
    `Refit(every="doubling")`: O(log T) fits, each on all rows so far. The proof has scale 1/30 and
    ln(|F| n / delta) in the place of d; 1 to 10 is good in practice. Between refits nothing is
    learned, also by a belief.

    Args:
        model: a belief, or anything with `solve` whose scores are E[reward | x, item].
        scale: of gamma, in 1 / reward.
        complexity: d, the number of parameters for an item.

    Raises:
        ConfigError: a scale or a complexity that is not positive.

    >>> from recfb.beliefs import Linear
    >>> from recfb.data import Log
    >>> FALCON(Linear()).bind(Log.empty(1, 2)).probs(Context(torch.tensor([0]))).tolist()
    [[0.5, 0.5]]
    """

    rows: Tensor  # (), rows a learner at the last refit

    def __init__(self, model: Model, scale: float = 1.0, *, complexity: float = 1.0) -> None:
        super().__init__(model)
        if not scale > 0 or not complexity > 0:
            raise ConfigError(
                f"scale and complexity are positive, found {scale} and {complexity}. Try "
                "FALCON(model, scale=1.0)."
            )
        self.scale = scale
        self.complexity = complexity

    def bind(self, log: Log) -> Self:
        self.register_buffer("rows", torch.zeros((), dtype=torch.float64))
        return super().bind(log)

    def reset(self, generator: Generator) -> None:
        super().reset(generator)
        self.rows.zero_()

    def spread(self, context: Context, scores: Tensor, live: Tensor | None) -> Tensor:
        gamma = self.scale * (scores.shape[1] * self.rows / self.complexity).sqrt()
        return igw(scores, gamma, self.best(context, scores, live), live)

    def update(
        self, context: Context, slate: Slate, feedback: Feedback, generator: Generator
    ) -> None:
        """Nothing: it learns at epoch starts."""

    def refit(self, log: Log, fit: Callable[[Log, Any], Any]) -> None:
        if isinstance(self.model, Learner):
            learn(self.model, log, stream(derive(0, "refit", len(log))))
        else:
            fit(log, self.model)
        self.rows.fill_(len(log) / self.learners)
