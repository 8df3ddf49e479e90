"""Parts as units of work: what they are, and how they are mapped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from typing import Protocol, TypeVar

from torch import Tensor

from recfb.contracts import Block, Estimator
from recfb.data.door import Problems
from recfb.errors import ConfigError, nearest
from recfb.estimate import ESTIMATORS
from recfb.evaluation.cells import cell_counts
from recfb.evaluation.state import Faults

T = TypeVar("T")
S = TypeVar("S")


class Part(Protocol):
    """The unit of work: some rows of a log, which the data fixes. Picklable."""

    @property
    def name(self) -> str: ...

    def record(
        self, problems: Problems, unit: str | None = None, by: str | None = None
    ) -> Block: ...


def functions_of(estimators: Sequence[str] | Mapping[str, Estimator]) -> dict[str, Estimator]:
    """Estimators by name; unknown names are refused.

    >>> list(functions_of("snips"))
    ['snips']
    """
    if isinstance(estimators, Mapping):
        return dict(estimators)
    names = [estimators] if isinstance(estimators, str) else list(estimators)
    for name in names:
        if name not in ESTIMATORS:
            raise ConfigError(
                f"estimator {name!r} is none of {list(ESTIMATORS)}.{nearest(name, ESTIMATORS)} "
                'Your own: estimators={"name": function}.'
            )
    return {name: ESTIMATORS[name] for name in names}


def count_part(
    part: Part, *, unit: str | None, n_items: int, folds: int, seed: int
) -> tuple[Tensor, Tensor]:
    """`cell_counts` of a part; its problems are found again, and told, by the pass that follows."""
    block = part.record(Problems(), unit)
    return cell_counts(block, folds=folds, seed=seed, n_items=n_items)


def ordered(f: Callable[[S], T], parts: Iterable[S], executor: Executor | None) -> Iterator[T]:
    """In the order of the parts, whoever works on them."""
    return map(f, parts) if executor is None else executor.map(f, parts)


def door_faults(problems: Problems) -> Faults:
    """What a log's door found, as faults of the pass."""
    return {
        ("log", column, f"{what}. {fix}"): (count, f"row {first:,}")
        for (column, what), (count, first, fix) in problems.found.items()
    }
