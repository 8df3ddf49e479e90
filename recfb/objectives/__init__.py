"""Objectives: losses of rows, debiased or not."""

from recfb.objectives.adt import RCE, TCE
from recfb.objectives.bce import BCE
from recfb.objectives.bpr import BPR
from recfb.objectives.nbpo import BPO, NBPO
from recfb.objectives.relmf import RelMF
from recfb.objectives.ubpr import UBPR

__all__ = ["BCE", "BPO", "BPR", "NBPO", "RCE", "TCE", "UBPR", "RelMF"]
