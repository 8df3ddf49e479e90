"""A recurrent encoder of a history."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import torch
from torch import Generator, Tensor, nn

from recfb.errors import ConfigError
from recfb.scorers.history import HistoryScorer

if TYPE_CHECKING:
    from recfb.data.log import Log


class HistoryGRU(HistoryScorer):
    """Estimates s(h, i) = (A GRU(x_h1, x_h2, ...) + b) . x_i from a history h, with frozen
    vectors x.

    Hidasi et al., "Session-based recommendations with recurrent neural networks" (2016), for the
    recurrent unit. The vectors are those of `HistoryScorer`; places without an item are passed
    over.

    Args:
        items, rewrite, project: as in `HistoryScorer`.
        hidden: length of the recurrent state.

    Raises:
        ConfigError: no state.

    >>> from recfb.data import Log
    >>> from recfb.data.batch import Context
    >>> from recfb.random import stream
    >>> log = Log.empty(1, 2).with_items({"id": [0, 1], "x": [1.0, 3.0]})
    >>> model = HistoryGRU(hidden=4).bind(log)
    >>> model.reset(stream(0))
    >>> short, padded = torch.tensor([[0, 1]]), torch.tensor([[-1, 0, 1, -1]])
    >>> torch.equal(model.user_vectors(short), model.user_vectors(padded))
    True
    """

    recurrent: nn.GRU
    out: nn.Linear

    def __init__(
        self,
        items: Sequence[str] = ("x",),
        *,
        rewrite: Sequence[str] = (),
        project: bool = False,
        hidden: int = 192,
    ) -> None:
        super().__init__(items, rewrite=rewrite, project=project)
        if hidden < 1:
            raise ConfigError(f"a recurrent state has a length, found hidden={hidden}.")
        self.hidden = hidden

    def bind(self, log: Log) -> Self:
        super().bind(log)
        d, old = self.vectors.shape[1], getattr(self, "recurrent", None)
        if old is None or old.input_size != d:
            # made without values: torch would draw them from its global generator
            device = self.vectors.device
            self.recurrent = nn.GRU(d, self.hidden, batch_first=True, device="meta")
            self.recurrent.to_empty(device=device)
            self.out = nn.Linear(self.hidden, d, device="meta").to_empty(device=device)
            for parameter in self.parameters():
                nn.init.zeros_(parameter)
        return self

    def reset(self, generator: Generator) -> None:
        super().reset(generator)
        scale = self.hidden**-0.5
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.uniform_(-scale, scale, generator=generator)

    def encode(self, x: Tensor, there: Tensor) -> Tensor:
        order = (~there).to(torch.uint8).argsort(dim=1, stable=True)  # (B, H) items first, in order
        x = x.gather(1, order[:, :, None].expand_as(x))  # (B, H, d)
        states = self.recurrent(x)[0]  # (B, H, hidden)
        last = there.sum(1).clamp(min=1) - 1  # (B,)
        state = states[torch.arange(len(x), device=x.device), last]  # (B, hidden)
        u: Tensor = self.out(state * there.any(1, keepdim=True))
        return u
