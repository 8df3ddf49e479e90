"""Individually fair learning through an optimisation oracle: follow the perturbed leader."""

from __future__ import annotations

from math import ceil, sqrt
from math import log as ln
from typing import Literal, Self

import torch
from torch import Generator, Tensor

from recfb.beliefs.payoff import ACCEPT, labels_of
from recfb.contracts import Context, Feedback, Slate, learner_of
from recfb.data import Log
from recfb.errors import ConfigError
from recfb.policies.accept_reject import Fair, check_single, two_sided, uniforms
from recfb.policies.fair_exp import check_price
from recfb.policies.hypotheses import Thresholds, separators

POOL = 2048
"""Random points among which those that separate the rules are looked for."""


def laplace(u: Tensor, rate: Tensor | float) -> Tensor:
    """Laplace numbers of density rate / 2 exp(-rate |z|), of uniform ones.

    >>> laplace(torch.tensor([0.25, 0.5, 0.75]).double(), 1.0).round(decimals=4).tolist()
    [-0.6931, 0.0, 0.6931]
    """
    away = 0.5 - u
    return away.sign().neg() * -(1 - 2 * away.abs()).clamp(min=1e-300).log() / rate


def first_hits(hits: Tensor) -> Tensor:
    """Geometric resampling: the number of the first draw that hits, the last one without any.

    (..., M) bool -> (...,) int64, from 1 to M. For independent draws that hit with probability p
    the mean is (1 - (1 - p)^M) / p, a little below 1 / p. Neu and Bartok, JMLR 2016.

    >>> first_hits(torch.tensor([[False, True, True], [False, False, False]])).tolist()
    [2, 3]
    """
    M = hits.shape[-1]
    first = hits.to(torch.int8).argmax(-1) + 1
    return torch.where(hits.any(-1), first, M)


