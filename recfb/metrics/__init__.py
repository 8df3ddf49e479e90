"""Metrics: pure functions of tensors (`ranking`) or of a run's log and truth (`loops`)."""

from recfb.metrics.ranking import (
    Metric,
    average_precision,
    coverage,
    hit,
    ndcg,
    recall,
    top_k,
)

__all__ = ["Metric", "average_precision", "coverage", "hit", "ndcg", "recall", "top_k"]
