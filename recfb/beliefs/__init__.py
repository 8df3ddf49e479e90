"""Models that also know how sure they are."""

from recfb.beliefs.bootstrap import Bootstrap
from recfb.beliefs.linear import Linear
from recfb.beliefs.logistic import Logistic
from recfb.beliefs.neural_linear import FeatureNet, NeuralLinear

__all__ = ["Bootstrap", "FeatureNet", "Linear", "Logistic", "NeuralLinear"]
