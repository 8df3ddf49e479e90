"""Runs that were interrupted: what is kept of them on the way, and how they go on.

Only tensors, numbers, texts and containers of them are written, and they are read as such: a state
is put back into the objects that the same world and policy make anew.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import pickle
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recfb.contracts import Policy, describe, hyperparameters
from recfb.data.product import alone, atomic_file, damage, refuse_existing, writing
from recfb.errors import ConfigError, PrepareError

PLAIN = (bool, int, float, str, type(None))
RUN = "run.json"
FORMAT = 2
"""Of states. A run goes on from its own only; a change of what they hold is a new number."""


class Unsaved(Exception):
    """A policy holds something that is no plain data, so it cannot be kept on the way."""


def pack(value: Any) -> Any:
    """A state as tensors, numbers, texts, lists and dictionaries.

    >>> from recfb.contracts import Context
    >>> pack(Context(torch.tensor([3]), time=2))["time"]
    2
    """
    if isinstance(value, (Tensor, *PLAIN)):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: pack(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): pack(item) for key, item in value.items()}
    if isinstance(value, frozenset):
        return {"frozenset": pack(sorted(value))}
    if isinstance(value, (tuple, list)):
        return [pack(item) for item in value]
    raise Unsaved(type(value).__name__)


def unpack(like: Any, data: Any) -> Any:
    """What `pack` made, put back into the types of another state of the same kind.

    >>> from recfb.contracts import Context
    >>> fresh = Context(torch.tensor([0]))
    >>> unpack(fresh, pack(Context(torch.tensor([3]), time=2))).time
    2
    """
    if isinstance(data, dict) and data.keys() == {"frozenset"}:
        return frozenset(data["frozenset"])
    if dataclasses.is_dataclass(like) and not isinstance(like, type) and isinstance(data, dict):
        values = {name: unpack(getattr(like, name), item) for name, item in data.items()}
        return dataclasses.replace(like, **values)
    if isinstance(data, dict):
        named = like if isinstance(like, Mapping) else {}
        return {key: unpack(named.get(key), item) for key, item in data.items()}
    if isinstance(data, list):
        known = like if isinstance(like, (tuple, list)) else ()
        each = [unpack(known[k] if k < len(known) else None, x) for k, x in enumerate(data)]
        if hasattr(like, "_fields"):
            return type(like)(*each)
        return each if isinstance(like, list) else tuple(each)
    return data


def policy_state(policy: Policy) -> dict[str, Any]:
    """All tensors of a policy and of what is inside it, and its numbers and texts. What begins
    with an underscore is left out: it can be made again.

    Raises:
        Unsaved: it holds something else that its constructor was not given.
    """
    found: dict[str, Any] = {}
    for path, module in policy.named_modules():
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        given = _given(module)
        plain = {}
        for name, value in vars(module).items():
            if name.startswith("_") or name in given or isinstance(value, nn.Module):
                continue
            if name not in BUILT_IN:
                plain[name] = pack(value)
        found[path] = {"tensors": {name: x.detach() for name, x in own}, "plain": plain}
    return found


def load_policy(policy: Policy, data: Mapping[str, Any]) -> None:
    """Put a state back into a policy that was just bound and reset."""
    for path, module in policy.named_modules():
        saved = data[path]
        for name, value in saved["tensors"].items():
            if name in module._parameters:
                with torch.no_grad():
                    module.get_parameter(name).copy_(value)
            else:
                module._buffers[name] = value
        for name, value in saved["plain"].items():
            setattr(module, name, unpack(vars(module).get(name), value))


BUILT_IN = frozenset(vars(nn.Module()))


def _given(module: nn.Module) -> frozenset[str]:
    """What the constructor was given and never changes."""
    try:
        return frozenset(hyperparameters(module))
    except ConfigError:
        return frozenset()


@contextmanager
def unfinished(out: Path, run: Mapping[str, Any]) -> Iterator[Path]:
    """The folder of a run on its way, `out/.unfinished`: kept if the process or one of its workers
    is killed, or the disk is full, so that the same run can go on from it; removed at the end, and
    after any other error.

    Raises:
        PrepareError: the run is there already, or half of another; another process is at it; the
            disk is full.
    """
    folder = out / ".unfinished"
    again = f"The run so far is kept: make room and run it again, or remove it: rm -r {folder}"
    with writing(folder), alone(folder):
        _sweep(folder)
        refuse_existing(out / "log", *([] if folder.exists() else [out / "truth"]))
        _claim(folder, run)
        try:
            with writing(folder, again):
                yield folder
        except (PrepareError, BrokenExecutor):
            raise
        except Exception:
            remove(folder)
            raise
        remove(folder)


def _claim(folder: Path, run: Mapping[str, Any]) -> None:
    """Make the folder of a run, or make sure that it is of this one."""
    said = json.dumps({"format": FORMAT, **run}, sort_keys=True)
    text = json.dumps(hashlib.sha256(said.encode()).hexdigest())
    page = folder / RUN
    if folder.exists() and (not page.exists() or page.read_bytes() != text.encode()):
        raise PrepareError(
            f"{folder} is of an interrupted run with other settings, or of another version of "
            "recfb. Choose another folder, or "
            f"remove it: rm -r {folder}"
        )
    for kind in ("log", "truth"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    with atomic_file(page) as part:
        part.write_text(text)


def _sweep(folder: Path) -> None:
    """Take away what is left of a folder whose removal was interrupted: it has no page."""
    if folder.is_dir() and not (folder / RUN).exists():
        names = [path.name for path in folder.iterdir()]
        if all(name in ("log", "truth") or name.startswith("state-") for name in names):
            shutil.rmtree(folder)


def remove(folder: Path) -> None:
    """Remove the folder of a run; first its page, so that nobody goes on from the rest of it."""
    (folder / RUN).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def save(path: Path, data: Mapping[str, Any]) -> None:
    """Write a state, whole or not at all."""
    buffer = io.BytesIO()
    torch.save(dict(data), buffer)
    with atomic_file(path) as part:
        part.write_bytes(buffer.getbuffer())


def load(path: Path, device: str) -> dict[str, Any] | None:
    """Read a state; None where there is none.

    Raises:
        PrepareError: it is damaged, or holds what would run when it is read.
    """
    if not path.exists():
        return None
    wrong, data = damage(path), {}
    if wrong is None:
        try:
            data = torch.load(path, map_location=device, weights_only=True)
        except (pickle.UnpicklingError, RuntimeError):
            wrong = "it holds more than plain data"
    if wrong is not None:
        raise PrepareError(f"cannot go on from {path}: {wrong}. Begin anew: rm -r {path.parent}")
    return data


def settings(**values: Any) -> dict[str, Any]:
    """What makes two runs the same run, as plain data; what cannot be described, as it is shown."""
    found = {}
    for name, value in values.items():
        try:
            found[name] = describe(value)
        except ConfigError:
            found[name] = repr(value)
    return found
