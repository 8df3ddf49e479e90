"""Pure functions of tensors: rankings and concentration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from recfb.errors import ConfigError, SupportError, nearest
from recfb.metrics.concentration import concentration
from recfb.random import mix64


def check_scores(scores: Tensor, who: str) -> None:
    """Refuse scores that are not numbers: they would rank above all that are."""
    if not bool(scores.sum().isnan()):  # one pass; inf - inf is looked at again
        return
    bad = scores.isnan()
    if bool(bad.any()):
        row, item = bad.nonzero()[0].tolist()
        raise SupportError(
            f"{who} gives NaN to {int(bad.sum())} of {bad.numel()} scores, first to item {item} "
            f"for request {row}. Look at its training: a learning rate that is too large, or a "
            "loss without a finite value."
        )


def top_k(
    scores: Tensor, k: int, user: Tensor | Callable[[], Tensor], who: str = "the model"
) -> Tensor:
    """The k best columns of each row, best first: (B, n), (B,) -> (B, k) int64.

    Ties are broken by a fixed hash of (user, column), never by array order: a model with constant
    scores ranks as a random one does. Rows without ties among their k + 1 best cost one `topk`; a
    `user` that has to be worked out is asked for only where there are ties.

    Raises:
        SupportError: scores that are NaN, of `who`.

    >>> top_k(torch.tensor([[0.1, 0.9, 0.5]]), 2, torch.tensor([0])).tolist()
    [[1, 2]]
    """
    n = scores.shape[1]
    if k == 1 and n < _WIDE:  # by a maximum, if nothing else equals it
        value, pick = scores.max(1, keepdim=True)  # (B, 1), NaN where one is
        if int(scores.eq(value).sum()) == scores.shape[0]:
            return pick
    value, pick = largest(scores, min(k + 1, n))  # (B, k + 1)
    apart = value[:, 1:] < value[:, :-1]  # (B, k), not where one is NaN, which comes first
    pick = pick[:, :k]
    if bool(apart.all()):
        return pick
    tied = apart.all(1).logical_not().nonzero().squeeze(1)  # (rows with ties,)
    check_scores(scores, who)
    row = scores[tied].float() + 0.0  # turns -0.0 into 0.0
    bits = row.view(torch.int32)
    order = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(torch.int64)  # sorts as the floats do
    column = torch.arange(n, device=scores.device)
    key = user() if callable(user) else user  # (B,)
    noise = mix64(key[tied, None].to(torch.int64) * n + column) & 0x7FFFFFFF  # (rows, n)
    pick[tied] = ((order << 32) + noise).topk(pick.shape[1], dim=1).indices
    return pick


_STRIDES = 8
_WIDE = 1024  # columns from which looking at strides first is faster than `topk`


def largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest values of each row, and where: (B, n) -> (B, k), (B, k), as `topk` gives them.

    On wide rows the maxima of strided columns are looked at first: the k largest values are among
    the k strides with the largest maxima, so most of a row is read once and never sorted.

    >>> largest(torch.tensor([[0.1, 0.9, 0.5]]), 1)
    (tensor([[0.9000]]), tensor([[1]]))
    """
    rows, n = scores.shape
    width = n // _STRIDES
    if n < _WIDE or 4 * k > width or scores.is_cuda:
        best = scores.topk(k, dim=1)
        return best.values, best.indices
    whole = width * _STRIDES
    maxima = scores[:, :whole].reshape(rows, _STRIDES, width).amax(1)  # (B, width)
    first = largest(maxima, k)[1]  # (B, k)
    steps = width * torch.arange(_STRIDES)  # (strides,)
    place = (first[:, None] + steps[:, None]).flatten(1)  # (B, strides * k)
    rest = torch.arange(whole, n).expand(rows, -1)  # (B, n - whole)
    place = torch.cat([place, rest], dim=1)
    value, pick = scores.gather(1, place).topk(k, dim=1)  # (B, k)
    return value, place.gather(1, pick)


Discount = Literal["log2", "saito"]
Norm = Literal["ideal", "n_pos", "none", "untruncated"]


def discounts(k: int, kind: Discount = "log2") -> Tensor:
    """The weight of ranks 1..k: 1 / log2(rank + 1), or for "saito" 1, 1, 1 / log2(3), ...: (k,).

    "saito" is the discount in the published code of Rel-MF, where rank r >= 2 weighs 1 / log2(r).

    >>> discounts(3).round(decimals=4).tolist(), discounts(3, "saito").round(decimals=4).tolist()
    ([1.0, 0.6309, 0.5], [1.0, 1.0, 0.6309])
    """
    rank = torch.arange(1, k + 1, dtype=torch.float64)
    return 1 / torch.log2(rank + 1 if kind == "log2" else rank.clamp(min=2))


def ndcg(
    gain: Tensor, n_pos: Tensor, *, discount: Discount = "log2", norm: Norm = "ideal"
) -> Tensor:
    """Discounted gain of lists over that of the best lists: (B, K), (B,) -> (B,) float64.

    Järvelin and Kekäläinen (2002). `norm` is what DCG@K is divided by: "ideal" the DCG of
    min(n_pos, K) clicks at the top, "untruncated" of all n_pos clicks, "n_pos" their number,
    "none" one.

    Args:
        gain: 1 where the item at that rank was clicked, best first.
        n_pos: clicks of the user, inside the list or not; users without one give NaN.

    >>> ndcg(torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([1])).round(decimals=4).tolist()
    [0.6309]
    """
    k = gain.shape[1]
    weight = discounts(k, discount).to(gain.device)  # (K,)
    dcg = gain.to(torch.float64) @ weight  # (B,)
    if norm == "none":
        return dcg
    if norm == "n_pos":
        return dcg / n_pos
    most = k if norm == "ideal" else max(k, int(n_pos.max())) if len(n_pos) else k
    ideal = discounts(most, discount).to(gain.device).cumsum(0)  # (most,)
    best = ideal[n_pos.clamp(min=1, max=most) - 1]  # (B,)
    return torch.where(n_pos > 0, dcg / best, torch.nan)


