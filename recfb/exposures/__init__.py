"""Exposures: P(the feedback of a pair or a row is observed)."""

from recfb.exposures.logged import Logged
from recfb.exposures.popularity import Popularity

__all__ = ["Logged", "Popularity"]
