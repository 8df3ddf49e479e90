"""Scorers: s(u, i)."""

from recfb.scorers.mf import MF

__all__ = ["MF"]
