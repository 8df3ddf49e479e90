"""Samplers: which rows to learn from."""

from recfb.samplers.clicks import Clicks
from recfb.samplers.pairs import AllPairs

__all__ = ["AllPairs", "Clicks"]
