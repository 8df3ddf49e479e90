"""Auditors who see the published policy, and object where alike people are treated unlike."""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from typing import Any

import torch
from torch import Generator, Tensor

from recfb.contracts import Context, Feedback, Slate, Truth, World
from recfb.errors import ConfigError
from recfb.random import spawn
from recfb.worlds.switching import Beside, Counting


def violations(accept: Tensor, distance: Tensor, alpha: float) -> Tensor:
    """Which auditor objects to which ordered pair: (R, k), (R, m, k, k) -> (R, m, k, k) bool.

        pi(x) - pi(x') > d_j(x, x') + alpha

    Bechavod and Roth, "Individually fair learning with one-sided feedback", ICML 2023. The first of
    a pair is the one that is treated better.

    >>> violations(torch.tensor([[0.9, 0.1]]), torch.zeros(1, 1, 2, 2), 0.1).tolist()
    [[[[False, True], [False, False]]]]
    """
    gap = accept[:, :, None] - accept[:, None, :]  # (R, k, k)
    return gap[:, None] > distance + alpha


def objections(flags: Tensor, gamma: float) -> Tensor:
    """Pairs to which a share gamma of the panel objects: (R, m, k, k) bool -> (R, k, k) bool.

    At least ceil(gamma m) auditors, and at least one. Flags that were logged can be read again
    with any gamma.

    >>> flags = torch.tensor([True, False, False]).view(1, 3, 1, 1)
    >>> [bool(objections(flags, gamma)) for gamma in (0.0, 0.3, 0.5, 1.0)]
    [True, True, False, False]
    """
    m = flags.shape[1]
    return flags.sum(1) >= max(1, ceil(gamma * m - 1e-9))


