"""Context -> distribution over items."""

from recfb.policies.beta_thompson import BetaThompson
from recfb.policies.linucb import LinUCB
from recfb.policies.oracle import Oracle
from recfb.policies.ranked import Ranked
from recfb.policies.ucb import UCB
from recfb.policies.uniform import Uniform

__all__ = ["UCB", "BetaThompson", "LinUCB", "Oracle", "Ranked", "Uniform"]
