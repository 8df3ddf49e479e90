"""Coverage of every interval on 2,000 simulated logs a setting, weights with a Pareto tail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import polars as pl
import pytest
import torch
from torch import Tensor

from recfb.estimate import Estimator, Rows, dr, ips, snips
from recfb.evaluation.bounds import OF_WEIGHTS
from recfb.evaluation.estimates import BucketEstimates
from recfb.evaluation.intervals import (
    FINITE,
    INTERVALS,
    basic,
    bootstrap,
    likelihood,
    student,
    studentised,
    t_quantile,
)
from recfb.evaluation.sequences import (
    Pilot,
    bounded_terms,
    candidates,
    log_wealth,
    mixture,
    mixture_limit,
    running_sums,
    wealth_limit,
)
from recfb.evaluation.terms import Terms, accumulate, moments
from recfb.random import stream

LOGS, CHUNK, ALPHA = 2000, 100, 0.05
SIZES = (100, 1000, 10_000)
FLOOR = 0.01  # weights up to 100
BUCKETS = 1024
LEAST = 1 - ALPHA - 0.015  # what intervals with a proof must cover here
LOOKS = sorted({round(10 ** (2 + k / 32)) for k in range(65)})  # rows 100 to 10,000
F64 = torch.float64


@dataclass(frozen=True)
class Design:
    """Two items; the target takes the first, which the logger takes with probability p, where
    P(p < x) = x^a: the weights' tail has the index 1 / (a + 1). A click has probability
    base + slope (1 - p), so that large weights earn more."""

    a: float
    base: float
    slope: float

    @property
    def value(self) -> float:
        """The target's clicks a row."""
        mean = FLOOR ** (1 + self.a) + self.a / (self.a + 1) * (1 - FLOOR ** (self.a + 1))
        return self.base + self.slope * (1 - mean)

    def draw(self, logs: int, n: int, generator: torch.Generator) -> Rows:
        """Logs as lines of (logs, n) columns, with a reward model that knows the mean rate."""
        u, taken, click = torch.rand(3, logs, n, generator=generator, dtype=F64)
        p = (u ** (1 / self.a)).clamp(min=FLOOR)
        first = taken < p  # where the logger takes the other item, the target's weight is 0
        r = torch.where(first, click < self.base + self.slope * (1 - p), click < self.base)
        flat = torch.full_like(p, self.base + self.slope / 2)
        return Rows(r.to(F64), torch.where(first, p, 1 - p), first.to(F64), flat, flat)


DESIGNS = {
    "index .25": Design(3, 0.1, 0.6),
    "index .5": Design(1, 0.1, 0.6),
    "index .67": Design(0.5, 0.1, 0.6),
    "index .5, rare clicks": Design(1, 0.002, 0.02),
}
SHOWN: dict[str, tuple[Estimator, Callable[..., tuple[Tensor, Tensor]]]] = {
    "student of ips": (ips, student),
    "student of snips": (snips, student),
    "student of dr": (dr, student),
    "bootstrap of snips": (snips, bootstrap),
    "basic of snips": (snips, basic),
    "studentised of snips": (snips, studentised),
    "likelihood": (ips, likelihood),
    **{kind: (ips, interval) for kind, interval in OF_WEIGHTS.items()},
}
ORDER = [*SHOWN, "gamma_exponential", "betting"]
Limits = tuple[Tensor, Tensor]


def by_buckets(rows: Rows) -> Iterator[tuple[str, Limits]]:
    """What one pass over each log says: every line of the rows is a log."""
    logs, n = rows.pe.shape
    statistics = {f.__name__: f for f in (ips, snips, dr)} | {"moments": moments}
    terms = Terms(statistics, policies=logs)
    sums = accumulate(terms, rows, torch.arange(n) % BUCKETS, min(n, BUCKETS), chunk=2048)
    for name, (estimator, interval) in SHOWN.items():
        estimates = BucketEstimates(
            estimator.__name__, terms, sums, 0, (0.0, 1.0), (0.0, 1 / FLOOR)
        )
        yield name, interval(estimates, ALPHA)


