"""Population dynamics: who comes, what they like, what they do."""

from recfb.worlds.arms import Arms
from recfb.worlds.clicks import PBM, ClickModel, Clicks
from recfb.worlds.drift import Attraction, Drift
from recfb.worlds.matrix import Matrix
from recfb.worlds.population import Gaussian, People, Population
from recfb.worlds.tastes import Tastes
from recfb.worlds.wrappers import Delayed, OneSided, Wrapper

__all__ = [
    "PBM",
    "Arms",
    "Attraction",
    "ClickModel",
    "Clicks",
    "Delayed",
    "Drift",
    "Gaussian",
    "Matrix",
    "OneSided",
    "People",
    "Population",
    "Tastes",
    "Wrapper",
]
