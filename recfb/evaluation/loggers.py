"""Who logged each row, and how likely the mixture of all loggers was to show its item."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from recfb.contracts import Block, Policy
from recfb.errors import ConfigError, LogError
from recfb.evaluation.reduction import BLOCK, chance_of, known_rows
from recfb.evaluation.state import Faults

FEW = 30
"""A logger with fewer rows has no variance of its own: it is counted with the largest one."""

Counts = tuple[Tensor, Tensor, int]
"""Loggers (J,), their rows with a known reward (J,), rows whose mu differs from the propensity."""


def logger_counts(block: Block) -> Counts:
    """The loggers of a part."""
    block = block[known_rows(block)]
    assert block.logger is not None
    ids, rows = torch.unique(block.logger, return_counts=True)
    mu, p = block.slate.probs, block.slate.propensity
    if mu is None or p is None:
        return ids, rows, len(block)
    own = mu.gather(1, block.slate.item).to(p.dtype)  # (n, 1)
    return ids, rows, int((own - p).abs().gt(1e-6 * p).sum())


@dataclass(frozen=True)
class Loggers:
    """The loggers of a log, their shares of its rows, and the policies that they were.

    Without policies the log's column `mu` is the mixture, sum_j (n_j / n) mu_j.
    """

    ids: Tensor  # (J,)
    share: Tensor  # (J,)
    stratum: Tensor  # (J,) which line of `Rows.logger`
    policies: Mapping[int, Policy] | None = None

    @classmethod
    def of(cls, parts: Iterable[Counts], policies: Mapping[int, Policy] | None) -> Loggers:
        """From what `logger_counts` gave for every part."""
        found = list(parts)
        ids, inverse = torch.unique(torch.cat([part[0] for part in found]), return_inverse=True)
        rows = torch.zeros(len(ids), dtype=torch.int64)
        rows.index_add_(0, inverse, torch.cat([part[1] for part in found]))
        if policies is None and len(ids) > 1 and not sum(part[2] for part in found):
            raise ConfigError(
                "balanced forms read `mu` as the mixture of all loggers, but it is each row's own "
                "propensity. Name the policies that logged: loggers={0: Uniform(), 1: other}."
            )
        if policies is not None and set(ids.tolist()) - set(policies):
            raise ConfigError(
                f"the log has loggers {ids.tolist()}, and loggers= names {sorted(policies)}. Name "
                "each of them: loggers={0: Uniform(), 1: other}."
            )
        large = rows >= FEW
        largest = int(rows.argmax()) if len(rows) else 0
        line = (large.cumsum(0) - 1).clamp(min=0)
        stratum = torch.where(large, line, line[largest] if len(line) else 0)
        return cls(ids, rows.to(torch.float64) / rows.sum(), stratum, policies)

    @property
    def strata(self) -> int:
        """Lines of `Rows.logger`."""
        return int(self.stratum.max()) + 1 if len(self.stratum) else 1

    def lines(self, block: Block) -> Tensor:
        """(strata, n) 1 where the row is this stratum's."""
        line = self.stratum[self._index(block)]  # (n,)
        return (line == torch.arange(self.strata)[:, None]).to(torch.float64)

    def _index(self, block: Block) -> Tensor:
        assert block.logger is not None
        return torch.searchsorted(self.ids, block.logger)

    @torch.no_grad()
    def mixture(self, block: Block) -> Tensor | None:
        """(n,) the probability of the logged item under sum_j (n_j / n) mu_j; None where neither
        policies nor `mu` say it."""
        item = block.slate.item  # (n, 1)
        if self.policies is None:
            mu = block.slate.probs
            return None if mu is None else mu.gather(1, item)[:, 0].to(torch.float64)
        total = torch.zeros(len(block), dtype=torch.float64)
        for start in range(0, len(block), BLOCK):
            rows = slice(start, start + BLOCK)
            some = block[rows]
            for j, share in zip(self.ids.tolist(), self.share.tolist(), strict=True):
                total[rows] += share * chance_of(self.policies[j], some, f"loggers[{j}]")
        return total

    def faults(self, block: Block, pbar: Tensor) -> Faults:
        """Rows whose mixture is no probability, or less than what their own logger adds to it."""
        share = self.share[self._index(block)].to(torch.float64)
        p = block.slate.propensity
        least = torch.zeros_like(pbar) if p is None else share * p[:, 0].nan_to_num(nan=0.0)
        odd = ~((pbar > 0) & (pbar <= 1 + 1e-5) & (pbar >= least * (1 - 1e-4)))
        if not bool(odd.any()):
            return {}
        what = "have a mixture below their own logger's share times propensity: loggers= or mu"
        first = f"row {int(odd.to(torch.int8).argmax()):,} of part {block.part!r}"
        return {("log", "the loggers' mixture", what): (int(odd.sum()), first)}


def check_mixture(columns: Iterable[str], policies: Mapping[int, Policy] | None) -> None:
    """Refuse balanced forms without a mixture.

    Raises:
        LogError: the log has no `mu`, and no policies were named.
    """
    if policies is None and "mu" not in columns:
        raise LogError(
            "balanced forms need the probability of every row's item under every logger. Name the "
            "policies that logged, loggers={0: Uniform(), 1: other}, or add a column `mu` with the "
            "mixture of all loggers."
        )


__all__ = ["Loggers", "check_mixture", "logger_counts"]
