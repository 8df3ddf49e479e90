"""Objects from plain data: {"class_path", "init_args"} under an allowlist.

Class paths resolve only inside recfb, torch.optim, Lightning's callbacks and loggers, and modules
the user names; nothing else is even imported.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar, cast

import yaml

from recfb.data.plain import DEEPEST, plain
from recfb.errors import ConfigError, RecfbError, nearest

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

T = TypeVar("T")
ROOMS = (
    "beliefs",
    "exposures",
    "objectives",
    "policies",
    "samplers",
    "scorers",
    "solvers",
    "worlds",
)
ALLOWED = ("recfb", "torch.optim", "pytorch_lightning.callbacks", "pytorch_lightning.loggers")

NO_KWARGS = "'dict_kwargs' is not allowed. Name the parameters under init_args."
_YAML = re.compile(r"dict_kwargs|&.*\*", re.DOTALL)
"""What a text must not hide that the parser would read as YAML."""

_trusted: set[str] = set()


def allow(modules: Sequence[str] = ()) -> None:
    """Set which import paths a configuration may name, and make every room known by short names."""
    from jsonargparse import set_parsing_settings

    before = _trusted - set(modules)  # settings add up, so what was trusted once is taken back
    try:
        set_parsing_settings(
            import_path_denylist=["*", *sorted(before)],
            import_path_allowlist=[*ALLOWED, *modules],
            instantiate_subclass_spec_in_any=False,
        )
    except ValueError as error:
        raise ConfigError(f"--import {' '.join(modules)}: {error}") from None
    _trusted.update(modules)
    for room in ROOMS:
        import_module(f"recfb.{room}")
    _remember_protocols()


def _remember_protocols() -> None:
    """Whether a class fits a protocol does not change, but the parser reads the sources of both
    anew for every value it meets: half a minute for a page of a few nested policies."""
    from jsonargparse import _typehints

    if not hasattr(_typehints.implements_protocol, "cache_info"):
        _typehints.implements_protocol = cache(_typehints.implements_protocol)


def new_parser(**options: Any) -> ArgumentParser:
    """A parser that reads every text, and every file, as `plain` data."""
    from jsonargparse import ArgumentParser, set_loader

    set_loader("plain", _loaded, (yaml.YAMLError, ConfigError))
    return ArgumentParser(exit_on_error=False, parser_mode="plain", **options)


def _loaded(text: str) -> Any:
    data = plain(text)
    refuse_smuggling(data)
    if isinstance(data, dict) and all(value is None for value in data.values()):
        return data if "null" in text else text  # "a:" and "{a, b}", as typed, are no mappings
    return data


def build(kind: Callable[..., T], data: Any, modules: Sequence[str] = ()) -> T:
    """An object of a class from plain data, its types checked.

    >>> from recfb.contracts import Policy
    >>> build(Policy, {"class_path": "Uniform"})
    Uniform()

    Raises:
        ConfigError: a class outside the allowlist, an unknown key or a wrong value, with what is
            allowed and the nearest valid name.
    """
    from jsonargparse import ArgumentError

    allow(modules)
    refuse_smuggling(data)
    parser = new_parser()
    parser.add_argument("--object", type=kind)
    try:
        parsed = parser.parse_object({"object": data})
    except ArgumentError as error:
        raise ConfigError(explain(str(error))) from None
    made = instantiate(parser, parsed).object
    if isinstance(kind, type) and not isinstance(made, kind):
        raise ConfigError(f"expected a {kind.__name__}: class_path and init_args; found {data!r}.")
    return cast("T", made)


def instantiate(parser: ArgumentParser, parsed: Namespace) -> Namespace:
    """Make the objects of a parsed configuration; what a constructor refuses is raised as it is,
    and not as "fits none of the types"."""
    for path, given in _specs(parsed):
        _refuse_unfit(path, given)
    try:
        made: Namespace = parser.instantiate(parsed)
        return made
    except RecfbError:
        raise
    except (ValueError, TypeError) as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, RecfbError):
                raise cause from None
            cause = cause.__cause__ or cause.__context__
        raise ConfigError(explain(str(error))) from None


def refuse_smuggling(data: Any, depth: int = 0) -> None:
    """Refuse what is no class_path with init_args: `dict_kwargs`, which would hand unchecked
    arguments to a constructor, also inside a text that the parser would read as YAML."""
    if depth > DEEPEST:
        raise ConfigError(f"more than {DEEPEST} levels in each other. Write a flat configuration.")
    if isinstance(data, str) and _YAML.search(data):
        try:
            inside = plain(data)
        except yaml.YAMLError:
            return
        data = inside if isinstance(inside, (dict, list)) else None
    if isinstance(data, dict):
        if "dict_kwargs" in data:
            raise ConfigError(NO_KWARGS)
        for key, kind in (("class_path", str), ("init_args", dict)):
            if "class_path" in data and not isinstance(data.get(key, kind()), kind):
                what = "the name of a class" if kind is str else "a mapping, {parameter: value}"
                raise ConfigError(f"{key} is {what}, found {data[key]!r}.")
        data = list(data.values())
    if isinstance(data, (list, tuple)):
        for value in data:
            refuse_smuggling(value, depth + 1)


def _specs(parsed: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(class path, arguments) of everything in a parsed configuration."""
    parsed = vars(parsed) if hasattr(parsed, "as_dict") else parsed
    if isinstance(parsed, Mapping):
        if isinstance(path := parsed.get("class_path"), str):
            if "dict_kwargs" in parsed:
                raise ConfigError(NO_KWARGS)
            given = parsed.get("init_args", {})
            yield path, vars(given) if hasattr(given, "as_dict") else given
        parsed = list(parsed.values())
    if isinstance(parsed, (list, tuple)):
        for value in parsed:
            yield from _specs(value)


