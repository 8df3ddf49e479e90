"""Exposure by logistic regression on what is known of users and items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from recfb.contracts import Batch, Exposure
from recfb.data.attributes import attributes
from recfb.errors import ConfigError
from recfb.random import stream

if TYPE_CHECKING:
    from recfb.data.log import Log


class Logistic(Exposure):
    """Estimates P(shown) of a pair by logistic regression on features of its user and its item.

        logit P(shown | u, i) = b + x_u . alpha + z_i . beta

    The propensity model of Schnabel et al., "Recommendations as treatments: debiasing learning and
    evaluation" (2016), section 6.1. All pairs of the log have the label 1. For each of them
    `negatives` others are drawn, from a stream of their own that is the same for every seed of
    `fit`, with the label 0 and weights that bring them back to the number of all other pairs: the
    values are probabilities over the whole catalogue, not only ratios. Features are standardised.
    Memory is that of the drawn pairs times the features.

    A log without rows gives 1/2 for every pair.

    Args:
        users: columns of `log.users` with numbers, or with Arrays of numbers.
        items: columns of `log.items`.
        counts: also take how much of the catalogue each user was shown, and how many of the users
            each item was shown to, as logits of these shares.
        negatives: pairs that were not shown, for each that was.
        l2: half of it times the squared length of (alpha, beta) is added to the log loss, summed
            over all pairs.

    Raises:
        ConfigError: on binding: a column that is missing, holds no numbers or has holes; a log in
            which every pair was shown.

    >>> from recfb.data import Log
    >>> rows = {"user": [0, 0, 0, 1], "item": [0, 1, 2, 0], "reward": [1, 0, 0, 1]}
    >>> log = Log.of(rows, n_users=4).with_users({"id": [0, 1, 2, 3], "age": [40, 20, 18, 19]})
    >>> exposure = Logistic(users=["age"], counts=False).bind(log)
    >>> user = torch.tensor([0, 3])
    >>> theta = exposure(Batch(user, 0 * user, 0 * user))
    >>> bool(theta[0] > theta[1])
    True
    """

    user: Tensor  # (n_users,) x_u . alpha
    item: Tensor  # (n_items,) z_i . beta + b

    def __init__(
        self,
        users: Sequence[str] = (),
        items: Sequence[str] = (),
        *,
        counts: bool = True,
        negatives: int = 4,
        l2: float = 1.0,
    ) -> None:
        super().__init__()
        self.users, self.items = tuple(users), tuple(items)
        self.counts, self.negatives, self.l2 = counts, negatives, l2

    def bind(self, log: Log) -> Self:
        super().bind(log)
        user, item = torch.zeros(log.n_users), torch.zeros(log.n_items)
        if len(log):
            user, item = self._solve(log)
        self.register_buffer("user", user.to(torch.float32))
        self.register_buffer("item", item.to(torch.float32))
        return self

    def _solve(self, log: Log) -> tuple[Tensor, Tensor]:
        """The two terms of every logit: (n_users,), (n_items,)."""
        x = attributes(log.users, self.users, "users").double()  # (n_users, D)
        z = attributes(log.items, self.items, "items").double()  # (n_items, E)
        if self.counts:
            x = torch.cat([x, logit_share(log.shown.per_user, log.n_items)[:, None]], 1)
            z = torch.cat([z, logit_share(log.shown.per_item, log.n_users)[:, None]], 1)
        x, z = standardised(x), standardised(z)
        user, item, weight = sample(log, self.negatives)
        rows = torch.cat([x[user], z[item]], 1)  # (S + N, D + E)
        label = torch.arange(len(rows)) < len(log.shown)
        slope, intercept = regress(rows, label, weight, self.l2)  # (D + E,), ()
        alpha, beta = slope[: x.shape[1]], slope[x.shape[1] :]
        return x @ alpha, z @ beta + intercept

    def forward(self, batch: Batch) -> Tensor:
        owner = batch.user[:, None] if batch.item.dim() > 1 else batch.user
        logit = self.user[owner] + self.item[batch.item]
        return torch.sigmoid(logit).clamp(min=torch.finfo(logit.dtype).tiny)


def sample(log: Log, negatives: int) -> tuple[Tensor, Tensor, Tensor]:
    """All shown pairs, then `negatives` times as many others, with weights that sum to the number
    of pairs of either kind: user, item (S + N,), weight (S + N,) float64."""
    shown = log.shown
    free = log.n_users * log.n_items - len(shown)
    if not free:
        raise ConfigError(
            f"all {len(shown)} pairs of this log were shown, so there is nothing to estimate. "
            "Every exposure is 1: exposures.Given(torch.ones(log.n_items))."
        )
    draws = negatives * len(shown)
    other = shown.free(draws, stream(0, "exposures.Logistic"))  # (N,)
    key = torch.cat([shown.key, other])  # (S + N,)
    weight = torch.ones(len(key), dtype=torch.float64)
    weight[len(shown) :] = free / draws
    return key // log.n_items, key % log.n_items, weight


def regress(rows: Tensor, label: Tensor, weight: Tensor, l2: float) -> tuple[Tensor, Tensor]:
    """Weighted logistic regression: (n, D), (n,) bool, (n,) -> slope (D,), intercept (), float64.

    >>> label = torch.tensor([True, False])
    >>> slope, intercept = regress(torch.zeros(2, 0), label, torch.tensor([1.0, 3.0]), l2=1.0)
    >>> slope.tolist(), round(float(torch.sigmoid(intercept)), 3)
    ([], 0.25)
    """
    from sklearn.linear_model import LogisticRegression  # heavy, and for this exposure only

    width = rows.shape[1]
    table = torch.nn.functional.pad(rows, (0, 1))  # (n, D + 1): scikit-learn takes no empty table
    model = LogisticRegression(C=1 / l2 if l2 else float("inf"), tol=1e-6, max_iter=1000)
    model.fit(table.numpy(), label.numpy(), sample_weight=weight.numpy())
    return torch.as_tensor(model.coef_[0, :width]), torch.as_tensor(model.intercept_[0])


def logit_share(count: Tensor, total: int) -> Tensor:
    """log((count + 1/2) / (total - count + 1/2)), finite for none and for all: (n,) float64.

    >>> logit_share(torch.tensor([0, 2, 4]), total=4).round(decimals=4).tolist()
    [-2.1972, 0.0, 2.1972]
    """
    return torch.log((count + 0.5) / (total - count + 0.5).to(torch.float64))


def standardised(table: Tensor) -> Tensor:
    """Each column with mean 0 and variance 1; a constant one is 0: (n, D).

    >>> standardised(torch.tensor([[1.0, 5.0], [3.0, 5.0]])).tolist()
    [[-1.0, 0.0], [1.0, 0.0]]
    """
    centred = table - table.mean(0)
    spread = centred.square().mean(0).sqrt()  # (D,)
    return centred / torch.where(spread > 0, spread, 1.0)
