"""Logs and policies in the form of obp (Open Bandit Pipeline), both ways.

obp's feedback is a dictionary of arrays: n_rounds, n_actions, action, reward, pscore, and where
they exist context, action_context, position (from 0) and expected_reward. obp itself is not
imported: its estimators take these arrays as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import polars as pl
import torch
from torch import Tensor

from recfb.contracts import Block, Model, Policy
from recfb.data import Log, Meta
from recfb.data.door import Problems
from recfb.errors import LogError
from recfb.evaluation.cell_means import CellMeans, cell_counts
from recfb.evaluation.crossfit import CrossFit, cross_fitted, solved
from recfb.evaluation.reduction import BLOCK, Fixed, RewardModel

Feedback = dict[str, Any]
"""obp's bandit feedback: "n_rounds" and "n_actions" are integers, the rest arrays or None."""

Array = np.ndarray[Any, np.dtype[np.float64]]

_ARRAYS = {"action": "item", "reward": "reward", "pscore": "propensity"}
_SLATES = {
    "action": "item",
    "reward": "reward",
    "slate_id": "slate",
    "pscore_item_position": "propensity",
    "pscore_cascade": "p_prefix",
}

_TRUTHS = ("expected_reward", "expected_reward_factual")


class Estimator(Protocol):
    """An estimator of obp, such as `obp.ope.DoublyRobust()`."""

    def estimate_policy_value(self, **arrays: Any) -> float:
        """The value of the policy whose probabilities are `action_dist`."""


def to_log(feedback: Mapping[str, Any], *, meta: Meta | None = None) -> Log:
    """A log from obp's feedback: action -> item, pscore -> propensity, position from 1, context ->
    features, action_context -> `log.items["features"]`. Items keep their numbers, shown or not.

    expected_reward is the truth of a simulation and stays out of the log: see `truth_of`. Contexts
    become 32-bit floats. Feedback with slate_id becomes slates, one row a shown item:
    pscore_item_position -> propensity, pscore_cascade -> p_prefix, whose last row is obp's pscore.

    Args:
        feedback: obp's dictionary; without pscore the log has no propensities.
        meta: what you declare about it, for example `Meta(propensity="exact")`.

    Raises:
        LogError: keys are missing, or values are no rows of a log.

    >>> import numpy as np
    >>> rows = {"action": np.array([2, 0]), "reward": np.array([1, 0]), "n_actions": 3}
    >>> to_log({**rows, "pscore": np.array([0.5, 0.25]), "position": np.array([0, 1])}).columns
    ['item', 'reward', 'propensity', 'position']
    """
    slates = feedback.get("slate_id") is not None
    count = "n_unique_action" if slates else "n_actions"
    absent = [key for key in ("action", "reward", count) if feedback.get(key) is None]
    if absent:
        raise LogError(
            f"obp's feedback lacks {absent}; it has {sorted(feedback)}. Take what "
            "`dataset.obtain_batch_bandit_feedback()` returns."
        )
    columns: dict[str, Any] = {
        ours: np.asarray(feedback[theirs])
        for theirs, ours in (_SLATES if slates else _ARRAYS).items()
        if feedback.get(theirs) is not None
    }
    if feedback.get("position") is not None:
        columns["position"] = np.asarray(feedback["position"]) + 1
    if feedback.get("context") is not None:
        context = np.asarray(feedback["context"], dtype=np.float32)
        columns["features"] = context[columns["slate"]] if slates else context
    log = Log.of(columns, n_items=int(feedback[count]), meta=meta)
    if feedback.get("action_context") is None:
        return log
    described = np.asarray(feedback["action_context"], dtype=np.float64)
    if described.shape[:1] != (log.n_items,):
        raise LogError(
            f"action_context has {described.shape[:1]} rows for {log.n_items} actions: one row an "
            "action, in their order."
        )
    return log.with_items(pl.DataFrame({"id": log.items["id"], "features": described}))


def from_log(log: Log, *, truth: Array | None = None) -> Feedback:
    """obp's feedback from a log; what the log has not is None.

    Args:
        log: in memory.
        truth: what `truth_of` gave, to be handed back as expected_reward.

    Raises:
        LogError: rows without a reward, which obp cannot hold.
    """
    if log.frame["reward"].null_count():
        raise LogError(
            f"{log.frame['reward'].null_count():,} rows have no reward, which obp cannot hold. "
            'Leave them out: log.filter(pl.col("reward").is_not_null()).'
        )

    def array(column: str) -> np.ndarray[Any, np.dtype[Any]] | None:
        return log.tensor(column).numpy() if column in log.columns else None

    position, features, items = array("position"), array("features"), log.items
    if "slate" in log.columns:
        return _slate_feedback(log, position, features, truth)
    return {
        "n_rounds": len(log),
        "n_actions": log.n_items,
        "action": array("item"),
        "reward": log.tensor("reward").to(torch.float64).numpy(),
        "pscore": array("propensity"),
        "position": None if position is None else position - 1,
        "context": features,
        "action_context": items["features"].to_numpy() if "features" in items.columns else None,
        "expected_reward": truth,
    }


