"""Point-wise learning that knows that an item without a click may be a wanted one."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from recfb.contracts import Batch, Component, Objective, Pairing, Score, Step
from recfb.errors import RecfbWarning
from recfb.optim import lookup, table

if TYPE_CHECKING:
    from recfb.data.log import Log

Gradient = Literal["surrogate", "original", "sum"]

_START = 5.0  # what the first values of the flip tables are multiplied by
_LEAST_SPREAD = 0.01  # flip rates closer than this are a constant


def log_observed(score: Tensor, flip: Tensor) -> tuple[Tensor, Tensor]:
    """log P(click) and log P(no click) at the logits of being wanted and of being flipped.

    P(click) = sigmoid(s) (1 - gamma) and P(no click) = sigmoid(-s) + gamma sigmoid(s), with
    gamma = sigmoid(g) = P(no click | wanted). What has a click is taken to be wanted.

    >>> [x.exp().tolist() for x in log_observed(torch.zeros(1), torch.zeros(1))]
    [[0.25], [0.75]]
    """
    wanted, kept = F.logsigmoid(score), F.logsigmoid(-flip)
    return wanted + kept, torch.logaddexp(F.logsigmoid(-score), F.logsigmoid(flip) + wanted)


def nbpo(score: Tensor, flip: Tensor, gradient: Gradient) -> tuple[Tensor, Tensor]:
    """The losses of pairs as if they had a click, and as if they had none.

    "original" is minus the log likelihood, "sum" minus the likelihood. In "surrogate" each sigmoid
    of the likelihood is differentiated as if it were its logarithm, the others held fast:

        click: s down (1 - gamma) sigmoid(-s), g up gamma sigmoid(s)
        none:  s up sigmoid(s) - gamma sigmoid(-s), g down (1 - gamma) sigmoid(s)

    which is the gradient of no function: its value does not tell how training goes, that of
    "original" does.

    >>> score = torch.zeros(1, requires_grad=True)
    >>> nbpo(score, torch.zeros(1), "surrogate")[0].backward()
    >>> score.grad
    tensor([-0.2500])
    """
    if gradient != "surrogate":
        click, none = log_observed(score, flip)
        return (-click, -none) if gradient == "original" else (-click.exp(), -none.exp())
    wanted, flipped = torch.sigmoid(score).detach(), torch.sigmoid(flip).detach()
    click = (1 - flipped) * F.softplus(-score) + wanted * F.softplus(flip)
    none = F.softplus(score) + flipped * F.softplus(-score) + wanted * F.softplus(-flip)
    return click, none


class BPO(Objective):
    """Estimates P(wanted) as sigmoid(s), a click as 1 and each item without one as 0.

    Yu and Qin, "Sampler design for implicit feedback data by noisy-label robust learning" (2020).
    Losses are (B, S): each of the S negatives of a click comes with the click once more. They are
    summed, so the step grows with the batch; the paper takes `optim.SGD(lr=0.05, decay=0.99)`,
    5,000 clicks a batch and 3 or 4 negatives. It shrinks all rows of both tables at every step;
    `MF(l2=...)` shrinks the rows a batch uses; `optim.SGD(weight_decay=1.0)` does as the paper.

    >>> BPO()
    BPO()
    """

    reduction: ClassVar[Literal["mean", "sum"]] = "sum"
    needs: ClassVar[tuple[Pairing, ...]] = ("free_negative",)

    def forward(self, score: Score, batch: Batch, step: Step = Step()) -> Tensor:
        s = score(batch.user, batch.item)  # (B, 1 + S)
        return F.softplus(-s[:, :1]) + F.softplus(s[:, 1:])  # (B, S)


class FlipModel(Component):
    """g(u, i) = user[u] . item[i], the logit of P(no click | wanted); its rate starts near .002.

    Args:
        dim: length of the vectors.
        l2: weight of half the squared length of all vectors, at every step.
    """

    user: nn.Parameter  # (n_users, dim)
    item: nn.Parameter  # (n_items, dim)

    def __init__(self, dim: int, l2: float) -> None:
        super().__init__()
        self.dim, self.l2 = dim, l2

    def bind(self, log: Log) -> Self:
        super().bind(log)
        self.user = table(getattr(self, "user", None), log.n_users, self.dim)
        self.item = table(getattr(self, "item", None), log.n_items, self.dim)
        return self

    def reset(self, generator: Generator) -> None:
        super().reset(generator)
        most = _START / math.sqrt(self.dim)
        with torch.no_grad():
            self.user.uniform_(0.0, most, generator=generator)
            self.item.uniform_(0.0, most, generator=generator).neg_()

    def groups(self) -> Iterator[dict[str, Any]]:
        """The two tables, with a weight decay of their own."""
        yield {"params": [self.user, self.item], "weight_decay": self.l2}

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        """(B,), (B,) | (B, C) -> logits shaped like item."""
        p, q = lookup(self.user, user), lookup(self.item, item)  # (B, d), (B, [C,] d)
        logit: Tensor = torch.linalg.vecdot(p[:, None] if item.dim() > 1 else p, q)
        return logit  # (B,) | (B, C)


class NBPO(Objective):
    """Estimates P(wanted) where an item without a click may be a wanted one, at a learned rate.

    Yu and Qin, "Sampler design for implicit feedback data by noisy-label robust learning" (2020).
    P(no click | wanted) of a pair is the sigmoid of a dot product of two tables of its own, learned
    along with the scores. A pair is seen as clicked or as not clicked, never as both, so only the
    low rank and l2 keep that rate away from 0 and 1. Losses are (B, S) and summed, as in `BPO`.

    Args:
        dim: length of the vectors of the flip model.
        l2: weight decay of the flip model, on all rows at every step: its effect grows with the
            learning rate and the number of steps, and not with the batch. The paper's scripts have
            5 (Amazon) and 1 (MovieLens); 5 at a learning rate of .05 drives every rate to one half,
            hence 1. Try .1, .3, 1 and 5, and look at `flip_rates`.
        gradient: "surrogate" the paper's NBPO; "original" its NBPOo, the gradient of the log
            likelihood; "sum" its NBPOs, the gradient of the sum of probabilities. The last two need
            a learning rate a tenth or less of the first one's and learn slowly.

    >>> NBPO(l2=0.1)
    NBPO(l2=0.1)
    """

    reduction: ClassVar[Literal["mean", "sum"]] = "sum"
    needs: ClassVar[tuple[Pairing, ...]] = ("free_negative",)

    def __init__(self, dim: int = 50, *, l2: float = 1.0, gradient: Gradient = "surrogate") -> None:
        super().__init__()
        self.dim, self.l2, self.gradient = dim, l2, gradient
        self.flip = FlipModel(dim, l2)

    def forward(self, score: Score, batch: Batch, step: Step = Step()) -> Tensor:
        s = score(batch.user, batch.item)  # (B, 1 + S)
        click, none = nbpo(s, self.flip(batch.user, batch.item), self.gradient)
        return click[:, :1] + none[:, 1:]  # (B, S)

    @torch.no_grad()
    def flip_rates(self, user: Tensor, item: Tensor) -> Tensor:
        """P(no click | wanted) of pairs: (B,), (B,) | (B, C) -> rates shaped like item.

        For a look at a sample of pairs, at least one, after training. Emits a `RecfbWarning` where
        the middle half of the rates is closer together than .01: the flip model is then a constant.
        """
        rates = torch.sigmoid(self.flip(user, item))
        low, middle, high = (float(rates.quantile(q)) for q in (0.25, 0.5, 0.75))
        if high - low < _LEAST_SPREAD:
            warnings.warn(
                f"half of the flip rates lie within {high - low:.2g} of each other, around "
                f"{middle:.3g}: NBPO weighs all pairs alike. Use a smaller l2 than {self.l2}, a "
                "smaller learning rate, or more epochs.",
                RecfbWarning,
                stacklevel=2,
            )
        return rates
