"""What gates share."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from recfb.contracts import Evidence, Finding
from recfb.contracts.evaluating import Level
from recfb.evaluation.shape import through
from recfb.evaluation.terms import moments


def effective(evidence: Evidence) -> tuple[Tensor, Tensor]:
    """Effective sample sizes (P,): of the weights, and of the weighted rewards."""
    w, ww, wr, wrwr = evidence.estimates.stat(through(evidence.traits.view, moments))[:4]
    n = evidence.estimates.n
    return n * w * w / ww, torch.where(wrwr == 0, 0.0, n * wr * wr / wrwr)


def below(
    gate: str, values: Tensor, limits: tuple[float, float], text: str, advice: str
) -> Iterator[Finding]:
    """Findings where values (P,) are below the warn or the fail limit. NaN finds nothing."""
    for policy, value in enumerate(values.tolist()):
        level: Level = "fail" if value < limits[1] else "warn"
        if value < limits[0]:
            yield Finding(gate, policy, level, text.format(value), advice)


def above(
    gate: str, values: Tensor, limits: tuple[float, float], text: str, advice: str
) -> Iterator[Finding]:
    """Findings where values (P,) are above the warn or the fail limit. NaN finds nothing."""
    for policy, value in enumerate(values.tolist()):
        level: Level = "fail" if value > limits[1] else "warn"
        if value > limits[0]:
            yield Finding(gate, policy, level, text.format(value), advice)


def everyone(
    evidence: Evidence, gate: str, level: Level, text: str, advice: str
) -> Iterator[Finding]:
    """The same finding for every policy."""
    for policy in range(len(evidence.estimates.value)):
        yield Finding(gate, policy, level, text, advice)
