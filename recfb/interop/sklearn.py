"""scikit-learn's regressors and classifiers as reward models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from recfb.contracts import Context, Fitted
from recfb.data import Log
from recfb.data.attributes import attributes
from recfb.data.pairs import Pairs
from recfb.errors import ConfigError, LogError, UnboundError
from recfb.evaluation.crossfit import top_by
from recfb.exposures.logistic import standardised
from recfb.interop.design import Heads, Inputs, crossed, known_rewards

Array = np.ndarray[Any, np.dtype[np.float64]]

MOST_CELLS = 1 << 22
"""At most so many numbers of a table that is predicted from are held at once."""

MOST_CATEGORIES = 255
"""Items that the trees can tell apart by their number alone."""


class Estimator(Protocol):
    """A regressor or classifier of scikit-learn, or what behaves like one."""

    def fit(self, X: Array, y: Array) -> object: ...

    def predict(self, X: Array) -> Array: ...


class Formula(Protocol):
    """What was learnt: rows (B, C) and items (B, M), or all of them -> rewards, float64."""

    def __call__(self, rows: Tensor, item: Tensor | None) -> Tensor: ...


@dataclass(frozen=True)
class Rowwise:
    """An estimator of [rows, what is known of the item]; a classifier's classes are rewards."""

    estimator: Any
    items: Tensor  # (n_items, E)

    def __call__(self, rows: Tensor, item: Tensor | None) -> Tensor:
        if item is None:
            item = torch.arange(len(self.items)).expand(len(rows), -1)  # (B, n_items)
        some = max(1, MOST_CELLS // max(1, item.shape[1] * (rows.shape[1] + self.items.shape[1])))
        made = [torch.empty(0, item.shape[1], dtype=torch.float64)]
        for start in range(0, len(rows), some):
            at = item[start : start + some]  # (b, M)
            x = rows[start : start + some, None].expand(-1, at.shape[1], -1)  # (b, M, C)
            table = torch.cat([x, self.items[at]], 2).flatten(0, 1)  # (b * M, C + E)
            made.append(self._predict(table).view(at.shape))
        return torch.cat(made)

    def _predict(self, table: Tensor) -> Tensor:
        if not len(table):
            return torch.empty(0, dtype=torch.float64)
        if hasattr(self.estimator, "classes_"):
            chance = torch.as_tensor(self.estimator.predict_proba(table.numpy()))  # (N, classes)
            return chance.to(torch.float64) @ torch.as_tensor(self.estimator.classes_).double()
        return torch.as_tensor(self.estimator.predict(table.numpy())).to(torch.float64)


class Reward(Fitted):
    """E[reward | request, item], learnt by scikit-learn from the known rewards of a log.

    A request is its features, its position and columns of its user; an item is its number, or
    columns of `log.items`, which also describe items that were never shown.

    - "linear": ridge regression on item x request, around the mean reward of the position. With
      item numbers it is a regression for each item; without features it is the cell mean of
      (position, item), (sum + l2 * position mean) / (n + l2).
    - "logistic": logistic regression on the same, for rewards that are 0 or 1.
    - "boosting": histogram-based gradient-boosted trees on squared error; items by number, at most
      255, are categories.
    - any estimator of scikit-learn: it is cloned, and fitted to [request, item], items one-hot
      where they are numbers. Of a classifier the expected class is taken.

    A position that the log did not show counts as none. Give it to `recfb.evaluate` wrapped in
    `evaluation.CrossFit`, or fitted on another log: gate G8 refuses a model of the evaluated rows.

    Args:
        estimator: one of the names, or an estimator, which cannot be written to a configuration.
        items: columns of `log.items` in place of the item's number.
        users: columns of `log.users`.
        l2: ridge of linear and logistic, in standard deviations; penalty on leaves of boosting.

    Raises:
        ConfigError: l2 is not positive; more items than trees can tell apart; a column that is not
            there; requests with other features than those of the log.
        LogError: a log without known rewards, or with rewards that a classifier cannot take.

    >>> log = Log.of({"item": [0, 0, 1, 1], "reward": [1, 0, 1, 1]})
    >>> model = Reward("linear", l2=1e-9).bind(log).solve(log)
    >>> model.scores(Context(torch.tensor([0]))).round(decimals=6).tolist()
    [[0.5, 1.0]]
    """

    n_users: int
    n_items: int
    known: Tensor  # (n_users, U)
    described: Tensor  # (n_items, E)

    def __init__(
        self,
        estimator: Literal["linear", "logistic", "boosting"] | Estimator = "boosting",
        *,
        items: Sequence[str] = (),
        users: Sequence[str] = (),
        l2: float = 1.0,
    ) -> None:
        super().__init__()
        names = ("linear", "logistic", "boosting")
        if isinstance(estimator, str) and estimator not in names:
            raise ConfigError(f"estimator is one of {names}, or one of scikit-learn; {estimator!r}")
        if not l2 > 0:
            raise ConfigError(f"l2 is positive, found {l2}. For nearly none: l2=1e-6")
        self.estimator = estimator
        self.items, self.users = tuple(items), tuple(users)
        self.l2 = l2
        self.inputs: Inputs | None = None
        self.formula: Formula | None = None
        self.fitted_on: str | None = None

    def bind(self, log: Log) -> Self:
        """The columns of users and items."""
        self.n_users, self.n_items = log.n_users, log.n_items
        own = attributes(log.users, self.users, "users").to(torch.float64)
        columns = attributes(log.items, self.items, "items").to(torch.float64)
        self.register_buffer("known", own, persistent=False)
        self.register_buffer("described", standardised(columns), persistent=False)
        self.inputs = self.formula = self.fitted_on = None
        return super().bind(log)

    def solve(self, log: Log) -> Self:
        """Fit to the rows with a known reward, all of them in memory."""
        context, item, reward = known_rewards(log)
        self.inputs = Inputs.of(context, self.known)
        rows = self.inputs.table(context)  # (n, C)
        if self.estimator == "linear":
            self.formula = self._linear(rows, item, reward)
        elif self.estimator == "logistic":
            self.formula = self._logistic(rows, item, reward)
        else:
            self.formula = self._rowwise(rows, item, reward)
        self.fitted_on = log.name
        return self

    def _linear(self, rows: Tensor, item: Tensor, reward: Tensor) -> Heads:
        from sklearn.linear_model import Ridge

        assert self.inputs is not None
        levels = 1 + self.inputs.positions
        count = rows[:, :levels].sum(0)  # (levels,)
        mean = rows[:, :levels].T @ reward / count.clamp(min=1)
        mean = torch.where(count > 0, mean, reward.mean())  # (levels,)
        model = Ridge(alpha=self.l2, fit_intercept=False, solver="lsqr", tol=1e-12)
        model.fit(
            crossed(rows, item, self._z() if self.items else None, self.n_items),
            (reward - rows[:, :levels] @ mean).numpy(),
        )
        slope = self._slope(model.coef_, rows.shape[1])
        slope[:, :levels] += mean
        return Heads(slope)

    def _logistic(self, rows: Tensor, item: Tensor, reward: Tensor) -> Heads:
        from sklearn.linear_model import LogisticRegression

        odd = (reward != 0) & (reward != 1)
        if bool(odd.any()):
            raise LogError(
                f"logistic takes rewards that are 0 or 1, found {float(reward[odd][0]):g}. Take "
                'Reward("linear"), or make them so: log.binarise(at=...).'
            )
        levels = 1 + self._fitted().positions
        slope = torch.zeros(self.n_items, rows.shape[1], dtype=torch.float64)
        if bool((reward == reward[0]).all()):  # nothing to tell apart: that reward for all
            slope[:, :levels] = reward[0]
            return Heads(slope)
        model = LogisticRegression(C=1 / self.l2, tol=1e-8, max_iter=1000)
        model.fit(
            crossed(rows, item, self._z() if self.items else None, self.n_items), reward.numpy()
        )
        slope += self._slope(model.coef_[0], rows.shape[1])
        slope[:, :levels] += float(model.intercept_[0])
        return Heads(slope, logit=True)

    def _rowwise(self, rows: Tensor, item: Tensor, reward: Tensor) -> Rowwise:
        from sklearn.base import clone, is_classifier
        from sklearn.dummy import DummyRegressor

        model = self._trees(rows.shape[1]) if self.estimator == "boosting" else self.estimator
        known = self.described
        if not self.items and self.estimator == "boosting":
            known = torch.arange(self.n_items, dtype=torch.float64)[:, None]  # (n_items, 1)
        elif not self.items:
            known = torch.eye(self.n_items, dtype=torch.float64)
        model = clone(model)
        if is_classifier(model):
            if bool((reward != reward.round()).any()):
                raise LogError(
                    "a classifier takes rewards that are whole numbers, found "
                    f"{float(reward[reward != reward.round()][0]):g}. Take a regressor."
                )
            if bool((reward == reward[0]).all()):
                model = DummyRegressor()
        model.fit(torch.cat([rows, known[item]], 1).numpy(), reward.numpy())
        return Rowwise(model, known)

    def _trees(self, width: int) -> Any:
        from sklearn.ensemble import HistGradientBoostingRegressor

        if not self.items and self.n_items > MOST_CATEGORIES:
            raise ConfigError(
                f"trees tell at most {MOST_CATEGORIES} items apart by number, the log has "
                f"{self.n_items:,}. Describe them by columns of log.items, "
                'Reward(items=["price"]), or take Reward("linear").'
            )
        return HistGradientBoostingRegressor(
            l2_regularization=self.l2,
            categorical_features=None if self.items else [width],
            early_stopping=False,
            random_state=0,
        )

    def _slope(self, coefficient: Array, width: int) -> Tensor:
        """(E * C,) -> (n_items, C)."""
        theta = torch.as_tensor(coefficient, dtype=torch.float64).view(-1, width).clone()  # (E, C)
        return self._z() @ theta if self.items else theta

    def _z(self) -> Tensor:
        """1 and the columns of the items: (n_items, E)."""
        return torch.nn.functional.pad(self.described, (1, 0), value=1.0)

    def _fitted(self) -> Inputs:
        if self.inputs is None:
            raise UnboundError("this Reward is not fitted: recfb.fit(log, model).")
        return self.inputs

    def scores(self, context: Context) -> Tensor:
        """Expected rewards of all items, (B, n_items) float64, or like candidates."""
        return self._values(context, context.candidates)

    def score_of(self, context: Context, item: Tensor) -> Tensor:
        """Expected rewards of given items, shaped like item."""
        index = item if item.dim() == 2 else item[:, None]  # (B, M)
        return self._values(context, index).view_as(item)

    def top(self, context: Context, k: int, *, hide: Pairs | None = None) -> Tensor:
        """The k available items of the largest expected reward, best first: (B, k)."""
        return top_by(self.scores, context, k, hide)

    def _values(self, context: Context, item: Tensor | None) -> Tensor:
        device = context.user.device
        rows = self._fitted().table(context.to("cpu"))
        assert self.formula is not None
        return self.formula(rows, None if item is None else item.to("cpu")).to(device)

    def get_extra_state(self) -> Any:
        """Refused: an estimator of scikit-learn is no tensor, and a pickle would run code."""
        raise ConfigError(
            "a model of scikit-learn cannot be saved, since reading it back would run code. Keep "
            "the log and its hyperparameters, and fit it again."
        )


__all__ = ["Estimator", "Reward"]
