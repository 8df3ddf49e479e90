"""Objectives: losses of rows, debiased or not."""

from recfb.objectives.bce import BCE
from recfb.objectives.bpr import BPR
from recfb.objectives.relmf import RelMF

__all__ = ["BCE", "BPR", "RelMF"]