def mixed(x: Tensor) -> Limits:
    """Limits of the gamma-exponential sequence of terms (2, logs, n)."""
    s, q = running_sums(x).unbind(-1)  # (2, logs)
    limit = mixture_limit(float(x.shape[-1]), s, q, ALPHA / 2)
    return limit[0], 1 - limit[1]


def staked(x: Tensor) -> Limits:
    """Limits of the betting sequence of terms (2, logs, n)."""
    limit = wealth_limit(log_wealth(x.flatten(0, 1), candidates()), ALPHA / 2).view(2, -1)
    return limit[0], 1 - limit[1]


def next_candidate(mean: float) -> Tensor:
    """The candidate at or above a mean: while it is not rejected, the limit is below the mean."""
    grid = candidates()
    return grid[torch.searchsorted(grid, mean)][None]


def wagered(x: Tensor, value: float, start: Pilot | None = None) -> Tensor:
    """Log wealth against the value from both sides: (2, logs, n) -> (2, logs)."""
    both = []
    for side, mean in enumerate((value, 1 - value)):
        begin = start and Pilot(start.n, start.total[side], start.square[side])
        both.append(log_wealth(x[side], next_candidate(mean), begin)[:, 0])
    return torch.stack(both)


@dataclass
class Count:
    """How many logs have an interval, cover the value, and how wide they are."""

    given: int = 0
    covered: int = 0
    width: float = 0.0
    measured: int = 0

    def add(self, limits: Limits, value: float) -> None:
        lower, upper = limits
        here = lower.isfinite() & upper.isfinite()
        self.given += int(here.sum())
        self.covered += int((here & (lower <= value) & (value <= upper)).sum())
        self.width += float((upper - lower)[here].sum())
        self.measured += int(here.sum())


