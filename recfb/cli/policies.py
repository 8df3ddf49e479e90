"""A page of policies: which to evaluate, which logged, and what predicts rewards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from recfb.config import ROOMS, build, refuse_smuggling
from recfb.contracts import Fitted, Model, Policy
from recfb.data.plain import read_yaml
from recfb.errors import ConfigError, nearest
from recfb.store import load

SECTIONS = ("policies", "loggers", "reward_model")
SPEC = ("class_path", "init_args")
SHORT = (*ROOMS, "evaluation", "interop.sklearn")
"""Where classes are looked up that are named without a module."""


@dataclass(frozen=True)
class Page:
    """What a page says, built."""

    described: dict[str, Any]
    policies: dict[str, Policy]
    loggers: dict[int, Policy] | None
    reward_model: Model | None
    runs: dict[str, Fitted]  # the fitted models in it, by folder


def read_page(path: Path, modules: Sequence[str] = ()) -> Page:
    """Read a page: policies by name, or sections of them.

    A policy is {class_path, init_args}; anywhere in it {run: FOLDER} is the model that `recfb fit
    --name` or `recfb.save` wrote. {run: FOLDER, epsilon: 0.1} alone is `Ranked` of that model. The
    sections are `policies`, `loggers` (by their number in the column `logger`) and `reward_model`.

    Raises:
        ConfigError: an unknown key, with the nearest one; a class or a value that is not allowed.
        PrepareError: a page or a run that cannot be read.
    """
    described: Any = read_yaml(path)
    refuse_smuggling(described)
    if not isinstance(described, dict) or not described:
        raise ConfigError(f"{path} has no policies. One a line: name: {{class_path: Uniform}}")
    sections = described if set(described) & set(SECTIONS) else {"policies": described}
    for key in sections:
        if key not in SECTIONS:
            raise ConfigError(
                f"{path} has no section {key!r}; sections are {', '.join(SECTIONS)}."
                f"{nearest(str(key), SECTIONS)}"
            )
    builder = _Builder(path, tuple(modules), {})
    policies = {str(k): builder.policy(k, spec) for k, spec in _named(sections, "policies", path)}
    loggers = {
        builder.number(k): builder.policy(k, v) for k, v in _named(sections, "loggers", path)
    }
    spec = sections.get("reward_model")
    model = None if spec is None else build(Model, builder.filled(spec), modules)
    return Page(described, policies, loggers or None, model, builder.runs)


def _named(sections: dict[str, Any], key: str, path: Path) -> list[tuple[Any, Any]]:
    found = sections.get(key)
    if found is not None and not isinstance(found, dict):
        raise ConfigError(f"{path}: {key} is a policy a line, name: {{class_path: Uniform}}")
    return list((found or {}).items())


@dataclass(frozen=True)
class _Builder:
    path: Path
    modules: tuple[str, ...]
    runs: dict[str, Fitted]

    def number(self, key: Any) -> int:
        if not isinstance(key, int):
            raise ConfigError(
                f"{self.path}: loggers are named by their number in the column logger, found "
                f"{key!r}. For example  0: {{class_path: Uniform}}"
            )
        return key

    def policy(self, name: Any, spec: Any) -> Policy:
        """A policy from its entry."""
        keys = list(spec) if isinstance(spec, dict) else []
        if not {"class_path", "run"} & set(keys):
            raise ConfigError(
                f"{self.path}: {name!r} is a policy by class_path or by run, found "
                f"{keys or spec!r}.{nearest(str(name), SECTIONS)}"
            )
        if "run" in spec:
            rest = {key: value for key, value in spec.items() if key != "run"}
            model = {"model": {"run": spec["run"]}}
            spec = {"class_path": "Ranked", "init_args": {**model, **rest}}
        return build(Policy, self.filled(spec), self.modules)

    def filled(self, value: Any) -> Any:
        """The same, with models in the place of {run: FOLDER} and full names of classes."""
        if isinstance(value, list):
            return [self.filled(item) for item in value]
        if not isinstance(value, dict):
            return value
        if "run" in value:
            self._check(value, ("run",))
            return self._run(str(value["run"]))
        if "class_path" in value:
            self._check(value, SPEC)
            value = {**value, "class_path": full_name(str(value["class_path"]))}
        return {key: self.filled(item) for key, item in value.items()}

    def _check(self, value: dict[str, Any], known: Sequence[str]) -> None:
        for key in value:
            if key not in known:
                raise ConfigError(
                    f"{self.path}: {key!r} does not go with {known[0]}, which takes "
                    f"{', '.join(known)}.{nearest(str(key), known)}"
                )

    def _run(self, folder: str) -> Fitted:
        if folder not in self.runs:
            self.runs[folder] = load(folder, modules=self.modules)
        return self.runs[folder]


def full_name(name: str) -> str:
    """The path of a class that is named without one, where recfb has it.

    >>> full_name("Uniform"), full_name("CrossFit"), full_name("mine.Own")
    ('recfb.policies.Uniform', 'recfb.evaluation.CrossFit', 'mine.Own')
    """
    rooms = [f"recfb.{room}" for room in SHORT] if "." not in name else []
    found = (room for room in rooms if name in import_module(room).__all__)
    return next((f"{room}.{name}" for room in found), name)


def vocabulary_of(runs: dict[str, Fitted]) -> Fitted | None:
    """The fitted model whose users and items the log has to be read with; None without any.

    Raises:
        ConfigError: models of different users or items, which no log can be read for at once.
    """
    folders = list(runs)
    for folder in folders[1:]:
        if runs[folder].vocabulary.digest != runs[folders[0]].vocabulary.digest:
            raise ConfigError(
                f"{folders[0]} and {folder} were fitted to different users or items, so one log "
                "cannot be read for both. Evaluate them one after the other."
            )
    return next(iter(runs.values()), None)
