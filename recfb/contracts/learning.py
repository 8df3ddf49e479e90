"""What learns: components, samplers, scorers, exposures, objectives and solvers.

One lifecycle: `__init__` takes hyperparameters, `bind(log)` allocates and fills statistics,
`reset(generator)` draws initial values, `forward` is pure maths. Nothing else has state, and no
generator is ever stored.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import polars as pl
import torch
from torch import Generator, Tensor, nn

from recfb.contracts.describe import Described
from recfb.data.batch import Batch, Context
from recfb.data.history import History, Validation, recommend
from recfb.data.vocabulary import Vocabulary
from recfb.errors import UnboundError
from recfb.metrics import top_k
from recfb.random import spawn

if TYPE_CHECKING:
    from recfb.data.log import Log
    from recfb.data.pairs import Pairs

Score = Callable[[Tensor, Tensor], Tensor]
"""`score(user, item)`: (B,), (B,) | (B, C) -> scores shaped like item."""

Pairing = Literal["pairs", "shown_pairs", "rows", "any_negative", "free_negative", "shown_negative"]
"""What a sampler gives.

- "pairs": every pair, its reward 1 for a click and else 0;
- "shown_pairs": every pair, its reward as logged, NaN where it was not shown;
- "rows": the rows of the log;
- "any_negative", "free_negative", "shown_negative": a click in column 0 and, in the columns after
  it, any items; items that the user never clicked; items that were shown beside it without a click.
