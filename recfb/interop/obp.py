"""Logs and policies in the form of obp (Open Bandit Pipeline), both ways.

obp's feedback is a dictionary of arrays: n_rounds, n_actions, action, reward, pscore, and where
they exist context and position (from 0). obp itself is not imported: its estimators take these
arrays as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from recfb.contracts import Policy
from recfb.data import Log, Meta
from recfb.data.door import Problems
from recfb.errors import LogError

Feedback = dict[str, Any]
"""obp's bandit feedback: "n_rounds" and "n_actions" are integers, the rest arrays or None."""

_ARRAYS = {"action": "item", "reward": "reward", "pscore": "propensity"}


def to_log(feedback: Mapping[str, Any], *, meta: Meta | None = None) -> Log:
    """A log from obp's feedback: action -> item, pscore -> propensity, position from 1, context ->
    features. Items keep their numbers, shown or not.

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
    absent = [key for key in ("action", "reward", "n_actions") if feedback.get(key) is None]
    if absent:
        raise LogError(
            f"obp's feedback lacks {absent}; it has {sorted(feedback)}. Take what "
            "`dataset.obtain_batch_bandit_feedback()` returns."
        )
    columns: dict[str, Any] = {
        ours: np.asarray(feedback[theirs])
        for theirs, ours in _ARRAYS.items()
        if feedback.get(theirs) is not None
    }
    if feedback.get("position") is not None:
        columns["position"] = np.asarray(feedback["position"]) + 1
    if feedback.get("context") is not None:
        columns["features"] = np.asarray(feedback["context"], dtype=np.float32)
    return Log.of(columns, n_items=int(feedback["n_actions"]), meta=meta)


def from_log(log: Log) -> Feedback:
    """obp's feedback from a log; what the log has not is None.

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

    position, features = array("position"), array("features")
    return {
        "n_rounds": len(log),
        "n_actions": log.n_items,
        "action": array("item"),
        "reward": log.tensor("reward").to(torch.float64).numpy(),
        "pscore": array("propensity"),
        "position": None if position is None else position - 1,
        "context": features,
    }


def action_dist(log: Log, policy: Policy) -> np.ndarray[Any, np.dtype[np.float64]]:
    """What obp calls a policy: its probabilities for every row and position, (n_rounds, n_actions,
    len_list). The policy must be bound.
    """
    slots = 1
    if "position" in log.columns and len(log):
        slots = int(log.tensor("position").max())
    out = torch.zeros(len(log), log.n_items, slots, dtype=torch.float64)
    start = 0
    for part in log.parts():
        context = part.record(Problems()).context
        for slot in range(slots):
            if context.position is not None:
                context = replace(context, position=torch.full_like(context.position, slot + 1))
            with torch.no_grad():
                out[start : start + len(context), :, slot] = policy.probs(context).to("cpu")
        start += len(context)
    return out.numpy()
