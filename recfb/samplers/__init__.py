"""Samplers: which rows to learn from."""

from recfb.samplers.clicks import Clicks
from recfb.samplers.logged import Logged
from recfb.samplers.pairs import AllPairs
from recfb.samplers.pld import PLD
from recfb.samplers.slates import Slates
from recfb.samplers.visits import Visits

__all__ = ["PLD", "AllPairs", "Clicks", "Logged", "Slates", "Visits"]
