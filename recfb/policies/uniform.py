"""Every available item with the same probability."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from recfb.contracts import Context, Policy, Slate, uniform_over
from recfb.policies.slates import check_supply, uniform_propensities, uniform_slate


class Uniform(Policy):
    """Shows items at random; slates are uniform without replacement, with exact propensities.

    With n items to show: P(item at a position) = 1/n, P(items 1..k) = prod_{j<k} 1/(n - j),
    P(item in a slate of K) = K/n.

    >>> from recfb.data import Log
    >>> policy = Uniform().bind(Log.empty(1, 4))
    >>> policy.probs(Context(torch.tensor([0]))).tolist()
    [[0.25, 0.25, 0.25, 0.25]]
    """

    def probs(self, context: Context) -> Tensor:
        if context.candidates is None:
            return uniform_over(context, self.n_items)
        n, device = context.candidates.shape[1], context.user.device
        share = torch.full(context.candidates.shape, 1 / n, dtype=torch.float64, device=device)
        probs = torch.zeros(len(context), self.n_items, dtype=torch.float64, device=device)
        return probs.scatter_add_(1, context.candidates, share)

    def propensities(self, context: Context, item: Tensor) -> Slate:
        at, prefix, display = uniform_propensities(context, self.n_items, item)
        return Slate(item, propensity=at, p_prefix=prefix, p_display=display)

    def act(self, context: Context, generator: Generator, *, k: int = 1) -> Slate:
        check_supply(context, self.n_items, k)
        shape, device = (len(context), k), context.user.device
        u = torch.rand(shape, generator=generator, dtype=torch.float64, device=device)  # (B, K)
        return self.propensities(context, uniform_slate(context, self.n_items, u))
