"""What a policy says at the doors of a run."""

from __future__ import annotations

import torch

from recfb.contracts import Context, Policy, Slate, trained
from recfb.errors import SupportError, UnboundError


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
    bad = scores.isnan()
    if bool(bad.any()):
        row, item = bad.nonzero()[0].tolist()
        raise SupportError(
            f"{type(model).__name__} gives NaN to {int(bad.sum())} of {bad.numel()} scores, first "
            f"to item {item} for request {row}. Look at its training: a learning rate that is too "
            "large, or a loss without a finite value."
        )


def check_slate(slate: Slate, rows: int, k: int, n_items: int, who: str) -> None:
    """The door for what a policy shows: refuse slates of another shape and items that do not
    exist."""
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
