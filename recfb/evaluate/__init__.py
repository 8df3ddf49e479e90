"""Evaluate policies from logged feedback: what would they have earned?"""

from recfb.evaluate.plan import Evaluation
from recfb.evaluate.verb import evaluate

__all__ = ["Evaluation", "evaluate"]
