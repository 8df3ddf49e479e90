"""Measure a ranking: the verb, the lists behind it, and the intervals."""

from recfb.measure.bootstrap import Bootstrap
from recfb.measure.lists import HeldOut, Lists, Task, rank, task_of
from recfb.measure.verb import measure

__all__ = ["Bootstrap", "HeldOut", "Lists", "Task", "measure", "rank", "task_of"]
