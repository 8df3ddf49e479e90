"""Estimators of a policy's value from logged rows: functions of (rows, mean).

`mean` is the only door to the data: an estimator may combine means of per-row columns, and reduces
rows in no other way. Called with `torch.mean` over the last axis it is a differentiable objective;
`recfb.evaluate` calls it with a recording mean, with stored sums and with resampled sums, and so
gets values, standard errors and bootstraps of one pass over the data.

>>> import torch
>>> rows = Rows(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5]), torch.tensor([0.8, 0.2]))
>>> round(float(ips(rows, average)), 3), round(float(snips(rows, average)), 3)
(0.8, 0.8)
"""

from recfb.estimate.likelihood import EmpiricalLikelihood, el, likelihood_value
from recfb.estimate.loggers import (
    balanced_dr,
    balanced_ips,
    naive_dr,
    naive_ips,
    precise,
    stratified,
    weighted_dr,
    weighted_ips,
)
from recfb.estimate.rows import Counted, Estimator, Mean, Rows, average, each
from recfb.estimate.single import (
    UNSHRUNK,
    cdr,
    cips,
    cvips,
    dm,
    dr,
    dros,
    harmonic,
    ips,
    ix,
    mrdr,
    replay,
    sgdr,
    sgips,
    shrink,
    sndr,
    snips,
    switch,
)
from recfb.estimate.tuning import GRIDS, Tuned, bias_bound, slope, squared_error

ESTIMATORS: dict[str, Estimator] = {
    "ips": ips,
    "cips": cips,
    "sgips": sgips,
    "ix": ix,
    "cvips": cvips,
    "snips": snips,
    "el": el,
    "dm": dm,
    "dr": dr,
    "sndr": sndr,
    "cdr": cdr,
    "dros": dros,
    "switch": switch,
    "sgdr": sgdr,
    "mrdr": mrdr,
    "replay": replay,
}
"""The estimators that `evaluate` takes by name."""

LOGGERS: dict[str, Estimator] = {
    "naive_ips": naive_ips,
    "weighted_ips": weighted_ips,
    "balanced_ips": balanced_ips,
    "naive_dr": naive_dr,
    "weighted_dr": weighted_dr,
    "balanced_dr": balanced_dr,
}
"""Those that it takes for logs with a `logger` column."""

__all__ = [
    "ESTIMATORS",
    "GRIDS",
    "LOGGERS",
    "UNSHRUNK",
    "Counted",
    "EmpiricalLikelihood",
    "Estimator",
    "Mean",
    "Rows",
    "Tuned",
    "average",
    "balanced_dr",
    "balanced_ips",
    "bias_bound",
    "cdr",
    "cips",
    "cvips",
    "dm",
    "dr",
    "dros",
    "each",
    "el",
    "harmonic",
    "ips",
    "ix",
    "likelihood_value",
    "mrdr",
    "naive_dr",
    "naive_ips",
    "precise",
    "replay",
    "sgdr",
    "sgips",
    "shrink",
    "slope",
    "sndr",
    "snips",
    "squared_error",
    "stratified",
    "switch",
    "weighted_dr",
    "weighted_ips",
]
