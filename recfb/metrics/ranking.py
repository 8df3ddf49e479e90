"""Pure functions of tensors: rankings and concentration."""

from __future__ import annotations

import torch
from torch import Tensor

from recfb.random import mix64


def top_k(scores: Tensor, k: int, user: Tensor) -> Tensor:
    """The k best columns of each row, best first: (B, n), (B,) -> (B, k) int64.

    Ties are broken by a fixed hash of (user, column), never by array order: a model with constant
    scores ranks as a random one does. Rows without ties among their k + 1 best cost one `topk`.

    >>> top_k(torch.tensor([[0.1, 0.9, 0.5]]), 2, torch.tensor([0])).tolist()
    [[1, 2]]
    """
    n = scores.shape[1]
    value, pick = scores.topk(min(k + 1, n), dim=1)  # (B, k + 1)
    tied = (value[:, 1:] == value[:, :-1]).any(1).nonzero().squeeze(1)  # (rows with ties,)
    pick = pick[:, :k]
    if len(tied):
        row = scores[tied].float() + 0.0  # turns -0.0 into 0.0
        bits = row.view(torch.int32)
        order = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(
            torch.int64
        )  # sorts as the floats do
        column = torch.arange(n, device=scores.device)
        noise = mix64(user[tied, None].to(torch.int64) * n + column) & 0x7FFFFFFF  # (rows, n)
        pick[tied] = ((order << 32) + noise).topk(k, dim=1).indices
    return pick