def covered_once(name: str, design: Design, n: int) -> dict[str, Count]:
    """All intervals at the end of logs of n rows."""
    counts = {kind: Count() for kind in ORDER}
    bar = torch.tensor(2 / ALPHA, dtype=F64).log()
    for chunk in range(LOGS // CHUNK):
        rows = design.draw(CHUNK, n, stream(0, name, n, chunk))
        for kind, limits in by_buckets(rows):
            counts[kind].add(limits, design.value)
        x = bounded_terms(rows.w, rows.r, 0.0, 1.0)  # (2, logs, n)
        counts["gamma_exponential"].add(mixed(x), design.value)
        kept = (wagered(x, design.value) < bar).all(0)
        few = CHUNK if n == 100 else max(1, 1000 // n * 10)
        lower, upper = staked(x[:, :few])
        bets = counts["betting"]
        bets.given += CHUNK
        bets.covered += int(kept.sum())
        bets.width += float((upper - lower).sum())
        bets.measured += few
    return counts


def covered_always(name: str, design: Design) -> dict[str, float]:
    """The share of logs whose interval covers the value at every look: the worst stopping rule."""
    always: dict[str, list[Tensor]] = {"student of ips": [], "gamma_exponential": [], "betting": []}
    bar = float(torch.tensor(2 / ALPHA).log())
    for chunk in range(LOGS // CHUNK):
        rows = design.draw(CHUNK, SIZES[-1], stream(0, name, "looks", chunk))
        x = bounded_terms(rows.w, rows.r, 0.0, 1.0)
        ever = {kind: torch.zeros(CHUNK, dtype=torch.bool) for kind in always}
        wealth, sums, at = torch.zeros(2, CHUNK, dtype=F64), x.new_zeros(2, 2, CHUNK), 0
        guess = torch.nn.functional.pad(x.cumsum(-1), (1, 0))[..., :-1] + 0.5
        misses = (x - guess / torch.arange(1, x.shape[-1] + 1)).square().cumsum(-1)
        values = torch.tensor([design.value, 1 - design.value], dtype=F64)[:, None]
        for look in LOOKS:
            piece = x[..., at:look]
            wealth += wagered(piece, design.value, Pilot(at, sums[0], sums[1]))
            sums = sums + torch.stack([piece.sum(-1), piece.square().sum(-1)])
            at = look
            ever["betting"] |= (wealth >= bar).any(0)
            lead = sums[0] - look * values  # (2, logs)
            mix = torch.where(lead > 0, mixture(lead.clamp(min=0), misses[..., look - 1]), 0.0)
            ever["gamma_exponential"] |= (mix >= bar).any(0)
            mean = sums[0, 0] / look
            se = ((sums[1, 0] / look - mean**2) / (look - 1)).sqrt()
            off = (mean - design.value).abs() > t_quantile(look - 1, ALPHA) * se
            ever["student of ips"] |= off
        for kind, missed in ever.items():
            always[kind].append(~missed)
    return {kind: float(torch.cat(parts).double().mean()) for kind, parts in always.items()}


ABOUT = (
    "2,000 simulated logs a setting, nominal 95 %. The target takes one of two items, which the "
    f"logger takes with probability p, P(p < x) = x^a and p >= {FLOOR}: weights up to "
    f"{1 / FLOOR:.0f} with a Pareto tail of index 1 / (a + 1), and a click is likelier where the "
    "weight is large. Rewards lie in (0, 1); the floor is declared. Hoeffding, Bernstein and the "
    "two sequences hold by proof, the others as n grows: the table says where it is not yet large "
    "enough. `*`: the share of the logs that have the interval (with few clicks `studentised` is "
    "often null). `betting` is judged at the candidate next to the value; its width is a mean over "
    "the first logs."
)


def wide(
    counts: dict[tuple[str, int], dict[str, Count]], cell: Callable[[Count], str]
) -> pl.DataFrame:
    """One line an interval, one column a setting."""
    columns = {f"n = {n:,}": found for (_, n), found in counts.items()}
    return pl.DataFrame(
        [
            {"interval": kind, **{title: cell(found[kind]) for title, found in columns.items()}}
            for kind in ORDER
        ]
    )


def covered(count: Count) -> str:
    """The coverage, with how many logs have an interval where not all have."""
    if count.given == 0:
        return "none"
    share = "" if count.given == LOGS else f" *{count.given / LOGS:.2f}"
    return f"{count.covered / count.given:.3f}{share}"


def mean_width(count: Count) -> str:
    return f"{count.width / count.measured:.4f}" if count.measured else ""


@pytest.mark.claims
def test_coverage(page: Callable[..., None]) -> None:
    assert set(INTERVALS) == {kind.partition(" of ")[0] for kind in ORDER}
    tables: dict[str, pl.DataFrame] = {}
    every: dict[tuple[str, int], dict[str, Count]] = {}
    for name, design in DESIGNS.items():
        mine = {(name, n): covered_once(name, design, n) for n in SIZES}
        every |= mine
        head = f"{ABOUT}\n\nCoverage" if not tables else "Coverage"
        tables[f"{head}, tail {name}, value {design.value:.4f}:"] = wide(mine, covered)
        tables[f"Mean width, tail {name}:"] = wide(mine, mean_width)
    looks = {name: covered_always(name, design) for name, design in DESIGNS.items()}
    tables[
        "Optional stopping: the share of logs whose interval covers the value at each of 65 looks "
        "between rows 100 and 10,000, which is the coverage of whoever waits for a miss:"
    ] = pl.DataFrame(
        [
            {"interval": kind, **{name: f"{looks[name][kind]:.3f}" for name in looks}}
            for kind in ("student of ips", "gamma_exponential", "betting")
        ]
    )
    page("coverage", "How often intervals cover the value", tables)
    for (name, n), found in every.items():
        for kind in FINITE:
            assert found[kind].covered >= LEAST * LOGS, (kind, name, n)
    for name, shares in looks.items():
        assert shares["betting"] >= LEAST and shares["gamma_exponential"] >= LEAST, name
        assert shares["student of ips"] < 0.9, name
    for kind in ORDER:
        easy = every["index .25", 10_000][kind]
        assert easy.covered >= 0.93 * LOGS, kind
