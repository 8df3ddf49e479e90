"""A world that also tells the vectors behind its clicks, for the metrics of tastes."""

from __future__ import annotations

from typing import Any

from torch import Generator

from recfb.contracts import Feedback, Slate, Truth
from recfb.worlds.wrappers import Wrapper


class Traced(Wrapper):
    """Adds the vectors behind the clicks to the truth: `taste` of the user and `content` of the
    item, arrays of each shown row.

    What `ild`, `bubble`, `drift`, `turn`, `polarisation` and `jaccard_nearest` of
    `recfb.metrics.loops.METRICS` read. The truth grows by 8 dim bytes a row.

    Args:
        world: a world whose state has `taste`, (U, d), and `content`, (n_items, d), and in which
            every user makes a request in every round, such as `Tastes`.

    >>> from recfb.random import stream
    >>> import torch
    >>> from recfb.worlds.tastes import Tastes
    >>> world = Traced(Tastes(3, 5))
    >>> slate = Slate(torch.zeros(3, 2, dtype=torch.int64))
    >>> truth = world.respond(world.start(stream(0)), slate, stream(1))[1]
    >>> tuple(truth["taste"].shape), tuple(truth["content"].shape)
    ((3, 2, 8), (3, 2, 8))
    """

    def respond(self, state: Any, slate: Slate, generator: Generator) -> tuple[Feedback, Truth]:
        feedback, truth = self.world.respond(state, slate, generator)
        content = state.content[slate.item]  # (U, K, d)
        taste = state.taste[:, None].expand_as(content)  # (U, K, d)
        return feedback, {**truth, "taste": taste, "content": content}
