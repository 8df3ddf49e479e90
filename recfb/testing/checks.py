"""Which checks fit a thing, and those that fit every component."""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
from collections.abc import Callable, Iterator
from typing import Any, get_type_hints

import polars as pl
import torch
import yaml
from torch import Tensor

from recfb.config import build
from recfb.contracts import (
    Component,
    Exposure,
    Fitted,
    Objective,
    Policy,
    Sampler,
    Scorer,
    World,
    describe,
)
from recfb.data.log import Log
from recfb.errors import ConfigError, UnboundError
from recfb.random import stream
from recfb.testing import acting, learning
from recfb.testing.outcome import FEATURES, outcome, ready, same, widened

Check = Callable[[Any, Log], None]


def example_log() -> Log:
    """12 users x 9 items with propensities, times, positions, slates and features; item 8 is never
    clicked.

    >>> example_log().clicks.per_item.tolist()[-1]
    0
    """
    user, item = torch.meshgrid(torch.arange(12), torch.arange(9), indexing="ij")
    shown = ((user * 5 + item * 7) % 4 != 0).flatten()
    user, item = user.flatten()[shown], item.flatten()[shown]
    clicked = ((user + item) % 2 == 0) & (user >= item) & (item != 8)
    rows = {
        "user": user,
        "item": item,
        "reward": clicked.float(),
        "propensity": 0.2 + 0.6 * ((item * 3 + user) % 5).double() / 5,
        "time": torch.arange(len(user)),
        "position": ((user + item) % 3 + 1).to(torch.int16),
        "slate": user * 3 + item // 3,
        "features": FEATURES[user],
    }
    return Log.of(pl.DataFrame({k: v.numpy() for k, v in rows.items()}), n_users=12, n_items=9)


def check(thing: Any, log: Log | None = None) -> None:
    """Run every check that fits a component on a log; the example log without one.

    >>> from recfb.policies import Uniform
    >>> check(Uniform())

    Raises:
        AssertionError: the first check that fails, by name.
    """
    for run in checks(thing).values():
        run(thing, example_log() if log is None else log)


def checks(thing: Any) -> dict[str, Check]:
    """The checks that fit a component, by name."""
    found: list[Check] = [check_configuration, check_repr, check_same_seed]
    if not isinstance(thing, World):
        found += [check_unbound, check_state_dict, check_bind_twice, check_input_is_unchanged]
    for kind, more in (
        (Scorer, learning.SCORER),
        (Fitted, learning.FITTED),
        (Sampler, learning.SAMPLER),
        (Exposure, learning.EXPOSURE),
        (Objective, learning.OBJECTIVE),
        (Policy, acting.POLICY),
        (World, acting.WORLD),
    ):
        if isinstance(thing, kind):
            found += more
    return {run.__name__: _named(run) for run in found}


def _named(run: Check) -> Check:
    def named(thing: Any, log: Log) -> None:
        try:
            with torch.set_grad_enabled(run is learning.check_losses):
                run(copy.deepcopy(thing), log)
        except AssertionError as error:
            raise AssertionError(f"{run.__name__}: {type(thing).__name__}: {error}") from error

    named.__name__ = run.__name__
    return named


def check_configuration(thing: Any, log: Log) -> None:
    """What `describe` writes, YAML and `build` give back."""
    page = yaml.safe_load(yaml.safe_dump(describe(thing)))
    module = type(thing).__module__
    again = build(type(thing), page, modules=[] if module.startswith("recfb.") else [module])
    assert describe(again) == describe(thing), f"{describe(again)} is not {describe(thing)}"


def check_repr(thing: Any, log: Log) -> None:
    """The repr is the call that makes it."""
    assert repr(thing).startswith(f"{type(thing).__name__}("), f"the repr is {thing!r}"


def check_unbound(thing: Any, log: Log) -> None:
    """What `bind` allocates raises UnboundError before."""
    for name in _allocated(thing):
        try:
            getattr(thing, name)
        except UnboundError:
            continue
        raise AssertionError(f"{name!r} can be read before bind; allocate it in bind(log)")


def _allocated(thing: Component) -> Iterator[str]:
    """Tensors that are annotated in the class body, so that `bind` makes them."""
    for base in type(thing).__mro__:
        if not issubclass(base, Component) or base in (Component, Policy, Scorer, World):
            continue
        hints = get_type_hints(base)
        for name in inspect.get_annotations(base):
            if hints.get(name) in (Tensor, torch.nn.Parameter):
                yield name


def check_same_seed(thing: Any, log: Log) -> None:
    """Equal seeds give equal numbers, and nothing is drawn from torch's global generator."""
    before = torch.random.get_rng_state()
    first, second = (outcome(ready(copy.deepcopy(thing), log, seed=3), log, seed=4) for _ in "ab")
    assert same(first, second), "two runs with one seed differ"
    untouched = torch.equal(before, torch.random.get_rng_state())
    assert untouched, "a number was drawn from torch's global generator; use the one given"


def check_state_dict(thing: Any, log: Log) -> None:
    """The weights survive a file that is read with weights_only=True."""
    source = ready(copy.deepcopy(thing), log, seed=1)
    buffer = io.BytesIO()
    torch.save(source.state_dict(), buffer)
    buffer.seek(0)
    target = copy.deepcopy(thing).bind(log)
    target.reset(stream(2, "other"))
    target.load_state_dict(torch.load(buffer, weights_only=True))
    assert same(outcome(source, log, seed=4), outcome(target, log, seed=4)), "the output changed"


def check_bind_twice(thing: Any, log: Log) -> None:
    """Binding again gives the shapes of the new log, without a trace of the old one."""
    wide = widened(log.with_frame(log.frame.clear()), users=3, items=2)
    twice = copy.deepcopy(thing)
    with contextlib.suppress(ConfigError):  # a table that was given for this log refuses another
        twice.bind(wide)
    twice.bind(log)
    once = copy.deepcopy(thing).bind(log)
    for part in (twice, once):
        part.reset(stream(1, "values"))
    shapes = [{k: v.shape for k, v in part.state_dict().items()} for part in (twice, once)]
    assert shapes[0] == shapes[1], f"{shapes[0]} after binding twice, {shapes[1]} after once"


def check_input_is_unchanged(thing: Any, log: Log) -> None:
    """A log is immutable: using a component does not write into its tensors."""
    before = {name: log.tensor(name).clone() for name in ("user", "item", "reward")}
    outcome(ready(copy.deepcopy(thing), log, seed=0), log, seed=0)
    for name, value in before.items():
        assert torch.equal(value.nan_to_num(-1), log.tensor(name).nan_to_num(-1)), f"{name} changed"
