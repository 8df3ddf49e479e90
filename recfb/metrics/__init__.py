"""Metrics: pure functions of tensors (`ranking`) or of a run's log and truth (`loops`)."""

from recfb.metrics.ranking import top_k

__all__ = ["top_k"]
