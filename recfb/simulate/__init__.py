"""Closed loops: a policy acts in a world and learns from what it showed.

`verb` has `simulate`; `rounds` the order of a round, `refit` when a model is trained again,
`delays` the feedback that is under way, `record` the frames; `claims` the named, configured worlds
with what they must show.
"""

from recfb.simulate.claims import Claim, Simulator
from recfb.simulate.refit import Refit
from recfb.simulate.rounds import Snapshot
from recfb.simulate.verb import Run, simulate

__all__ = ["Claim", "Refit", "Run", "Simulator", "Snapshot", "simulate"]
