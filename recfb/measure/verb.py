"""Measure how models rank what users clicked later."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import polars as pl
import torch

from recfb.contracts import Fitted, Model
from recfb.data import Log, Pairs, Vocabulary
from recfb.errors import ConfigError, LogError, UnboundError, nearest
from recfb.measure.bootstrap import Bootstrap, paired_test
from recfb.measure.lists import Task, rank, task_of
from recfb.metrics.ranking import PER_USER, Metric

_INTERVAL = ("value", "lower", "upper")
_GAP = ("difference", "difference_lower", "difference_upper")

Users = Literal["known", "all"]
Candidates = Literal["all", "judged"]


def measure(
    log: Log,
    recommenders: Mapping[str, Model],
    *,
    metrics: Sequence[str] = ("ndcg@10", "recall@10", "coverage@10", "gini@10"),
    exclude: Log | None = None,
    users: Users = "known",
    candidates: Candidates = "all",
    base: str | None = None,
    by: str | None = None,
    alpha: float = 0.05,
    seed: int = 0,
) -> pl.DataFrame:
    """Rank all items for every user and compare with what the user clicked in this log.

    Args:
        log: clicks that the models have not learned from. It may have another vocabulary.
        recommenders: a name for each fitted model; `solvers.Popularity()` and `solvers.Random()`
            belong in every table.
        metrics: ndcg@K, recall@K, map@K, hit@K for each user's list, coverage@K and gini@K for all
            lists together; variants as in "ndcg@10:saito,n_pos"; "ndcg@10:snips" and
            "recall@10:snips" weigh each click by one over its item's popularity in training;
            "ndcg@10:zero" counts users who were shown items and clicked none as 0.
        exclude: the training log. Its clicks are not ranked again and do not count; with judged
            candidates, all its rows.
        users: "known" keeps users and items with a click in `exclude`, or without it in what the
            models were fitted to; "all" keeps all that the models have a place for.
        candidates: "all" items, or for each user those "judged", that is, those in this log.
        base: a recommender to subtract, user by user.
        by: a column of `log.users` that splits users, or of `log.items` that splits their clicks.
        alpha: intervals hold with probability 1 - alpha.
        seed: of the user bootstrap: 1,000 replicates, over 4,096 groups where users are more.

    Returns:
        A frame with the columns recommender, metric, value, lower, upper, n_users (users in the
        mean), left_users and left_clicks (in the log, not in the mean: unknown, clicked before, or
        without a click); before them `by` if given; with `base` also difference,
        difference_lower, difference_upper and p_value, of a two-sided t test of the users' paired
        differences, not adjusted for many comparisons. coverage and gini have no interval, because
        a bootstrap repeats lists.

    Raises:
        ConfigError: an unknown metric, base, `by` or choice; models of different vocabularies.
        LogError: the log has rows, but no click of a user to rank for. A log without rows gives a
            table of nulls with n_users 0.

    >>> from recfb import fit, solvers
    >>> train = Log.of({"user": [0, 1, 2], "item": [0, 0, 1], "reward": [1, 1, 1]})
    >>> test = Log.of({"user": [0, 2], "item": [1, 0], "reward": [1, 1]}, like=train)
    >>> model = fit(train, solvers.Popularity())
    >>> measure(test, {"popularity": model}, metrics=["recall@1"], exclude=train)["value"].item()
    1.0
    """
    _check(recommenders, users, candidates, base)
    wanted = [Metric.of(name) for name in metrics]
    vocabulary, seen = _knowledge(recommenders, log)
    judged = candidates == "judged"
    without = None
    if exclude is not None:
        exclude = exclude.recode(vocabulary)
        seen, without = exclude.clicks, exclude.shown if judged else exclude.clicks
    tables = []
    for label, part in _groups(log, by):
        task = task_of(
            part.recode(vocabulary),
            exclude=without,
            known=seen if users == "known" else None,
            seen=seen,
            judged=judged,
        )
        everyone, clicks = int((part.shown.per_user > 0).sum()), len(part.clicks)
        table = _table(recommenders, task, wanted, base, alpha, seed).with_columns(
            (everyone - pl.col("n_users")).alias("left_users"),
            pl.lit(clicks - len(task.clicks), pl.Int64).alias("left_clicks"),
        )
        if not len(task.user):  # no lists: nothing is covered, and nothing could be
            table = table.with_columns(pl.lit(None, pl.Float64).alias("value"))
        tables.append(table if by is None else table.select(pl.lit(label).alias(by), pl.all()))
    if len(log) and not any(table["n_users"].sum() for table in tables):
        raise LogError(_nothing(log, tables[0], users))
    return pl.concat(tables)


def _check(models: Mapping[str, Model], users: str, candidates: str, base: str | None) -> None:
    for name, found, known in (
        ("users", users, ("known", "all")),
        ("candidates", candidates, ("all", "judged")),
    ):
        if found not in known:
            raise ConfigError(f"{name} is one of {known}, found {found!r}.{nearest(found, known)}")
    if not models:
        raise ConfigError('measure(log, recommenders) takes a name for each model: {"als": model}')
    if base is not None and base not in models:
        raise ConfigError(f"base is one of {list(models)}, found {base!r}.{nearest(base, models)}")


def _knowledge(models: Mapping[str, Model], log: Log) -> tuple[Vocabulary, Pairs | None]:
    """The models' vocabulary and what they were fitted to; models without one take the log's."""
    fitted = {name: model for name, model in models.items() if isinstance(model, Fitted)}
    for name, model in fitted.items():
        if not hasattr(model, "history"):
            raise UnboundError(f"{name!r} is not fitted. Fit it first: recfb.fit(train, ...)")
    histories = [model.history for model in fitted.values()]
    if len({history.vocabulary.digest for history in histories}) > 1:
        raise ConfigError(
            "the models were fitted to different vocabularies, so their lists cannot be compared. "
            "Give the logs one vocabulary before you fit: Log.read(path, like=first_log)."
        )
    if not histories:
        return log.vocabulary, None
    return histories[0].vocabulary, histories[0].seen


def _groups(log: Log, by: str | None) -> Iterator[tuple[object, Log]]:
    """The log, or its rows by the value of a column of its users or items."""
    if by is None:
        yield None, log
        return
    sides = {"user": log.users, "item": log.items}
    side = next((name for name, frame in sides.items() if by in frame.columns), None)
    if side is None:
        known = [c for frame in sides.values() for c in frame.columns if c != "id"]
        raise ConfigError(
            f"by={by!r} is no column of log.users or log.items, which have {known}. "
            f'Attach one: log.with_users(frame, id="user").'
        )
    value = sides[side][by].gather(log.frame[side])
    for label in value.unique().sort():
        mask = value.eq_missing(pl.Series([label], dtype=value.dtype))
        yield label, log.with_frame(log.frame.filter(mask))


def _nothing(log: Log, table: pl.DataFrame, users: str) -> str:
    found = f"the log has {len(log.clicks)} clicks, and {table['left_clicks'][0]} were left out"
    if len(log.clicks) and users == "known":
        return (
            f"nothing to measure: {found}, because their users or items have no click in "
            'training, or they were clicked before. To rank for unknown users too: users="all".'
        )
    return (
        f"nothing to measure: {found}. A click is a row with a reward above 0: "
        "log.binarise(at=...) makes them of ratings."
    )


def _table(
    models: Mapping[str, Model],
    task: Task,
    metrics: Sequence[Metric],
    base: str | None,
    alpha: float,
    seed: int,
) -> pl.DataFrame:
    depth = max((metric.k for metric in metrics), default=1)
    lists = {name: rank(model, task, depth) for name, model in models.items()}
    users = {"skip": task.user, "zero": torch.cat([task.user, task.idle])}
    asked = {metric.zero_positive for metric in metrics if metric.kind in PER_USER}
    draws = {kind: Bootstrap(users[kind], alpha, seed) for kind in asked}
    rows: list[dict[str, object]] = []
    for name, own in lists.items():
        for metric in metrics:
            row: dict[str, object] = {"recommender": name, "metric": metric.name}
            row["n_users"] = len(task.user)
            other = None if base is None else lists[base]
            if metric.kind in PER_USER:
                values, draw = own.values(metric, task), draws[metric.zero_positive]
                row["n_users"] = len(values)
                row |= dict(zip(_INTERVAL, draw(values), strict=True))
                if other is not None:
                    gap = values - other.values(metric, task)  # (U,)
                    row |= dict(zip(_GAP, draw(gap), strict=True)) | {"p_value": paired_test(gap)}
            else:
                total = own.total(metric, task)
                row["value"] = total
                if other is not None:
                    row["difference"] = total - other.total(metric, task)
            rows.append(row)
    schema: dict[str, type[pl.DataType]] = {"recommender": pl.String, "metric": pl.String}
    schema |= dict.fromkeys(_INTERVAL, pl.Float64) | {"n_users": pl.Int64}
    schema |= {} if base is None else dict.fromkeys((*_GAP, "p_value"), pl.Float64)
    return pl.DataFrame(rows, schema=schema).with_columns(pl.col(pl.Float64).fill_nan(None))