def reported(flags: Tensor, accept: Tensor, distance: Tensor, gamma: float) -> Tensor:
    """The pair that the panel complains of, as signs: +1 treated better, -1 worse: (R, k) int64.

    Of several, that with most auditors, then the largest gap, then the smallest mean dissimilarity.
    All zero where there is none.

    Args:
        flags: (R, m, k, k) bool, as `violations` gives them.
        accept: (R, k) probabilities to accept.
        distance: (R, m, k, k).
        gamma: the share of the panel that has to object.

    >>> accept, d = torch.tensor([[0.1, 0.9, 0.5]]), torch.zeros(1, 1, 3, 3)
    >>> reported(violations(accept, d, 0.1), accept, d, 0.5).tolist()
    [[-1, 1, 0]]
    """
    R, k = accept.shape
    live = objections(flags, gamma).flatten(1)  # (R, k * k)
    gap = accept[:, :, None] - accept[:, None, :]
    for key in (flags.sum(1).to(accept.dtype), gap, -distance.mean(1)):  # (R, k, k)
        score = key.flatten(1).masked_fill(~live, -torch.inf)
        live = live & (score == score.amax(1, keepdim=True))
    pair = live.to(torch.int8).argmax(1)  # (R,)
    found = live.any(1).to(torch.int64)[:, None]  # (R, 1)
    signs = torch.zeros(R, k, dtype=torch.int64, device=accept.device)
    signs.scatter_add_(1, (pair // k)[:, None], found)
    return signs.scatter_add_(1, (pair % k)[:, None], -found)


class Audited(Counting):
    """A panel sees the acceptance probabilities of a round, and reports one unfair pair, or none.

    Bechavod and Roth, "Individually fair learning with one-sided feedback", ICML 2023. Auditor j
    finds two applicants as dissimilar as

        d_j(x, x') = min(1, lambda_j |x - x'|),   lambda_j ~ U(slopes)

    by the first `sees` features; nobody is told d. The pair is reported if a share gamma of the
    panel finds it treated more unlike than d_j + alpha. Auditors read `slate.probs`, the policy
    that was published; without it they judge the decisions themselves. The feedback's `complaint`
    holds the pair as signs. The truth holds `violation`, 1 for all requests of a round with a
    complaint, and `flags`, (B, m, k), where each auditor objects to this request being treated
    better than another of its round: `panel_flags` makes them (R, m, k, k), for any gamma.

    A strict panel has gamma = 0, where anyone may object, and small slopes; a lenient one
    gamma = 1, where all must; a noisy one judges anew in every round.

    Args:
        world: the world inside; its requests have features.
        auditors: m.
        alpha: what every auditor lets pass.
        gamma: the share of the panel that has to object.
        slopes: from where to where the lambdas are drawn, for each replication.
        sees: how many features the auditors look at.
        noise: the standard deviation of each judgement of a pair.

    Raises:
        ConfigError: no auditors, or a number out of range; requests without features.

    >>> from recfb.worlds.applicants import Applicants
    >>> world, g = Audited(Applicants(), 1), torch.Generator().manual_seed(0)
    >>> state = world.start(g)
    >>> alike = Slate(torch.ones(4, 1, dtype=torch.int64), probs=torch.full((4, 2), 0.5))
    >>> world.respond(state, alike, g)[0].complaint.tolist()
    [0, 0, 0, 0]
    """

    def __init__(
        self,
        world: World,  # type: ignore[type-arg]
        auditors: int = 5,
        *,
        alpha: float = 0.1,
        gamma: float = 0.5,
        slopes: tuple[float, float] = (0.3, 0.8),
        sees: int = 3,
        noise: float = 0.0,
    ) -> None:
        super().__init__(world)
        if auditors < 1 or sees < 1 or not 0 <= gamma <= 1 or alpha < 0 or noise < 0:
            raise ConfigError(
                "a panel has auditors who see features, alpha and noise of at least 0 and a gamma "
                f"in [0, 1]; found auditors={auditors}, sees={sees}, alpha={alpha}, "
                f"gamma={gamma}, noise={noise}."
            )
        if not 0 <= slopes[0] <= slopes[1]:
            raise ConfigError(f"slopes are from low to high, at least 0, found {slopes}.")
        self.auditors = auditors
        self.alpha, self.gamma = alpha, gamma
        self.slopes = (float(slopes[0]), float(slopes[1]))
        self.sees = sees
        self.noise = noise

    def start(self, generator: Generator, replications: int = 1) -> Beside:
        own, (low, high) = spawn(generator, "Audited"), self.slopes
        shape, device = (replications, self.auditors), generator.device
        u = torch.rand(shape, generator=own, dtype=torch.float64, device=device)  # (R, m)
        return Beside(self.world.start(generator, replications), low + (high - low) * u)

    def distances(self, state: Beside, generator: Generator) -> Tensor:
        """d_j of every pair of a round: (R, m, k, k) in [0, 1], 0 on the diagonal."""
        context: Context = self.world.observe(state.world)
        if context.features is None or context.features.dim() != 2:
            raise ConfigError(
                "auditors compare the features of requests, and these have none: "
                "Audited(Applicants())"
            )
        slope: Tensor = state.beside  # (R, m)
        x = context.features[:, : self.sees].to(torch.float64)  # (R * k, sees)
        x = x.view(len(slope), -1, x.shape[1])
        away = (x[:, :, None] - x[:, None, :]).norm(dim=3)  # (R, k, k)
        d = slope[:, :, None, None] * away[:, None]  # (R, m, k, k)
        if self.noise:
            z = torch.randn(d.shape, generator=generator, dtype=d.dtype, device=d.device)
            d = d + self.noise * (z.triu(1) + z.triu(1).mT)
        return torch.clamp(d, 0, 1)

    def respond(self, state: Beside, slate: Slate, generator: Generator) -> tuple[Feedback, Truth]:
        feedback, truth = self.world.respond(state.world, slate, generator)
        d = self.distances(state, spawn(generator, "Audited"))  # (R, m, k, k)
        if slate.probs is not None:
            accept = slate.probs[:, 1].to(torch.float64)
        else:
            accept = (slate.item[:, 0] == 1).to(torch.float64)
        accept = accept.view(len(d), -1)  # (R, k)
        flags = violations(accept, d, self.alpha)
        signs = reported(flags, accept, d, self.gamma)  # (R, k)
        unfair = signs.any(1, keepdim=True).expand_as(signs).to(torch.float64)
        return replace(feedback, complaint=signs.view(-1)), {
            **truth, "violation": unfair.reshape(-1),
            "flags": flags.transpose(1, 2).flatten(0, 1),
        }  # fmt: skip

    def step(self, state: Beside, slate: Slate, truth: Truth, generator: Generator) -> Beside:
        inside: Any = self.world.step(state.world, slate, truth, generator)
        return Beside(inside, state.beside)


def panel_flags(flags: Tensor) -> Tensor:
    """Flags as the truth has them, by request, as a panel's: (R * k, m, k) -> (R, m, k, k).

    >>> panel_flags(torch.zeros(8, 5, 4)).shape
    torch.Size([2, 5, 4, 4])
    """
    _, m, k = flags.shape
    return flags.reshape(-1, k, m, k).transpose(1, 2)
