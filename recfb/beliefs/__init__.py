"""Models that also know how sure they are."""

from recfb.beliefs.linear import Linear

__all__ = ["Linear"]
