"""The one-pass engine behind `evaluate`: rows to sums, sums to values, intervals and verdicts."""

from recfb.evaluation.cells import CellMeans
from recfb.evaluation.gates import GATES
from recfb.evaluation.intervals import INTERVALS, bootstrap, likelihood, student
from recfb.evaluation.report import Report
from recfb.evaluation.state import Cell, State
from recfb.evaluation.terms import Terms, moments, residual, weight

__all__ = [
    "GATES",
    "INTERVALS",
    "Cell",
    "CellMeans",
    "Report",
    "State",
    "Terms",
    "bootstrap",
    "likelihood",
    "moments",
    "residual",
    "student",
    "weight",
]
