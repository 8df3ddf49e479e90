"""Beta-Bernoulli Thompson sampling with exact probabilities, by position."""

from __future__ import annotations

from functools import lru_cache
from typing import Self

import numpy as np
import torch
from torch import Generator, Tensor

from recfb.contracts import Context, Feedback, Policy, Slate, learner_of
from recfb.data import Log
from recfb.errors import ConfigError
from recfb.policies.drawn import add_shown

Prior = float | list[float] | list[list[float]] | Tensor
_LEVELS = (0.5, 2.0, 5.0, 10.0, 18.0, 28.0)  # falls of a log density at which the grid is cut
_NODES = 14  # a rule an interval: with 6, 80 equal priors lose 4e-4 of their mass; with 14, 1e-11
_ROOM = 1 << 21  # numbers in one temporary tensor


@lru_cache(maxsize=1)
def _gauss() -> tuple[Tensor, Tensor, Tensor]:
    """Gauss-Legendre nodes and weights on [0, 1], and the integrals from 0 to each node: (m, m)."""
    x, w = np.polynomial.legendre.leggauss(_NODES)
    basis = np.linalg.inv(np.polynomial.legendre.legvander(x, _NODES - 1))  # values -> coefficients
    upto = np.stack(
        [
            np.polynomial.legendre.legval(x, np.polynomial.legendre.legint(c, lbnd=-1))
            for c in np.eye(_NODES)
        ],
        axis=1,
    )
    return torch.tensor((x + 1) / 2), torch.tensor(w / 2), torch.tensor(upto @ basis / 2)


def _cuts(a: Tensor, b: Tensor) -> Tensor:
    """Where to cut the real line of logits: (G, K) -> (G, 13 K), sorted.

    A logit of a Beta variable has mode log(a / b), curvature a b / (a + b) and tails exp(a y) and
    exp(-b y); the cuts lie where its log density has fallen by at least the levels.
    """
    level = torch.tensor(_LEVELS, dtype=a.dtype, device=a.device)
    mode, scale = (a / b).log()[..., None], ((a + b) / (a * b)).sqrt()[..., None]  # (G, K, 1)
    left = mode - (2 * level).sqrt() * scale - level / a[..., None]
    right = mode + (2 * level).sqrt() * scale + level / b[..., None]
    return torch.cat([left, mode, right], dim=2).flatten(1).sort(1).values


def _others(f: Tensor, cdf: Tensor, ranks: int) -> Tensor:
    """Sums over nodes of f_i x P(exactly r others are larger), r < ranks: (G, K, N) -> (G, R, K).

    The number of larger ones is a sum of independent coins; prefix and suffix products of their
    generating polynomials leave one item out without dividing.
    """
    if ranks == 1:
        log = cdf.clamp(min=1e-300).log()  # (G, K, N)
        return (f * (log.sum(1, keepdim=True) - log).exp_()).sum(2)[:, None]
    many = f.shape[1]
    ahead = [[torch.ones_like(f[:, 0])] + [torch.zeros_like(f[:, 0])] * (ranks - 1)]
    for i in range(many - 1):  # ahead[i][r]: r of the items before i are larger
        ahead.append(_append(ahead[-1], cdf[:, i]))
    behind, out = ahead[0], f.new_empty(len(f), ranks, many)
    for i in reversed(range(many)):
        for r in range(ranks):
            both = sum(ahead[i][j] * behind[r - j] for j in range(r + 1))
            out[:, r, i] = (f[:, i] * both).sum(1)
        behind = _append(behind, cdf[:, i])
    return out


def _append(counts: list[Tensor], cdf: Tensor) -> list[Tensor]:
    """One more coin: it is larger with probability 1 - cdf."""
    return [counts[r] * cdf + (counts[r - 1] * (1 - cdf) if r else 0.0) for r in range(len(counts))]


