"""The post between a world and a policy: feedback that is not known yet."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recfb.contracts import Context, Feedback, Slate, learner_of
from recfb.data.batch import Record


@dataclass(frozen=True, slots=True)
class Parcel(Record):
    """Rows whose feedback is not known yet. Of the slate the items and their probabilities are
    kept, NaN where there is no exact value."""

    known: Tensor  # (B, K) the round in which each reward becomes known
    context: Context
    slate: Slate
    feedback: Feedback


def post(context: Context, slate: Slate, feedback: Feedback, time: int, learners: int) -> Parcel:
    """A round's rows, each with its own time and learner; without delays they are due at once."""
    rows = len(context)
    whole = replace(
        context,
        time=torch.full((rows,), time, device=context.user.device),
        learner=learner_of(context, learners),
        available=None if context.available is None else context.available.expand(rows, -1),
    )
    delay = torch.zeros_like(slate.item) if feedback.delay is None else feedback.delay
    return Parcel(delay + time, whole, _plain(slate), replace(feedback, delay=delay))


_ROW = torch.zeros(0, dtype=torch.int64)
EMPTY = Parcel(_ROW, Context(_ROW), Slate(_ROW), Feedback(_ROW))
"""Nothing on its way."""


def deliver(waiting: Parcel, time: int) -> tuple[Parcel, Parcel]:
    """The rows with feedback that becomes known in this round, and those that go on waiting.

    A row whose positions become known one by one is in both; what is not due is NaN.
    """
    due = waiting[(waiting.known == time).any(1)]
    reward = due.feedback.reward.where(due.known == time, torch.nan)  # (B, K)
    later = waiting[(waiting.known > time).any(1)]
    return replace(due, feedback=replace(due.feedback, reward=reward)), later


def _plain(slate: Slate) -> Slate:
    """The fields that every round's slate can have."""
    none = torch.full(
        slate.item.shape, torch.nan, dtype=torch.float64, device=slate.item.device
    )  # (B, K)
    at, prefix, display = (
        none if x is None else x for x in (slate.propensity, slate.p_prefix, slate.p_display)
    )
    return Slate(slate.item, propensity=at, p_prefix=prefix, p_display=display)
