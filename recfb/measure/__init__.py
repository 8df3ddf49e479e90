"""Measure a ranking: the verb, the lists behind it, the intervals; and what exposures are worth."""

from recfb.measure.bootstrap import Bootstrap
from recfb.measure.exposures import exposure_calibration, exposure_table
from recfb.measure.lists import HeldOut, Lists, Task, rank, task_of
from recfb.measure.verb import measure

__all__ = [
    "Bootstrap",
    "HeldOut",
    "Lists",
    "Task",
    "exposure_calibration",
    "exposure_table",
    "measure",
    "rank",
    "task_of",
]
