"""YAML as plain data: texts, numbers, lists and mappings. No tags, no aliases, no key twice."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from recfb.errors import ConfigError, PrepareError

DEEPEST = 40
"""Levels of a page, and of what a configuration holds; more are refused."""

_TWO_WAYS = re.compile(r"[-+]?(0[0-9_]+|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)")
_TIMES = "tag:yaml.org,2002:timestamp"


class _Loader(yaml.SafeLoader):
    """Refuses what would be read otherwise than it looks."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        line = f"(line {event.start_mark.line + 1})"
        if isinstance(event, yaml.events.AliasEvent):
            raise ConfigError(
                f"YAML aliases (*name) are not allowed here {line}. Write the value out."
            )
        if getattr(event, "tag", None) is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            raise ConfigError(f"YAML tags ({tag}) are not allowed here {line}. Write plain values.")
        if self.depth > DEEPEST:
            raise ConfigError(
                f"more than {DEEPEST} levels in each other {line}. Write a flat page."
            )
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            line = f"(line {key.start_mark.line + 1})"
            name = self.construct_object(key, deep=True)
            if isinstance(name, bool) or not isinstance(name, (str, int)):
                found = key.value if isinstance(key.value, str) else name
                raise ConfigError(
                    f"a key is a text or a whole number, found {found!r} {line}. Quote it: "
                    f"'{found}': ..."
                )
            if name in seen:
                raise ConfigError(f"the key {name!r} stands twice {line}. Keep one of them.")
            seen.add(name)
        return super().construct_mapping(node, deep)

    def number(self, node: Any) -> Any:
        """A number that has one reading: 010 is 8 in one version of YAML, and 10 in the next."""
        text, line = node.value, node.start_mark.line + 1
        if _TWO_WAYS.fullmatch(text) or len(text) > 400:
            raise ConfigError(
                f"{text[:40]} (line {line}) is read as different numbers by different programs. "
                f"Write it without leading zeros and colons, or quote it as a text: '{text[:40]}'."
            )
        whole = node.tag == "tag:yaml.org,2002:int"
        return self.construct_yaml_int(node) if whole else self.construct_yaml_float(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.number)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.number)
_Loader.add_constructor(_TIMES, yaml.SafeLoader.construct_yaml_str)  # type: ignore[type-var]


def plain(text: str) -> Any:
    """The data of a YAML text.

    >>> plain("{dim: 4, names: [a, b]}")
    {'dim': 4, 'names': ['a', 'b']}

    Raises:
        ConfigError: a tag, an alias, a key twice, or a number that can be read in two ways.
        yaml.YAMLError: it is not YAML.
    """
    return yaml.load(text, Loader=_Loader)


def read_yaml(path: Path) -> Any:
    """Plain data from a YAML file; ConfigError where it is not YAML, PrepareError where it is not
    there."""
    try:
        return plain(path.read_text(encoding="utf-8"))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        first = " ".join(str(error).split())
        raise ConfigError(f"{path} is no plain YAML: {first}") from None
    except OSError as error:
        raise PrepareError(f"cannot read {path}: {error.strerror or error}.") from None
