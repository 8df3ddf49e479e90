"""Solvers: models in closed form or with a kernel of their own."""

from recfb.solvers.als import ALS
from recfb.solvers.direct import Direct
from recfb.solvers.ease import EASE
from recfb.solvers.expomf import ExpoMF
from recfb.solvers.popularity import Popularity
from recfb.solvers.random import Random
from recfb.solvers.relmf import RelMF
from recfb.solvers.relmf_full import FullRelMF

__all__ = ["ALS", "EASE", "Direct", "ExpoMF", "FullRelMF", "Popularity", "Random", "RelMF"]
