"""Relevance matrix factorisation in closed form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from recfb.contracts import Batch, Exposure
from recfb.data.carried import LOGGED
from recfb.data.distinct import distinct
from recfb.solvers.bilinear import Bilinear, Lists

if TYPE_CHECKING:
    from recfb.data.log import Log


class RelMF(Bilinear):
    """Minimises sum (U_u . V_i - Y_ui / max(theta_ui, clip))^2 + l2 (n |U|^2 + m |V|^2) over all
    pairs.

    The loss of `objectives.RelMF(link="sq_linear")` up to a constant, Saito et al., "Unbiased
    recommender learning from missing-not-at-random implicit feedback" (2020), without sampling:

        U <- (sum over the user's clicks of V_i / theta) (V'V + l2 n I)^-1

    and the same for items, with m users and n items. The matrix is shared by all rows, so a half
    sweep costs one Cholesky factorisation and one sparse product.

    Args:
        exposure: P(seen) of a pair.
        dim: length of the vectors.
        l2: weight of the squared lengths, for every pair of the row.
        clip: exposures below it count as it.
        sweeps: over users and items.

    >>> from recfb import fit
    >>> from recfb.data import Log
    >>> from recfb.exposures import Popularity
    >>> log = Log.of({"user": [0, 0, 1], "item": [0, 1, 0], "reward": [1, 1, 1]}, n_items=3)
    >>> model = fit(log, RelMF(Popularity(), dim=2))
    >>> scores = model.all(torch.tensor([1]))[0]
    >>> bool(scores[1] > scores[2])
    True
    """

    def __init__(
        self,
        exposure: Exposure,
        *,
        dim: int = 64,
        l2: float = 0.001,
        clip: float = 0.05,
        sweeps: int = 15,
    ) -> None:
        super().__init__(dim)
        self.exposure, self.l2, self.clip, self.sweeps = exposure, l2, clip, sweeps

    @torch.no_grad()
    def solve(self, log: Log) -> Self:
        """Sweep over users and items."""
        batch = clicked(log).to(self.item.device)
        weight = 1.0 / self.exposure(batch).clamp(min=self.clip).to(self.item)  # (P,)
        users = Lists.of(batch.user, batch.item, weight, self.n_users)
        items = Lists.of(batch.item, batch.user, weight, self.n_items)
        for _ in range(self.sweeps):
            half_sweep(self.user, self.item, users, self.l2 * self.n_items)
            half_sweep(self.item, self.user, items, self.l2 * self.n_users)
        return self


def clicked(log: Log) -> Batch:
    """The distinct clicks, each with the propensity, time and position of its first row."""
    rows = distinct(log, clicked=True)
    names = [name for name in LOGGED if name in log.columns]
    columns = {name: rows.tensor(name) for name in ("user", "item", *names)}
    return Batch(reward=torch.ones(len(rows)), **columns)


def half_sweep(table: Tensor, other: Tensor, lists: Lists, ridge: float) -> None:
    """Set every row of `table` to the minimiser given `other`, in place.

    U = W V (V'V + ridge I)^-1,   W = Y / theta
    """
    eye = torch.eye(other.shape[1], dtype=other.dtype, device=other.device)
    factor = torch.linalg.cholesky(other.T @ other + ridge * eye)  # (d, d)
    product = F.embedding_bag(
        lists.index,
        other,
        lists.offset,
        mode="sum",
        per_sample_weights=lists.weight,
        include_last_offset=True,
    )  # (rows, d)
    torch.matmul(product, torch.cholesky_inverse(factor), out=table.data)
