"""What to accept pays, from a belief about who is good: lending and hiring on selected labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import log as ln
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Generator, Tensor

from recfb.contracts import Belief, Component, Context, Feedback, Slate, best_of
from recfb.data import Log
from recfb.errors import ConfigError

REJECT, ACCEPT = 0, 1
Weighting = Literal["none", "ips", "dr"]


def check_two_items(who: Component, log: Log) -> None:
    """Refuse logs of anything but two items.

    Raises:
        ConfigError: another number of items.
    """
    if log.n_items != 2:
        raise ConfigError(
            f"{type(who).__name__} rejects (item 0) or accepts (item 1), found a world of "
            f"{log.n_items} items. Try worlds.Applicants()."
        )


def labels_of(slate: Slate, feedback: Feedback) -> Tensor:
    """1 or 0 for accepted requests, NaN where the label is not known: (B,) float64.

    >>> rewards = Feedback(torch.tensor([[9.0], [-1.0], [1.0], [torch.nan]]))
    >>> labels_of(Slate(torch.tensor([[0], [1], [1], [1]])), rewards).tolist()
    [nan, 0.0, 1.0, nan]
    """
    reward = feedback.reward[:, 0]
    known = (slate.item[:, 0] == ACCEPT) & ~reward.isnan()
    return (reward > 0).to(torch.float64).where(known, torch.nan)


def pseudo_label(label: Tensor, guess: Tensor, accept: Tensor, cap: float) -> Tensor:
    """Doubly robust labels of all requests, whose mean is y where 1 / e is not capped: (B,).

        m(x) + a (y - m(x)) min(1 / e, cap)

    Args:
        label: (B,) y of the accepted, NaN of the others.
        guess: (B,) m(x).
        accept: (B,) e, the probability with which the request was accepted.
        cap: the largest 1 / e.

    >>> label, half = torch.tensor([1.0, torch.nan]), torch.tensor([0.5, 0.5])
    >>> pseudo_label(label, half, torch.tensor([0.1, 0.1]), 5.0).tolist()
    [3.0, 0.5]
    """
    return guess + ((label - guess) * (1 / accept).clamp(max=cap)).nan_to_num(nan=0.0)


class Payoff(Component):
    """What each decision pays: 0 to reject, gain m(x) - loss (1 - m(x)) to accept.

    m(x) = P(good | x) is the score that `model` gives item 1, learned from accepted requests only;
    labels of others do not exist (selective labels). A policy over it accepts where
    m(x) > loss / (gain + loss): Greedy, EpsilonGreedy, IGW and Thompson take it as their model, and
    `Tasting` and `STAP` accept some of those that it would reject.

    Whether an applicant is accepted depends on x alone, so plain training, "none", is consistent if
    the model is well specified. It is not where an earlier `Officer` also went by a feature that
    the model is `blind` to. "ips" weights every accepted row by 1 / e, "dr" regresses on
    `pseudo_label`; both need to know e, the probability of accepting, and cap 1 / e.

    Args:
        model: a belief about item 1; `Logistic`, or `Linear`, which "dr" needs.
        gain: what a good accepted one pays.
        loss: what another costs.
        weights: how rows are counted.
        cap: the largest 1 / e.
        doubt: how many bad ones of average features were seen before: a pessimistic prior. The
            last feature is the constant 1.
        blind: features that the model does not see.

    Raises:
        ConfigError: a negative doubt, an amount that is not positive, a cap below 1, unknown
            weights, a feature that does not exist, rows without the propensities that weights need,
            or not two items.

    >>> from recfb.beliefs import Linear
    >>> model = Payoff(Linear(), loss=3.0).bind(Log.empty(1, 2))
    >>> model.model.theta[0, 1] = 0.9
    >>> model.scores(Context(torch.tensor([0]))).round(decimals=6).tolist()
    [[0.0, 0.6]]
    """

    informed: ClassVar[bool] = True  # of the probability of accepting, for its weights

    model: Any
    n_items: int
    learners: int
    features: int

    def __init__(
        self,
        model: Belief,
        *,
        gain: float = 1.0,
        loss: float = 1.0,
        weights: Weighting = "none",
        cap: float = 20.0,
        doubt: float = 0.0,
        blind: Sequence[int] = (),
    ) -> None:
        super().__init__()
        if min(gain, loss) <= 0 or cap < 1 or doubt < 0:
            raise ConfigError(
                "gain and loss are positive, cap is at least 1 and doubt at least 0, found "
                f"gain={gain}, loss={loss}, cap={cap}, doubt={doubt}."
            )
        if weights not in ("none", "ips", "dr"):
            raise ConfigError(f"weights are none, ips or dr, found {weights!r}.")
        self.model = model
        self.gain, self.loss = gain, loss
        self.weights, self.cap = weights, cap
        self.doubt = doubt
        self.blind = list(blind)

    @property
    def vectorised(self) -> bool:
        """As the model."""
        return bool(getattr(self.model, "vectorised", False))

    def bind(self, log: Log) -> Self:
        check_two_items(self, log)
        self.n_items, self.learners = log.n_items, log.meta.learners
        self.features = getattr(log.frame.schema.get("features"), "size", 1)
        if any(not 0 <= f < self.features for f in self.blind):
            raise ConfigError(
                f"requests have {self.features} features here, found blind={self.blind}."
            )
        return super().bind(log)

    def reset(self, generator: Generator) -> None:
        super().reset(generator)
        if not self.doubt:
            return
        G, device = self.learners, generator.device
        x = torch.zeros(G, self.features, device=device)
        x[:, -1] = 1.0
        learner = torch.arange(G, device=device)
        average = Context(torch.zeros_like(learner), learner=learner, features=x)
        yes = Slate(torch.full((G, 1), ACCEPT, device=device))
        bad = torch.zeros(G, 1, dtype=torch.float64, device=device)
        self.model.update(average, yes, Feedback(bad), generator, bad + self.doubt)

    def seen(self, context: Context) -> Context:
        """The requests as the model sees them, with either decision open."""
        if not self.blind or context.features is None:
            return replace(context, candidates=None)
        x = context.features.clone()
        x[:, self.blind] = 0.0
        return replace(context, candidates=None, features=x)

    def good(self, context: Context) -> Tensor:
        """m(x): (B,) float64."""
        found: Tensor = self.model.scores(self.seen(context))[:, ACCEPT]
        return found.to(torch.float64)

    def _pays(self, context: Context, good: Tensor) -> Tensor:
        pays = self.gain * good - self.loss * (1 - good)
        both = torch.stack([torch.zeros_like(pays), pays], 1)  # (B, 2)
        return both if context.candidates is None else both.gather(1, context.candidates)

    def scores(self, context: Context) -> Tensor:
        """(B, 2) float64, or like candidates."""
        return self._pays(context, self.good(context))

    def score_of(self, context: Context, item: Tensor) -> Tensor:
        index = item if item.dim() == 2 else item[:, None]
        every = self.scores(replace(context, candidates=None))
        return every.gather(1, index).view_as(item)

    def top(self, context: Context, k: int) -> Tensor:
        """The k best decisions: (B, k)."""
        return best_of(context, self.scores(context), k, self.learners)

    def width(self, context: Context) -> Tensor:
        """Standard deviations of the scores, 0 to reject: (B, 2)."""
        sd = self.model.width(self.seen(context))[:, ACCEPT]
        both = torch.stack([torch.zeros_like(sd), (self.gain + self.loss) * sd], 1)
        return both if context.candidates is None else both.gather(1, context.candidates)

    def sample(self, context: Context, generator: Generator) -> Tensor:
        """Scores of a draw of the belief: (B, 2)."""
        drawn = self.model.sample(self.seen(context), generator)[:, ACCEPT]
        return self._pays(context, drawn)

    def p_best(self, context: Context, live: Tensor | None = None) -> Tensor | None:
        """P(a draw of the belief accepts): (B, 2); None where the model's logit is not Gaussian."""
        logits = getattr(self.model, "logits", None)
        if logits is None:
            return None
        mean, sd = (x[:, ACCEPT] for x in logits(self.seen(context)))
        over = mean - ln(self.loss / self.gain)
        certain = (over > 0).to(over)
        accept = torch.where(
            sd > 0, torch.special.ndtr(over / sd.clamp(min=1e-300)), certain
        )  # (B,)
        probs = torch.stack([1 - accept, accept], 1)
        return probs if live is None else torch.where(live.all(1, keepdim=True), probs, live * 1.0)

    def update(
        self, context: Context, slate: Slate, feedback: Feedback, generator: Generator
    ) -> None:
        """Learn the labels of accepted requests."""
        label = labels_of(slate, feedback)
        yes, seen = Slate(torch.full_like(slate.item[:, :1], ACCEPT)), self.seen(context)
        if self.weights == "none":
            self.model.update(seen, yes, Feedback(label[:, None]), generator)
            return
        accept = self._accepted(slate)  # (B,)
        if self.weights == "dr":
            label = pseudo_label(label, self.good(context), accept, self.cap)
            self.model.update(seen, yes, Feedback(label[:, None]), generator)
            return
        weight = (1 / accept).clamp(max=self.cap)[:, None]  # (B, 1)
        self.model.update(seen, yes, Feedback(label[:, None]), generator, weight)

    def _accepted(self, slate: Slate) -> Tensor:
        """e of every row; that of rejected ones is not used: (B,)."""
        if slate.propensity is None:
            raise ConfigError(
                f'weights="{self.weights}" needs the probability of accepting, which this policy '
                'does not know. Take weights="none".'
            )
        return slate.propensity[:, 0].to(torch.float64)
