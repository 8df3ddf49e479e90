"""Exposures: P(the feedback of a pair or a row is observed)."""

from recfb.exposures.given import Given
from recfb.exposures.logged import Logged
from recfb.exposures.logistic import Logistic
from recfb.exposures.popularity import Popularity
from recfb.exposures.position import Position
from recfb.exposures.selection import Selection

__all__ = ["Given", "Logged", "Logistic", "Popularity", "Position", "Selection"]
