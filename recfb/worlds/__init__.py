"""Population dynamics: who comes, what they like, what they do."""

from recfb.worlds.arms import Arms
from recfb.worlds.classification import Classification
from recfb.worlds.clicks import PBM, ClickModel, Clicks
from recfb.worlds.contextual import Contextual
from recfb.worlds.drift import Attraction, Drift
from recfb.worlds.gaps import Gaps
from recfb.worlds.matrix import Matrix
from recfb.worlds.payments import Payments, valued
from recfb.worlds.population import Gaussian, People, Population
from recfb.worlds.switching import Budgeted, SwitchingCost
from recfb.worlds.tastes import Tastes
from recfb.worlds.walk import MultiScaleWalk
from recfb.worlds.wrappers import Delayed, OneSided, Wrapper

__all__ = [
    "PBM",
    "Arms",
    "Attraction",
    "Budgeted",
    "Classification",
    "ClickModel",
    "Clicks",
    "Contextual",
    "Delayed",
    "Drift",
    "Gaps",
    "Gaussian",
    "Matrix",
    "MultiScaleWalk",
    "OneSided",
    "Payments",
    "People",
    "Population",
    "SwitchingCost",
    "Tastes",
    "Wrapper",
    "valued",
]
