"""What models and policies return, looked at before it is used."""

from __future__ import annotations

import torch
from torch import Tensor

from recfb.errors import SupportError


def check_shape(probs: object, rows: int, n_items: int | None, who: str) -> None:
    """Refuse what is no tensor with a row for each request and a column for each item."""
    if n_items is None and isinstance(probs, Tensor):
        n_items = probs.shape[-1]
    if isinstance(probs, Tensor) and probs.shape == (rows, n_items) and not probs.is_complex():
        return
    found = type(probs).__name__
    if isinstance(probs, Tensor):
        found = f"shape {tuple(probs.shape)} of {probs.dtype}"
    raise SupportError(
        f"{who}.probs returned {found}, expected {(rows, n_items)}: a tensor of real numbers."
    )


def check_probs(probs: Tensor, rows: int, n_items: int, who: str, tolerance: float = 1e-5) -> None:
    """Refuse rows that are no distribution. The door for what a policy returns to a verb."""
    check_shape(probs, rows, n_items, who)
    bad = ~torch.isfinite(probs).all(1)
    if bool(bad.any()):
        raise SupportError(
            f"{who}.probs has {int(bad.sum())} rows with NaN or infinity, first row "
            f"{int(bad.nonzero()[0])}."
        )
    bad = (probs < 0).any(1)
    if bool(bad.any()):
        raise SupportError(
            f"{who}.probs has {int(bad.sum())} rows with negative values, first row "
            f"{int(bad.nonzero()[0])}."
        )
    total = probs.sum(1, dtype=torch.float64)
    bad = (total - 1).abs() > tolerance
    if bool(bad.any()):
        first = int(bad.nonzero()[0])
        raise SupportError(
            f"{who}.probs has {int(bad.sum())} rows that do not sum to 1, first row {first} (sum "
            f"{float(total[first]):.6g}). "
            f"Divide by the sum before you return them: probs / probs.sum(1, keepdim=True)."
        )
