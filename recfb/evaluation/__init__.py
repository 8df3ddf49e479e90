"""The one-pass engine behind `evaluate`: rows to sums, sums to values, intervals and verdicts."""

from recfb.evaluation.calibration import residuals
from recfb.evaluation.cell import Cell
from recfb.evaluation.cell_means import CellMeans
from recfb.evaluation.crossfit import CrossFit
from recfb.evaluation.gates import GATES
from recfb.evaluation.intervals import (
    INTERVALS,
    basic,
    bootstrap,
    likelihood,
    student,
    studentised,
)
from recfb.evaluation.report import Report
from recfb.evaluation.sequences import betting, gamma_exponential
from recfb.evaluation.slates import SLATES, SlateRows
from recfb.evaluation.state import State
from recfb.evaluation.terms import Terms, moments, residual, weight

__all__ = [
    "GATES",
    "INTERVALS",
    "SLATES",
    "Cell",
    "CellMeans",
    "CrossFit",
    "Report",
    "SlateRows",
    "State",
    "Terms",
    "basic",
    "betting",
    "bootstrap",
    "gamma_exponential",
    "likelihood",
    "moments",
    "residual",
    "residuals",
    "student",
    "studentised",
    "weight",
]
