"""Any model as a reward model for the rows it is fitted on: each row by one that never saw it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Literal, Protocol, Self, runtime_checkable

import polars as pl
import torch
from torch import Generator, Tensor, nn

from recfb.contracts import Block, Context, Fitted, Model, best_of
from recfb.data import Log
from recfb.data.blocks import record, unit_column
from recfb.data.door import Problems
from recfb.data.pairs import Pairs
from recfb.errors import ConfigError, UnboundError
from recfb.evaluation.cell_means import fold_of
from recfb.evaluation.work import ordered
from recfb.random import derive, stream

ROWS = 2048
"""Rows of a (rows, items) tensor that is ranked."""


@runtime_checkable
class Learner(Protocol):
    """What can be cross-fitted without a trainer: a torch module that fits itself in `solve`.

    `bind(log)` allocates, `reset(generator)`, where there is one, draws initial values,
    `solve(log)` learns from the rows of the log, `scores(context)` answers E[r | x, item] for all
    items.
    """

    def bind(self, log: Log) -> Self: ...

    def solve(self, log: Log) -> Self: ...

    def scores(self, context: Context) -> Tensor: ...


Train = Callable[[Log, Model | Learner, int], Model | Learner]
"""(log, unbound model, seed) -> the model fitted to the log."""


def solved(log: Log, model: Model | Learner, seed: int = 0) -> Learner:
    """A model fitted by its own `solve`.

    Raises:
        ConfigError: a model that has to be trained by `recfb.fit`.
    """
    if not isinstance(model, Learner):
        kind = type(model).__name__
        raise ConfigError(
            f"{kind} has no `solve`, so it is trained by recfb.fit. Give the CrossFit to "
            "recfb.evaluate unfitted, or train it as you like: CrossFit(model).refit(log, "
            "lambda log, model, seed: recfb.fit(log, model, seed=seed, max_epochs=5))."
        )
    model.bind(log)
    if hasattr(model, "reset"):
        model.reset(stream(seed, "reset"))
    return model.solve(log)


def split(log: Log, folds: int, seed: int, unit: str | None = None) -> list[Log]:
    """For each fold, the rows of all the others; folds are a hash of the unit.

    The rows keep their order, so the same units give the same logs however the rows are cut into
    parts and files.

    >>> log = Log.of({"item": [0, 1, 0], "reward": [1, 0, 1], "unit": [3, 3, 8]})
    >>> sum(len(others) for others in split(log, 3, seed=0))  # every row is in all but its own
    6
    """
    kept: list[list[pl.DataFrame]] = [[log.frame.clear()] for _ in range(folds)]
    for part in log.parts():
        rows = part.load(Problems())  # what is wrong with them is told by the pass that follows
        fold = fold_of(record(rows, part.name, unit, None).unit, folds, seed)
        own = pl.Series(fold.numpy())
        for k in range(folds):
            kept[k].append(rows.frame.filter(own != k))
    frames = (pl.concat(frames) for frames in kept)
    return [Log(frame, log.vocabulary, log.meta) for frame in frames]


def _trained(train: Train, work: tuple[Log, Model | Learner, int]) -> Model | Learner:
    return train(*work)


class CrossFit(Fitted):
    """A reward model fitted once for each fold, on the rows of the others: no row is predicted by a
    model that saw it, or any row of its unit.

    Chernozhukov et al., "Double/debiased machine learning" (2018). Folds are a hash of the unit, as
    those of the cell means that `recfb.evaluate` takes by default. Give it unfitted,
    `recfb.evaluate(log, policies, reward_model=CrossFit(model))`: it is fitted to that log by the
    units of the evaluation. A fold whose other folds hold no known reward is predicted 0.

    Requests that are of no log (`scores`, `top`) are answered by the mean of the models.

    Args:
        model: a torch module with `bind` and `scores`: a `Learner`, such as
            `interop.sklearn.Reward`, a solver or a module of your own; or a `Recommender`, which
            `recfb.evaluate` trains with `recfb.fit`. What embeds users knows nothing of those of
            the fold it is asked for: it costs precision, not validity.
        folds: how many models.
        link: "sigmoid" where scores are logits of a click, "identity" where they are rewards.
        seed: of the folds and of what the models draw.

    Raises:
        ConfigError: fewer than 2 folds; a model that is no torch module.

    >>> from recfb.solvers import Popularity
    >>> log = Log.of({"user": [0, 1, 2, 3, 4], "item": [0] * 5, "reward": [1] * 5})
    >>> model = CrossFit(Popularity(), folds=2).bind(log).solve(log)
    >>> [float(each.count[0]) for each in model.models]  # clicks in the other fold
    [3.0, 2.0]
    """

    models: nn.ModuleList  # one a fold
    known: Tensor  # (folds,) whether the other folds held a known reward
    n_items: int

    def __init__(
        self,
        model: Model | Learner,
        folds: int = 3,
        *,
        link: Literal["identity", "sigmoid"] = "identity",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if folds < 2:
            raise ConfigError(f"folds is at least 2, found {folds}: each row needs another. Try 3.")
        if not isinstance(model, nn.Module):
            raise ConfigError(
                f"CrossFit takes a torch module with bind, solve and scores, found "
                f"{type(model).__name__}. Let your class inherit torch.nn.Module."
            )
        self.model = model
        self.folds = folds
        self.link = link
        self.seed = seed
        self.fitted_on: str | None = None
        self.unit: str | None = None  # the column that the folds were made by, as it was asked for

    def bind(self, log: Log) -> Self:
        """A model for each fold, bound to the log."""
        self.n_items = log.n_items
        each = (copy.deepcopy(self.model).bind(log) for _ in range(self.folds))
        self.models = nn.ModuleList(each)
        self.register_buffer("known", torch.zeros(self.folds, dtype=torch.bool))
        self.fitted_on = None
        return self

    def reset(self, generator: Generator) -> None:
        """Nothing: each model is reset when it is fitted."""

    def solve(self, log: Log) -> Self:
        """Fit by the models' own `solve`, with folds by the log's unit, user or slate, else row."""
        return self.refit(log, solved)

    def refit(
        self, log: Log, train: Train, unit: str | None = None, *, executor: Executor | None = None
    ) -> Self:
        """Fit with a trainer, (log, model, seed) -> the model, and folds by another column.

        With an executor the folds are fitted side by side, to the same bits. What has no `solve`
        draws from the generator of its process when it is trained, so threads would mix their
        draws: there it is trained fold after fold.

        Raises:
            LogError: `unit` is no column of the log.
        """
        self.bind(log)
        others = split(log, self.folds, self.seed, unit)
        for k, rows in enumerate(others):
            self.known[k] = len(rows) > rows.frame["reward"].null_count()
        on = self.known.nonzero()[:, 0].tolist()
        work = [
            (others[k], copy.deepcopy(self.model), derive(self.seed, "fold", k) >> 1) for k in on
        ]
        if isinstance(executor, ThreadPoolExecutor) and not hasattr(self.model, "solve"):
            executor = None
        for k, fitted in zip(on, ordered(partial(_trained, train), work, executor), strict=True):
            assert isinstance(fitted, nn.Module)
            self.models[k] = fitted
        self.unit, self.fitted_on, self.vocabulary = unit, log.name, log.vocabulary
        return self.eval()

    @property
    def words(self) -> str:
        """What a report says of it."""
        link = "" if self.link == "identity" else f" under a {self.link}"
        return f"cross-fitted {self.model!r}{link}, {self.folds} folds by {self.unit or 'unit'}"

    @torch.no_grad()
    def predict(self, block: Block) -> Tensor:
        """Rewards of all items, each row by the model that did not see its unit: (B, n_items)."""
        self._ready()
        fold = fold_of(block.unit, self.folds, self.seed)  # (B,)
        predicted = torch.zeros(len(block), self.n_items, dtype=torch.float64)
        for k in range(self.folds):
            mine = (fold == k).nonzero()[:, 0]
            if len(mine):
                predicted[mine] = self._scores(k, block.context[mine]).to("cpu", torch.float64)
        return predicted

    def scores(self, context: Context) -> Tensor:
        """The mean of the models: (B, n_items), or like candidates."""
        self._ready()
        return torch.stack([self._scores(k, context) for k in range(self.folds)]).mean(0)

    def score_of(self, context: Context, item: Tensor) -> Tensor:
        """The mean of the models for given items, shaped like item."""
        index = item if item.dim() == 2 else item[:, None]  # (B, M)
        return self.scores(replace(context, candidates=None)).gather(1, index).view_as(item)

    def top(self, context: Context, k: int, *, hide: Pairs | None = None) -> Tensor:
        """The k best available items of each request by the mean of the models: (B, k)."""
        return top_by(self.scores, context, k, hide)

    def _scores(self, k: int, context: Context) -> Tensor:
        many = self.n_items if context.candidates is None else context.candidates.shape[1]
        expected = (len(context), many)
        if not bool(self.known[k]):
            return torch.zeros(expected, dtype=torch.float64, device=context.user.device)
        scores: Tensor = self.models[k].scores(context)  # type: ignore[operator]
        if tuple(scores.shape) != expected:
            raise ConfigError(
                f"{type(self.model).__name__}.scores returned shape {tuple(scores.shape)}, "
                f"expected {expected}: one reward for each request and item."
            )
        return torch.sigmoid(scores) if self.link == "sigmoid" else scores

    def _ready(self) -> None:
        if self.fitted_on is None and not (hasattr(self, "models") and bool(self.known.any())):
            raise UnboundError(
                "this CrossFit is not fitted. Give it to recfb.evaluate(..., reward_model=...) as "
                "it is, or fit it first: CrossFit(model).bind(log).solve(log)."
            )


def cross_fitted(
    model: CrossFit,
    log: Log,
    train: Train,
    unit: str | None,
    executor: Executor | None = None,
) -> CrossFit:
    """The model as it is if it was fitted, else a copy fitted to the log.

    Raises:
        ConfigError: its folds are of another unit than the evaluation's.
    """
    if model.fitted_on is None:
        return copy.deepcopy(model).refit(log, train, unit, executor=executor)
    if unit_column(log, model.unit) != unit_column(log, unit):
        raise ConfigError(
            f"the folds of this CrossFit are of unit={model.unit!r}, the evaluation's clusters of "
            f"unit={unit!r}, so rows of one cluster would be in several folds. Fit it with "
            f"CrossFit(model).refit(log, train, unit={unit!r}), or give it unfitted."
        )
    return model


def top_by(
    scores: Callable[[Context], Tensor], context: Context, k: int, hide: Pairs | None = None
) -> Tensor:
    """The k best available items by scores (B, n_items) or like candidates, in blocks: (B, k).

    Items of the pairs in `hide` are not available to their users; ties are broken by a hash.
    """
    picks = [torch.empty(0, k, dtype=torch.int64, device=context.user.device)]
    for start in range(0, len(context), ROWS):
        block = context[start : start + ROWS]
        found = scores(block)
        if hide is not None and block.candidates is None:
            found = found.clone()
            found.view(-1).index_fill_(0, hide.places(block.user), -torch.inf)
        picks.append(best_of(block, found, k))
    return torch.cat(picks)


__all__ = ["CrossFit", "Learner", "cross_fitted", "solved", "split", "top_by"]
