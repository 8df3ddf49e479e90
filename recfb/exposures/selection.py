"""A learned exposure: what was selected to be shown or judged, from inputs of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import torch
from torch import Generator, Tensor

from recfb.contracts import Batch, Exposure
from recfb.data.attributes import attributes
from recfb.errors import ConfigError
from recfb.network import Network, network

if TYPE_CHECKING:
    from recfb.data.log import Log

INPUTS = ("popularity", "position", "features")


class Selection(Exposure):
    """Estimates P(selected) = sigmoid(h) of rows or pairs, h a network of inputs of its own.

    The selection model of Cai et al., "Hard negatives or false negatives: correcting pooling bias
    in training neural ranking models" (2022). Selected is what was seen, judged or put into the
    pool, so that it could get a label at all. `objectives.CET` learns h, by `logit`; the
    probability carries no gradient, so losses that are weighed by it do not change it.

    Name what decided on showing a row and not on its worth: positions, popularity, age, scores of
    earlier systems, and keep it from the scorer. With the scorer's own inputs nothing tells
    selection from relevance.

    Its last layer starts at 0, so before training every P is one half.

    Args:
        inputs: "popularity" log(1 + clicks of the item); "position" log of the rank in the slate;
            "features" those of the row.
        items, users: columns of `log.items` and of `log.users`.
        hidden: width of a layer with ReLU; 0 is linear.

    Raises:
        ConfigError: an unknown input, or none at all; a column that is not there, holds no numbers,
            or has a null, NaN or infinity; with a sampler whose batches lack an input.
        LogError: on binding a log with rows but without a column that an input reads.

    >>> from recfb.data import Log
    >>> from recfb.random import stream
    >>> log = Log.of({"user": [0, 1], "item": [0, 1], "reward": [1, 0]})
    >>> selection = Selection().bind(log)
    >>> selection.reset(stream(0))
    >>> selection(Batch(torch.tensor([0]), torch.tensor([1]), torch.tensor([0.0]))).tolist()
    [0.5]
    """

    popularity: Tensor  # (n_items, 1)
    item_columns: Tensor  # (n_items, D)
    user_columns: Tensor  # (n_users, D)
    network: Network

    def __init__(
        self,
        inputs: Sequence[str] = ("popularity",),
        *,
        items: Sequence[str] = (),
        users: Sequence[str] = (),
        hidden: int = 0,
    ) -> None:
        super().__init__()
        self.inputs, self.items, self.users = tuple(inputs), tuple(items), tuple(users)
        self.hidden = hidden
        unknown = [name for name in self.inputs if name not in INPUTS]
        if unknown or not (inputs or items or users):
            found = f"found {unknown}" if unknown else "found none"
            raise ConfigError(
                f"Selection takes inputs of {list(INPUTS)}, {found}. Columns of log.items and "
                'log.users are named apart: Selection(inputs=["position"], items=["age"]).'
            )

    def bind(self, log: Log) -> Self:
        super().bind(log)
        logged = [name for name in self.inputs if name != "popularity"]
        if len(log):
            log.require(*logged)
        width = {"popularity": 1, "position": 1, "features": 0}
        if "features" in self.inputs and "features" in log.columns:
            width["features"] = log.tensor("features").shape[1]
        item = attributes(log.items, self.items, "items")  # (n_items, D)
        user = attributes(log.users, self.users, "users")  # (n_users, D)
        first = sum(width[name] for name in self.inputs) + item.shape[1] + user.shape[1]
        self._size(first)
        like = self.network.weights[0]
        clicks = log.clicks.per_item[:, None].to(like)  # (n_items, 1)
        self.register_buffer("popularity", torch.log1p(clicks))
        self.register_buffer("item_columns", item.to(like), persistent=False)
        self.register_buffer("user_columns", user.to(like), persistent=False)
        return self

    def _size(self, first: int) -> None:
        sizes = [first, self.hidden, 1] if self.hidden else [first, 1]
        self.network = network(getattr(self, "network", None), sizes)

    def get_extra_state(self) -> Tensor:
        """How many numbers it reads: that of row features is known from a log with rows only."""
        return torch.tensor(self.network.sizes[0])

    def set_extra_state(self, state: Tensor) -> None:
        """Make room for the weights, which are read next."""
        self._size(int(state))

    def reset(self, generator: Generator) -> None:
        super().reset(generator)
        self.network.reset(generator, last=0.0)

    def logit(self, batch: Batch) -> Tensor:
        """h, shaped like `batch.item`."""
        shape = batch.item.shape
        parts = [self._input(name, batch) for name in self.inputs]  # (B, [C,] D)
        parts += [self.item_columns[batch.item]] if self.items else []  # (B, [C,] D)
        parts += [self.user_columns[batch.user]] if self.users else []  # (B, D)
        wide = [part if part.dim() > len(shape) else part[:, None] for part in parts]
        x = torch.cat([part.expand(*shape, -1) for part in wide], dim=-1)  # (B, [C,] D)
        h: Tensor = self.network(x)  # (B, [C,] 1)
        return h.squeeze(-1)

    def _input(self, name: str, batch: Batch) -> Tensor:
        """(B, [C,] D)."""
        if name == "popularity":
            return self.popularity[batch.item]
        values: Tensor | None = getattr(batch, name)
        if values is None:
            raise ConfigError(
                f"exposures.Selection reads the {name} of rows, but the sampler draws none. Use "
                f"samplers.Slates() on a log with {name}, or leave it out of inputs."
            )
        values = values.to(self.popularity)
        return torch.log(values)[..., None] if name == "position" else values

    def forward(self, batch: Batch) -> Tensor:
        """sigmoid(h), without gradient."""
        return torch.sigmoid(self.logit(batch).detach()).clamp(min=torch.finfo(torch.float32).tiny)
