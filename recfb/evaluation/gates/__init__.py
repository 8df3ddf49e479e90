"""Gates: which numbers not to use. Each is a function (evidence) -> findings.

Thresholds are those at which simulated logs showed the interval to miss too often.
"""

from __future__ import annotations

from collections.abc import Iterable

from recfb.contracts import Finding, Gate, Verdict
from recfb.evaluation.gates.common import effective
from recfb.evaluation.gates.models import dm_is_a_model, g8_cross_fit, g9_agreement, g10_residual
from recfb.evaluation.gates.rewards import g11_drift, g12_missing, g13_clusters, g15_range
from recfb.evaluation.gates.support import g5_support, g6_cells, g7_source
from recfb.evaluation.gates.weights import (
    g1_ess,
    g2_tail,
    g3_contribution,
    g4_mean_weight,
    g14_shrinkage,
)

GATES: tuple[Gate, ...] = (
    g1_ess,
    g2_tail,
    g3_contribution,
    g4_mean_weight,
    g5_support,
    g6_cells,
    g7_source,
    g8_cross_fit,
    g9_agreement,
    g10_residual,
    g11_drift,
    g12_missing,
    g13_clusters,
    g14_shrinkage,
    g15_range,
    dm_is_a_model,
)
"""The gates that every report runs, in this order."""


def verdict(findings: Iterable[Finding]) -> Verdict:
    """The worst finding decides.

    >>> verdict([Finding("G1", 0, "warn", ""), Finding("G3", 0, "note", "")])
    'usable with care'
    """
    levels = {finding.level for finding in findings}
    if "fail" in levels:
        return "do not use"
    return "usable with care" if "warn" in levels else "usable"


__all__ = ["GATES", "effective", "verdict"]
