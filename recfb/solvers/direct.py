"""A recommender trained by a plain loop of torch, for models so small that a Trainer costs more
than their steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Generator, Tensor

from recfb.contracts import Batch, Context, Fitted, Solver, Step
from recfb.errors import ConfigError
from recfb.optim import densify
from recfb.random import stream

if TYPE_CHECKING:
    from recfb.data.log import Log
    from recfb.data.pairs import Pairs


class Direct(Solver):
    """Trains a Recommender by its own loss and optimiser in a plain loop of torch.

    As `fit(log, recommender, max_epochs=epochs, batch_size=batch_size)` on one device, without
    validation and clipping, and with draws of its own. A loop retrains its model every round, and
    this one says how long in its own hyperparameters.

    Args:
        recommender: what to train.
        epochs: over the rows of its sampler.
        batch_size: rows a step.

    Raises:
        ConfigError: no epochs or rows.
    """

    seed: Tensor  # () int64

    def __init__(self, recommender: Fitted, *, epochs: int = 10, batch_size: int = 500) -> None:
        super().__init__()
        if epochs < 1 or batch_size < 1:
            raise ConfigError(
                "training has at least one epoch of at least one row a step, found "
                f"epochs={epochs} and batch_size={batch_size}."
            )
        self.recommender, self.epochs, self.batch_size = recommender, epochs, batch_size

    def bind(self, log: Log) -> Self:
        self.register_buffer("seed", torch.zeros((), dtype=torch.int64))
        return super().bind(log)

    def reset(self, generator: Generator) -> None:
        super().reset(generator)
        self.seed.fill_(generator.initial_seed() >> 2)

    def solve(self, log: Log) -> Self:
        model: Any = self.recommender
        optimizer = model.optimizer.build(list(model.groups()))
        seed, steps = int(self.seed), -(-len(model.sampler) // self.batch_size)
        with torch.enable_grad():
            for epoch in range(self.epochs):
                rows = model.sampler.rows(stream(seed, "rows", epoch))
                for index, some in enumerate(rows.split(self.batch_size), epoch * steps):
                    draws = stream(seed, "step", index)
                    step = Step(index, epoch, steps * self.epochs, draws)
                    _descend(model, optimizer, some, step)
        return self

    def forward(self, user: Tensor, item: Tensor, batch: Batch | None = None) -> Tensor:
        scores: Tensor = self.recommender.scorer(user, item, batch)
        return scores

    def all(self, user: Tensor, out: Tensor | None = None) -> Tensor:
        scores: Tensor = self.recommender.scorer.all(user, out)
        return scores

    def scores(self, context: Context) -> Tensor:
        scores: Tensor = self.recommender.scores(context)
        return scores

    def score_of(self, context: Context, item: Tensor) -> Tensor:
        scores: Tensor = self.recommender.score_of(context, item)
        return scores

    def top(self, context: Context, k: int, *, hide: Pairs | None = None) -> Tensor:
        best: Tensor = self.recommender.top(context, k, hide=hide)
        return best


def _descend(model: Any, optimizer: torch.optim.Optimizer, rows: Tensor, step: Step) -> None:
    """One step of the optimiser on rows of the sampler."""
    view = model.scorer.ready()
    with torch.no_grad():
        batch = model.sampler(rows, view, step)
    optimizer.zero_grad()
    model.loss(batch, step, view).backward()
    factor = model.optimizer.factor(step.index, step.epoch, step.total)
    for group in optimizer.param_groups:
        group["lr"] = factor * group.setdefault("initial_lr", group["lr"])
        densify(group, model.optimizer.sparse)
    optimizer.step()
    with torch.no_grad():
        model.constrain()
