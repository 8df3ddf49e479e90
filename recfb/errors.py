"""The errors recfb raises: what was expected, what was found, and what to type.

>>> issubclass(LogError, ValueError) and issubclass(LogError, RecfbError)
True
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RecfbError(Exception):
    """Base of every error that recfb raises on purpose."""


class LogError(RecfbError, ValueError):
    """A log does not have the rows or columns that were asked of it."""


class SupportError(RecfbError, ValueError):
    """A policy's rows are not a distribution over the available items."""


class ConfigError(RecfbError, ValueError):
    """A hyperparameter, a configuration key or a combination of components is not allowed."""


class UnboundError(RecfbError, RuntimeError):
    """A component was used before `bind(log)` gave it its shapes."""


class PrepareError(RecfbError, OSError):
    """A file that recfb reads or writes is missing, damaged or in the way."""


class RecfbWarning(UserWarning):
    """Base of every warning that recfb emits."""


class OverlapWarning(RecfbWarning):
    """The log and the target policy overlap too little (gate G1)."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint naming the closest known word, or nothing.

    >>> nearest("rewrad", ["reward", "item"])
    " Did you mean 'reward'?"
    >>> nearest("xyz", ["reward", "item"])
    ''
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""
