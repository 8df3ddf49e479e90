"""recfb: fit, simulate and evaluate recommenders and bandits on biased feedback.

    Log -> fit -> Recommender -> Policy -> simulate (World) -> Log -> evaluate -> table

Names are loaded when they are first used, so `import recfb` is instant.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Claim": "recfb.simulate",
    "ConfigError": "recfb.errors",
    "Dataset": "recfb.shelf",
    "Evaluation": "recfb.evaluate",
    "Log": "recfb.data",
    "LogError": "recfb.errors",
    "Meta": "recfb.data",
    "OverlapWarning": "recfb.errors",
    "PrepareError": "recfb.errors",
    "RecfbError": "recfb.errors",
    "RecfbWarning": "recfb.errors",
    "Recommender": "recfb.recommender",
    "Refit": "recfb.simulate",
    "Report": "recfb.evaluation",
    "Run": "recfb.simulate",
    "Simulator": "recfb.simulate",
    "Space": "recfb.tune",
    "SupportError": "recfb.errors",
    "Tuned": "recfb.tune",
    "UnboundError": "recfb.errors",
    "dataset": "recfb.shelf",
    "evaluate": "recfb.evaluate",
    "exposure_calibration": "recfb.measure",
    "exposure_table": "recfb.measure",
    "fit": "recfb.fit",
    "load": "recfb.store",
    "measure": "recfb.measure",
    "save": "recfb.store",
    "simulate": "recfb.simulate",
    "simulator": "recfb.shelf",
    "tune": "recfb.tune",
}
__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from recfb.data import Log as Log
    from recfb.data import Meta as Meta
    from recfb.errors import ConfigError as ConfigError
    from recfb.errors import LogError as LogError
    from recfb.errors import OverlapWarning as OverlapWarning
    from recfb.errors import PrepareError as PrepareError
    from recfb.errors import RecfbError as RecfbError
    from recfb.errors import RecfbWarning as RecfbWarning
    from recfb.errors import SupportError as SupportError
    from recfb.errors import UnboundError as UnboundError
    from recfb.evaluate import Evaluation as Evaluation
    from recfb.evaluate import evaluate as evaluate
    from recfb.evaluation import Report as Report
    from recfb.fit import fit as fit
    from recfb.measure import exposure_calibration as exposure_calibration
    from recfb.measure import exposure_table as exposure_table
    from recfb.measure import measure as measure
    from recfb.recommender import Recommender as Recommender
    from recfb.shelf import Dataset as Dataset
    from recfb.shelf import dataset as dataset
    from recfb.shelf import simulator as simulator
    from recfb.simulate import Claim as Claim
    from recfb.simulate import Refit as Refit
    from recfb.simulate import Run as Run
    from recfb.simulate import Simulator as Simulator
    from recfb.simulate import simulate as simulate
    from recfb.store import load as load
    from recfb.store import save as save
    from recfb.tune import Space as Space
    from recfb.tune import Tuned as Tuned
    from recfb.tune import tune as tune


class _Package(ModuleType):
    """Keeps `recfb.fit` the verb: importing the submodule of the same name does not replace it."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'recfb' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


sys.modules[__name__].__class__ = _Package
