"""Objectives: losses of rows, debiased or not."""

from recfb.objectives.adt import RCE, TCE
from recfb.objectives.bce import BCE
from recfb.objectives.bpr import BPR
from recfb.objectives.cet import CET
from recfb.objectives.doubly_robust import DR, MRDR
from recfb.objectives.ips import IPS, SNIPS
from recfb.objectives.mse import MSE
from recfb.objectives.nbpo import BPO, NBPO
from recfb.objectives.relmf import RelMF
from recfb.objectives.source_consistency import SourceConsistency, SourceHinge
from recfb.objectives.ubpr import UBPR

__all__ = [
    "BCE",
    "BPO",
    "BPR",
    "CET",
    "DR",
    "IPS",
    "MRDR",
    "MSE",
    "NBPO",
    "RCE",
    "SNIPS",
    "TCE",
    "UBPR",
    "RelMF",
    "SourceConsistency",
    "SourceHinge",
]