def _refuse_unfit(path: str, given: Mapping[str, Any]) -> None:
    """Refuse a function of the library, which would be called, a base class, and null where a
    parameter takes none. The parser has imported what may be imported; nothing is imported here."""
    made = _known(path)
    ours = path.partition(".")[0] in {name.partition(".")[0] for name in ALLOWED}
    if made is None:
        return
    if ours and (not inspect.isclass(made) or made.__module__.startswith("recfb.contracts.")):
        raise ConfigError(f"{path} is no component. `recfb list` shows those there are.")
    parameters = inspect.signature(made).parameters
    for name, value in given.items():
        if inspect.isroutine(value) and value.__module__.startswith("recfb."):
            raise ConfigError(f"{path}.{name}: {value.__qualname__} is no component, but a verb.")
        if value is None and name in parameters and not takes_null(parameters[name]):
            hint = str(parameters[name].annotation)
            raise ConfigError(f"{path}.{name} takes {hint}, found null. Leave it out.")


def takes_null(parameter: inspect.Parameter) -> bool:
    """Whether None is a value of a parameter; one without a type takes everything."""
    untyped = parameter.annotation is inspect.Parameter.empty
    text = str(parameter.annotation)
    return untyped or parameter.default is None or bool(re.search(r"None|Optional|Any", text))


def _known(path: str) -> Any:
    """What a path names in the modules that are imported already; None where it names nothing."""
    parts = path.split(".")
    for k in range(len(parts) - 1, 0, -1):
        if module := sys.modules.get(".".join(parts[:k])):
            found: Any = module
            for name in parts[k:]:
                found = getattr(found, name, None)
            return found
    return None


def explain(message: str, options: Iterable[str] = ()) -> str:
    """A parser's message in at most three lines: where, what was found, what is allowed."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    text = "\n".join(lines)
    classes = re.findall(r"Problem with given class_path '([^']+)'", text)
    where = classes[-1] if classes else ""
    if found := re.search(r"Importing '([^']+)' is not allowed", text):
        module = found[1].rpartition(".")[0]
        return (
            f"{found[1]} is outside what a configuration may name, so it was not imported.\n"
            f"Allowed are {', '.join(ALLOWED)}.\n"
            f"If you trust it, allow its module: --import {module}"
        )
    if found := re.search(r"Option '([^']+)' is not accepted|nrecognized arguments: (\S+)", text):
        key = (found[1] or found[2]).lstrip("-").partition("=")[0]
        known = _parameters(where) if where else sorted(options)
        subject = where or "This command"
        hint = nearest(key, known)
        shown = ", ".join(known) if len(known) <= 12 else f"{len(known)} options: see --help"
        return f"{subject} has no {key!r}.\nIt takes {shown}.{hint}"
    if found := re.search(r"module '([^']+)' has no attribute '([^']+)'", text):
        known = _public(found[1])
        hint = nearest(found[2], known)
        return f"{found[1]} has no {found[2]!r}.\nIt has {', '.join(known)}.{hint}"
    if found := re.search(r"Expected a dot import path string: (\S+)", text):
        known = [name for room in ROOMS for name in _public(f"recfb.{room}")]
        if found[1] not in (*known, "Recommender"):
            return (
                f"recfb has no class {found[1]!r}.{nearest(found[1], known)}\n"
                "`recfb list` shows them; a class of your own is named by its full path, "
                "module.Class."
            )
    kept = [line for line in lines if not line.startswith(("Problem with", "- ", "Subclass types"))]
    if found := re.fullmatch(r"Expected a dot import path string: (\w+)", " ".join(kept)):
        return f"{found[1]} is of another kind than is wanted here. `recfb list` shows the kinds."
    keys = re.findall(r'Parser key "([^"]+)"', text)
    at = ".".join(part for part in (where, keys[-1] if keys else "") if part and part != "object")
    what = " ".join(line for line in kept if not line.startswith("Parser key"))
    what = what.replace("<class '", "").replace("'>", "").replace("typing.", "")
    return f"{at}: {what}" if at else what


def _parameters(class_path: str) -> list[str]:
    module, _, name = class_path.rpartition(".")
    cls = getattr(import_module(module), name)
    return [key for key in inspect.signature(cls.__init__).parameters if key != "self"]


def _public(module: str) -> list[str]:
    return list(getattr(import_module(module), "__all__", []))
