"""Context -> distribution over items."""

from recfb.policies.apple_tasting import STAP, Tasting
from recfb.policies.auto_for_budget import auto_for_budget
from recfb.policies.bagging import Bagging
from recfb.policies.beta_thompson import BetaThompson
from recfb.policies.boltzmann_gumbel import BoltzmannGumbel
from recfb.policies.bootstrap_ucb import BootstrapUCB
from recfb.policies.either import Either
from recfb.policies.epsilon_greedy import EpsilonGreedy
from recfb.policies.exp3 import Exp3, Exp3IX, Exp3Mixed
from recfb.policies.explore import enforce_min_prob
from recfb.policies.fair_exp import FairExp
from recfb.policies.fair_ftpl import FairFTPL
from recfb.policies.fair_lp import fair_mixture
from recfb.policies.falcon import FALCON
from recfb.policies.feedback_budgets import (
    BlockedExp3,
    BlockedTsallis,
    BudgetedBandit,
    Constant,
    DartboardFlex,
    DartboardFull,
    LabelEfficient,
    LabelEfficientDartboard,
    ShrinkingDartboard,
)
from recfb.policies.gated import Gated
from recfb.policies.gaussian_thompson import GaussianThompson
from recfb.policies.greedy import Greedy
from recfb.policies.hypotheses import Thresholds
from recfb.policies.igw import IGW
from recfb.policies.interleaved import Interleaved
from recfb.policies.klucb import KLUCB
from recfb.policies.lazy_leader import LazyLeader
from recfb.policies.lints import LinTS
from recfb.policies.linucb import LinUCB
from recfb.policies.mixture import Mixture
from recfb.policies.neural_linear import NeuralLinearTS
from recfb.policies.novelty import Novelty
from recfb.policies.officer import Officer
from recfb.policies.open_loop import OpenLoop
from recfb.policies.oracle import Oracle
from recfb.policies.ranked import Ranked
from recfb.policies.regcb import RegCB
from recfb.policies.softmax import Softmax
from recfb.policies.source_quota import SourceQuota
from recfb.policies.squarecb import SquareCB
from recfb.policies.switch import Switch
from recfb.policies.thompson import Thompson
from recfb.policies.tsallis_inf import TsallisINF
from recfb.policies.tsallis_switch import TsallisSwitch
from recfb.policies.ucb import UCB
from recfb.policies.ucb1 import UCB1
from recfb.policies.uniform import Uniform

__all__ = [
    "FALCON",
    "IGW",
    "KLUCB",
    "STAP",
    "UCB",
    "UCB1",
    "Bagging",
    "BetaThompson",
    "BlockedExp3",
    "BlockedTsallis",
    "BoltzmannGumbel",
    "BootstrapUCB",
    "BudgetedBandit",
    "Constant",
    "DartboardFlex",
    "DartboardFull",
    "Either",
    "EpsilonGreedy",
    "Exp3",
    "Exp3IX",
    "Exp3Mixed",
    "FairExp",
    "FairFTPL",
    "Gated",
    "GaussianThompson",
    "Greedy",
    "Interleaved",
    "LabelEfficient",
    "LabelEfficientDartboard",
    "LazyLeader",
    "LinTS",
    "LinUCB",
    "Mixture",
    "NeuralLinearTS",
    "Novelty",
    "Officer",
    "OpenLoop",
    "Oracle",
    "Ranked",
    "RegCB",
    "ShrinkingDartboard",
    "Softmax",
    "SourceQuota",
    "SquareCB",
    "Switch",
    "Tasting",
    "Thompson",
    "Thresholds",
    "TsallisINF",
    "TsallisSwitch",
    "Uniform",
    "auto_for_budget",
    "enforce_min_prob",
    "fair_mixture",
]
