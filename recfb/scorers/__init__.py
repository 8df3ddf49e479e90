"""Scorers: s(u, i)."""

from recfb.scorers.lightgcn import LightGCN
from recfb.scorers.mf import MF
from recfb.scorers.neumf import NeuMF

__all__ = ["MF", "LightGCN", "NeuMF"]
