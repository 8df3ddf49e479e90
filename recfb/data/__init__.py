"""Logs and the records made of them."""

from recfb.data.log import Log, Meta
from recfb.data.pairs import Pairs
from recfb.data.vocabulary import Vocabulary

__all__ = ["Log", "Meta", "Pairs", "Vocabulary"]
