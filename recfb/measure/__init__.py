"""Measure a ranking: the verb, the lists behind it, and the intervals."""

from recfb.measure.bootstrap import Bootstrap
from recfb.measure.lists import Lists, Task, rank, task_of
from recfb.measure.verb import measure

__all__ = ["Bootstrap", "Lists", "Task", "measure", "rank", "task_of"]
