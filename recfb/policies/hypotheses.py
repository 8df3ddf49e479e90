"""A finite class of accept/reject rules, and the points that tell them apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Generator, Tensor

from recfb.beliefs.rows import features_of
from recfb.contracts import Component, Context
from recfb.data import Log
from recfb.errors import ConfigError


class Thresholds(Component):
    """Linear thresholds h(x) = 1[w . x > 0]: H rules that all learners share.

    The first two rules are constant: nobody, and everybody. Then come those of `include`, and
    random ones with w ~ N(0, I); every second of these does not look at the features in `blind`. A
    threshold other than 0 needs a constant 1 among the features.

    Args:
        count: H, all rules together.
        blind: features that half of the random rules ignore.
        include: weights of rules that are in the class for sure.

    Raises:
        ConfigError: no room for the rules that are given, or a feature that does not exist.

    >>> rules = Thresholds(3, include=[[1.0, -0.5]]).bind(_two_features())
    >>> context = Context(torch.tensor([0, 0]), features=torch.tensor([[0.2, 1.0], [0.9, 1.0]]))
    >>> rules(context).tolist()
    [[0.0, 1.0, 0.0], [0.0, 1.0, 1.0]]
    """

    weight: Tensor  # (H, D) float64
    offset: Tensor  # (H,) float64: -1, 1, and 0 for what is not constant

    def __init__(
        self,
        count: int = 64,
        *,
        blind: Sequence[int] = (),
        include: Sequence[Sequence[float]] = (),
    ) -> None:
        super().__init__()
        if count < 2 + len(include):
            raise ConfigError(
                f"{2 + len(include)} rules are given, the two constant ones among them, found "
                f"count={count}. Try count={2 + len(include)} or more."
            )
        self.count = count
        self.blind = list(blind)
        self.include = [list(row) for row in include]

    def bind(self, log: Log) -> Self:
        width = getattr(log.frame.schema.get("features"), "size", 1)
        wrong = [f for f in self.blind if not 0 <= f < width]
        if wrong or any(len(row) != width for row in self.include):
            raise ConfigError(
                f"requests have {width} features here, found blind={self.blind} and included "
                f"rules of {[len(row) for row in self.include]} weights."
            )
        self.register_buffer("weight", torch.zeros(self.count, width, dtype=torch.float64))
        self.register_buffer("offset", torch.zeros(self.count, dtype=torch.float64))
        self._given()
        return super().bind(log)

    def _given(self) -> None:
        """Write the rules that are not random."""
        self.weight.zero_()
        self.offset.zero_()
        self.offset[0], self.offset[1] = -1.0, 1.0
        if self.include:
            given = torch.tensor(self.include, dtype=torch.float64)
            self.weight[2 : 2 + len(given)] = given.to(self.weight)

    def reset(self, generator: Generator) -> None:
        super().reset(generator)
        self._given()
        first = 2 + len(self.include)
        shape = (self.count - first, self.weight.shape[1])
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
        drawn[::2, self.blind] = 0.0
        self.weight[first:] = drawn.to(self.weight)

    def forward(self, context: Context) -> Tensor:
        """What every rule says to every request, 1 to accept: (B, H) float64."""
        return (features_of(context) @ self.weight.T + self.offset > 0).to(torch.float64)


def separators(answers: Tensor) -> Tensor:
    """Points at which any two rules differ, if the points that are given can tell them apart.

    Syrgkanis, Krishnamurthy and Schapire, "Efficient algorithms for adversarial contextual
    learning", ICML 2016. Greedy: the next point is the one that separates most pairs still alike.

    Args:
        answers: (P, H) 0/1, what each of H rules says at each of P points.

    Returns:
        (D,) int64, the numbers of the chosen points, D < H.

    >>> separators(torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 1.0], [1.0, 1.0, 1.0]])).tolist()
    [0, 1]
    """
    answers = answers.to(torch.float64)
    H = answers.shape[1]
    kind = torch.zeros(H, dtype=torch.int64, device=answers.device)  # rules not yet told apart
    chosen: list[Tensor] = []
    for _ in range(H - 1):
        member = torch.nn.functional.one_hot(kind, H).to(torch.float64)  # (H, H)
        yes = answers @ member  # (P, H) how many of each kind accept
        pairs = (yes * (member.sum(0) - yes)).sum(1)  # (P,)
        best = pairs.argmax()
        if not bool(pairs[best] > 0):
            break
        chosen.append(best)
        kind = torch.unique(2 * kind + answers[best].to(torch.int64), return_inverse=True)[1]
    return torch.stack(chosen) if chosen else torch.zeros(0, dtype=torch.int64)


def _two_features() -> Log:
    """A log without rows whose requests have two features."""
    import polars as pl

    log = Log.empty(1, 2)
    column = pl.Series("features", [], dtype=pl.Array(pl.Float32, 2))
    return log.with_frame(log.frame.with_columns(column))
