"""Parts as units of work: what they are, and how they are mapped."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, TypeVar

import torch
from torch import Tensor, nn

from recfb.contracts import Block, Estimator, Policy
from recfb.data.blocks import unit_column
from recfb.data.door import Problems
from recfb.errors import ConfigError, RecfbError, nearest
from recfb.estimate import ESTIMATORS, GRIDS, LOGGERS, Tuned
from recfb.evaluation.cell_means import cell_counts
from recfb.evaluation.shape import plain
from recfb.evaluation.slates import SLATES
from recfb.evaluation.state import Facts, Faults, order

if TYPE_CHECKING:
    from recfb.data import Log

T = TypeVar("T")
S = TypeVar("S")


class Part(Protocol):
    """The unit of work: some rows of a log, which the data fixes. Picklable."""

    @property
    def name(self) -> str: ...

    def record(
        self,
        problems: Problems,
        unit: str | None = None,
        by: str | None = None,
        *,
        mu: bool = False,
    ) -> Block: ...


def functions_of(estimators: Sequence[str] | Mapping[str, Estimator]) -> dict[str, Estimator]:
    """Estimators by name; unknown names are refused.

    >>> list(functions_of("snips"))
    ['snips']
    """
    if isinstance(estimators, Mapping):
        functions = dict(estimators)
    else:
        names = [estimators] if isinstance(estimators, str) else list(estimators)
        functions = {name: named(name) for name in names}
    slates = [name for name, f in functions.items() if plain(f) in SLATES.values()]
    if 0 < len(slates) < len(functions):
        rest = [name for name in functions if name not in slates]
        raise ConfigError(
            f"{slates} value whole slates and {rest} rows of single items, so their values do not "
            "compare. Evaluate twice."
        )
    return functions


def named(name: str) -> Estimator:
    """An estimator by name; NAME:slope and NAME:mse choose its shrinkage, NAME:mse:split does so on
    one half of the units for the other.

    >>> named("dros:mse").by, named("dros:slope:split").split
    ('mse', True)
    """
    known = {**ESTIMATORS, **LOGGERS, **SLATES}
    first, *how = name.split(":")
    if first not in known:
        raise ConfigError(
            f"estimator {name!r} is none of {list(known)}.{nearest(name, known)} "
            'Your own: estimators={"name": function}.'
        )
    function: Estimator = known[first]  # type: ignore[assignment]  # slates are given SlateRows
    if not how:
        return function
    tunable = [key for key, f in ESTIMATORS.items() if f in GRIDS]
    by, split = how[0], how[1:] == ["split"]
    if by not in ("slope", "mse") or len(how) > 1 + split or first not in tunable:
        example = first if first in tunable else tunable[0]
        raise ConfigError(
            f"estimator {name!r}: the shrinkage of {tunable} is chosen by slope or by mse, as in "
            f'"{example}:slope", or "{example}:slope:split".'
        )
    return Tuned(function, by="mse" if by == "mse" else "slope", split=split)


def count_part(
    part: Part, *, unit: str | None, n_items: int, folds: int, seed: int
) -> tuple[Tensor, Tensor]:
    """`cell_counts` of a part; its problems are found again, and told, by the pass that follows."""
    block = part.record(Problems(), unit)
    return cell_counts(block, folds=folds, seed=seed, n_items=n_items)


def ordered(f: Callable[[S], T], parts: Iterable[S], executor: Executor | None) -> Iterator[T]:
    """In the order of the parts, whoever works on them; some executors take no generator.

    Raises:
        RecfbError: a worker was killed.
    """
    if executor is None:
        yield from map(f, parts)
        return
    try:
        yield from executor.map(f, list(parts))
    except BrokenExecutor as error:
        raise RecfbError(
            "a worker process was killed, often because memory ran out. Give the executor fewer "
            "workers, or leave it out, and start again."
        ) from error


def sorted_parts(log: Log) -> list[Part]:
    """The parts of a log in the order in which states are added up, so that adding up on the way
    changes no bit: file 2 before file 10, wherever they lie."""
    return sorted(log.parts(), key=lambda part: order(part.name))


def door_faults(problems: Problems) -> Faults:
    """What a log's door found, as faults of the pass."""
    return {
        ("log", column, f"{what}. {fix}"): (count, f"row {first:,}")
        for (column, what), (count, first, fix) in problems.found.items()
    }


def facts_of(
    log: Log,
    plan: Facts,
    reward_range: tuple[float, float] | None,
    *,
    unit: str | None,
) -> Facts:
    """What the plan says, with what the log declares."""
    declared = reward_range or log.meta.reward_range
    low, high = declared or (0.0, 1.0)
    return replace(
        plan,
        reward_range=(float(low), float(high)),
        declared=declared is not None,
        source=log.meta.propensity,
        draws=log.meta.draws,
        floor=log.meta.floor,
        unit=unit_column(log, unit),
    )


def digest(policies: Mapping[str, Policy], *words: object) -> str:
    """A name for a plan: of equal words, and of equal weights of the models in its policies."""
    described = {
        name: repr(policy) if isinstance(policy, Policy) else type(policy).__name__
        for name, policy in policies.items()
    }
    hashed = hashlib.blake2b(repr((described, *words)).encode(), digest_size=8)
    for policy in policies.values():
        for name, value in weights_of(policy).items():
            hashed.update(f"{name}{tuple(value.shape)}".encode())
            hashed.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()


def weights_of(policy: object) -> dict[str, Tensor]:
    """The parameters and statistics of a policy and its models; nothing of a model that keeps them
    to itself."""
    try:
        return dict(policy.state_dict()) if isinstance(policy, nn.Module) else {}
    except ConfigError:  # of scikit-learn's
        return {}
