"""Population dynamics: who comes, what they like, what they do."""

from recfb.worlds.applicants import Applicants, Minority
from recfb.worlds.arms import Arms
from recfb.worlds.arrivals import Arrivals, Once
from recfb.worlds.audited import Audited, objections, panel_flags
from recfb.worlds.boredom import Boredom, Leaky, Threshold
from recfb.worlds.choices import MNL, RankAcceptance, RankedChoice
from recfb.worlds.churn import Churn
from recfb.worlds.classification import Classification
from recfb.worlds.clicks import DBN, DCM, PBM, Cascade, ClickModel, Clicks, TrustBias
from recfb.worlds.contextual import Contextual
from recfb.worlds.copies import Copies
from recfb.worlds.described import Described
from recfb.worlds.drift import (
    Attraction,
    BiasedAssimilation,
    Drift,
    Drifts,
    RandomWalk,
    Reinforcement,
    Repulsion,
    Reversion,
    Shock,
    Visit,
)
from recfb.worlds.fixed import Fixed, Phases
from recfb.worlds.gaps import Gaps
from recfb.worlds.matrix import Matrix
from recfb.worlds.payments import Payments, valued
from recfb.worlds.population import Clustered, Gaussian, People, Population
from recfb.worlds.populations import Dirichlet, Factors, Interests, LongTail
from recfb.worlds.replay import Replay, replayed
from recfb.worlds.sources import Sources, echoed
from recfb.worlds.switching import Budgeted, SwitchingCost
from recfb.worlds.tastes import Tastes
from recfb.worlds.texts import DrawnTexts, GivenTexts, GradualTexts, TextSource
from recfb.worlds.traced import Traced
from recfb.worlds.walk import MultiScaleWalk
from recfb.worlds.wrappers import Delayed, OneSided, Wrapper

__all__ = [
    "DBN",
    "DCM",
    "MNL",
    "PBM",
    "Applicants",
    "Arms",
    "Arrivals",
    "Attraction",
    "Audited",
    "BiasedAssimilation",
    "Boredom",
    "Budgeted",
    "Cascade",
    "Churn",
    "Classification",
    "ClickModel",
    "Clicks",
    "Clustered",
    "Contextual",
    "Copies",
    "Delayed",
    "Described",
    "Dirichlet",
    "DrawnTexts",
    "Drift",
    "Drifts",
    "Factors",
    "Fixed",
    "Gaps",
    "Gaussian",
    "GivenTexts",
    "GradualTexts",
    "Interests",
    "Leaky",
    "LongTail",
    "Matrix",
    "Minority",
    "MultiScaleWalk",
    "Once",
    "OneSided",
    "Payments",
    "People",
    "Phases",
    "Population",
    "RandomWalk",
    "RankAcceptance",
    "RankedChoice",
    "Reinforcement",
    "Replay",
    "Repulsion",
    "Reversion",
    "Shock",
    "Sources",
    "SwitchingCost",
    "Tastes",
    "TextSource",
    "Threshold",
    "Traced",
    "TrustBias",
    "Visit",
    "Wrapper",
    "echoed",
    "objections",
    "panel_flags",
    "replayed",
    "valued",
]
