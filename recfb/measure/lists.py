"""Top lists for held-out clicks: whom to rank for, what may be shown, what counts."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from recfb.contracts import Context, Model
from recfb.data import Log, Pairs
from recfb.data.history import History
from recfb.errors import ConfigError, LogError, RecfbWarning
from recfb.measure.exposures import effective_size
from recfb.metrics.ranking import PER_LIST, PER_USER, Metric

_CELLS = 8_000_000  # entries of a mask that are made at a time


@dataclass(frozen=True)
class Task:
    """Whom to rank for, what may be shown, and what counts: all in one vocabulary."""

    user: Tensor  # (U,) int64, users with a click to find
    clicks: Pairs
    exclude: Pairs | None
    judged: Pairs | None
    seen: Pairs | None  # training clicks, which say how popular items are
    idle: Tensor  # (I,) int64, users who were shown items, none of which is a click to find

    @property
    def n_pos(self) -> Tensor:
        """Clicks to find for each user: (U,)."""
        return self.clicks.per_user[self.user]

    def available(self, user: Tensor) -> Tensor:
        """What may be shown: (B,) -> (B, n_items) bool."""
        if self.exclude is None:
            whole = torch.ones(len(user), self.clicks.n_items, dtype=torch.bool)
            return whole if self.judged is None else self.judged.mask(user)
        free = self.exclude.mask(user, inside=False)
        return free if self.judged is None else free & self.judged.mask(user)

    @cached_property
    def inverse_popularity(self) -> tuple[Tensor, Tensor]:
        """What a click on each item counts, and the sum over each user's clicks: (n_items,), (U,).

        1 / p with p in proportion to (training clicks) ** 1.5, but at least 1 % of the largest.
        Yang et al., "Unbiased offline recommender evaluation for missing-not-at-random implicit
        feedback" (2018). Warns where few clicks carry the estimate.
        """
        if self.seen is None:
            raise ConfigError("snips weighs clicks by training clicks: give them, exclude=train.")
        p = self.seen.per_item.to(torch.float64) ** 1.5  # (n_items,)
        weight = 1 / (p / p.max()).clamp(min=0.01)
        each = weight[self.clicks.item]  # (P,)
        total = torch.zeros(self.clicks.n_users, dtype=torch.float64)
        total.index_add_(0, self.clicks.user, each)
        ess = float(effective_size(each)) if len(each) else 0.0
        if ess < 0.1 * len(each):
            warnings.warn(
                f"snips: {len(each)} clicks count as {ess:.0f}, so the estimate is unreliable. "
                "Compare with the unweighted metric.",
                RecfbWarning,
                stacklevel=2,
            )
        return weight, total[self.user]


def task_of(
    log: Log,
    *,
    exclude: Pairs | None,
    known: Pairs | None,
    seen: Pairs | None = None,
    judged: bool = False,
) -> Task:
    """The clicks of a log without those in `exclude`, of users and items that occur in `known`."""
    clicks = log.clicks
    keep = torch.ones(len(clicks), dtype=torch.bool)
    if exclude is not None:
        keep &= ~exclude.has(clicks.key)
    if known is not None:
        keep &= (known.per_user[clicks.user] > 0) & (known.per_item[clicks.item] > 0)
    user, item = clicks.user[keep], clicks.item[keep]
    kept = Pairs(user, item, n_users=log.n_users, n_items=log.n_items)
    active = kept.per_user > 0  # (n_users,)
    idle = (log.shown.per_user > 0) & ~active
    if known is not None:
        idle &= known.per_user > 0
    users = [mask.nonzero().squeeze(1) for mask in (active, idle)]  # (U,), (I,)
    return Task(users[0], kept, exclude, log.shown if judged else None, seen, users[1])


@dataclass(frozen=True)
class Lists:
    """The top lists of a model for the users of a task."""

    item: Tensor  # (U, K) int64, -1 where nothing is left to show
    gain: Tensor  # (U, K) 1 where the item was clicked

    def values(self, metric: Metric, task: Task) -> Tensor:
        """The metric of each user's list, then 0 for idle users where they count: float64,
        (U,) or (U + I,)."""
        gain, total = self.gain, task.n_pos
        if metric.weighting != "none":
            weight, total = task.inverse_popularity
            gain = gain * weight[self.item.clamp(min=0)]  # (U, K)
        values = metric.per_user(gain, total)  # (U,)
        if metric.zero_positive == "skip":
            return values
        return torch.cat([values, values.new_zeros(len(task.idle))])  # (U + I,)

    def total(self, metric: Metric, task: Task) -> float:
        """A metric of how often each item is in the lists."""
        shown = self.item[:, : metric.k].reshape(-1)  # (U * k,)
        count = torch.bincount(shown[shown >= 0], minlength=task.clicks.n_items)
        return float(PER_LIST[metric.kind](count))


@torch.no_grad()
def rank(model: Model, task: Task, k: int) -> Lists:
    """The k best available items of every user of the task."""
    k = min(k, task.clicks.n_items)
    rows = max(64, _CELLS // max(1, task.clicks.n_items))
    device = device_of(model)
    items = [torch.empty(0, k, dtype=torch.int64)]
    for user in torch.split(task.user, rows):
        free = task.available(user)  # (B, n_items)
        context = Context(user.to(device), available=free.to(device))
        pick = model.top(context, k).to("cpu")  # (B, k)
        items.append(torch.where(free.gather(1, pick), pick, -1))
    item = torch.cat(items)  # (U, K)
    hit = task.clicks.has(task.user[:, None] * task.clicks.n_items + item.clamp(min=0))
    return Lists(item, (hit & (item >= 0)).to(torch.float32))


@dataclass(frozen=True)
class HeldOut:
    """Ranks held-out clicks and says how well: a model -> the mean of a metric over users."""

    task: Task
    metric: Metric

    @classmethod
    def of(cls, valid: Log, history: History, metric: str) -> HeldOut:
        """The clicks of a log that are new to a history, of users and items it knows.

        Raises:
            ConfigError: a metric that is not one of users' lists.
            LogError: no click is left.
        """
        named = Metric.of(metric)
        if named.kind not in PER_USER:
            raise ConfigError(f"monitor is a metric of users' lists, {list(PER_USER)}: ndcg@10.")
        seen = history.seen
        task = task_of(valid.recode(history.vocabulary), exclude=seen, known=seen, seen=seen)
        if not len(task.user):
            raise LogError(
                f"nothing to validate on: none of the {len(valid.clicks)} clicks of valid is of a "
                "user and an item with a click in the log and new. Leave valid out, or split by "
                "time."
            )
        return cls(task, named)

    def __call__(self, model: Model) -> float:
        return float(rank(model, self.task, self.metric.k).values(self.metric, self.task).mean())


def device_of(model: Model) -> torch.device | str:
    """Where a model's tensors are; adapters without any are asked on the CPU."""
    if not isinstance(model, torch.nn.Module):
        return "cpu"
    tensors = (*model.parameters(), *model.buffers())
    return tensors[0].device if tensors else "cpu"
