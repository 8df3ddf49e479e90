"""A gate between generations: a new training is deployed only where it is surely better."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, ClassVar, Self

import polars as pl
import torch
from torch import Generator, Tensor

from recfb.contracts import Context, Feedback, Policy, Slate
from recfb.data import Log
from recfb.errors import ConfigError
from recfb.estimate import Rows, dr
from recfb.estimate.rows import each
from recfb.policies.explore import whole
from recfb.random import derive, stream

BLOCK = 2048
"""Rows that are weighed at once."""


def least_gain(rows: Rows, alpha: float) -> float:
    """The lower limit of the value of the second policy minus that of the first, by paired dr.

    With d_i the difference of the dr terms of row i (Dudik et al. 2014, eq. 9), mean d less
    z(1 - alpha) sd(d) / sqrt(n): right in a share 1 - alpha of large logs, for independent rows.
    -inf with fewer than two rows.

    Args:
        rows: of two policies, pe and v (2, n).
        alpha: how often the difference may be smaller.

    >>> pe = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.9, 0.1, 0.9, 0.1]], dtype=torch.float64)
    >>> r, p = torch.tensor([1.0, 0.0, 1.0, 0.0]), torch.full((4,), 0.5)
    >>> zero = torch.zeros(4)
    >>> round(least_gain(Rows(r, p, pe, v=zero, q=zero), alpha=0.5), 6)  # half of .8
    0.4
    """
    n = len(rows)
    if n < 2:
        return -torch.inf
    terms = dr(rows, each).to(torch.float64)  # (2, n)
    d = terms[1] - terms[0]  # (n,)
    z = torch.special.ndtri(torch.tensor(1 - alpha, dtype=torch.float64))
    return float(d.mean() - z * d.std() / n**0.5)


class Gated(Policy):
    """A policy whose new training must beat the old one before it is shown: champion and
    challenger.

    At a refit a copy is trained without a share of the newest rows. On that share, which neither of
    the two has seen, both are valued by dr, with the logged propensities and the champion's model.
    The challenger takes over if the lower limit of its paired difference from the champion is
    positive (`least_gain`). The difference is tested, not the value, since what both earn on a row
    cancels. The first training is always taken. Rows whose reward is not known are left out.

    A log of a nearly greedy champion says little of what a challenger does differently: where both
    are nearly greedy, 2,000 rows that decide let hardly anyone pass, and the gate keeps what it
    has. That is safe where the world stands still, and not where it drifts.

    Args:
        policy: a policy over a model whose scores are E[reward | x, item].
        holdout: the share of the newest rows that decides, in (0, 1).
        alpha: how often a challenger that is no better may pass.

    Raises:
        ConfigError: a share or an alpha out of range; a policy that no refit changes, without a
            model, or one that sees the truth; a log of slates.
        LogError: a log without times or propensities.

    >>> import recfb
    >>> from recfb.interop.sklearn import Reward
    >>> from recfb.policies.epsilon_greedy import EpsilonGreedy
    >>> rows = {"item": [0, 1] * 200, "propensity": [0.5] * 400}
    >>> old = Log.of({**rows, "reward": [1.0, 0.0] * 200, "time": [0] * 400})
    >>> new = Log.of({**rows, "reward": [0.0, 1.0] * 200, "time": [1] * 400})
    >>> policy = Gated(EpsilonGreedy(Reward("linear"), 0.5)).bind(old)
    >>> policy.refit(old, recfb.fit)
    >>> policy.probs(Context(torch.tensor([0]))).tolist()
    [[0.75, 0.25]]
    >>> policy.refit(new, recfb.fit)
    >>> policy.probs(Context(torch.tensor([0]))).tolist(), int(policy.taken), int(policy.tried)
    ([[0.25, 0.75]], 2, 2)
    """

    vectorised: ClassVar[bool] = False  # one decision an object

    last: Tensor  # () the newest round that a training has seen; -1: none
    tried: Tensor  # () trainings so far
    taken: Tensor  # () of them, those that passed

    def __init__(self, policy: Policy, *, holdout: float = 0.5, alpha: float = 0.05) -> None:
        super().__init__()
        if not 0 < holdout < 1 or not 0 < alpha < 1:
            raise ConfigError(
                f"holdout and alpha are in (0, 1), found {holdout} and {alpha}. Try "
                "Gated(policy, holdout=0.5, alpha=0.05)."
            )
        if not policy.retrained or policy.privileged or not hasattr(_inner(policy), "model"):
            raise ConfigError(
                f"the gate is for a policy whose model is trained at refits, found {policy!r}. Try "
                "Gated(IGW(model)), with a model that is fitted."
            )
        self.policy = policy
        self.holdout = holdout
        self.alpha = alpha

    def bind(self, log: Log) -> Self:
        for name in ("last", "tried", "taken"):
            self.register_buffer(name, torch.zeros((), dtype=torch.int64))
        self.last.fill_(-1)
        return super().bind(log)

    def reset(self, generator: Generator) -> None:
        super().reset(generator)
        self.last.fill_(-1)
        self.tried.zero_()
        self.taken.zero_()

    # ---- as the policy in charge

    def probs(self, context: Context) -> Tensor:
        return self.policy.probs(context)

    def prob_of(self, context: Context, item: Tensor) -> Tensor:
        return self.policy.prob_of(context, item)

    def update(
        self, context: Context, slate: Slate, feedback: Feedback, generator: Generator
    ) -> None:
        self.policy.update(context, slate, feedback, generator)

    # ---- the gate

    def refit(self, log: Log, fit: Callable[[Log, Any], Any]) -> None:
        log.require("time", "propensity")
        challenger = copy.deepcopy(self.policy)
        if int(self.last) < 0:
            challenger.refit(log, fit)
            better = True
        else:
            held = self._held(log)  # (n,)
            challenger.refit(_only(log, ~held), fit)
            rows = self._rows(_only(log, held), challenger)
            better = least_gain(rows, self.alpha) > 0
        if better:
            self.policy = challenger
        self.last.fill_(int(log.tensor("time").max()))
        self.tried += 1
        self.taken += better

    def _held(self, log: Log) -> Tensor:
        """Which rows decide, (n,) bool: a random share of those that no training has seen."""
        time = log.tensor("time")
        generator = stream(derive(0, "holdout", int(time.max())))
        u = torch.rand(len(time), generator=generator, dtype=torch.float64)
        return (time > self.last.cpu()) & (u < self.holdout)

    @torch.no_grad()
    def _rows(self, log: Log, challenger: Policy) -> Rows:
        """What dr reads of the rows with a known reward: champion first."""
        model = _inner(self.policy).model
        found: dict[str, list[Tensor]] = {name: [] for name in ("r", "p", "pe", "v", "q")}
        for block in log.filter(pl.col("reward").is_not_null()).blocks(BLOCK):
            context, item = block.context, block.slate.item  # (b, 1)
            if block.slate.propensity is None or item.shape[1] > 1:
                raise ConfigError("the gate reads logs of single items, found slates.")
            f, _ = whole(context, model.scores(context), self.n_items)  # (b, n_items)
            probs = torch.stack([x.probs(context) for x in (self.policy, challenger)])  # (2, b, n)
            found["r"].append(block.feedback.reward[:, 0].to(torch.float64))
            found["p"].append(block.slate.propensity[:, 0].to(torch.float64))
            found["pe"].append(probs.gather(2, item.expand(2, -1, -1)).squeeze(2))  # (2, b)
            found["v"].append((probs * f).sum(2))  # (2, b)
            found["q"].append(f.gather(1, item)[:, 0])
        if not found["r"]:
            none = torch.empty(2, 0, dtype=torch.float64)
            return Rows(none[0], none[0], none, v=none, q=none[0])
        return Rows(**{name: torch.cat(columns, -1) for name, columns in found.items()})


def _inner(policy: Any) -> Any:
    """The policy inside a mixture."""
    while hasattr(policy, "policy"):
        policy = policy.policy
    return policy


def _only(log: Log, rows: Tensor) -> Log:
    return log.with_frame(log.frame.filter(pl.Series(rows.numpy())))


__all__ = ["Gated", "least_gain"]
