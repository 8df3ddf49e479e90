"""LightGCN: vectors averaged over the graph of clicks, without weights or nonlinearities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import torch
from torch import Generator, Tensor, nn

from recfb.contracts import Batch
from recfb.data.pairs import Pairs
from recfb.optim import table
from recfb.scorers.factors import Factored, Factors

if TYPE_CHECKING:
    from recfb.data.log import Log
    from recfb.data.pairs import Pairs

_SCALE = 0.1  # standard deviation of the first values


class LightGCN(Factored):
    """Estimates s(u, i) = E_u . E_i with E the mean of the layers E0, A E0, ..., A^layers E0.

    He et al., "LightGCN: Simplifying and powering graph convolution network for recommendation"
    (2020). A = D^-1/2 G D^-1/2 is the graph of the log's clicks, users and items
    alike, without self-loops, each edge divided by the roots of the degrees at both ends. What has
    no click has no edge: its later layers are 0, so its E is E0 / (layers + 1).

    A step propagates once, which costs layers * clicks * dim whatever the batch: use large ones.
    The clicks are part of the state, because scores depend on them.

    Args:
        dim: length of the vectors.
        layers: how often vectors are averaged over neighbours; 0 is `MF(bias="none")`.
        l2: weight of half the squared length of the E0 a batch uses, a mean over the batch.

    >>> from recfb.data import Log
    >>> from recfb.random import stream
    >>> log = Log.of({"user": [0, 1], "item": [0, 1], "reward": [1, 1]}, n_users=2, n_items=3)
    >>> model = LightGCN(dim=4).bind(log)
    >>> model.reset(stream(0))
    >>> model.all(torch.tensor([0])).shape
    torch.Size([1, 3])
    """

    user: nn.Parameter  # (n_users, dim)
    item: nn.Parameter  # (n_items, dim)
    edge: Tensor  # (2, 2 P) int64, sorted: the P clicks from users to items, then from items back
    weight: Tensor  # (2 P,)

    def __init__(self, dim: int = 64, *, layers: int = 3, l2: float = 1e-4) -> None:
        super().__init__()
        self.dim, self.layers, self.l2 = dim, layers, l2

    def bind(self, log: Log) -> Self:
        super().bind(log)
        self.user = table(getattr(self, "user", None), log.n_users, self.dim)
        self.item = table(getattr(self, "item", None), log.n_items, self.dim)
        self._connect(log.clicks)
        return self

    def _connect(self, clicks: Pairs) -> None:
        user, item = clicks.user.to(self.user.device), clicks.item.to(self.user.device)
        back = item.argsort(stable=True)  # (P,)
        there = torch.stack([user, self.n_users + item])  # (2, P)
        edge = torch.cat([there, there.flip(0)[:, back]], dim=1)  # (2, 2 P)
        degree = torch.bincount(edge[0], minlength=self.n_users + self.n_items)
        root = degree.to(self.user.dtype).rsqrt()  # infinite where there is no edge
        self.register_buffer("edge", edge, persistent=False)
        self.register_buffer("weight", root[edge[0]] * root[edge[1]], persistent=False)

    def get_extra_state(self) -> Tensor:
        """The clicks as keys `user * n_items + item`: (P,). They belong to the state_dict."""
        half = self.edge.shape[1] // 2
        return self.edge[0, :half] * self.n_items + self.edge[1, :half] - self.n_users

    def set_extra_state(self, state: Tensor) -> None:
        """Build the graph of these clicks."""
        n = max(1, self.n_items)
        self._connect(Pairs(state // n, state % n, n_users=self.n_users, n_items=self.n_items))

    def reset(self, generator: Generator) -> None:
        super().reset(generator)
        with torch.no_grad():
            for parameter in (self.user, self.item):
                parameter.normal_(0.0, _SCALE, generator=generator)

    def ready(self) -> Factors:
        """The averaged tables, with their graph back to E0."""
        sizes = [self.n_users, self.n_items]
        first = torch.cat([self.user, self.item])  # (n_users + n_items, dim)
        mean = propagate(self.edge, self.weight, first, self.layers)
        user, item = torch.split(mean, sizes)
        return _Averaged(user, item, Factors(*torch.split(first, sizes), l2=self.l2))


class _Averaged(Factors):
    """Scores from the averaged tables, the penalty from the first ones."""

    def __init__(self, user: Tensor, item: Tensor, first: Factors) -> None:
        super().__init__(user, item)
        self.first = first

    def penalty(self, batch: Batch) -> Tensor | float:
        return self.first.penalty(batch)


def propagate(edge: Tensor, weight: Tensor, first: Tensor, layers: int) -> Tensor:
    """The mean of E, A E, ..., A^layers E for sorted distinct edges (2, E) and weights (E,) of A.

    >>> edge = torch.tensor([[0, 1], [1, 0]])
    >>> propagate(edge, torch.ones(2), torch.tensor([[2.0], [4.0]]), 1).tolist()
    [[3.0], [3.0]]
    """
    n = len(first)
    graph = torch.sparse_coo_tensor(edge, weight, (n, n), is_coalesced=True, check_invariants=False)
    total = layer = first  # (n, d)
    for _ in range(layers):
        layer = torch.sparse.mm(graph, layer)  # (n, d)
        total = total + layer
    return total / (layers + 1)
