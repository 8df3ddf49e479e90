"""What users like, less what they have had enough of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

import torch
from torch import Generator, Tensor

from recfb.contracts import Context, Feedback, Slate
from recfb.data import Log
from recfb.errors import ConfigError
from recfb.policies.slates import Certain


class Novelty(Certain):
    """Shows the K items with the largest first utility - weight log(1 + n of user and topic).

    The first utility is the log-odds of the values of the round in which the user first asks, so a
    world that changes later, as one with boredom, leaves it behind. n counts clicks and leaks once
    a round, n <- decay n + clicks. At weight 0 it is the greedy policy that believes in static
    tastes. Like `Oracle` it is a yardstick of a simulation, and no policy for a platform.

    Args:
        weight: how much a click on a topic lowers the others.
        decay: what is left of the count after a round, in [0, 1].
        topic: of each item, from 0; None: the column `topic` of the log's items.

    Raises:
        ConfigError: a decay outside [0, 1], or no topic for each item.

    >>> policy = Novelty(1.0, topic=[0, 0, 1]).bind(Log.empty(1, 3))
    >>> policy.look(torch.tensor([[0.6, 0.5, 0.5]]))
    >>> context, shown = Context(torch.tensor([0])), Slate(torch.tensor([[0]]))
    >>> policy.update(context, shown, Feedback(torch.tensor([[1.0]])), torch.Generator())
    >>> policy.act(context, torch.Generator()).item.tolist()
    [[2]]
    """

    vectorised: ClassVar[bool] = False
    privileged: ClassVar[bool] = True

    of: Tensor  # (n_items,) int64, the topic
    count: Tensor  # (n_users, C)
    first: Tensor  # (n_users, n_items), NaN of users who have not asked yet
    values: Tensor | None  # (B, n_items), of this round only

    def __init__(
        self, weight: float = 1.0, *, decay: float = 0.9, topic: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        if not 0 <= decay <= 1:
            raise ConfigError(f"decay is in [0, 1], found {decay}. To forget nothing: decay=1.0")
        self.weight = weight
        self.decay = decay
        self.topic = topic

    def bind(self, log: Log) -> Self:
        column = log.items["topic"].to_list() if "topic" in log.items.columns else ()
        topic = torch.tensor(column if self.topic is None else list(self.topic), dtype=torch.int64)
        if len(topic) != log.n_items:
            raise ConfigError(
                f"novelty needs the topic of each of {log.n_items} items, found {len(topic)}. "
                "Give topic=[0, 1, ...], or a log whose items have a column 'topic'."
            )
        self.register_buffer("of", topic, persistent=False)
        self.register_buffer("count", torch.zeros(log.n_users, int(topic.max()) + 1))
        self.register_buffer("first", torch.full((log.n_users, log.n_items), torch.nan))
        self.register_buffer("values", None, persistent=False)
        return super().bind(log)

    def reset(self, generator: Generator) -> None:
        super().reset(generator)
        self.count.zero_()
        self.first.fill_(torch.nan)

    def look(self, values: Tensor) -> None:
        self.values = values

    def index(self, context: Context) -> Tensor:
        if self.values is None:
            raise ConfigError("novelty looks at the true values before it acts: look(values)")
        first = self.first[context.user]  # (B, n_items)
        first = torch.where(first.isnan(), self.values.logit(eps=1e-6), first)
        self.first[context.user] = first  # here, since another policy may ask for `probs` alone
        index = first - self.weight * self.count[context.user].log1p()[:, self.of]
        return index if context.candidates is None else index.gather(1, context.candidates)

    def update(
        self, context: Context, slate: Slate, feedback: Feedback, generator: Generator
    ) -> None:
        user = context.user[:, None].expand_as(slate.item)  # (B, K)
        self.count *= self.decay
        hit = (feedback.reward > 0).to(self.count.dtype)
        self.count.index_put_((user, self.of[slate.item]), hit, accumulate=True)
