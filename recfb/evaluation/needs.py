"""What estimators and intervals need of the plan and of the log, and what to know of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from recfb.errors import ConfigError, LogError, nearest
from recfb.estimate import Estimator, dr, replay
from recfb.evaluation.bounds import OF_MATCHES, OF_MODELS, OF_WEIGHTS, doubly, matches
from recfb.evaluation.cell import Cell
from recfb.evaluation.intervals import INTERVALS, RANGED, applies
from recfb.evaluation.sequences import SEQUENCES
from recfb.evaluation.state import Facts

Estimators = Mapping[str, Estimator]


def check_interval(kind: str | None, estimators: Estimators) -> None:
    """A `ConfigError` for an interval that does not exist, or is for none of the estimators."""
    if kind is None:
        return
    if kind not in INTERVALS:
        names = list(INTERVALS)
        raise ConfigError(f"interval={kind!r} is none of {names}.{nearest(kind, names)}")
    if not any(applies(kind, f) for f in estimators.values()):
        names = ["ips", "snips", "el"]
        names += ["replay"] * (kind in OF_MATCHES) + ["dr"] * (kind in OF_MODELS)
        raise ConfigError(
            f"interval={kind!r} is for {names}, found estimators {list(estimators)}. "
            'Try estimators=["ips"].'
        )


def statistics(kind: str | None, estimators: Estimators) -> dict[str, Estimator]:
    """What a pass must sum for an interval beside what it always sums."""
    found: dict[str, Estimator] = {}
    if kind in OF_MATCHES and replay in estimators.values():
        found["matches"] = matches
    if kind in OF_MODELS and dr in estimators.values():
        found["doubly"] = doubly
    return found


def collected(kind: str | None, estimators: Estimators) -> str:
    """What a state has because of its plan's interval, in a word: states add up where it is
    equal."""
    return kind if kind in SEQUENCES and kind else " ".join(statistics(kind, estimators))


def check_asked(kind: object, alpha: float, plan: str | None, estimators: Estimators) -> None:
    """A `ConfigError` where a report asks for what there is not, or the plan has not summed."""
    if not 0 < alpha < 1:
        raise ConfigError(f"alpha is the error rate of the intervals, found {alpha}. Try 0.05.")
    if not isinstance(kind, str):
        return
    check_interval(kind, estimators)
    wanted = collected(kind, estimators)
    if wanted and wanted != collected(plan, estimators):
        raise ConfigError(
            f"interval={kind!r} reads statistics that this plan does not sum. Say it before the "
            f"pass: Evaluation(..., interval={kind!r})."
        )


def check_propensities(estimators: Estimators, cells: Mapping[str, Cell]) -> None:
    """Some rows without a propensity cannot be weighed, and leaving them out would be a choice."""
    n = sum(cell.n for cell in cells.values())
    unknown = sum(cell.unknown for cell in cells.values())
    if 0 < unknown < n:
        raise LogError(
            f"{unknown:,} of {n:,} rows have no propensity, and {list(estimators)} read it. "
            'Leave them out: log.filter(pl.col("propensity").is_not_null()), or ask for '
            'estimators=["dm", "replay"].'
        )


def check_declared(
    kind: str, estimators: Estimators, facts: Facts, cells: Mapping[str, Cell]
) -> None:
    """A `ConfigError` where an interval that was asked for lacks a declaration."""
    if kind not in RANGED:
        return
    outside = sum(cell.outside for cell in cells.values())
    if outside and not facts.declared:
        raise ConfigError(
            f"interval={kind!r} needs the range of rewards: {outside:,} rows lie outside (0, 1) "
            "and none is declared. Type reward_range=(low, high), the least and the largest that "
            "could occur."
        )
    if kind in OF_WEIGHTS and any(
        applies(kind, f) and f is not replay for f in estimators.values()
    ):
        _check_floor(kind, facts, min((cell.low for cell in cells.values()), default=1.0))
    if kind in OF_MODELS and dr in estimators.values():
        _check_predictions(kind, facts, cells)


def _check_floor(kind: str, facts: Facts, low: float) -> None:
    """The largest weight that could occur is 1 / the smallest propensity that could."""
    if facts.floor is None:
        raise ConfigError(
            f"interval={kind!r} needs the largest weight that could occur, and the log does not "
            "declare the smallest propensity of its logger. Type meta=Meta(floor=0.01), or ask for "
            "interval='likelihood', 'gamma_exponential' or 'betting', which need none."
        )
    if not above_floor(low, facts.floor):
        raise ConfigError(
            f"interval={kind!r} needs the smallest propensity that could occur: "
            f"{facts.floor:g} is declared and {low:g} was logged. Correct Meta(floor=...)."
        )


def _check_predictions(kind: str, facts: Facts, cells: Mapping[str, Cell]) -> None:
    """The terms of dr have a range where all predicted rewards lie in that of the rewards."""
    beyond = [cell.beyond for cell in cells.values() if cell.n]
    if None in beyond:
        raise ConfigError(
            f"interval={kind!r} bounds dr where predicted rewards lie in the range of rewards, and "
            "rows that were reduced elsewhere do not say. Evaluate the log, or ask for "
            'estimators=["snips"].'
        )
    far = sum(count for count in beyond if count is not None)
    if far:
        low, high = facts.reward_range
        raise ConfigError(
            f"interval={kind!r} bounds dr only where all predicted rewards lie in ({low:g}, "
            f"{high:g}), and those of {far:,} rows do not. Take a reward model that keeps to the "
            'range, CrossFit(model, link="sigmoid"), or leave dr out: estimators=["snips"].'
        )


def above_floor(low: float, floor: float) -> bool:
    """Whether the smallest logged propensity agrees with the declared one, up to rounding."""
    return low >= floor * (1 - 1e-6)


def notes(kind: object, shown: set[str], estimators: Estimators, facts: Facts) -> Iterator[str]:
    """What the intervals of a report assume: `kind` was asked for, `shown` are used."""
    if isinstance(kind, str):
        others = [name for name, f in estimators.items() if not applies(kind, f)]
        if others:
            yield f"{', '.join(others)}: not what {kind} bounds, so they keep their own interval."
    ranged = ", ".join(sorted(shown & RANGED))
    if ranged and not facts.declared:
        yield f"{ranged}: rewards are taken to lie in (0, 1); if they may not, say reward_range=."
    if kind in OF_MODELS and dr in estimators.values() and facts.model == "cross-fitted":
        yield f"{kind}: terms of dr count as independent; with a cross-fitted model only by fold."
    if ranged and facts.unit:
        yield f"{ranged}: rows count as independent; too narrow if those of a {facts.unit} agree."