def rank_probabilities(a: Tensor, b: Tensor, live: Tensor, ranks: int = 1) -> Tensor:
    """P(item i has rank r) when every item draws from its own Beta(a_i, b_i): (G, K) -> (G, R, K).

    P = integral of f_i(y) P(exactly r of the other draws exceed y) dy over logits y, by
    Gauss-Legendre rules between cuts that follow every item's own scale. Rows of `live` (G, K) say
    who takes part. Time grows with the square of K.

    >>> one = torch.ones(1, 3, dtype=torch.float64)
    >>> p = rank_probabilities(one, one, one > 0, ranks=2)
    >>> [[round(float(x), 6) for x in row] for row in p[0]]
    [[0.333333, 0.333333, 0.333333], [0.333333, 0.333333, 0.333333]]
    """
    cuts = _cuts(a, b)
    node, weight, upto = (t.to(a.device) for t in _gauss())
    start, width = cuts[:, :-1], cuts.diff(dim=1)  # (G, T)
    mode = (a / b).log()
    peak = a * mode - (a + b) * torch.nn.functional.softplus(mode)  # (G, K)
    step = max(1, _ROOM // (a.numel() * _NODES))

    def density(part: slice) -> Tensor:
        y = start[:, part, None] + width[:, part, None] * node  # (G, T', m)
        y, soft = y[:, None], torch.nn.functional.softplus(y)[:, None]  # (G, 1, T', m)
        a4, n4, top = a[..., None, None], (a + b)[..., None, None], peak[..., None, None]
        f = (a4 * y - n4 * soft - top).exp_()  # (G, K, T', m)
        return f * width[:, None, part, None]

    parts = [slice(first, first + step) for first in range(0, start.shape[1], step)]
    first = density(parts[0])
    rest = [(density(part) @ weight) for part in parts[1:]]
    mass = torch.cat([first @ weight, *rest], dim=2)  # (G, K, T)
    total = mass.sum(2)[..., None]  # (G, K, 1)
    below = mass.cumsum(2) - mass
    out = a.new_zeros(len(a), ranks, a.shape[1])
    for part in parts:
        f = first if part is parts[0] else density(part)
        cdf = (below[:, :, part, None] + f @ upto.T).flatten(2) / total  # (G, K, N)
        cdf = torch.where(live[..., None], cdf, 1.0)
        f = (f * weight).flatten(2) / total * live[..., None]
        out += _others(f, cdf, ranks)
    return out


def log_gamma_draw(shape: Tensor, generator: Generator) -> Tensor:
    """Logarithms of draws of Gamma(shape, 1), which themselves may be below the smallest double:
    Gamma(a) is Gamma(a + 1) U^(1 / a)."""
    u = torch.rand(shape.shape, generator=generator, dtype=shape.dtype, device=shape.device)
    more = torch._standard_gamma(shape + 1.0, generator=generator)
    return more.log_().add_(u.neg_().log1p_().div_(shape))


class BetaThompson(Policy):
    """Thompson sampling for rewards in [0, 1]: each item draws from its Beta; the largest is shown.

    Thompson (1933); Chapelle and Li (2011). With one prior an item, a slate ranks one joint draw,
    so position k shows the k-th largest; P(item at position k), and in the first K, are exact. With
    a prior for every (position, item), positions are bandits of their own, for logs of single
    positions. Probabilities are integrals, not simulations.

    Args:
        alpha: prior successes: a number, one an item, or one a (position, item). Positive.
        beta: prior failures, alike.

    Raises:
        ConfigError: a prior that is not positive or does not fit the log's items; a slate asked of
            a policy whose positions are apart.

    >>> from recfb.data import Log
    >>> policy = BetaThompson(alpha=[2.0, 1.0], beta=[1.0, 1.0]).bind(Log.empty(1, 2))
    >>> [round(float(p), 6) for p in policy.probs(Context(torch.tensor([0])))[0]]
    [0.666667, 0.333333]
    """

    successes: Tensor  # (G, L, n_items), L = 1 or the positions of the prior
    failures: Tensor

    def __init__(self, alpha: Prior = 1.0, beta: Prior = 1.0) -> None:
        super().__init__()
        self.alpha = alpha
        self.beta = beta
        for name, prior in (("alpha", alpha), ("beta", beta)):
            value = torch.as_tensor(prior, dtype=torch.float64)
            if value.dim() > 2 or not bool(((value > 0) & value.isfinite()).all()):
                raise ConfigError(
                    f"{name} is a positive number, a list of one an item, or a list of such lists, "
                    f"one a position. For a flat prior: {name}=1.0"
                )
        self._memo: tuple[Tensor, Tensor, Tensor] | None = None

    def _prior(self, n_items: int) -> tuple[Tensor, Tensor]:
        a = torch.as_tensor(self.alpha, dtype=torch.float64)
        b = torch.as_tensor(self.beta, dtype=torch.float64)
        try:
            zero = 0 * (a + b + torch.zeros(1, n_items, dtype=a.dtype))  # (L, n_items)
            a, b = a + zero, b + zero
        except RuntimeError:
            a = a.new_empty(0, 0)
        if a.shape[-1] != n_items:
            raise ConfigError(
                f"alpha and beta do not fit the log's {n_items} items: give one number, one an "
                "item in the order of log.items, or a list of such lists, one a position."
            )
        return a, b

    def bind(self, log: Log) -> Self:
        """Priors for every learner; rows of the log are not learnt from."""
        super().bind(log)
        for name, prior in zip(("successes", "failures"), self._prior(log.n_items), strict=True):
            self.register_buffer(name, prior.expand(log.meta.learners, -1, -1).clone())
        return self

    def reset(self, generator: Generator) -> None:
        super().reset(generator)
        a, b = self._prior(self.n_items)
        self.successes.copy_(a.expand_as(self.successes))
        self.failures.copy_(b.expand_as(self.failures))

    def _ranks(self, ranks: int) -> Tensor:
        """(G * L, R, n_items) for the whole catalogue; kept until a count changes."""
        memo = self._memo
        if (
            memo is not None
            and memo[2].shape[1] >= ranks
            and memo[0].device == self.successes.device
            and torch.equal(memo[0], self.successes)
            and torch.equal(memo[1], self.failures)
        ):
            return memo[2]
        a, b = self.successes.flatten(0, 1), self.failures.flatten(0, 1)  # (G * L, n_items)
        table = self._in_blocks(a, b, torch.ones_like(a, dtype=torch.bool), ranks)
        self._memo = (self.successes.clone(), self.failures.clone(), table)
        return table

    def _in_blocks(self, a: Tensor, b: Tensor, live: Tensor, ranks: int) -> Tensor:
        cells = a.shape[1] ** 2 * (2 * len(_LEVELS) + 1) * _NODES
        size = max(1, _ROOM // max(1, cells))
        rows = [slice(first, first + size) for first in range(0, len(a), size)]
        return torch.cat([rank_probabilities(a[row], b[row], live[row], ranks) for row in rows])

    def _rows(self, context: Context, ranks: int) -> Tensor:
        """Rank probabilities of each request's items: (B, R, n_items)."""
        row, live = self._row(context), self._live(context)
        if live is None:
            return self._ranks(ranks)[row]
        cases = torch.cat([row[:, None], live.to(row.dtype)], dim=1)  # (B, 1 + n_items)
        case, which = torch.unique(cases, dim=0, return_inverse=True)  # each learner and set once
        a, b = self.successes.flatten(0, 1)[case[:, 0]], self.failures.flatten(0, 1)[case[:, 0]]
        return self._in_blocks(a, b, case[:, 1:] > 0, ranks)[which]

    def _row(self, context: Context) -> Tensor:
        """Where each request's counts are among G * L: (B,)."""
        levels = self.successes.shape[1]
        row = learner_of(context, len(self.successes)) * levels
        return row if levels == 1 or context.position is None else row + context.position - 1

    def _live(self, context: Context) -> Tensor | None:
        if context.candidates is not None:
            none = torch.zeros(
                len(context), self.n_items, dtype=torch.bool, device=context.user.device
            )
            return none.scatter_(1, context.candidates, True)
        return None if context.available is None else context.available.expand(len(context), -1)

    def probs(self, context: Context) -> Tensor:
        """(B, n_items), at the request's position where it has one, else at the first."""
        if context.position is None or self.successes.shape[1] > 1:
            return self._rows(context, 1)[:, 0]
        last = int(context.position.max()) if len(context) else 1
        rank = (context.position - 1)[:, None, None].expand(-1, 1, self.n_items)  # (B, 1, n_items)
        return self._rows(context, last).gather(1, rank)[:, 0]

    def propensities(self, context: Context, item: Tensor) -> Slate:
        """At each position and anywhere in the slate; slates of K > 1 have no closed form."""
        k = item.shape[1]
        self._check(k)
        if k == 1:
            probs = self.probs(context)
            p = probs.gather(1, item)
            return Slate(item, p, p_prefix=p, p_display=p, probs=probs)
        table = self._rows(context, k)[:, :k]  # (B, K, n_items)
        at = table.gather(2, item[:, :, None])[:, :, 0]  # (B, K)
        inside = table.sum(1).gather(1, item)  # (B, K)
        return Slate(item, at, p_display=inside, probs=table[:, 0])

    def act(self, context: Context, generator: Generator, *, k: int = 1) -> Slate:
        return self.propensities(context, self.draw(context, generator, k=k).item)

    def draw(self, context: Context, generator: Generator, *, k: int = 1) -> Slate:
        """One draw of every item's Beta a request, ranked. With k = 1, the item at the request's
        position, where it has one."""
        self._check(k)
        row, one = self._row(context), self.successes.shape[1] == 1
        place = context.position if k == 1 and one else None  # the rank that is shown
        last = k if place is None or not len(place) else int(place.max())
        shapes = torch.stack([x.flatten(0, 1)[row] for x in (self.successes, self.failures)])
        win, lose = log_gamma_draw(shapes, generator)  # (B, n_items) each
        logit = win - lose  # of a Beta draw
        live = self._live(context)
        if live is not None:
            logit.masked_fill_(~live, -torch.inf)
            self.check_slate(live.double(), last)
        best = logit.topk(last, dim=1).indices  # (B, last)
        return Slate(best if place is None else best.gather(1, place[:, None] - 1))

    def _check(self, k: int) -> None:
        if k > 1 and self.successes.shape[1] > 1:
            raise ConfigError(
                "a prior for every (position, item) makes every position a bandit of its own, "
                "which has no slates. Give one prior an item, or ask for slate=1."
            )

    def update(
        self, context: Context, slate: Slate, feedback: Feedback, generator: Generator
    ) -> None:
        """Add rewards in [0, 1] as successes, what is missing to 1 as failures; NaN is skipped."""
        levels, items = self.successes.shape[1:]
        place = slate.item  # (B, K) among levels and items
        if levels > 1 and context.position is not None:
            place = place + (context.position - 1)[:, None] * items
        won = feedback.reward.to(torch.float64)  # (B, K)
        add_shown(context, self.successes.flatten(1), place, won.nan_to_num(nan=0.0))
        add_shown(context, self.failures.flatten(1), place, (1 - won).nan_to_num(nan=0.0))


__all__ = ["BetaThompson", "rank_probabilities"]
