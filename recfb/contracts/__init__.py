"""The contracts: read these first.

`learning` has what learns, `acting` what acts, `evaluating` what is computed from a log.
"""

from recfb.contracts.acting import (
    Model,
    Policy,
    Probe,
    Round,
    Truth,
    World,
    check_probs,
    plackett_luce,
    sample_cdf,
    uniform_over,
)
from recfb.contracts.describe import class_path, describe, hyperparameters
from recfb.contracts.learning import (
    Component,
    Exposure,
    Objective,
    Pairing,
    Sampler,
    Score,
    Scorer,
    Solver,
    Step,
)
from recfb.data.batch import Batch, Block, Context, Feedback, Slate, cat

__all__ = [
    "Batch",
    "Block",
    "Component",
    "Context",
    "Exposure",
    "Feedback",
    "Model",
    "Objective",
    "Pairing",
    "Policy",
    "Probe",
    "Round",
    "Sampler",
    "Score",
    "Scorer",
    "Slate",
    "Solver",
    "Step",
    "Truth",
    "World",
    "cat",
    "check_probs",
    "class_path",
    "describe",
    "hyperparameters",
    "plackett_luce",
    "sample_cdf",
    "uniform_over",
]
