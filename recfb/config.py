"""Objects from plain data: {"class_path", "init_args"} under an allowlist, and plain data from objects.

Class paths resolve only inside recfb, torch.optim, Lightning's callbacks and loggers, and modules the user
names; nothing else is even imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, TypeVar

from recfb.errors import ConfigError

T = TypeVar("T")
ROOMS = ("beliefs", "exposures", "objectives", "policies", "samplers", "scorers", "solvers", "worlds")
ALLOWED = ("recfb", "torch.optim", "pytorch_lightning.callbacks", "pytorch_lightning.loggers")


def allow(modules: Sequence[str] = ()) -> None:
    """Set which import paths a configuration may name: the allowlist and these modules."""
    from jsonargparse import set_parsing_settings

    set_parsing_settings(
        import_path_denylist=["*"],
        import_path_allowlist=[*ALLOWED, *modules],
        instantiate_subclass_spec_in_any=False,
    )


def build(kind: type[T], data: Any, modules: Sequence[str] = ()) -> T:
    """An object of a class from plain data, types checked.

    >>> from recfb.contracts import Policy
    >>> build(Policy, {"class_path": "Uniform"})
    Uniform()

    Raises:
        ConfigError: a class outside the allowlist, an unknown key or a wrong type; with the nearest valid name.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    allow(modules)
    for room in ROOMS:
        import_module(f"recfb.{room}")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--object", type=kind)
    try:
        made = parser.instantiate_classes(parser.parse_object({"object": data})).object
    except ArgumentError as error:
        raise ConfigError(explain(str(error))) from None
    if not isinstance(made, kind):
        raise ConfigError(f"expected a {kind.__name__} as class_path and init_args, found {data!r}.")
    return made


def explain(message: str) -> str:
    """A parser's message in at most three lines, with the nearest valid name for an unknown key."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return "\n".join(lines[:3])


