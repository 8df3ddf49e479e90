"""Individually fair learning with one-sided feedback: exponential weights over a class of rules."""

from __future__ import annotations

from math import log as ln
from math import sqrt
from typing import Literal, Self

import torch
from torch import Generator, Tensor

from recfb.beliefs.payoff import ACCEPT, labels_of
from recfb.contracts import Context, Feedback, Slate, learner_of, sample_cdf
from recfb.data import Log
from recfb.errors import ConfigError
from recfb.policies.accept_reject import (
    Fair,
    accept_estimate,
    check_single,
    two_sided,
    uniforms,
)
from recfb.policies.hypotheses import Thresholds


def fair_rate(rules: int, requests: int, rounds: int, price: float) -> float:
    """The learning rate of `FairExp`: sqrt(ln H / (3 T (1.25 k^2 + C^2))).

    The variance of a round's loss is at most 3 (k^2 / (1 - g) + k^2 / 4 + C^2).

    >>> round(fair_rate(64, 4, 1000, 0.0), 6)
    0.008326
    """
    return sqrt(ln(rules) / (3 * rounds * (1.25 * requests**2 + price**2)))


class FairExp(Fair):
    """Exponential weights over rules, with the price C on every complaint of the auditors.

    Bechavod and Roth, "Individually fair learning with one-sided feedback", ICML 2023; the exact
    mixture in place of their resampling. With the weights w over the rules of `hypotheses`,

        pi(x) = (1 - g) sum_h w_h h(x) + g      published, read by auditors
        w_h ~ exp(-eta sum_t loss_t(h))
        loss(h) = sum_i h(x_i) a_i (1 - y_i) / pi(x_i) + (1 - h(x_i)) / 2 + C (h(x_1) - h(x_2))

    where (x_1, x_2) is the pair complained of. With probability g a round accepts everybody;
    otherwise one rule decides about all its requests. Losses are half the mistakes, up to what no
    rule can change, so C is half the price in mistakes. Mistakes and complaints per round fall
    together: as T^(-1/5) with "paper", as T^(-1/4) with "direct".

    Args:
        hypotheses: the rules.
        price: C; "paper" is T^0.2, "direct" T^0.25, 0 does not listen to auditors.
        scale: times the learning rate that minimises the bound, `fair_rate`.
        mixing: g, the share of rounds that accept everybody; None is min(1/4, T^(-1/4)).
        labels: "accepted" learns from accepted requests; "all" asks for every label, in a world
            that answers (`Budgeted`), to see what one-sided feedback costs.
        horizon: T; None is what the platform's log says.

    Raises:
        ConfigError: a number out of range, a price too large for its rate, no horizon, not two
            items, slates of several items, or a world that does not answer.

    >>> from recfb.data import Log, Meta
    >>> policy = FairExp(Thresholds(2), mixing=0.5).bind(Log.empty(1, 2, meta=Meta(horizon=9)))
    >>> policy.probs(Context(torch.tensor([0]))).tolist()  # half of (nobody, everybody), and 1/2
    [[0.25, 0.75]]
    """

    logw: Tensor  # (G, H) float64, the largest is 0

    def __init__(
        self,
        hypotheses: Thresholds,
        *,
        price: Literal["paper", "direct"] | float = "paper",
        scale: float = 1.0,
        mixing: float | None = None,
        labels: Literal["accepted", "all"] = "accepted",
        horizon: int | None = None,
    ) -> None:
        super().__init__()
        check_price(price, ("paper", "direct"))
        if not scale > 0 or (mixing is not None and not 0 < mixing <= 1):
            raise ConfigError(
                f"scale is positive and mixing a share in (0, 1], found scale={scale}, "
                f"mixing={mixing}."
            )
        if labels not in ("accepted", "all"):
            raise ConfigError(f'labels are "accepted" or "all", found {labels!r}.')
        self.hypotheses = hypotheses
        self.price = price
        self.scale = scale
        self.mixing = mixing
        self.labels = labels
        self.horizon = horizon

    def bind(self, log: Log) -> Self:
        super().bind(log)
        shape = (self.learners, self.hypotheses.count)
        self.register_buffer("logw", torch.zeros(shape, dtype=torch.float64))
        if self.rate(1) * self.charged() > 1:
            raise ConfigError(
                f"price x learning rate is at most 1, found {self.charged():g} x "
                f"{self.rate(1):g}. Lower scale or price."
            )
        return self

    def reset(self, generator: Generator) -> None:
        super().reset(generator)
        self.logw.zero_()

    def charged(self) -> float:
        """C."""
        if isinstance(self.price, str):
            return float(self.rounds ** {"paper": 0.2, "direct": 0.25}[self.price])
        return float(self.price)

    def rate(self, requests: int) -> float:
        """eta, for k requests a round."""
        return self.scale * fair_rate(self.hypotheses.count, requests, self.rounds, self.charged())

    def share(self) -> float:
        """g."""
        return min(0.25, self.rounds**-0.25) if self.mixing is None else self.mixing

    def accepting(self, context: Context, answers: Tensor) -> Tensor:
        """pi(x) of every request: (B,)."""
        law = self.logw.softmax(1)[learner_of(context, self.learners)]  # (B, H)
        g = self.share()
        return (1 - g) * (answers * law).sum(1).clamp(max=1.0) + g

    def probs(self, context: Context) -> Tensor:
        return two_sided(self.accepting(context, self.hypotheses(context)), context)

    def act(self, context: Context, generator: Generator, *, k: int = 1) -> Slate:
        check_single(self, k)
        answers = self.hypotheses(context)  # (B, H)
        everybody = uniforms(generator, self.learners, device=answers.device) < self.share()  # (G,)
        rule = sample_cdf(self.logw.softmax(1), generator)  # (G, 1)
        learner = learner_of(context, self.learners)
        says = answers.gather(1, rule[learner])[:, 0] > 0  # (B,)
        item = self.allowed((says | everybody[learner]).to(torch.int64), context)  # (B, 1)
        probs = two_sided(self.accepting(context, answers), context)
        p = probs.gather(1, item)
        observe = None
        if self.labels == "all":
            observe = torch.zeros_like(probs, dtype=torch.bool)
            observe[:, ACCEPT] = True
        return Slate(item, propensity=p, p_prefix=p, p_display=p, probs=probs, observe=observe)

    def update(
        self, context: Context, slate: Slate, feedback: Feedback, generator: Generator
    ) -> None:
        answers = self.hypotheses(context)  # (B, H)
        accepted = slate.item[:, 0] == ACCEPT
        if self.labels == "all":
            if feedback.extra is None:
                raise ConfigError(
                    'labels="all" needs a world that answers: Budgeted(Applicants(...)).'
                )
            estimate = (feedback.extra[:, ACCEPT] <= 0).to(torch.float64)  # (B,) 1 - y
            seen = ~feedback.extra[:, ACCEPT].isnan()
        else:
            p = slate.propensity if slate.propensity is not None else (
                self.probs(context).gather(1, slate.item)
            )  # fmt: skip
            label = labels_of(slate, feedback)
            estimate = accept_estimate(label, p[:, 0])
            seen = ~(accepted & label.isnan())
        loss = self.charge(context, answers, estimate, seen, feedback, self.charged())  # (G, H)
        self.logw.sub_(self.rate(self.requests(context)) * loss)
        self.logw.sub_(self.logw.amax(1, keepdim=True))


def check_price(price: str | float, rules: tuple[str, ...]) -> None:
    """Refuse a price that is neither a rule nor a number of at least 0."""
    if (isinstance(price, str) and price not in rules) or (
        not isinstance(price, str) and not price >= 0
    ):
        raise ConfigError(
            f"the price of a complaint is one of {list(rules)} or a number of at least 0, found "
            f"{price!r}."
        )