def recall(gain: Tensor, n_pos: Tensor) -> Tensor:
    """The share of a user's clicks that is in the list: (B, K), (B,) -> (B,) float64.

    >>> recall(torch.tensor([[1.0, 0.0]]), torch.tensor([4])).tolist()
    [0.25]
    """
    return gain.to(torch.float64).sum(1) / n_pos


def average_precision(gain: Tensor, n_pos: Tensor, *, norm: Norm = "ideal") -> Tensor:
    """The mean precision at the ranks of the clicks: (B, K), (B,) -> (B,) float64.

    Divided by min(n_pos, K) ("ideal"), n_pos ("n_pos", "untruncated") or 1 ("none").

    >>> average_precision(torch.tensor([[1.0, 0.0, 1.0]]), torch.tensor([2])).tolist()
    [0.8333333333333333]
    """
    hits = gain.to(torch.float64)
    rank = torch.arange(1, gain.shape[1] + 1, device=gain.device)
    total = (hits * hits.cumsum(1) / rank).sum(1)  # (B,)
    if norm == "none":
        return total
    return total / (n_pos.clamp(max=gain.shape[1]) if norm == "ideal" else n_pos)


def hit(gain: Tensor, n_pos: Tensor) -> Tensor:
    """1 where the list has a click at all: (B, K), (B,) -> (B,) float64.

    >>> hit(torch.tensor([[0.0, 1.0], [0.0, 0.0]]), torch.tensor([1, 1])).tolist()
    [1.0, 0.0]
    """
    return torch.where(n_pos > 0, gain.to(torch.float64).amax(1), torch.nan)


def coverage(count: Tensor) -> Tensor:
    """The share of items that occur at all: (..., n_items) counts -> (...) float64.

    >>> coverage(torch.tensor([3, 0, 1, 0])).tolist()
    0.5
    """
    return (count > 0).to(torch.float64).mean(-1)


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric with its cut-off and variant, as it was named: "ndcg@10:saito,n_pos".

    >>> Metric.of("ndcg@5:saito").discount
    'saito'
    """

    name: str
    kind: str
    k: int
    discount: Discount = "log2"
    norm: Norm = "ideal"
    weighting: Literal["none", "snips"] = "none"
    zero_positive: Literal["skip", "zero"] = "skip"  # users who were shown items and clicked none

    @classmethod
    def of(cls, name: str) -> Metric:
        """Read a name: KIND@K, then variants after a colon.

        Raises:
            ConfigError: an unknown kind, cut-off or variant.
        """
        head, _, tail = name.partition(":")
        kind, _, k = head.partition("@")
        if kind not in (*PER_USER, *PER_LIST):
            known = [*PER_USER, *PER_LIST]
            raise ConfigError(
                f"{name!r} is no ranking metric; there are {known}.{nearest(kind, known)} "
                "Write them as ndcg@10."
            )
        if not k.isdigit() or int(k) < 1:
            raise ConfigError(f"{name!r} has no cut-off. Write {kind}@10.")
        variant: dict[str, Any] = {}
        for word in tail.split(",") if tail else []:
            option = VARIANTS.get(word)
            if option is None or option not in OPTIONS[kind]:
                known = [w for w, o in VARIANTS.items() if o in OPTIONS[kind]]
                raise ConfigError(f"{name!r}: {kind} has the variants {known}, found {word!r}.")
            variant[option] = word
        return cls(name, kind, int(k), **variant)

    def per_user(self, gain: Tensor, n_pos: Tensor) -> Tensor:
        """The metric of each list, cut at k: (B, K >= k), (B,) -> (B,) float64.

        With "snips" gains are the clicks' weights and n_pos is their sum over the user's clicks:
        sum of w / log2(rank + 1) inside the list, over the sum of w.
        """
        cut = gain[:, : self.k]
        kept = [name for name in OPTIONS[self.kind] if name in ("discount", "norm")]
        options = {name: getattr(self, name) for name in kept}
        if self.weighting == "snips" and "norm" in options:
            options["norm"] = "n_pos"
        values: Tensor = PER_USER[self.kind](cut, n_pos, **options)
        return values


PER_USER: dict[str, Callable[..., Tensor]] = {
    "ndcg": ndcg,
    "recall": recall,
    "map": average_precision,
    "hit": hit,
}
"""Metrics of one user's list, averaged over users."""

PER_LIST: dict[str, Callable[[Tensor], Tensor]] = {"coverage": coverage, "gini": concentration}
"""Metrics of how often each item is in the lists of all users."""

OPTIONS: dict[str, tuple[str, ...]] = {
    "ndcg": ("discount", "norm", "weighting", "zero_positive"),
    "recall": ("weighting", "zero_positive"),
    "map": ("norm", "zero_positive"),
    "hit": ("zero_positive",),
    "coverage": (),
    "gini": (),
}
VARIANTS = {
    "saito": "discount",
    "n_pos": "norm",
    "none": "norm",
    "untruncated": "norm",
    "snips": "weighting",
    "zero": "zero_positive",
}
"""The words after the colon, and what each is a value of."""