class FairFTPL(Fair):
    """The rule that did best so far, after random costs at a few points; a price C on complaints.

    Bechavod and Roth, "Individually fair learning with one-sided feedback", ICML 2023, over
    Context-Semi-Bandit-FTPL (Syrgkanis, Krishnamurthy and Schapire, ICML 2016). Every round draws

        h = argmin_h  sum_j c_j h(x_j) + sum_s xi_s h(s),   xi_s ~ Laplace(nu)

    over all past requests j and a separator set s in S. The costs c are a (1 - y) J - 1/2, with J
    from geometric resampling in the place of 1 / P(accept), and +C and -C at a pair complained of.
    The policy has no closed form: `probs` in its slates are the mean of `shown` fresh draws, and
    propensities are None. The estimate adds noise of 1 / sqrt(shown) to every gap that auditors
    see. The class is finite here, and the oracle looks at every rule.

    Args:
        hypotheses: the rules.
        price: C; "paper" is T^(4/45).
        scale: times the rate nu = sqrt(D ln H / (k M T)), with D points in S.
        resamples: M; None is T^(1/3), rounded up.
        shown: Q, how many draws make the published policy.
        horizon: T; None is what the platform's log says.

    Raises:
        ConfigError: a number out of range, no horizon, not two items, slates of several items, or
            probabilities are asked for.

    >>> FairFTPL(Thresholds(), shown=100)  # doctest: +ELLIPSIS
    FairFTPL(...shown=100...)
    """

    cost: Tensor  # (G, H) float64, sum_j c_j h(x_j)
    answers: Tensor  # (H - 1, H) what rules say at the separators; unused rows are 0

    def __init__(
        self,
        hypotheses: Thresholds,
        *,
        price: Literal["paper"] | float = "paper",
        scale: float = 1.0,
        resamples: int | None = None,
        shown: int = 50,
        horizon: int | None = None,
    ) -> None:
        super().__init__()
        check_price(price, ("paper",))
        if not scale > 0 or shown < 1 or (resamples is not None and resamples < 1):
            raise ConfigError(
                f"scale is positive, shown and resamples are at least 1, found scale={scale}, "
                f"shown={shown}, resamples={resamples}."
            )
        self.hypotheses = hypotheses
        self.price = price
        self.scale = scale
        self.resamples = resamples
        self.shown = shown
        self.horizon = horizon

    def bind(self, log: Log) -> Self:
        super().bind(log)
        H = self.hypotheses.count
        self.register_buffer("cost", torch.zeros(self.learners, H, dtype=torch.float64))
        self.register_buffer("answers", torch.zeros(H - 1, H, dtype=torch.float64))
        return self

    def reset(self, generator: Generator) -> None:
        super().reset(generator)
        self.cost.zero_()
        self.answers.zero_()
        shape, device = (POOL, self.hypotheses.weight.shape[1]), self.cost.device
        x = torch.randn(shape, generator=generator, dtype=torch.float64).to(device)
        x[:, -1] = 1.0  # a constant, where there is one
        user = torch.zeros(POOL, dtype=torch.int64, device=device)
        says = self.hypotheses(Context(user, features=x))  # (POOL, H)
        chosen = says[separators(says)]  # (D, H)
        self.answers[: len(chosen)] = chosen

    def charged(self) -> float:
        """C."""
        return float(self.rounds ** (4 / 45) if isinstance(self.price, str) else self.price)

    def draws(self) -> int:
        """M."""
        return self.resamples or ceil(self.rounds ** (1 / 3) - 1e-9)

    def rate(self, requests: int) -> float:
        """nu, for k requests a round."""
        points = int((self.answers > 0).any(1).sum())
        span = requests * self.draws() * self.rounds
        return self.scale * sqrt(max(1, points) * ln(self.hypotheses.count) / span)

    def leaders(self, requests: int, draws: int, generator: Generator) -> Tensor:
        """Independent draws of the rule: (G, draws) int64."""
        rows = len(self.cost) * draws
        points = self.answers[(self.answers > 0).any(1)]  # (D, H)
        u = uniforms(generator, rows, len(points), device=self.cost.device)
        noise = laplace(u, self.rate(requests)) @ points  # (rows, H)
        return (self.cost[:, None] + noise.view(len(self.cost), draws, -1)).argmin(2)

    def _say(self, context: Context, answers: Tensor, rule: Tensor) -> Tensor:
        """What the rules drawn for each learner say: (B, H), (G, draws) -> (B, draws)."""
        return answers.gather(1, rule[learner_of(context, self.learners)])

    def probs(self, context: Context) -> Tensor:
        raise ConfigError(
            "the probabilities of FairFTPL have no closed form. Estimate them: "
            "policy.propensity_mc(context, item, generator, draws=1000)."
        )

    def propensities(self, context: Context, item: Tensor) -> Slate:
        return Slate(item)

    def act(self, context: Context, generator: Generator, *, k: int = 1) -> Slate:
        check_single(self, k)
        answers = self.hypotheses(context)  # (B, H)
        rule = self.leaders(self.requests(context), 1 + self.shown, generator)  # (G, 1 + Q)
        says = self._say(context, answers, rule)  # (B, 1 + Q)
        item = self.allowed(says[:, 0].to(torch.int64), context)
        return Slate(item, probs=two_sided(says[:, 1:].mean(1), context))

    def update(
        self, context: Context, slate: Slate, feedback: Feedback, generator: Generator
    ) -> None:
        answers = self.hypotheses(context)  # (B, H)
        rule = self.leaders(self.requests(context), self.draws(), generator)  # (G, M)
        waited = first_hits(self._say(context, answers, rule) > 0)  # (B,)
        label = labels_of(slate, feedback)
        estimate = ((1 - label) * waited).nan_to_num(nan=0.0)
        seen = ~((slate.item[:, 0] == ACCEPT) & label.isnan())
        self.cost.add_(self.charge(context, answers, estimate, seen, feedback, self.charged()))
