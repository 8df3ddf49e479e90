"""scikit-learn's regressors and classifiers as reward models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol, Self, get_args

import numpy as np
import torch
from torch import Tensor

from recfb.contracts import Block, Component, Context, Fitted, Policy
from recfb.data import Log
from recfb.data.attributes import attributes
from recfb.data.pairs import Pairs
from recfb.errors import ConfigError, LogError, UnboundError, nearest
from recfb.evaluation.binding import ready
from recfb.evaluation.crossfit import top_by
from recfb.evaluation.weighting import Weighting, row_weights
from recfb.exposures.logistic import standardised
from recfb.interop.design import Formula, Heads, Inputs, Rowwise, crossed, known_rewards

Array = np.ndarray[Any, np.dtype[np.float64]]

MOST_CATEGORIES = 255
"""Items that the trees can tell apart by their number alone."""


class Estimator(Protocol):
    """A regressor or classifier of scikit-learn, or what behaves like one."""

    def fit(self, X: Array, y: Array) -> object: ...

    def predict(self, X: Array) -> Array: ...


def _check_weighting(weighting: str, target: Policy | None, cap: float | None) -> None:
    names = get_args(Weighting)
    if weighting not in names:
        raise ConfigError(f"weighting is one of {names}.{nearest(weighting, names)}")
    odd = cap is not None and (target is None or not cap > 0)
    if (weighting == "normal") != (target is None) or odd:
        raise ConfigError(
            f"weighting={weighting!r}, target={target!r} and cap={cap}: a weighted fit is for one "
            "policy, with a positive cap or none, and an unweighted one for none. Try "
            'Reward("linear", weighting="iw", target=policy).'
        )


def _weighed(model: Any, weight: Tensor | None) -> dict[str, Array]:
    """The option of `fit` that weighs rows, where they are weighed."""
    from sklearn.utils.validation import has_fit_parameter

    if weight is None:
        return {}
    if not has_fit_parameter(model, "sample_weight"):
        raise ConfigError(
            f"{type(model).__name__}.fit takes no sample_weight, so it cannot weigh rows. Take an "
            'estimator that does, such as "boosting", or weighting="normal".'
        )
    return {"sample_weight": weight.numpy()}


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

    With `weighting` the fit is most careful where the value of one policy, `target`, is decided:
    "iw" where it plays, "mrdr" where its dr is noisy (`evaluation.weighting.fit_weight` has the
    formulas). dr is unbiased for every other policy too, only not tuned to it: one model serves one
    target. Rows of weight 0 are left out; `l2` is against the sum of the weights.

    Args:
        estimator: one of the names, or an estimator, which cannot be written to a configuration.
        items: columns of `log.items` in place of the item's number.
        users: columns of `log.users`.
        l2: ridge of linear and logistic, in standard deviations; penalty on leaves of boosting.
        weighting: "normal", "iw" or "mrdr"; the latter two read propensities.
        target: the policy that they weigh for, bound, or bound to the log's sizes when fitted.
        cap: larger weights count as this one; None: all as they are.

    Raises:
        ConfigError: l2 is not positive; more items than trees can tell apart; a column that is not
            there; requests with other features than those of the log; a weighting without a target,
            a target or a cap without a weighting, or an estimator that cannot weigh rows.
        LogError: a log without known rewards, or with rewards that a classifier cannot take;
            weighting by propensities that are not there, or for a target that plays no logged item.

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
        weighting: Weighting = "normal",
        target: Policy | None = None,
        cap: float | None = None,
    ) -> None:
        super().__init__()
        names = ("linear", "logistic", "boosting")
        if isinstance(estimator, str) and estimator not in names:
            raise ConfigError(f"estimator is one of {names}, or one of scikit-learn; {estimator!r}")
        if not l2 > 0:
            raise ConfigError(f"l2 is positive, found {l2}. For nearly none: l2=1e-6")
        _check_weighting(weighting, target, cap)
        self.estimator = estimator
        self.items, self.users = tuple(items), tuple(users)
        self.l2 = l2
        self.weighting, self.target, self.cap = weighting, target, cap
        self.inputs: Inputs | None = None
        self.formula: Formula | None = None
        self.fitted_on: str | None = None

    def parts(self) -> Iterator[tuple[str, Component]]:
        """None: the target is a given, and nobody binds or resets it here."""
        return iter(())

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
        block = known_rewards(log)
        self.inputs = Inputs.of(block.context, self.known)
        weight = self._weight(block, log)
        if weight is not None:
            played = weight > 0
            block, weight = block[played], weight[played]
        rows, item = self.inputs.table(block.context), block.slate.item[:, 0]  # (n, C), (n,)
        reward = block.feedback.reward[:, 0].to(torch.float64)
        learn = {"linear": self._linear, "logistic": self._logistic}
        named = self.estimator if isinstance(self.estimator, str) else ""
        self.formula = learn.get(named, self._rowwise)(rows, item, reward, weight)
        self.fitted_on = log.name
        return self

    def _weight(self, block: Block, log: Log) -> Tensor | None:
        """What each row counts for: (n,), or nothing where all count the same."""
        if self.target is None:
            return None
        weight = row_weights(block, ready(self.target, log, "target", 0), self.weighting)
        return weight if self.cap is None else weight.clamp(max=self.cap)

    def _linear(self, rows: Tensor, item: Tensor, reward: Tensor, weight: Tensor | None) -> Heads:
        from sklearn.linear_model import Ridge

        levels, own = 1 + self._fitted().positions, torch.ones_like(reward)
        own = own if weight is None else weight
        count = rows[:, :levels].T @ own  # (levels,)
        mean = rows[:, :levels].T @ (own * reward) / torch.where(count > 0, count, 1.0)
        mean = torch.where(count > 0, mean, (own * reward).sum() / own.sum())  # (levels,)
        model = Ridge(alpha=self.l2, fit_intercept=False, solver="lsqr", tol=1e-12)
        model.fit(
            self._crossed(rows, item),
            (reward - rows[:, :levels] @ mean).numpy(),
            **_weighed(model, weight),
        )
        slope = self._slope(model.coef_, rows.shape[1])
        slope[:, :levels] += mean
        return Heads(slope)

    def _logistic(self, rows: Tensor, item: Tensor, reward: Tensor, weight: Tensor | None) -> Heads:
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
        model.fit(self._crossed(rows, item), reward.numpy(), **_weighed(model, weight))
        slope += self._slope(model.coef_[0], rows.shape[1])
        slope[:, :levels] += float(model.intercept_[0])
        return Heads(slope, logit=True)

    def _rowwise(
        self, rows: Tensor, item: Tensor, reward: Tensor, weight: Tensor | None
    ) -> Rowwise:
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
        table = torch.cat([rows, known[item]], 1).numpy()
        model.fit(table, reward.numpy(), **_weighed(model, weight))
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

    def _crossed(self, rows: Tensor, item: Tensor) -> Any:
        return crossed(rows, item, self._z() if self.items else None, self.n_items)

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
