"""The reward model of least doubly robust variance, for stochastic targets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from recfb.contracts import Block, Policy
from recfb.errors import ConfigError
from recfb.evaluation.cell_means import fold_of
from recfb.evaluation.reduction import BLOCK, known_rows
from recfb.evaluation.weighting import chances

CELLS = 1 << 24
"""The most numbers that the normal equations may have."""


def variance(q: Tensor, pi: Tensor, mu: Tensor, item: Tensor, reward: Tensor) -> Tensor:
    """What a reward model q adds to n times the variance of DR: per row, up to a constant.

    w [sum_a pi(a)^2 q(a)^2 / mu(a) - v^2 - 2 r (pi(a_i) q(a_i) / p - v)], v = sum_a pi(a) q(a), w =
    pi(a_i) / p, p = mu(a_i). Its mean over logged rows estimates the difference of the variance
    between any two models without bias. Farajtabar, Chow and Ghavamzadeh (2018), for any target.

    Args:
        q: (B, K) predicted rewards.
        pi: (B, K) the target's probabilities.
        mu: (B, K) the logger's probabilities.
        item: (B,) logged items.
        reward: (B,) their rewards.

    >>> half = torch.full((1, 2), 0.5)
    >>> q = torch.tensor([[1.0, 0.0]])
    >>> variance(q, half, half, torch.tensor([0]), torch.tensor([1.0])).tolist()
    [-0.75]
    """
    at = item[:, None]
    p, chosen = mu.gather(1, at)[:, 0], pi.gather(1, at)[:, 0]  # (B,)
    v = (pi * q).sum(1)
    spread = (pi.square() * q.square() / mu).where(pi > 0, 0.0).sum(1) - v.square()
    return chosen / p * (spread - 2 * reward * (chosen * q.gather(1, at)[:, 0] / p - v))


def normal_equations(
    pi: Tensor, mu: Tensor, item: Tensor, reward: Tensor, *, clip: float = float("inf")
) -> tuple[Tensor, Tensor]:
    """A (K, K) and b (K,) of the model q(a) = theta_a that makes the sum of `variance` least.

    The sum is theta' A theta - 2 b' theta, with A = sum_i w (diag(pi^2 / mu) - pi pi') and b =
    sum_i w r (pi(a_i) / p one-hot(a_i) - pi). Weights w count as at most `clip`; items that the
    logger never shows are left out.

    >>> half = torch.full((2, 2), 0.5, dtype=torch.float64)
    >>> a, b = normal_equations(half, half, torch.tensor([0, 1]), torch.tensor([1.0, 0.0]))
    >>> a.tolist(), b.tolist()
    ([[0.5, -0.5], [-0.5, 0.5]], [0.5, -0.5])
    """
    at = item[:, None]
    ratio = pi.gather(1, at) / mu.gather(1, at)  # (B, 1)
    w = ratio[:, 0].clamp(max=clip)
    square = (pi.square() / mu).where((pi > 0) & (mu > 0), 0.0)
    a = torch.diag(w @ square) - (w[:, None] * pi).T @ pi
    pull = w * reward.to(w.dtype)
    b = torch.zeros_like(pi[0]).index_add_(0, item, pull * ratio[:, 0]) - pull @ pi
    return a, b


@dataclass(frozen=True)
class Normal:
    """Normal equations of one part, by policy, fold and position."""

    a: Tensor  # (P, F, L, K, K)
    b: Tensor  # (P, F, L, K)


def _position(block: Block) -> Tensor:
    position = block.context.position
    return torch.zeros(len(block), dtype=torch.int64) if position is None else position


@torch.no_grad()
def equations(
    block: Block, policies: Mapping[str, Policy], *, folds: int, seed: int, n_items: int
) -> Normal:
    """The normal equations of a part; weights are clipped at its 99.9 % quantile."""
    block = block[known_rows(block)]
    position, fold = _position(block), fold_of(block.unit, folds, seed)
    levels = 1 + int(position.max()) if len(block) else 1
    shape = (len(policies), folds, levels, n_items)
    if shape[0] * folds * levels * n_items**2 > CELLS:
        raise ConfigError(
            f"mrdr solves equations of items x items for each policy, fold and position: {shape} "
            f"are too many. Ask for dr, or for fewer policies at a time."
        )
    a, b = torch.zeros(*shape, n_items, dtype=torch.float64), torch.zeros(shape).double()
    mu = block.slate.probs
    assert mu is not None
    for k, policy in enumerate(policies.values()):
        clip = _clip(block, policy)
        for start in range(0, len(block), BLOCK):
            rows = slice(start, start + BLOCK)
            some = block[rows]
            pi = policy.probs(some.context).to("cpu", torch.float64)
            code = fold[rows] * levels + position[rows]
            for cell in torch.unique(code).tolist():
                on = code == cell
                item, reward = some.slate.item[on, 0], some.feedback.reward[on, 0]
                made = normal_equations(pi[on], mu[rows][on].double(), item, reward, clip=clip)
                a[k, cell // levels, cell % levels] += made[0]
                b[k, cell // levels, cell % levels] += made[1]
    return Normal(a, b)


def _clip(block: Block, policy: Policy) -> float:
    """The 99.9 % quantile of a part's weights."""
    mu = block.slate.probs
    assert mu is not None
    if not len(block):
        return 1.0
    w = chances(block, policy) / mu.gather(1, block.slate.item)[:, 0]  # (n,)
    return float(w.kthvalue(max(1, round(0.999 * len(w)))).values)


class CellMRDR:
    """Rewards of (position, item) that make the variance of DR least, fitted without a row's own
    fold, for each policy.

    Args:
        decay: weight decay, as a share of the mean of the equations' diagonal.
        folds: how many models; each row is predicted by the one that did not see its unit.
        seed: of the hash.
    """

    def __init__(self, *, decay: float = 0.01, folds: int = 3, seed: int = 0) -> None:
        self.decay = decay
        self.folds = folds
        self.seed = seed
        self.table = torch.zeros(0, folds, 1, 0, dtype=torch.float64)  # (P, folds, levels, K)

    def fit(self, parts: Iterable[Normal]) -> CellMRDR:
        """Solve what `equations` gave for every part."""
        found = list(parts)
        levels = max(part.b.shape[2] for part in found)
        a = torch.stack([_grown(part.a, levels) for part in found]).sum(0)
        b = torch.stack([_grown(part.b, levels) for part in found]).sum(0)
        a, b = a.sum(1, keepdim=True) - a, b.sum(1, keepdim=True) - b  # the other folds
        scale = a.diagonal(dim1=-2, dim2=-1).mean(-1, keepdim=True)  # (P, F, L, 1)
        ridge = (self.decay * scale).clamp(min=1e-9).expand_as(b).diag_embed()
        self.table = torch.linalg.solve(a + ridge, b)
        return self

    def predict(self, block: Block) -> Tensor:
        """(P, B, K): each row by the model that did not see its unit."""
        fold, position = fold_of(block.unit, self.folds, self.seed), _position(block)
        position = torch.where(position < self.table.shape[2], position, 0)
        return self.table[:, fold, position]

    @torch.no_grad()
    def columns(self, block: Block, policies: Mapping[str, Policy]) -> tuple[Tensor, Tensor]:
        """(P, n) values of the targets, and predictions at the logged items."""
        vm = torch.empty(len(policies), len(block), dtype=torch.float64)
        qm = torch.empty_like(vm)
        for start in range(0, len(block), BLOCK):
            rows = slice(start, start + BLOCK)
            some, predicted = block[rows], self.predict(block[rows])  # (P, B, K)
            for k, policy in enumerate(policies.values()):
                pi = policy.probs(some.context).to("cpu", torch.float64)
                vm[k, rows] = (pi * predicted[k]).sum(1)
                qm[k, rows] = predicted[k].gather(1, some.slate.item)[:, 0]
        return vm, qm


def _grown(table: Tensor, levels: int) -> Tensor:
    """A table (P, F, L, ...) with more positions; what was not there is 0."""
    grown = table.new_zeros(*table.shape[:2], levels, *table.shape[3:])
    grown[:, :, : table.shape[2]] = table
    return grown


__all__ = ["CellMRDR", "equations", "normal_equations", "variance"]
