"""Models that also know how sure they are."""

from recfb.beliefs.bootstrap import Bootstrap
from recfb.beliefs.linear import Linear
from recfb.beliefs.logistic import Logistic
from recfb.beliefs.neural_linear import FeatureNet, NeuralLinear
from recfb.beliefs.payoff import Payoff
from recfb.beliefs.retrained import Retrained

__all__ = [
    "Bootstrap",
    "FeatureNet",
    "Linear",
    "Logistic",
    "NeuralLinear",
    "Payoff",
    "Retrained",
]
