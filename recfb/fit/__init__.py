"""Fit a model to a log: the verb, what feeds Lightning, and what is refused."""

from recfb.fit.feed import LogModule
from recfb.fit.keep import Best, every_epoch
from recfb.fit.verb import fit

__all__ = ["Best", "LogModule", "every_epoch", "fit"]
