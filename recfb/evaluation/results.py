"""From sums to results: values, intervals, findings and comparisons of every estimator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from scipy.special import stdtr
from torch import Tensor

from recfb.contracts import Estimator, Evidence, Finding, Interval, Traits, Verdict
from recfb.evaluation import gates, intervals
from recfb.evaluation.estimates import BucketEstimates
from recfb.evaluation.state import Cell, Facts
from recfb.evaluation.terms import Terms, moments, residual, traits, weight


@dataclass(frozen=True)
class Settings:
    """What a report is asked for, and what the pass has summed for it."""

    policies: tuple[str, ...]
    estimators: Mapping[str, Estimator]
    seed: int = 0
    interval: str | Interval | None = None
    alpha: float = 0.05
    traits: Mapping[str, Traits] = field(init=False)
    terms: Terms = field(init=False)

    def __post_init__(self) -> None:
        found = {name: traits(f) for name, f in self.estimators.items()}
        statistics: dict[str, Estimator] = dict(self.estimators)
        for trait in found.values():
            if trait.unshrunk is not None and trait.unshrunk not in statistics.values():
                statistics[f"unshrunk {len(statistics)}"] = trait.unshrunk
        statistics |= {"moments": moments, "weight": weight}
        if any(trait.models for trait in found.values()):
            statistics["residual"] = residual
        object.__setattr__(self, "traits", found)
        object.__setattr__(self, "terms", Terms(statistics, policies=len(self.policies)))

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
        return chosen, intervals.INTERVALS[chosen]


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
        blind = self.lower[policy].isnan() and not self.missing[policy]
        if blind and self.estimates.reward_range is None and self.method == "likelihood":
            texts.append("no interval: declare the range of rewards, reward_range=(low, high)")
        elif blind:
            texts.append("no interval: fewer than two units")
        return "; ".join([self.missing[policy]] * bool(self.missing[policy]) + texts)


def results(cell: Cell, facts: Facts, settings: Settings) -> Iterator[Result]:
    """Every estimator on one group of rows."""
    assumed = not facts.declared and cell.outside > 0
    highest = float("inf") if facts.floor is None else 1 / facts.floor
    for name in settings.estimators:
        estimates = BucketEstimates(
            name,
            settings.terms,
            cell.sums,
            settings.seed,
            None if assumed else facts.reward_range,
            (0.0, highest),
        )
        method, interval = settings.bounds(name)
        lower, upper = interval(estimates, settings.alpha)
        evidence = _evidence(estimates, settings.traits[name], method, cell, facts)
        found = [finding for gate in gates.GATES for finding in gate(evidence)] if cell.n else []
        why = [_why(evidence, cell, k) for k in range(len(settings.policies))]
        gone = [bool(why[k]) for k in range(len(why))]
        kept = tuple(f for f in found if not (gone[f.policy] and f.gate != "G7"))
        blank = torch.where(torch.tensor(gone), torch.nan, 0.0)
        ess = gates.effective(evidence)[0]
        yield Result(name, estimates, method, lower + blank, upper + blank, ess, kept, tuple(why))


def _evidence(
    estimates: BucketEstimates, trait: Traits, method: str, cell: Cell, facts: Facts
) -> Evidence:
    return Evidence(
        estimates=estimates,
        traits=trait,
        method=method,
        unsupported=gates.unsupported(cell.mass, cell.seen),
        absent=cell.unknown == cell.n > 0,
        source=facts.source,
        draws=facts.draws,
        below=cell.below,
        lowest=f"the smallest is {cell.low:.3g} at {cell.where}",
        model=facts.model,
    )


def _why(evidence: Evidence, cell: Cell, policy: int) -> str:
    """Why a policy has no value; "" where it has one."""
    if bool(evidence.estimates.value[policy].isfinite()):
        return ""
    if cell.n == 0:
        return "no rows" if cell.missing == 0 else "no row has a known reward"
    if evidence.absent and evidence.traits.weighs:
        return "the log has no propensities"
    if "p" not in evidence.traits.fields and "pe" in evidence.traits.fields:
        return "no overlap: the policy is certain of none of the logged items"
    if evidence.traits.weighs and float(evidence.estimates.stat(weight)[policy]) == 0:
        return "no overlap: the policy never chooses a logged item"
    return "not defined on these rows"


@dataclass(frozen=True)
class Difference:
    """A paired difference of two policies by one estimator."""

    policy: int
    difference: float
    se: float
    lower: float
    upper: float
    lift: float
    p: float


def differences(result: Result, base: int, alpha: float) -> Iterator[Difference]:
    """Every other policy against the base, on the same rows: Student intervals and p-values."""
    estimates = result.estimates
    gap, se = estimates.value - estimates.value[base], estimates.se_diff(base)
    half = intervals.t_quantile(estimates.df, alpha) * se
    start = float(estimates.value[base])
    for k in range(len(gap)):
        d, s, h = float(gap[k]), float(se[k]), float(half[k])
        if k != base:
            p = 1.0 if d == 0 else 2 * float(stdtr(max(1, estimates.df), -abs(d) / s)) if s else 0.0
            lift = d / start if start else float("nan")
            yield Difference(k, d, s, d - h, d + h, lift, p if s == s else float("nan"))


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
