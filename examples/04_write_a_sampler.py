"""A sampler of your own in one file: negatives that the model finds hard.

Dynamic negative sampling (Zhang, Chen, Wang and Yu, SIGIR 2013): of a few items that the user never
clicked, learn from the one that the model ranks highest. It is used by its class, and saved by its
class path.
"""

from __future__ import annotations

import copy
from typing import ClassVar, Self

import torch
from torch import Generator, Tensor

import recfb
from recfb import objectives, samplers, scorers
from recfb.contracts import Batch, Pairing, Sampler, Score, Step
from recfb.data import Log, Pairs
from recfb.testing import checks, example_log


class HardNegatives(Sampler):
    """Draws clicks, each with the best-scored of `pool` items that its user never clicked."""

    gives: ClassVar[Pairing] = "free_negative"
    pairs: Pairs

    def __init__(self, pool: int = 8) -> None:
        super().__init__()
        self.pool = pool

    def bind(self, log: Log) -> Self:
        log.clicks.require_free()
        self.pairs = copy.copy(log.clicks.index())
        return self

    def __len__(self) -> int:
        return len(self.pairs)

    def rows(self, generator: Generator) -> Tensor:
        return torch.randperm(len(self), generator=generator, device=generator.device)

    @torch.no_grad()
    def forward(self, rows: Tensor, score: Score, step: Step) -> Batch:
        user, item = self.pairs.user[rows], self.pairs.item[rows]  # (B,), (B,)
        free = self.pairs.negatives(user, self.pool, step.generator)  # (B, pool)
        hardest = score(user, free).argmax(1, keepdim=True)  # (B, 1)
        item = torch.stack([item, free.gather(1, hardest)[:, 0]], 1)  # (B, 2)
        reward = torch.tensor([1.0, 0.0], device=item.device).expand(item.shape)  # (B, 2)
        return Batch(user, item, reward)


if __name__ == "__main__":
    for name, run in checks(HardNegatives()).items():
        run(HardNegatives(), example_log())
        print(f"passed  {name}")

    log = recfb.dataset("movietweetings").log.binarise(at=7)
    train, test = log.split_by_time(0.8)
    table = recfb.measure(
        test,
        {
            name: recfb.fit(
                train,
                recfb.Recommender(scorers.MF(dim=32), objectives.BPR(), sampler),
                max_epochs=8,
            )
            for name, sampler in {"uniform": samplers.Clicks(), "hard": HardNegatives()}.items()
        },
        exclude=train,
        base="uniform",
    )
    print(table)
