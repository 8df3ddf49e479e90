"""Intervals and tests of means over users."""

from __future__ import annotations

import torch
from scipy import stats
from torch import Tensor

from recfb.random import mix64, stream

_REPLICATES = 1000
_BUCKETS = 4096


class Bootstrap:
    """Percentile intervals of a mean over users, the same resamples for every column.

    Every user counts Poisson(1) times in a replicate. Where users are more than 4,096 they are
    resampled in as many groups, by a hash.
    """

    def __init__(self, user: Tensor, alpha: float, seed: int) -> None:
        self.alpha = alpha
        groups = min(len(user), _BUCKETS)
        self.group = torch.arange(len(user))  # (U,)
        if groups < len(user):
            self.group = (mix64(user) & 0x7FFFFFFF) % groups
        size = torch.bincount(self.group, minlength=groups).to(torch.float64)  # (G,)
        rate = torch.ones(_REPLICATES, groups, dtype=torch.float64)
        self.weight = torch.poisson(rate, generator=stream(seed, "bootstrap"))  # (R, G)
        self.count = self.weight @ size  # (R,)
        self.groups = groups

    def __call__(self, values: Tensor) -> tuple[float, float, float]:
        """The mean of (U,) values, and where it lies with probability 1 - alpha."""
        if not len(values):
            return (torch.nan,) * 3
        total = torch.zeros(self.groups, dtype=torch.float64).index_add_(0, self.group, values)
        means = (self.weight @ total) / self.count.clamp(min=1.0)  # (R,)
        level = torch.tensor([self.alpha / 2, 1 - self.alpha / 2], dtype=torch.float64)
        lower, upper = means.quantile(level).tolist()
        return float(values.mean()), lower, upper


def paired_test(gap: Tensor) -> float:
    """P value of a two-sided t test that users' paired differences (U,) have mean 0; NaN where
    they are all equal.

    >>> round(paired_test(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)), 4)
    0.0742
    """
    if len(gap) < 2 or not bool((gap != gap[0]).any()):
        return torch.nan
    return float(stats.ttest_1samp(gap.numpy(), 0.0).pvalue)