"""


class _Missing(UnboundError, AttributeError):
    """An UnboundError that `hasattr` understands."""


class Component(Described, nn.Module):
    """Hyperparameters in `__init__`, shapes and statistics in `bind`, values in `reset`, maths in
    `forward`.

    Tensors that `bind` allocates are annotated in the class body; reading one earlier raises
    `UnboundError`.
    """

    def parts(self) -> Iterator[tuple[str, Component]]:
        """The components inside this one, also through containers, with their names."""
        for name, child in self.named_children():
            if isinstance(child, Component):
                yield name, child
            elif isinstance(child, (nn.ModuleDict, nn.ModuleList)):
                for key, grandchild in child.named_children():
                    if isinstance(grandchild, Component):
                        yield f"{name}.{key}", grandchild

    def bind(self, log: Log) -> Self:
        """Allocate parameters and fill buffers. Training data goes to buffers with
        `persistent=False`."""
        for _, part in self.parts():
            part.bind(log)
        return self

    def reset(self, generator: Generator) -> None:
        """Draw initial values. `fit(warm=True)` binds without it."""
        for name, part in self.parts():
            part.reset(spawn(generator, name))

    def groups(self) -> Iterator[dict[str, Any]]:
        """Optimiser groups: {"params", optional "lr", "weight_decay", "clip"}.

        Default: its own parameters, also those of plain torch modules inside it, then its parts'.
        """
        of_parts = {id(p) for _, part in self.parts() for p in part.parameters()}
        own = [p for p in self.parameters() if id(p) not in of_parts]
        if own:
            yield {"params": own}
        for _, part in self.parts():
            yield from part.groups()

    def penalty(self, batch: Batch) -> Tensor | float:
        """Added to the loss: L2 on the rows used, a content prior, a covariance."""
        return sum((part.penalty(batch) for _, part in self.parts()), 0.0)

    def constrain(self) -> None:
        """Called after every optimiser step, without gradient."""
        for _, part in self.parts():
            part.constrain()

    def __getattr__(self, name: str) -> Any:
        for kind in ("_buffers", "_modules"):  # read several times a round by bandits
            held = self.__dict__.get(kind)
            if held is not None and name in held:
                return held[name]
        try:
            return super().__getattr__(name)
        except AttributeError:
            ours = (base for base in type(self).__mro__ if issubclass(base, Component))
            if any(name in inspect.get_annotations(base) for base in ours):
                raise _Missing(
                    f"{type(self).__name__} has no {name!r} yet: bind(log) allocates it. "
                    "Fit it with recfb.fit(log, ...), or call .bind(log) and .reset(generator) "
                    "first."
                ) from None
            raise


@dataclass(frozen=True, slots=True)
class Step:
    """When we are, and this step's randomness: all that a schedule may look at.

    >>> Step(index=15_000).ramp(30_000)
    0.5
    """

    index: int = 0
    epoch: int = 0
    total: int = 0
    generator: Generator | None = None

    def ramp(self, steps: int) -> float:
        """A linear ramp from 0 to 1 over this many steps."""
        return min(1.0, self.index / steps) if steps > 0 else 1.0


class Scorer(Component):
    """s(u, i), and through it a model: anything that ranks items for requests."""

    n_users: int
    n_items: int

    def bind(self, log: Log) -> Self:
        self.n_users, self.n_items = log.n_users, log.n_items
        return super().bind(log)

    def forward(self, user: Tensor, item: Tensor, batch: Batch | None = None) -> Tensor:
        """(B,), (B,) | (B, C) -> scores shaped like item."""
        raise NotImplementedError

    def ready(self) -> Scorer:
        """Do once what all calls of one step share, with its graph; default: nothing to share."""
        return self

    def all(self, user: Tensor, out: Tensor | None = None) -> Tensor:
        """(B,) -> (B, n_items); `out` is a buffer that may hold the result."""
        item = torch.arange(self.n_items, device=user.device).expand(len(user), -1)  # (B, n_items)
        scores: Tensor = self(user, item)
        return scores

    def scores(self, context: Context) -> Tensor:
        """(B, n_items), or like `context.candidates`."""
        if context.candidates is None:
            return self.all(context.user)
        scores: Tensor = self(context.user, context.candidates)
        return scores

    def score_of(self, context: Context, item: Tensor) -> Tensor:
        """Scores of given items, shaped like item."""
        scores: Tensor = self(context.user, item)
        return scores

    @torch.no_grad()
    def top(self, context: Context, k: int, *, hide: Pairs | None = None) -> Tensor:
        """The k best available items of each request, best first: (B, k). Ties are broken by a
        hash, never by id. Items of the pairs in `hide` are not available to their users."""
        rows = max(64, 8_000_000 // max(1, self.n_items))
        picks = []
        buffer: Tensor | None = None
        for start in range(0, len(context), rows):
            block = context[start : start + rows]
            if context.candidates is not None:
                scores = self.scores(block)
            else:
                out = None if buffer is None or len(buffer) != len(block) else buffer
                scores = self.all(block.user, out=out)
            if block.available is not None or hide is not None:
                own = buffer if buffer is not None and _same_memory(scores, buffer) else None
                scores = buffer = _masked(scores, block, hide, own)  # (B, n_items)
            pick = top_k(scores, k, block.user, type(self).__name__)
            picks.append(pick if block.candidates is None else block.candidates.gather(1, pick))
        return torch.cat(picks) if picks else torch.empty(0, k, dtype=torch.int64)


def _masked(scores: Tensor, block: Context, hide: Pairs | None, own: Tensor | None) -> Tensor:
    """Scores with -inf where nothing may be shown, in the memory of `own` where it is given."""
    never = scores.new_tensor(-torch.inf)
    if block.available is not None:
        scores = own = torch.where(block.available, scores, never, out=own)
    if hide is None:
        return scores
    if block.candidates is not None:
        key = block.user[:, None] * hide.n_items + block.candidates  # (B, C)
        return scores.masked_fill(hide.has(key), -torch.inf)
    scores = scores.clone(memory_format=torch.contiguous_format) if own is None else own
    scores.view(-1).index_fill_(0, hide.places(block.user), -torch.inf)
    return scores


def _same_memory(one: Tensor, other: Tensor) -> bool:
    return one.data_ptr() == other.data_ptr() and one.shape == other.shape


class Sampler(Component, ABC):
    """Owns the rows. An epoch is what the sampler says it is; the loader slices `rows`; `forward`
    makes a Batch."""

    @property
    @abstractmethod
    def gives(self) -> Pairing:
        """What batches hold; a class attribute, where it depends on no hyperparameter."""

    @abstractmethod
    def __len__(self) -> int:
        """Rows in one epoch."""

    @abstractmethod
    def rows(self, generator: Generator) -> Tensor:
        """(len,) int64, in the order of this epoch: log rows, user ids or pair keys `u * n_items +
        i`."""

    @abstractmethod
    def forward(self, rows: Tensor, score: Score, step: Step) -> Batch:
        """A slice of rows -> a Batch, always without gradient; draws only from `step.generator`."""


class Exposure(Component, ABC):
    """P(feedback observed) of a pair or a row, in (0, 1]. May read logged columns that the scorer
    never sees."""

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor:
        """Like `batch.item`."""

    def logit(self, batch: Batch) -> Tensor:
        """Like `batch.item`, with a gradient: what an objective that learns an exposure trains."""
        raise NotImplementedError


class Objective(Component, ABC):
    """A per-row training loss, debiased or not. The caller weighs and reduces."""

    reduction: ClassVar[Literal["mean", "sum"]] = "mean"
    monitor: ClassVar[str] = "ndcg@10"  # what `fit(valid=...)` ranks by, unless told
    needs: ClassVar[tuple[Pairing, ...]]

    @abstractmethod
    def forward(self, score: Score, batch: Batch, step: Step = Step()) -> Tensor:
        """Losses (B,) or (B, C). One call `score(batch.user, batch.item)` where possible.

        A loss that is no mean of rows (a ratio of means, say) is one number, shaped (), and has
        taken `batch.weight` into account itself.
        """


class Fitted(Component):
    """What `fit` leaves on a model besides weights, and what that makes possible."""

    history: History
    vocabulary: Vocabulary
    validation: Validation | None = None

    def top(self, context: Context, k: int, *, hide: Pairs | None = None) -> Tensor:
        """The k best available items of each request, best first: (B, k)."""
        raise NotImplementedError

    def recommend(self, users: Sequence[Any] | pl.Series, k: int) -> pl.DataFrame:
        """The k best items each user has not clicked yet: columns user, rank, item, by.

        Ids are the original ones. Users without a click in training, also unknown ones, get the
        most clicked items, and `by` says "popularity" instead of "model".
        """
        tensor = next((t for group in (self.parameters(), self.buffers()) for t in group), None)
        device = "cpu" if tensor is None else tensor.device
        return recommend(self.history, self.top, users, k, device)


class Solver(Scorer, Fitted):
    """A scorer that is fitted in closed form or by a kernel of its own. `solve` is called bound and
    reset."""

    def solve(self, log: Log) -> Self:
        """Fill the parameters from the log."""
        raise NotImplementedError
