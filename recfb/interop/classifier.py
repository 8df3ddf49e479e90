"""Importance weights by a classifier, for logs without propensities."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace

import polars as pl
import torch
from torch import Tensor

from recfb.contracts import Block, Interval, Model, Policy, check_probs, sample_cdf
from recfb.data import Log, Meta
from recfb.estimate import Rows
from recfb.evaluate import Evaluation
from recfb.evaluation.crossfit import CrossFit, Learner, solved
from recfb.evaluation.reduction import BLOCK, known_rows, unknown_rows
from recfb.evaluation.report import Report
from recfb.evaluation.state import State
from recfb.evaluation.tables import Items, strata
from recfb.interop.design import rows_of
from recfb.interop.sklearn import Reward
from recfb.random import stream

KEPT = ("user", "item", "time", "features", "available", "history", "position")
"""Columns of the rows that a classifier may look at."""


def odds(c: Tensor, n: int) -> Tensor:
    """The weight w = c / (1 - c) that a classifier says: c is the probability that an item was
    drawn by the target and not logged, given the request. With equal counts of both, c = pi / (pi +
    mu), so that w = pi / mu.

    Sondhi, Arbour and Dimmery, "Balanced off-policy evaluation in general action spaces" (2020).

    Args:
        c: probabilities; at most 1 - 1/n of each counts, so that w is at most n - 1.
        n: rows of the log.

    >>> odds(torch.tensor([0.5, 0.75, 1.0]), 11).round(decimals=4).tolist()
    [1.0, 3.0, 10.0]
    """
    c = c.clamp(0, 1 - 1 / n)
    return c / (1 - c)


@dataclass(frozen=True)
class Weighted:
    """Weights of policies on the rows of a log, and what they make of its rewards.

    Attributes:
        values: (P, n) the weights of all rows, one line a policy.
        plan: what made the state.
        state: sums of the rows with a known reward; states of several logs add up.
    """

    values: Tensor
    plan: Evaluation
    state: State

    def report(
        self,
        *,
        interval: str | Interval | None = None,
        alpha: float = 0.05,
        base: str | None = None,
    ) -> Report:
        """Values of the policies, sum w r / sum w: `snips`, with its interval and its gates."""
        return self.plan.report(self.state, interval=interval, alpha=alpha, base=base)


def weights(
    log: Log,
    policies: Mapping[str, Policy],
    model: Model | Learner | None = None,
    *,
    folds: int = 3,
    unit: str | None = None,
    seed: int = 0,
    executor: Executor | None = None,
) -> Weighted:
    """Weights pi / mu of logged items that need no propensity: a classifier tells logged pairs
    (request, item) from pairs whose item the policy has drawn, and w = c / (1 - c).

    Each row's weight is by a classifier that did not see its unit. An item that the policy never
    plays has the weight 0. Values are self-normalised and never unbiased: they are right where the
    classifier is, and gate G7 warns, since the interval leaves its error out. It is wrong where the
    logger looked at what the log does not have; no number here can tell. Where a policy plays what
    was never logged, gate G5 says how much of it. With propensities, `recfb.evaluate` is better.

    Rows are read into memory.

    Args:
        log: rows with item and reward; propensities are not read.
        policies: name -> policy; each is told apart from the log by classifiers of its own.
        model: of E[label | request, item], the label 1 for drawn pairs: anything that a `CrossFit`
            takes and that gives probabilities; default `Reward("logistic")`.
        folds: how many classifiers a policy.
        unit: the column of clusters; default unit, user or slate, else the row.
        seed: of folds and draws.
        executor: folds are fitted side by side.

    Raises:
        LogError: a log without rows.
        SupportError: a policy's rows are no distribution.

    >>> from recfb.policies import Uniform
    >>> rows = {"item": [0, 0, 0, 1] * 500, "reward": [0, 0, 0, 1] * 500, "unit": range(2000)}
    >>> made = weights(Log.of(rows), {"uniform": Uniform()})
    >>> [round(w, 1) for w in made.values[0, 2:4].tolist()]  # 2/3 and 2, but for the draws
    [0.7, 2.1]
    >>> round(made.report().table["value"].item(), 1)
    0.5
    """
    model = Reward("logistic") if model is None else model
    plan = Evaluation(policies, estimators=["snips"], unit=unit, seed=seed).fit(log)
    assert plan.facts is not None
    plan.facts = replace(plan.facts, source="estimated", draws=None, floor=None)
    block = rows_of(log, unit)
    found = []
    for name, policy in plan.policies.items():
        drawn, chance = _draws(block, policy, f"policies[{name!r}]", log.n_items, seed)
        crossed = CrossFit(model, folds, seed=seed)
        crossed.refit(_labelled(log, block, drawn), solved, "unit", executor=executor)
        c = torch.cat([_own(crossed, block[rows]) for rows in _slices(len(block))])  # (n,)
        found.append(torch.where(chance > 0, odds(c, len(block)), 0.0))
    values = torch.stack(found)
    return Weighted(values, plan, _state(plan, log, block, values))


def _slices(n: int) -> list[slice]:
    return [slice(start, start + BLOCK) for start in range(0, n, BLOCK)]


@torch.no_grad()
def _draws(
    block: Block, policy: Policy, who: str, n_items: int, seed: int
) -> tuple[Tensor, Tensor]:
    """An item that the policy draws for each request, (n,), and its probability of the logged one,
    (n,). Policies that agree draw the same."""
    generator, drawn, chance = stream(seed, "classifier"), [], []
    for rows in _slices(len(block)):
        some = block[rows]
        probs = policy.probs(some.context).to("cpu", torch.float64)  # (b, n_items)
        check_probs(probs, len(some), n_items, who)
        drawn.append(sample_cdf(probs, generator)[:, 0])
        chance.append(probs.gather(1, some.slate.item)[:, 0])
    return torch.cat(drawn), torch.cat(chance)


def _labelled(log: Log, block: Block, drawn: Tensor) -> Log:
    """The requests twice: with the logged item and the reward 0, with the drawn one and 1."""
    kept = [name for name in KEPT if name in log.columns]
    known = log.frame.select(kept).with_columns(unit=pl.Series(block.unit.numpy()))
    item = pl.Series(drawn.numpy()).cast(known["item"].dtype)
    label = pl.lit(0, pl.Float32).alias("reward")
    twice = [known.with_columns(label), known.with_columns(label + 1, item=item)]
    return Log(pl.concat(twice), log.vocabulary, Meta(reward_range=(0, 1)))


def _own(model: CrossFit, block: Block) -> Tensor:
    """The prediction at each logged item: (b,)."""
    return model.predict(block).gather(1, block.slate.item)[:, 0]


def _state(plan: Evaluation, log: Log, whole: Block, values: Tensor) -> State:
    """What a pass would leave, had the log propensities that make these weights.

    They are written as 2 w / 2 and 1 / 2: 1 would say that the logger was certain.
    """
    keep = known_rows(whole)
    block, lost = whole[keep], whole[unknown_rows(whole)]
    half = torch.full((len(keep),), 0.5, dtype=torch.float64)
    reward = block.feedback.reward[:, 0].to(torch.float64)
    rows = Rows(reward, half, values[:, keep] / 2)
    made = plan.scan_rows(rows, block.unit, log.name, weights=True)
    blank = replace(block, slate=replace(block.slate, propensity=None))
    table = Items(blank, lost, len(values), 1, log.n_items)
    for k, policy in enumerate(plan.policies.values()):
        for part in _slices(len(block)):
            table.add(k, part, policy.probs(block[part].context).to("cpu", torch.float64))
    table.weigh(rows)
    told, span = strata(block, lost, rows, 1)[0]
    cells = {
        label: cell._replace(missing=len(lost), items=table.tables()[0], strata=told, span=span)
        for label, cell in made.cells[log.name].items()
    }
    return replace(made, cells={log.name: cells})


__all__ = ["Weighted", "odds", "weights"]
