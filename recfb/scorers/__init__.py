"""Scorers: s(u, i)."""

from recfb.scorers.history_gru import HistoryGRU
from recfb.scorers.history_mean import HistoryMean
from recfb.scorers.lightgcn import LightGCN
from recfb.scorers.mf import MF
from recfb.scorers.neumf import NeuMF
from recfb.scorers.two_tower import TwoTower

__all__ = ["MF", "HistoryGRU", "HistoryMean", "LightGCN", "NeuMF", "TwoTower"]
