"""The constructor signature is the configuration: read it off any object.

>>> from recfb.optim import Adam
>>> describe(Adam(lr=0.01))["init_args"]["lr"]
0.01
"""

from __future__ import annotations

import copy
import dataclasses
import enum
import inspect
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar, cast

import torch

from recfb.errors import ConfigError, nearest

T = TypeVar("T")


def hyperparameters(obj: object) -> dict[str, Any]:
    """The constructor's parameters with the values this object holds under the same names."""
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(type(obj).__init__).parameters.items():
        if name == "self" or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        try:
            found[name] = getattr(obj, name)
        except AttributeError:
            kind = type(obj).__name__
            raise ConfigError(
                f"{kind} does not keep its hyperparameter {name!r}, so it cannot be saved or "
                "shown. "
                f"Write `self.{name} = {name}` in {kind}.__init__."
            ) from None
    return found


def class_path(cls: type) -> str:
    """Where to import a class from, by its shortest public path.

    >>> from recfb.optim import Adam
    >>> class_path(Adam)
    'recfb.optim.Adam'
    """
    parent = cls.__module__.rpartition(".")[0]
    if (
        cls.__module__.startswith("recfb.")
        and getattr(import_module(parent), cls.__name__, None) is cls
    ):
        return f"{parent}.{cls.__name__}"
    return f"{cls.__module__}.{cls.__qualname__}"


def describe(value: Any) -> Any:
    """Plain data for YAML and JSON: objects become {"class_path", "init_args"} with every default
    written out."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, (Mapping, torch.nn.ModuleDict)):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, (Sequence, torch.nn.ModuleList)):
        return [describe(item) for item in value]
    if dataclasses.is_dataclass(value) or isinstance(value, (Described, torch.nn.Module)):
        arguments = {name: describe(item) for name, item in hyperparameters(value).items()}
        return {"class_path": class_path(type(value)), "init_args": arguments}
    raise ConfigError(f"{type(value).__name__} cannot be written to a configuration: {value!r}")


def alter(value: T, changes: Mapping[str, Any]) -> T:
    """A new object with other hyperparameters, named by dotted paths; nothing is shared with the
    old one. Keys of a mapping are named like hyperparameters.

    Raises:
        ConfigError: a path that names no hyperparameter, with those there are.

    >>> from recfb.optim import Adam
    >>> alter(Adam(lr=0.01), {"lr": 0.1}).lr
    0.1
    """
    own = dict(value) if isinstance(value, Mapping) else hyperparameters(value)
    inner: dict[str, dict[str, Any]] = {}
    for path, new in changes.items():
        head, _, rest = path.partition(".")
        if head not in own:
            kind = type(value).__name__
            raise ConfigError(f"{kind} has no {head!r}; it has {list(own)}.{nearest(head, own)}")
        if rest:
            inner.setdefault(head, {})[rest] = new
        else:
            own[head] = new
    for head, more in inner.items():
        own[head] = alter(own[head], more)
    fresh: dict[str, Any] = copy.deepcopy(own)
    return cast(T, fresh) if isinstance(value, Mapping) else type(value)(**fresh)


class Described:
    """Shows an object as the call that makes it, without arguments left at their defaults."""

    def __repr__(self) -> str:
        shown = []
        parameters = inspect.signature(type(self).__init__).parameters
        for name, value in hyperparameters(self).items():
            default = parameters[name].default
            if isinstance(value, torch.Tensor):
                shown.append(f"{name}=Tensor{tuple(value.shape)}")
            elif default is inspect.Parameter.empty:
                shown.append(repr(value))
            elif not (value is default or value == default):
                shown.append(f"{name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"
