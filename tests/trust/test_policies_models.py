"""Models and policies that say what cannot be: in recommend, measure and simulate."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import polars as pl
import pytest
import torch
from hostile import BAD, INF, NAN, F, Said, table
from ledger import Ledger
from torch import Generator, Tensor

from recfb import Log, fit, measure
from recfb.contracts import Context, Policy, Slate, Solver
from recfb.metrics import ranking
from recfb.policies import Greedy, Softmax
from recfb.simulate import simulate
from recfb.worlds import Arms, Arrivals

doors = sys.modules["recfb.simulate.doors"]  # the package's name is the verb's too


class Table(Solver):
    """A model whose scores are all one number, or that number for one item."""

    def __init__(self, score: float, item: int | None = None) -> None:
        super().__init__()
        self.score = score
        self.item = item

    def solve(self, log: Log) -> Table:
        return self

    def all(self, user: Tensor, out: Tensor | None = None) -> Tensor:
        scores = torch.arange(self.n_items, dtype=torch.float32).repeat(len(user), 1)
        scores[:, slice(None) if self.item is None else self.item] = self.score
        return scores


def models(ledger: Ledger, whole: bool) -> None:
    """Scores that are no numbers, or all the same, wherever they rank."""
    clicks = {"user": [0, 0, 1, 1, 2], "item": [0, 1, 1, 2, 0]}
    train = Log.of(clicks, reward=1, n_users=3, n_items=4)
    later = Log.of({"user": [0, 1, 2], "item": [3, 3, 3]}, reward=1, like=train)
    logged = Log.of(later.frame, propensity=0.25, n_users=3, n_items=4)
    old = set(zip(clicks["user"], clicks["item"], strict=True))

    def new(found: pl.DataFrame) -> bool:
        return found.height > 0 and not old & set(zip(found["user"], found["item"], strict=True))

    for item in (None, 2):
        model = fit(train, Table(NAN, item))
        case = "NaN for all" if item is None else "NaN for one item"
        says = ("NaN to", "item")
        ledger.refuses(f"recommend, {case}", partial(model.recommend, [0, 1, 2], 2), *says)
        ranked = partial(measure, later, {"m": model}, metrics=["ndcg@2"], users="all")
        ledger.refuses(f"measure, {case}", ranked, *says)
        for policy in (Greedy(model), Softmax(model)):
            act = partial(table, logged, {"t": policy}, estimators=["ips"])
            ledger.refuses(f"{type(policy).__name__}, {case}", act, "NaN")
        act = partial(simulate, Arms([0.1, 0.2]), Greedy(Table(NAN, item and 1)), rounds=2)
        ledger.refuses(f"simulate, {case}", act, *says)
    for score in (0.0, 1.0, INF, -INF):
        model = fit(train, Table(score))
        act = partial(model.recommend, [0, 1, 2], 2)
        ledger.gives(f"recommend, {score} for all", act, new)
        act = partial(measure, later, {"m": model}, metrics=["recall@4"], users="all")
        ledger.gives(f"measure, {score} for all", act, lambda found: found["value"][0] == 1.0)
    for score in (INF, -INF):
        act = partial(table, logged, {"t": Softmax(fit(train, Table(score)))}, estimators=["ips"])
        ledger.refuses(f"Softmax, {score} for all", act, "policies['t'].probs", "NaN")


class Acts(Policy):
    """A policy that shows the first item and says of it what it is told to."""

    def __init__(self, change: Callable[[Slate], Slate]) -> None:
        super().__init__()
        self.change = change

    def probs(self, context: Context) -> Tensor:
        return torch.full((len(context), self.n_items), 1 / self.n_items, dtype=F)

    def act(self, context: Context, generator: Generator, *, k: int = 1) -> Slate:
        return self.change(super().act(context, generator, k=k))


def told(**odd: Any) -> Callable[[Slate], Slate]:
    """Slates with other fields: what is given for each of them."""

    def change(slate: Slate) -> Slate:
        fields = {"item": slate.item, "propensity": slate.propensity, "p_prefix": slate.p_prefix}
        for name, value in odd.items():
            shape = slate.item.shape
            kind = slate.item.dtype if name == "item" else F
            fields[name] = value if value is None else torch.as_tensor(value, dtype=kind)
            if isinstance(value, (int, float)):
                fields[name] = torch.full(shape, value, dtype=kind)
        return Slate(**fields)

    return change


SHOWN: dict[str, tuple[dict[str, Any], str]] = {
    **{f"{name} {x}": ({name: x}, name)
       for name in ("propensity", "p_prefix") for x in (NAN, 0.0, -0.5, 1.5, INF)},
    "a propensity too few": ({"propensity": [0.5]}, "propensity of shape"),
    "item 2 of 2": ({"item": 2}, "item 2"),
    "item -1": ({"item": -1}, "item -1"),
    "two items for one": ({"item": [[0, 1]]}, "shape"),
}  # fmt: skip


def acting(ledger: Ledger, whole: bool) -> None:
    """What a policy shows in a simulation, and how likely it says that was."""
    arms = Arms([0.1, 0.9])
    ledger.gives(
        "a policy that is right",
        lambda: simulate(arms, Acts(told()), rounds=5).log,
        lambda log: log.frame["propensity"].to_list() == [0.5] * len(log),
    )
    for case, (odd, says) in SHOWN.items():
        act = partial(simulate, arms, Acts(told(**odd)), rounds=3)
        ledger.refuses(case, act, "Acts.act returned", says)
    three = Arms([0.1, 0.5, 0.9])
    for case, (say, _) in BAD.items():
        if case != "one row for all":  # one request is all there is
            act = partial(simulate, three, Said(say), rounds=3)
            ledger.refuses(f"probs, {case}", act, "Said.")
    late = Arrivals(three, first=2, rate=0.0)
    act = partial(simulate, late, Acts(told(item=2)), rounds=3)
    ledger.refuses("an item that is not available", act, "Acts.act", "item 2 to request 0")


FAMILIES = {"models": models, "acting": acting}


@pytest.mark.parametrize("family", FAMILIES)
def test_models(family: str, ledger: Callable[[str], Ledger], whole: bool) -> None:
    with ledger("policies: scores and slates") as each:
        FAMILIES[family](each, whole)


@pytest.mark.parametrize(
    ("family", "room", "guard", "fault"),
    [
        ("models", ranking, "check_scores", "recommend, NaN for all"),
        ("acting", doors, "_check_probability", "propensity 1.5"),
    ],
)
def test_models_can_fail(
    family: str, room: Any, guard: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, guard, lambda *_: None)
    FAMILIES[family](found := Ledger("x"), False)
    assert any(f"{fault}: silent" in each for each in found.faults)
