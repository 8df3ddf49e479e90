"""Values, influence by bucket, standard errors and bootstraps of one estimator, from sums."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from recfb.estimate import Estimator, Tuned
from recfb.evaluation.terms import Terms
from recfb.random import derive, mix64


@lru_cache(maxsize=1)
def poisson_table() -> Tensor:
    """65,536 counts distributed as Poisson(1), rounded so that their mean is exactly 1: int64.

    >>> table = poisson_table()
    >>> len(table), int(table.sum())
    (65536, 65536)
    """
    size = 1 << 16
    many = [round(size * math.exp(-1) / math.factorial(k)) for k in range(3, 9)]
    mass = sum(k * count for k, count in enumerate(many, start=3))
    rest = size - sum(many)  # entries left for the counts 0, 1 and 2
    two = round(size * math.exp(-1) / 2)
    one = size - mass - 2 * two
    repeats = torch.tensor([rest - one - two, one, two, *many])
    return torch.repeat_interleave(torch.arange(len(repeats)), repeats)


@lru_cache(maxsize=2)
def poisson_counts(draws: int, buckets: int, seed: int) -> Tensor:
    """How often each replicate takes each bucket: (draws, buckets) uint8, four a hash."""
    quarter = -(-buckets // 4)
    word = torch.arange(draws * quarter) ^ (derive(seed, "bootstrap") >> 1)
    bits, table = mix64(word), poisson_table().to(torch.uint8)
    counts = torch.empty(draws * quarter, 4, dtype=torch.uint8)
    for k in range(4):
        counts[:, k] = table[(bits >> (16 * k)) & 0xFFFF]
    return counts.view(draws, -1)[:, :buckets]


@dataclass(frozen=True)
class BucketEstimates:
    """One estimator's values for P policies on one group of rows: `contracts.Estimates`."""

    name: str
    terms: Terms
    sums: Tensor  # (m, P, H)
    seed: int
    reward_range: tuple[float, float] | None
    weight_range: tuple[float, float]
    sequence: Tensor | None = None  # (2, P, k)

    @cached_property
    def totals(self) -> Tensor:
        """(m, P) sums over all buckets."""
        return self.sums.sum(-1)

    @property
    def n(self) -> int:
        """Rows with a known reward."""
        return int(self.totals[0, 0])

    @property
    def tuned(self) -> Tuned | None:
        """The estimator, where it chooses its shrinkage."""
        statistic = self.terms.statistics[self.name]
        return statistic if isinstance(statistic, Tuned) else None

    @cached_property
    def folds(self) -> int:
        """In how many parts the buckets are valued: 2 where the estimator is split, else 1.

        Bucket h is of part h mod 2, however many buckets there are.
        """
        return 2 if self.tuned is not None and self.tuned.split else 1

    @cached_property
    def parts(self) -> list[Tensor]:
        """The sums (m, P) of each of them."""
        return [self.sums[..., k :: self.folds].sum(-1) for k in range(self.folds)]

    @cached_property
    def value(self) -> Tensor:
        """(P,) the estimates."""
        return self._value(self.parts)

    def _value(self, parts: Sequence[Tensor]) -> Tensor:
        """The estimates (..., P), from the sums (..., m, P) of each part."""
        if self.tuned is None or len(parts) == 1:
            return self.terms.value(self.name, parts[0])
        columns = [self.terms.means(self.name, sums) for sums in parts]
        return self.tuned.cross(columns, [sums[..., 0, :] for sums in parts])

    def choices(self, tuned: Tuned) -> list[Tensor]:
        """Which strength is chosen on each part, (P,): by this estimator, or by one of the same
        grid."""
        found = [self.terms.means(self.name, sums) for sums in self.parts]
        pairs = zip(found, self.parts, strict=True)
        return [tuned.choice(columns, sums[0]) for columns, sums in pairs]

    @cached_property
    def used(self) -> list[int]:
        """The columns (m',) that the estimator reads, and that of the rows."""
        return sorted({0, *self.terms.calls[self.name]})

    def _slopes(self, parts: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The value (..., P), and its derivative by the sums of each part: (..., m', P) each."""
        with torch.enable_grad():
            own = [sums.detach().clone().requires_grad_() for sums in parts]  # (..., m, P)
            value = self._value(own)
            slopes = torch.autograd.grad(value.sum(), own)
        return value.detach(), [slope[..., self.used, :] for slope in slopes]

    def _influence(self, slopes: Sequence[Tensor]) -> Tensor:
        """Derivatives times sums by bucket: (..., m', P) a part -> (..., P, H)."""
        shape = *slopes[0].shape[:-2], *self.sums.shape[1:]
        phi = self.sums.new_empty(shape)
        for k, slope in enumerate(slopes):
            sums = self.sums[self.used, :, k :: self.folds]  # (m', P, H / folds)
            phi[..., k :: self.folds] = torch.einsum("...mp,mph->...ph", slope, sums)
        return phi

    @cached_property
    def phi(self) -> Tensor:
        """(P, H) influence by bucket: derivative times sums; adds up to 0."""
        return self._influence(self._slopes(self.parts)[1])

    @cached_property
    def df(self) -> int:
        """Buckets with rows, less one."""
        return int((self.sums[0, 0] > 0).sum()) - 1

    def _se(self, phi: Tensor) -> Tensor:
        if self.df < 1:
            return torch.full((len(phi),), torch.nan, dtype=torch.float64)
        return (phi.square().sum(1) * (1 + 1 / self.df)).sqrt()

    def se(self) -> Tensor:
        """(P,) standard errors by the delta method."""
        return self._se(self.phi)

    def se_diff(self, base: int) -> Tensor:
        """(P,) standard errors of differences from policy `base` on the same rows."""
        return self._se(self.phi - self.phi[base])

    def se_from(self, other: BucketEstimates) -> Tensor:
        """(P,) standard errors of differences from another statistic of the same rows."""
        return self._se(self.phi - other.phi)

    def se_lift(self, value: Tensor, phi: Tensor) -> Tensor:
        """(P,) standard errors of value_k / value - 1, for a value () with its influence (H,)."""
        return self._se(self.phi / value - self.value[:, None] * phi / value**2)

    def _drawn(self, counts: Tensor) -> list[Tensor]:
        """Sums with every bucket taken so often: (draws, H) -> (draws, m, P) a part."""
        drawn = []
        for k in range(self.folds):
            by_bucket = self.sums[self.used, :, k :: self.folds]  # (m', P, H / folds)
            flat = by_bucket.flatten(0, 1).T.contiguous()  # (H / folds, m' * P)
            some = [
                few.to(torch.float64) @ flat for few in torch.split(counts[:, k :: self.folds], 250)
            ]
            whole = self.sums.new_zeros(len(counts), *self.sums.shape[:2])  # (draws, m, P)
            whole[:, self.used] = torch.cat(some).view(len(counts), len(self.used), -1)
            drawn.append(whole)
        return drawn

    def replicates(self, draws: int) -> Tensor:
        """(draws, P) the estimator with every bucket taken Poisson(1) times."""
        counts = poisson_counts(draws, self.sums.shape[-1], self.seed)
        return self._value(self._drawn(counts))

    def pivots(self, draws: int) -> Tensor:
        """(draws, P) how far each replicate lies from the value, in its own standard errors."""
        counts = poisson_counts(draws, self.sums.shape[-1], self.seed)
        step, found = max(1, (1 << 22) // self.sums[self.used][0].numel()), []
        for few in torch.split(counts, step):
            value, slopes = self._slopes(self._drawn(few))  # (few, P)
            phi = self._influence(slopes)  # (few, P, H)
            var = torch.einsum("dph,dh->dp", phi.square_(), few.to(torch.float64))
            found.append((value - self.value) / (var * (1 + 1 / self.df)).sqrt())
        return torch.cat(found)

    def stat(self, statistic: Estimator) -> Tensor:
        """A statistic that the plan has summed, by its function; NaN where it was not."""
        for name, known in self.terms.statistics.items():
            if known is statistic:
                same = replace(self, name=name)
                return self.terms.value(name, self.totals) if same.folds == 1 else same.value
        return torch.full((self.terms.policies,), torch.nan, dtype=torch.float64)

    def about(self, statistic: Estimator) -> BucketEstimates | None:
        """The same rows seen by another statistic of the plan, with its standard error."""
        for name, known in self.terms.statistics.items():
            if known is statistic:
                return replace(self, name=name)
        return None
