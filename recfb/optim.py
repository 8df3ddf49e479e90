"""Optimisers as plain specifications, row-wise Adagrad, and the one way to read a table.

A specification is a frozen dataclass: it can be printed, saved and compared, and `build(groups)`
makes the torch optimiser. Its learning rate at a step depends on the step's number only, so
training resumes exactly.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_CHUNK = 16_384  # rows of a gradient that are updated while they are in the cache


def densify(group: dict[str, Any], sparse: bool) -> None:
    """Sparse gradients become dense for optimisers, and weight decay, that need all rows."""
    if sparse and not group.get("weight_decay"):
        return
    for parameter in group["params"]:
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.to_dense()


def lookup(table: Tensor, index: Tensor) -> Tensor:
    """Rows of a table (n, d): index (...) -> (..., d). Read every table of embeddings with it.

    A leaf gets a sparse, uncoalesced gradient, which `RowAdagrad` applies without ever building the
    dense one; a computed table (LightGCN's) is read by `index_select`, whose backward is repeatable
    on several threads. Under `torch.distributed` gradients are dense, because the all-reduce is.

    >>> table = torch.arange(6.0).view(3, 2).requires_grad_()
    >>> lookup(table, torch.tensor([2, 2])).sum().backward()
    >>> table.grad.is_sparse, table.grad.to_dense().tolist()
    (True, [[0.0, 0.0], [0.0, 0.0], [2.0, 2.0]])
    """
    if table.is_leaf:
        alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
        return F.embedding(index, table, sparse=alone)
    return table.index_select(0, index.reshape(-1)).view(*index.shape, -1)


def table(old: Tensor | None, rows: int, width: int) -> nn.Parameter:
    """A parameter of this shape for `bind`: the rows of `old` that fit are kept, new ones are zero.

    So a log that grew can be bound again without losing what was learned; `reset` draws all anew.

    >>> table(torch.ones(1, 2), 2, 2).tolist()
    [[1.0, 1.0], [0.0, 0.0]]
    """
    fresh = torch.zeros(rows, width) if old is None else old.new_zeros(rows, width)
    if old is not None and old.shape[1] == width:
        kept = min(rows, len(old))
        fresh[:kept] = old.detach()[:kept]
    return nn.Parameter(fresh)


class RowAdagrad(torch.optim.Optimizer):
    """Adagrad with one accumulator a row for sparse gradients, elementwise for dense ones.

    Duchi, Hazan and Singer (2011). Every occurrence of a row in a sparse gradient adds its own mean
    square to the row's accumulator G, then each is applied with lr / (sqrt(G) + eps): no sorting,
    no coalescing. Groups may carry `lr` and `eps`.

    >>> weight = nn.Parameter(torch.zeros(2, 2))
    >>> F.embedding(torch.tensor([1]), weight, sparse=True).sum().backward()
    >>> RowAdagrad([weight], lr=0.5).step()
    >>> weight.tolist()
    [[0.0, 0.0], [-0.5, -0.5]]
    """

    def __init__(
        self, params: Iterable[Any], lr: float = 0.1, eps: float = 1e-10, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "eps": eps, "weight_decay": weight_decay})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                update = _rows if parameter.grad.is_sparse else _dense
                update(parameter, parameter.grad, self.state[parameter], group)
        return loss


def _rows(p: Tensor, grad: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
    index, values = grad._indices()[0], grad._values()  # (R,), (R, d); duplicates stay
    if "sum" not in state:
        state["sum"] = p.new_zeros(len(p))
    total = state["sum"]
    if values.shape[1] == 1:  # a column of biases: ten times faster as a vector
        p, values = p.view(-1), values.view(-1)  # (n,), (R,)
        square = values.square()
    else:
        square = torch.linalg.vector_norm(values, dim=1).square_().div_(values.shape[1])  # (R,)
    total.index_add_(0, index, square)
    scale = total[index].sqrt_().add_(group["eps"]).reciprocal_().mul_(-group["lr"])  # (R,)
    scale = scale if values.dim() == 1 else scale[:, None]
    for start in range(0, len(index), _CHUNK):
        part = slice(start, start + _CHUNK)
        p.index_add_(0, index[part], values[part] * scale[part])


def _dense(p: Tensor, grad: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
    if group["weight_decay"]:
        grad = grad.add(p, alpha=group["weight_decay"])
    if "sum" not in state:
        state["sum"] = torch.zeros_like(p)
    total = state["sum"].addcmul_(grad, grad)
    p.addcdiv_(grad, total.sqrt().add_(group["eps"]), value=-group["lr"])


@dataclass(frozen=True)
class Schedule(ABC):
    """A factor on the learning rate that depends on where training stands, and on nothing else."""

    @abstractmethod
    def factor(self, index: int, total: int) -> float:
        """The factor at step `index` of `total`, both counted from 0."""


@dataclass(frozen=True)
class Linear(Schedule):
    """Up in a line over `warmup` steps, then down in a line to `final` at the last step.

    >>> [Linear(warmup=2, final=0.0).factor(i, 6) for i in (0, 1, 2, 4)]
    [0.5, 1.0, 1.0, 0.5]
    """

    warmup: int = 0
    final: float = 0.0

    def factor(self, index: int, total: int) -> float:
        """min(1, (index + 1) / warmup) up, a straight line to `final` down."""
        if index < self.warmup:
            return (index + 1) / self.warmup
        share = (index - self.warmup) / max(1, total - self.warmup)
        return 1.0 + (self.final - 1.0) * min(1.0, share)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Up in a line over `warmup` steps, then down along half a cosine to `final`.

    >>> [round(Cosine().factor(i, 4), 3) for i in range(5)]
    [1.0, 0.854, 0.5, 0.146, 0.0]
    """

    warmup: int = 0
    final: float = 0.0

    def factor(self, index: int, total: int) -> float:
        """min(1, (index + 1) / warmup) up, (1 + cos(pi * share)) / 2 down."""
        if index < self.warmup:
            return (index + 1) / self.warmup
        share = min(1.0, (index - self.warmup) / max(1, total - self.warmup))
        return self.final + (1.0 - self.final) * 0.5 * (1.0 + math.cos(math.pi * share))


@dataclass(frozen=True)
class Spec(ABC):
    """Which optimiser, with which hyperparameters. `sparse` says that it takes sparse gradients."""

    sparse: ClassVar[bool] = False

    @abstractmethod
    def build(self, groups: Iterable[dict[str, Any]]) -> torch.optim.Optimizer:
        """The torch optimiser for groups {"params", optional "lr", "weight_decay", "clip"}."""

    def factor(self, index: int, epoch: int, total: int) -> float:
        """What the groups' learning rates are multiplied by at this step."""
        schedule: Schedule | None = getattr(self, "schedule", None)
        return 1.0 if schedule is None else schedule.factor(index, total)


@dataclass(frozen=True)
class Adagrad(Spec):
    """`RowAdagrad`: the fastest choice for tables of embeddings, and the default.

    >>> Adagrad(lr=0.05)
    Adagrad(lr=0.05, schedule=None)
    """

    sparse: ClassVar[bool] = True

    lr: float = 0.1
    schedule: Schedule | None = None

    def build(self, groups: Iterable[dict[str, Any]]) -> RowAdagrad:
        """A `RowAdagrad` over these groups."""
        return RowAdagrad(list(groups), lr=self.lr)


@dataclass(frozen=True)
class Adam(Spec):
    """Adam (Kingma and Ba, 2015) on dense gradients: the moments of every row decay at every step.

    >>> Adam(lr=0.01).build([{"params": [nn.Parameter(torch.zeros(2))]}]).defaults["lr"]
    0.01
    """

    lr: float = 1e-3
    schedule: Schedule | None = None

    def build(self, groups: Iterable[dict[str, Any]]) -> torch.optim.Adam:
        """A fused `torch.optim.Adam` over these groups."""
        return torch.optim.Adam(list(groups), lr=self.lr, fused=True)


@dataclass(frozen=True)
class SGD(Spec):
    """Plain gradient descent; the learning rate is multiplied by `decay` after every epoch.

    `weight_decay` shrinks every row of every table by lr * weight_decay at every step, used or not;
    groups with a weight decay of their own keep it.

    >>> SGD(lr=0.1, decay=0.5).factor(index=20, epoch=2, total=100)
    0.25
    """

    sparse: ClassVar[bool] = True

    lr: float = 0.1
    decay: float = 1.0
    weight_decay: float = 0.0
    schedule: Schedule | None = None

    def build(self, groups: Iterable[dict[str, Any]]) -> torch.optim.SGD:
        """A `torch.optim.SGD` without momentum over these groups."""
        return torch.optim.SGD(list(groups), lr=self.lr, weight_decay=self.weight_decay)

    def factor(self, index: int, epoch: int, total: int) -> float:
        """decay ** epoch, times the schedule."""
        return self.decay**epoch * super().factor(index, epoch, total)
