"""From sums to results: values, intervals, findings and comparisons of every estimator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import polars as pl
import torch
from scipy.special import stdtr
from torch import Tensor

from recfb.contracts import Estimator, Evidence, Finding, Interval, Traits, Verdict
from recfb.estimate import dm
from recfb.evaluation import gates, intervals, needs
from recfb.evaluation.cell import Cell
from recfb.evaluation.estimates import BucketEstimates
from recfb.evaluation.shape import Shape, through, traits
from recfb.evaluation.slates import VIEWS
from recfb.evaluation.state import Facts
from recfb.evaluation.tables import of_items, of_strata
from recfb.evaluation.terms import Terms, moments, residual, reward, weight


@dataclass(frozen=True)
class Settings:
    """What a report is asked for, and what the pass has summed for it."""

    policies: tuple[str, ...]
    estimators: Mapping[str, Estimator]
    seed: int = 0
    interval: str | Interval | None = None
    alpha: float = 0.05
    summed: str | None = None  # the interval whose statistics the pass sums
    shape: Shape = Shape()  # of the log: its loggers, its slots
    ids: pl.Series | None = None  # of the items
    traits: Mapping[str, Traits] = field(init=False)
    terms: Terms = field(init=False)

    def __post_init__(self) -> None:
        shape = replace(self.shape, policies=len(self.policies))
        found = {name: traits(f, shape) for name, f in self.estimators.items()}
        statistics: dict[str, Estimator] = dict(self.estimators)
        for trait in found.values():
            if trait.unshrunk is not None and trait.unshrunk not in statistics.values():
                statistics[f"unshrunk {len(statistics)}"] = trait.unshrunk
        for view in sorted({trait.view for trait in found.values()} | {""}):
            statistics |= {f"moments {view}": through(view, moments)}
            statistics |= {f"weight {view}": through(view, weight)}
        statistics |= {"reward": reward, **needs.statistics(self.summed, self.estimators)}
        for view in sorted({trait.view for trait in found.values() if trait.models}):
            statistics[f"residual {view}"] = through(view, residual)
            statistics[f"model {view}"] = through(view, dm)
        object.__setattr__(self, "traits", found)
        policies = len(self.policies)
        object.__setattr__(self, "terms", Terms(statistics, policies=policies, shape=shape))

    def called(self, item: int) -> str:
        """What an item is called: by its id, or where no vocabulary is known by its number."""
        return f"item {item if self.ids is None else repr(self.ids[item])}"

    @property
    def views(self) -> tuple[str, ...]:
        """The views of the rows that estimators have their weights in, the rows themselves
        first."""
        return tuple(sorted({trait.view for trait in self.traits.values()} | {""}))

    @property
    def models(self) -> bool:
        """Whether an estimator reads a reward model."""
        return any(trait.models for trait in self.traits.values())

    @property
    def weighs(self) -> bool:
        """Whether an estimator reads propensities."""
        return any(trait.weighs for trait in self.traits.values())

    def bounds(self, name: str) -> tuple[str, Interval]:
        """The interval of an estimator, by name and function."""
        if callable(self.interval):
            return getattr(self.interval, "__name__", "custom"), self.interval
        chosen = intervals.method(self.estimators[name], self.traits[name], self.interval)
        return chosen, intervals.function_of(chosen, self.estimators[name])


@dataclass(frozen=True)
class Result:
    """One estimator on one group of rows, for all policies."""

    estimator: str
    estimates: BucketEstimates
    method: str
    lower: Tensor  # (P,)
    upper: Tensor
    ess: Tensor
    findings: tuple[Finding, ...]
    missing: tuple[str, ...]  # a policy: why there is no value, or ""
    interval: Interval  # the function behind `method`

    def verdict(self, policy: int) -> Verdict:
        """The worst finding of a policy decides; no value is not to be used."""
        if self.missing[policy]:
            return "do not use"
        return gates.verdict(f for f in self.findings if f.policy == policy)

    def reasons(self, policy: int) -> str:
        """Why the verdict is what it is, failures first."""
        mine = [f for f in self.findings if f.policy == policy and f.level != "note"]
        mine.sort(key=lambda finding: finding.level != "fail")
        texts = [f"{finding.gate}: {finding.evidence}" for finding in mine]
        if self.lower[policy].isnan() and not self.missing[policy]:
            texts.append(f"no interval: {self._blind()}")
        return "; ".join([self.missing[policy]] * bool(self.missing[policy]) + texts)

    def _blind(self) -> str:
        """Why there is a value and no interval."""
        if self.method in intervals.RANGED and self.estimates.reward_range is None:
            return "declare the range of rewards, reward_range=(low, high)"
        if self.method in intervals.RANGED:
            return "no value in the range agrees with these weights, which should average 1"
        if self.estimates.df < 1:
            return "fewer than two units"
        return "too few units carry the number"


def results(cell: Cell, facts: Facts, settings: Settings) -> Iterator[Result]:
    """Every estimator on one group of rows."""
    assumed = not facts.declared and cell.outside > 0
    floor = facts.floor
    capped = floor is not None and needs.above_floor(cell.low, floor)
    highest = 1 / floor if floor is not None and capped else float("inf")
    for name in settings.estimators:
        estimates = BucketEstimates(
            name,
            settings.terms,
            cell.sums,
            settings.seed,
            None if assumed else facts.reward_range,
            (0.0, highest),
            cell.seq,
        )
        method, interval = settings.bounds(name)
        limits = interval(estimates, settings.alpha)
        evidence = _evidence(estimates, method, limits, cell, facts, settings)
        found = [finding for gate in gates.GATES for finding in gate(evidence)] if cell.n else []
        why = [_why(evidence, cell, k) for k in range(len(settings.policies))]
        gone = [bool(why[k]) for k in range(len(why))]
        kept = tuple(f for f in found if not (gone[f.policy] and f.gate != "G7"))
        blank = torch.where(torch.tensor(gone), torch.nan, 0.0)
        ess = gates.effective(evidence)[0]
        ends = limits[0] + blank, limits[1] + blank
        yield Result(name, estimates, method, *ends, ess, kept, tuple(why), interval)


def _evidence(
    estimates: BucketEstimates,
    method: str,
    limits: tuple[Tensor, Tensor],
    cell: Cell,
    facts: Facts,
    settings: Settings,
) -> Evidence:
    trait = settings.traits[estimates.name]
    return Evidence(
        estimates=estimates,
        traits=trait,
        method=method,
        limits=limits,
        items=of_items(cell.items),
        strata=of_strata(cell.strata, cell.span),
        certain=cell.certain / max(1, cell.n),
        clustered=clustered(estimates, cell.squares),
        absent=cell.unknown == cell.n > 0,
        source=facts.source,
        draws=facts.draws,
        below=cell.below,
        lowest=f"the smallest is {cell.low:.3g} at {cell.where}",
        model=facts.model,
        largest=cell.top[settings.views.index(trait.view)],
        missing=cell.missing / max(1, cell.n + cell.missing),
        called=settings.called,
    )


def clustered(estimates: BucketEstimates, squares: Tensor | None) -> Tensor:
    """The standard errors over those that rows would have as independent ones: (P,).

    Args:
        estimates: of one estimator.
        squares: (P, m, m) products of the columns row by row; without, the answer is NaN.
    """
    if squares is None:
        return torch.full_like(estimates.value, torch.nan)
    used, slope = estimates.terms.gradient(estimates.name, estimates.totals)  # (m', P)
    own = squares[:, used][:, :, used]  # (P, m', m')
    rows = torch.einsum("mp,pmk,kp->p", slope, own, slope).clamp(min=0).sqrt()
    return torch.where(rows > 0, estimates.se() / rows, torch.nan)


def _why(evidence: Evidence, cell: Cell, policy: int) -> str:
    """Why a policy has no value; "" where it has one."""
    if bool(evidence.estimates.value[policy].isfinite()):
        squares = evidence.estimates.stat(through(evidence.traits.view, moments))[1]
        if not evidence.traits.weighs or bool(squares[policy].isfinite()):
            return ""
        return f"the squares of the weights are no numbers: the smallest propensity is {cell.low:g}"
    if cell.n == 0:
        return "no rows" if cell.missing == 0 else "no row has a known reward"
    if evidence.absent and evidence.traits.weighs:
        return "the log has no propensities"
    if "p" not in evidence.traits.fields and "pe" in evidence.traits.fields:
        return "no overlap: the policy is certain of none of the logged items"
    if evidence.traits.view in VIEWS.values():
        return "the policy has no exact probability of these slates"
    if evidence.traits.weighs and bool(_mean_weight(evidence)[policy] == 0):
        return "no overlap: the policy never chooses a logged item"
    return "not defined on these rows"


def _mean_weight(evidence: Evidence) -> Tensor:
    return evidence.estimates.stat(through(evidence.traits.view, weight))


@dataclass(frozen=True)
class Difference:
    """A paired difference of two policies by one estimator."""

    policy: int
    difference: float
    se: float
    lower: float
    upper: float
    lift: float  # relative to the base, with limits by the delta method
    lift_lower: float
    lift_upper: float
    p: float


def differences(result: Result, base: int | None, alpha: float) -> Iterator[Difference]:
    """Every other policy against the base, on the same rows: Student intervals and p-values.

    Without a base: against the logging policy, whose value is the mean reward. An interval whose
    level holds for any number of rows keeps it: limits of both policies at alpha / 2 are subtracted
    (the union bound), and there is no p-value; the logging policy then has no limits.
    """
    estimates = result.estimates
    logged = estimates.about(reward)
    if base is not None or logged is None:
        origin, se = estimates.value[base or 0], estimates.se_diff(base or 0)
        rise = estimates.se_lift(origin, estimates.phi[base or 0])
    else:
        origin, se = logged.value[0], estimates.se_from(logged)
        rise = estimates.se_lift(origin, logged.phi[0])
    gap = estimates.value - origin
    t = intervals.t_quantile(estimates.df, alpha)
    lower, upper = gap - t * se, gap + t * se
    union = result.method in intervals.FINITE
    if union:
        ends = result.interval(estimates, alpha / 2)
        none = torch.full_like(ends[0], torch.nan)
        first, last = (none, none) if base is None else (ends[0][base], ends[1][base])
        lower, upper = ends[0] - last, ends[1] - first
    start = float(origin)
    for k in range(len(gap)):
        d, s = float(gap[k]), float(se[k])
        if k != base:
            p = 1.0 if d == 0 else 2 * float(stdtr(max(1, estimates.df), -abs(d) / s)) if s else 0.0
            lift, wide = (d / start, t * float(rise[k])) if start else (float("nan"),) * 2
            p, wide = (float("nan"),) * 2 if union or s != s else (p, wide)
            low, high = float(lower[k]), float(upper[k])
            yield Difference(k, d, s, low, high, lift, lift - wide, lift + wide, p)


def holm(p: list[float]) -> list[float]:
    """Holm's step-down adjustment; NaN stays and does not count.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted((x, k) for k, x in enumerate(p) if x == x)
    adjusted, worst = [float("nan")] * len(p), 0.0
    for rank, (x, k) in enumerate(order):
        worst = max(worst, min(1.0, (len(order) - rank) * x))
        adjusted[k] = worst
    return adjusted
