"""Neural-linear Thompson sampling."""

from __future__ import annotations

from recfb.beliefs.neural_linear import NeuralLinear
from recfb.contracts import Fitted
from recfb.policies.thompson import Thompson


class NeuralLinearTS(Thompson):
    """Thompson sampling over `NeuralLinear(net, l2)`: a network, and a regression an item on top.

    Riquelme, Tucker and Snoek, ICLR 2018. `Refit(every=100, warm=True)` trains the network by `fit`
    every 100 rounds. Propensities have no closed form, so they are None; `propensity_mc` estimates
    them.

    Args:
        net: a recommender over `FeatureNet`, trained by Lightning.
        l2: the ridge of the regressions.

    Raises:
        ConfigError: as `NeuralLinear`.
    """

    def __init__(self, net: Fitted, l2: float = 0.25) -> None:
        super().__init__(NeuralLinear(net, l2))
        self.net = net
        self.l2 = l2