def _slate_feedback(
    log: Log, position: Array | None, features: Array | None, truth: Array | None
) -> Feedback:
    """obp's feedback of slates: pscore is P(slate), for every row of it."""
    slate = log.tensor("slate").numpy()
    _, first, number = np.unique(slate, return_index=True, return_inverse=True)
    prefix = log.tensor("p_prefix").numpy() if "p_prefix" in log.columns else None
    whole = None if prefix is None else np.ones(len(first))
    if prefix is not None and whole is not None:
        np.minimum.at(whole, number, prefix)  # it falls with every item
    items = log.items
    return {
        "n_rounds": len(first),
        "n_unique_action": log.n_items,
        "slate_id": number,
        "context": None if features is None else features[first],
        "action_context": items["features"].to_numpy() if "features" in items.columns else None,
        "action": log.tensor("item").numpy(),
        "position": None if position is None else position - 1,
        "reward": log.tensor("reward").to(torch.float64).numpy(),
        "expected_reward_factual": truth,
        "pscore": None if whole is None else whole[number],
        "pscore_item_position": log.tensor("propensity").numpy()
        if "propensity" in log.columns
        else None,
        "pscore_cascade": prefix,
    }


def truth_of(feedback: Mapping[str, Any]) -> Array:
    """A simulation's expected rewards, (n_rounds, n_actions), or of slates those of the shown rows:
    in a table of its own, since no model may see it.

    Raises:
        LogError: feedback of the real world, which has none.
    """
    known = [key for key in _TRUTHS if feedback.get(key) is not None]
    if not known:
        raise LogError(
            f"this feedback has no expected_reward, which only simulations know; it has "
            f"{sorted(feedback)}."
        )
    return np.asarray(feedback[known[0]], dtype=np.float64)


def action_dist(log: Log, policy: Policy) -> Array:
    """What obp calls a policy: its probabilities for every row and position, (n_rounds, n_actions,
    len_list). The policy must be bound; it is asked in blocks of 2,048 rows.
    """

    def probs(block: Block) -> Tensor:
        return policy.probs(block.context)

    return _dense(log, probs)


def predicted(log: Log, model: Model | None = None, *, seed: int = 0) -> Array:
    """What obp calls estimated_rewards_by_reg_model: a model's rewards for every row and position,
    (n_rounds, n_actions, len_list).

    Args:
        log: with known rewards.
        model: bound and fitted, or an `evaluation.CrossFit`; None: the cross-fitted cell means that
            `recfb.evaluate` uses.
        seed: of the folds, as in `recfb.evaluate`.
    """
    chosen: RewardModel
    if model is None:
        means = CellMeans(seed=seed)
        count = (
            cell_counts(block, folds=means.folds, seed=seed, n_items=log.n_items)
            for block, _ in _whole(log)
        )
        chosen = means.fit(count)
    elif isinstance(model, CrossFit):
        chosen = cross_fitted(model, log, solved, None)
    else:
        chosen = Fixed(model)
    return _dense(log, chosen.predict)


def estimate(
    log: Log, policy: Policy, estimator: Estimator, *, reward_model: Model | None = None
) -> float:
    """What an estimator of obp says of a bound policy: the cross-check of `recfb.evaluate`.

    Its value for the same policy, estimator and reward model is the same to 1e-10; obp's interval
    is not used.

    Args:
        log: with known rewards, in memory: obp holds rounds x actions x positions.
        policy: bound to the log.
        estimator: `obp.ope.DoublyRobust()` and its like.
        reward_model: for DirectMethod and the doubly robust ones; None: cross-fitted cell means.

    Raises:
        LogError: rows without a reward.
    """
    feedback = from_log(log)
    value = estimator.estimate_policy_value(
        **{key: feedback[key] for key in ("reward", "action", "position")},
        pscore=feedback["pscore_item_position" if "slate" in log.columns else "pscore"],
        action_dist=action_dist(log, policy),
        estimated_rewards_by_reg_model=predicted(log, reward_model),
    )
    return float(value)


def _whole(log: Log) -> Iterator[tuple[Block, int]]:
    """The parts of a log, each with its first row."""
    start = 0
    for part in log.parts():
        block = part.record(Problems())
        yield block, start
        start += len(block)


def _dense(log: Log, of: Callable[[Block], Tensor]) -> Array:
    """A function of blocks (B, n_items) at every position: (n, n_items, L)."""
    slots = 1
    if "position" in log.columns and len(log):
        slots = int(log.tensor("position").max())
    out = torch.zeros(len(log), log.n_items, slots, dtype=torch.float64)
    for whole, start in _whole(log):
        for first in range(0, len(whole), BLOCK):
            block = whole[first : first + BLOCK]
            rows = slice(start + first, start + first + len(block))
            for slot in range(slots):
                with torch.no_grad():
                    out[rows, :, slot] = of(_at(block, slot + 1)).to("cpu", torch.float64)
    dense: Array = out.numpy()
    return dense


def _at(block: Block, position: int) -> Block:
    """The same requests at another position, where they have one."""
    if block.context.position is None:
        return block
    context = replace(block.context, position=torch.full_like(block.context.position, position))
    return replace(block, context=context)
