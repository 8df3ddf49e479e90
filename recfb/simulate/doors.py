"""What a policy says at the doors of a run."""

from __future__ import annotations

import torch
from torch import Tensor

from recfb.contracts import Context, Policy, Slate, trained
from recfb.errors import SupportError, UnboundError
from recfb.metrics.ranking import check_scores


def forgets(policy: Policy) -> bool:
    """Whether a training from scratch makes the policy what it is: a model that `fit` trains, and
    nothing else that learns."""
    model = getattr(policy, "model", None)
    return type(policy).refit is Policy.refit and trained(model) and not hasattr(model, "refit")


def check_model(policy: Policy, context: Context) -> None:
    """Refuse a model whose scores are not numbers, on a few requests."""
    model = getattr(policy, "model", None)
    if model is None or not trained(model) or not hasattr(model, "scores"):
        return
    try:
        scores = model.scores(context[:64])
    except UnboundError:  # not trained yet, which the policy may know how to handle
        return
    check_scores(scores, type(model).__name__)


_PROBABILITIES = ("propensity", "p_prefix", "p_display")


def check_slate(
    slate: Slate,
    rows: int,
    k: int,
    n_items: int,
    who: str,
    available: Tensor | None = None,
    *,
    told: bool = True,
) -> None:
    """The door for what a policy shows: refuse slates of another shape, items that do not exist or
    are not available, and, if they are `told` to anyone, probabilities with which nothing is
    shown."""
    item = slate.item
    if item.shape != (rows, k) or item.dtype != torch.int64:
        raise SupportError(
            f"{who}.act returned items of shape {tuple(item.shape)} and type {item.dtype}; "
            f"expected {(rows, k)} int64."
        )
    if not rows:
        return
    least, most = item.aminmax()
    low, high = int(least), int(most)
    if low < 0 or high >= n_items:
        raise SupportError(
            f"{who}.act returned item {low if low < 0 else high}; items are 0..{n_items - 1}."
        )
    if available is not None:
        _check_available(item, available, who)
    seen: list[Tensor] = []  # of one item they are one tensor
    for name in _PROBABILITIES if told else ():
        p = getattr(slate, name)
        if p is not None and not any(p is old for old in seen):
            _check_probability(name, p, item, who)
            seen.append(p)


def _check_available(item: Tensor, available: Tensor, who: str) -> None:
    free = available.expand(len(item), -1).gather(1, item)  # (B, K)
    if not bool(free.all()):
        row, slot = (~free).nonzero()[0].tolist()
        raise SupportError(
            f"{who}.act showed items that are not available, {int((~free).sum())} of "
            f"{free.numel()}, first item {int(item[row, slot])} to request {row}. Leave out what "
            "context.available does not hold."
        )


def _check_probability(name: str, p: Tensor, item: Tensor, who: str) -> None:
    """An item that was shown had a probability above 0; up to rounding, at most 1."""
    if p.shape != item.shape:
        raise SupportError(
            f"{who}.act returned {name} of shape {tuple(p.shape)}; expected {tuple(item.shape)}."
        )
    least, most = p.aminmax()  # NaN where one is
    if not (float(least) > 0 and float(most) <= 1 + 1e-6):
        odd = ~((p > 0) & (p <= 1 + 1e-6))
        row, slot = odd.nonzero()[0].tolist()
        raise SupportError(
            f"{who}.act returned a {name} outside (0, 1] for {int(odd.sum())} of {odd.numel()} "
            f"shown items, first {float(p[row, slot]):g} for request {row}. It is the probability "
            "with which the item was shown; what has no exact value is None."
        )
