"""Scorers: s(u, i)."""

from recfb.scorers.lightgcn import LightGCN
from recfb.scorers.mf import MF
from recfb.scorers.neumf import NeuMF
from recfb.scorers.two_tower import TwoTower

__all__ = ["MF", "LightGCN", "NeuMF", "TwoTower"]
