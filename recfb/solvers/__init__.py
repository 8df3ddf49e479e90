"""Solvers: models in closed form or with a kernel of their own."""

from recfb.solvers.als import ALS
from recfb.solvers.popularity import Popularity
from recfb.solvers.random import Random
from recfb.solvers.relmf import RelMF

__all__ = ["ALS", "Popularity", "Random", "RelMF"]
