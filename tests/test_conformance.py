"""Every public component goes through the same named checks, and every parameter of it matters."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from torch import Tensor

from recfb import (
    Log,
    Recommender,
    beliefs,
    exposures,
    objectives,
    policies,
    samplers,
    scorers,
    simulate,
    solvers,
    worlds,
)
from recfb.beliefs import Linear
from recfb.config import ROOMS
from recfb.contracts import Feedback, Fitted, Policy, Slate
from recfb.policies.accept_reject import AcceptReject
from recfb.policies.slates import Certain
from recfb.random import stream
from recfb.scorers.history import HistoryScorer
from recfb.testing import check, checks, example_log
from recfb.testing.acting import two_items
from recfb.testing.outcome import context_of, outcome, ready, rows_of, same
from recfb.worlds.texts import table_of

LOG = example_log()
TEXTS = simulate(  # two texts an item; round 1 has clicks and histories of both kinds
    worlds.Sources(worlds.DrawnTexts(30, 12), n_users=12), policies.Uniform(), rounds=2, slate=10
).log
OF_TEXTS = (
    HistoryScorer,
    samplers.Visits,
    objectives.SourceConsistency,
    objectives.SourceHinge,
    policies.SourceQuota,
)
FOLDER = TemporaryDirectory()
CHECKED_ELSEWHERE = {
    ("worlds.Budgeted", "strict"),  # raises
    ("policies.FALCON", "scale"),  # reads the rows of the last refit
    ("policies.FALCON", "complexity"),
    ("policies.Gated", "holdout"),
    ("policies.Gated", "alpha"),
    ("worlds.Described", "noise"),  # told in the log, not in the rounds
    ("policies.Interleaved", "share"),  # nothing is new in the first round
    ("policies.FairExp", "labels"),  # asks a world that answers
    ("worlds.Phases", "horizon"),  # changes who is best in hindsight
    ("worlds.Phases", "growth"),  # later
    ("worlds.Reversion", "rate"),  # nothing to come back from
    ("beliefs.Retrained", "window"),  # reads what it is trained on
    ("beliefs.Retrained", "floor"),
    ("beliefs.Retrained", "balance"),
    ("beliefs.Retrained", "keep"),
    ("beliefs.Retrained", "check_recommend"),  # ranks for policies, which hide nothing
    ("scorers.HistoryMean", "check_reset_matters"),  # starts from the identity
    ("policies.Constant", "horizon"),  # says when it is over
}
PARTS_OF_TASTES = {
    worlds.ClickModel: "clicks",
    worlds.Population: "population",
    worlds.Drift: "drift",
    worlds.Boredom: "boredom",
}


def made() -> dict[str, Callable[[], Any]]:
    """An instance of every public component; those without an entry here need no arguments."""
    matrix = torch.rand(4, 5, generator=stream(0))
    return {
        "RelMF": lambda: objectives.RelMF(
            exposures.Popularity(power=2.0), clip=0.5, nonneg="local"
        ),
        "IPS": lambda: objectives.IPS(exposures.Popularity(power=2.0), clip=0.5),
        "SNIPS": lambda: objectives.SNIPS(exposures.Popularity(power=2.0), clip=0.5),
        "DR": lambda: objectives.DR(
            exposures.Popularity(power=2.0), imputation=scorers.MF(dim=2), clip=0.5
        ),
        "MRDR": lambda: objectives.MRDR(
            exposures.Popularity(power=2.0), imputation=scorers.MF(dim=2), clip=0.5
        ),
        "solvers.RelMF": lambda: solvers.RelMF(
            exposures.Popularity(power=2.0), dim=3, clip=0.5, sweeps=2
        ),
        "Given": lambda: exposures.Given(torch.linspace(0.1, 0.9, 9)),
        "Position": lambda: exposures.Position(sweeps=20),
        "FullRelMF": lambda: solvers.FullRelMF(
            exposures.Popularity(power=2.0), dim=3, clip=0.5, steps=3
        ),
        "ALS": lambda: solvers.ALS(dim=3, sweeps=2),
        "CET": lambda: objectives.CET(exposures.Selection(), cap=2.5, burn_in=0.4),
        "TwoTower": lambda: scorers.TwoTower(dim=4),
        "PLD": lambda: samplers.PLD(k=4, temperature=1.0, warmup=1),
        "TCE": lambda: objectives.TCE(drop=0.3, ramp=5),
        "EASE": lambda: solvers.EASE(l2=2.0),
        "ExpoMF": lambda: solvers.ExpoMF(dim=3, l2=0.2, prior=0.3, sweeps=2),
        "UBPR": lambda: objectives.UBPR(exposures.Popularity(power=2.0), clip=0.5),
        "LightGCN": lambda: scorers.LightGCN(dim=4, layers=2),
        "NeuMF": lambda: scorers.NeuMF(dim=4, layers=(8, 4)),
        "MF": lambda: scorers.MF(dim=4),
        "HistoryGRU": lambda: scorers.HistoryGRU(rewrite=["rewrite"], hidden=4),
        "HistoryMean": lambda: scorers.HistoryMean(rewrite=["rewrite"]),
        "Visits": lambda: samplers.Visits(among="balanced"),
        "SourceConsistency": lambda: objectives.SourceConsistency(beta=0.5, concentration=0.4),
        "Direct": lambda: solvers.Direct(
            Recommender(scorers.MF(dim=4), objectives.BPR(), samplers.Clicks()),
            epochs=2,
            batch_size=8,
        ),
        "Arrivals": lambda: worlds.Arrivals(
            worlds.Tastes(5, 9), first=4, draw="poisson", hazard=0.2, life=2, aging=0.4
        ),
        "Churn": lambda: worlds.Churn(
            worlds.Tastes(400, 6), base=1.0, back=0.3, first=300, rate=20
        ),
        "Clustered": lambda: worlds.Clustered(within=0.3),
        "Dirichlet": lambda: worlds.Dirichlet(items=0.4),
        "Drifts": lambda: worlds.Drifts([worlds.Attraction(), worlds.RandomWalk()]),
        "Factors": lambda: worlds.Factors(
            matrix[:, :2].repeat(2, 1)[:7], matrix[:3, :2].repeat(2, 1)
        ),
        "Leaky": lambda: worlds.Leaky(novelty=0.3),
        "Once": lambda: worlds.Once(worlds.Tastes(7, 6)),
        "RankedChoice": lambda: worlds.RankedChoice(power=3.0),
        "Shock": lambda: worlds.Shock(at=[0]),
        "Fixed": lambda: worlds.Fixed(matrix.repeat(9, 1)),
        "Phases": lambda: worlds.Phases([[0.2, 0.7], [0.9, 0.1]], [1, 1]),
        "Traced": lambda: worlds.Traced(worlds.Tastes(7, 6)),
        "Threshold": lambda: worlds.Threshold(clicks=2, window=1, rounds=1),
        "TrustBias": lambda: worlds.TrustBias(worlds.PBM(), plus=[0.9, 0.8]),
        "Gaussian": lambda: worlds.Gaussian(minority=0.5, shift=1.0, topics=2),
        "Novelty": lambda: policies.Novelty(topic=[0, 0, 0, 1, 1, 1, 2, 2, 2]),
        "SourceQuota": lambda: policies.SourceQuota(solvers.ALS(dim=3, sweeps=2), 0.9),
        "Ranked": lambda: policies.Ranked(solvers.ALS(dim=3, sweeps=2), epsilon=0.3),
        "UCB": lambda: policies.UCB(Linear()),
        "BetaThompson": lambda: policies.BetaThompson(alpha=1.5, beta=2.0),
        "Exp3": lambda: policies.Exp3(horizon=8),
        "Exp3IX": lambda: policies.Exp3IX(horizon=8),
        "Exp3Mixed": lambda: policies.Exp3Mixed(horizon=30),
        "BlockedTsallis": lambda: policies.BlockedTsallis(horizon=55),
        "BlockedExp3": lambda: policies.BlockedExp3(horizon=30),
        "BudgetedBandit": lambda: policies.BudgetedBandit(80, capped=False, horizon=100),
        "DartboardFull": lambda: policies.DartboardFull(87, horizon=11),
        "ShrinkingDartboard": lambda: policies.ShrinkingDartboard(horizon=8),
        "DartboardFlex": lambda: policies.DartboardFlex(20, horizon=21),
        "LabelEfficient": lambda: policies.LabelEfficient(800, horizon=100),
        "LabelEfficientDartboard": lambda: policies.LabelEfficientDartboard(800, horizon=100),
        "Constant": lambda: policies.Constant(horizon=8),
        "LazyLeader": lambda: policies.LazyLeader(horizon=8),
        "EpsilonGreedy": lambda: policies.EpsilonGreedy(Linear(), 0.3),
        "Greedy": lambda: policies.Greedy(Linear()),
        "Softmax": lambda: policies.Softmax(Linear(), temperature=0.3),
        "IGW": lambda: policies.IGW(Linear(), gamma=5.0),
        "FALCON": lambda: policies.FALCON(Linear()),
        "SquareCB": lambda: policies.SquareCB(10.0, power=0.0),
        "RegCB": lambda: policies.RegCB(Linear(), alpha=0.5),
        "Thompson": lambda: policies.Thompson(Linear()),
        "STAP": lambda: policies.STAP(payoff()),
        "Tasting": lambda: policies.Tasting(payoff(), 0.3),
        "FairExp": lambda: policies.FairExp(policies.Thresholds(6), price=0.5, horizon=30),
        "FairFTPL": lambda: policies.FairFTPL(policies.Thresholds(6), price=0.5, horizon=27),
        "Officer": lambda: policies.Officer([4.0, -5.0, 0.2], floor=0.3),
        "Thresholds": lambda: policies.Thresholds(6),
        "Either": lambda: policies.Either(policies.Ranked(solvers.ALS(dim=3, sweeps=2)), 0.3),
        "Gated": lambda: policies.Gated(
            policies.EpsilonGreedy(beliefs.NeuralLinear(net_of()), 0.3)
        ),
        "NeuralLinearTS": lambda: policies.NeuralLinearTS(net_of()),
        "Interleaved": lambda: policies.Interleaved(policies.BetaThompson(alpha=1.5)),
        "OpenLoop": lambda: policies.OpenLoop(policies.BetaThompson(alpha=1.5), str(written())),
        "Mixture": lambda: policies.Mixture(policies.BetaThompson(alpha=1.5), 0.3),
        "Switch": lambda: policies.Switch(0, policies.Uniform(), policies.BetaThompson()),
        "NeuralLinear": lambda: beliefs.NeuralLinear(net_of()),
        "Payoff": payoff,
        "Retrained": lambda: beliefs.Retrained(solvers.ALS(dim=3, sweeps=2), window=20),
        "Classification": lambda: worlds.Classification(
            [[0.0], [1.0], [2.0]], [1, 2, 3], noise=0.9
        ),
        "Payments": lambda: worlds.Payments(requests=20),
        "SwitchingCost": lambda: worlds.SwitchingCost(worlds.Arms([0.2, 0.5, 0.7])),
        "Budgeted": lambda: worlds.Budgeted(worlds.Arms([0.2, 0.5, 0.7]), extra=2),
        "Arms": lambda: worlds.Arms([0.2, 0.5, 0.7]),
        "Applicants": lambda: worlds.Applicants(requests=200),
        "Audited": lambda: worlds.Audited(worlds.Applicants(), alpha=0.2, gamma=1.0),
        "Replay": lambda: worlds.Replay(str(written()), requests=4),
        "DrawnTexts": lambda: worlds.DrawnTexts(30, 12),
        "GivenTexts": lambda: worlds.GivenTexts(str(written_texts())),
        "GradualTexts": lambda: worlds.GradualTexts(worlds.DrawnTexts(30, 12), first=0.3, rate=0.2),
        "Sources": lambda: worlds.Sources(
            worlds.DrawnTexts(30, 12), n_users=12, eta=1.0, source_taste=0.5, clicks=worlds.PBM()
        ),
        "Tastes": lambda: worlds.Tastes(7, 6),
        "Matrix": lambda: worlds.Matrix(matrix),
        "OneSided": lambda: worlds.OneSided(worlds.Arms([0.2, 0.5, 0.7])),
        "Described": lambda: worlds.Described(worlds.Tastes(7, 6)),
        "Delayed": lambda: worlds.Delayed(
            worlds.Arms([0.2, 0.5, 0.7]), rounds=2, mean=4.0, lost=0.2
        ),
        "recommender": lambda: Recommender(scorers.MF(dim=4), objectives.BPR(), samplers.Clicks()),
    }


@cache
def written() -> Path:
    """The example log as a file, which a configuration can name."""
    path = Path(FOLDER.name) / "log.parquet"
    LOG.frame.write_parquet(path)
    return path


@cache
def written_texts() -> Path:
    """Texts as a table, which a configuration can name."""
    path = Path(FOLDER.name) / "texts.parquet"
    table_of(worlds.DrawnTexts(30, 12).draw(stream(0))).write_parquet(path)
    return path


def payoff() -> beliefs.Payoff:
    """A lender's belief whose rows have weights."""
    return beliefs.Payoff(Linear(), weights="ips", cap=1.9, doubt=0.5)


def net_of() -> Recommender:
    """A small network that a neural-linear belief reads features of."""
    return Recommender(beliefs.FeatureNet((4,)), objectives.MSE(), samplers.Logged())


def is_base(cls: type) -> bool:
    """Abstract classes, and the common base of the wrappers, are no components themselves."""
    return inspect.isabstract(cls) or cls is worlds.Wrapper


def components() -> Iterator[tuple[str, Callable[[], Any]]]:
    known = made()
    for room in ROOMS:
        module = import_module(f"recfb.{room}")
        for name in module.__all__:
            cls = getattr(module, name)
            if inspect.isclass(cls) and hasattr(cls, "bind") and not is_base(cls):
                yield f"{room}.{name}", known.get(f"{room}.{name}", known.get(name, cls))


COMPONENTS = dict(components())
CASES = [
    (name, check)
    for name, make in COMPONENTS.items()
    for check in checks(make())
    if (name, check) not in CHECKED_ELSEWHERE
]


def log_for(thing: Any) -> Log:
    """The example log; of two items for what says yes or no, of two texts an item for what compares
    them or reads histories."""
    if isinstance(thing, OF_TEXTS):
        return TEXTS
    binary = isinstance(thing, (AcceptReject, beliefs.Payoff))
    return two_items(LOG) if binary else LOG


@pytest.mark.parametrize(("name", "check"), CASES, ids=[f"{n}-{c}" for n, c in CASES])
def test_conformance(name: str, check: str) -> None:
    thing = COMPONENTS[name]()
    checks(thing)[check](thing, log_for(thing))


def test_a_whole_model_of_histories_conforms() -> None:
    recommender = Recommender(
        scorers.HistoryGRU(rewrite=["rewrite"], hidden=4),
        objectives.SourceConsistency(),
        samplers.Visits(among="others", human=True),
    )
    check(solvers.Direct(recommender, epochs=1), TEXTS)


# ---- every constructor parameter changes something


def behaviour(thing: Any, log: Log) -> list[Tensor]:
    """More than `outcome`: a policy also after it has learned, a sampler also its length."""
    if isinstance(thing, tuple(PARTS_OF_TASTES)):
        place = next(name for base, name in PARTS_OF_TASTES.items() if isinstance(thing, base))
        logits = not getattr(thing, "probabilities", False)
        parts = {"population": worlds.Gaussian(topics=2), place: thing}
        if logits and place != "boredom":
            parts["boredom"] = worlds.Leaky(strength=2.0)
        world = worlds.Tastes(7, 6, **parts, offset=2.0 if logits else 0.0)
        return outcome(world, log, seed=0)
    if isinstance(thing, worlds.TextSource):
        thing = worlds.Sources(thing, n_users=12)
    thing = ready(thing, log, seed=0)
    seen = outcome(thing, log, seed=0)
    if isinstance(thing, Fitted):
        seen.append(thing.top(context_of(log), 3))
    seen += [value.double() for value in thing.state_dict().values()]
    if hasattr(thing, "update"):
        context = context_of(log)
        context = context[torch.arange(len(context)).repeat(3)]
        item = torch.arange(len(context))[:, None] % log.n_items  # (B, 1)
        reward = ((item * item + context.user[:, None]) % 5 == 1).float()
        half = torch.full(item.shape, 0.5, dtype=torch.float64)
        signs = torch.arange(len(context)) % 3 - 1
        rest = (torch.arange(log.n_items) + context.user[:, None]) % 3 / 2.0  # (B, n_items)
        slate = Slate(item, propensity=half)
        feedback = Feedback(reward, extra=rest, complaint=signs)
        for t in range(2):
            thing.update(replace(context, time=t), slate, feedback, stream(0, "update", t))
        if isinstance(thing, Policy):
            seen += outcome(thing, log, seed=0)
            if isinstance(thing, Certain):
                seen.append(thing.index(context_of(log)))
        else:
            seen += [thing.scores(context), thing.width(context)]
    if hasattr(thing, "penalty"):
        seen.append(torch.as_tensor(thing.penalty(rows_of(log)), dtype=torch.float64))
        seen += [torch.tensor(group.get("weight_decay", 0.0)) for group in thing.groups()]
    return seen


def altered(kind: Any, value: Any) -> Any:
    """Another legal value of a simple parameter, or None where there is no rule."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return 0.5 * value + 0.05
    for part in (kind, *get_args(kind)):
        if get_origin(part) is Literal:
            return next((option for option in get_args(part) if option != value), None)
    if isinstance(value, (list, tuple)) and value and all(isinstance(x, float) for x in value):
        return type(value)(0.5 * x + 0.05 for x in value)
    return None


def parameters() -> Iterator[tuple[str, str]]:
    for name, make in COMPONENTS.items():
        cls = type(make())
        for key, parameter in inspect.signature(cls.__init__).parameters.items():
            packed = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            if key != "self" and not packed:
                yield name, key


@pytest.mark.parametrize(("name", "key"), list(parameters()))
def test_every_parameter_changes_something(name: str, key: str) -> None:
    if (name, key) in CHECKED_ELSEWHERE:
        pytest.skip("see its own tests")
    thing = COMPONENTS[name]()
    cls = type(thing)
    arguments = {
        k: getattr(thing, k) for k in inspect.signature(cls.__init__).parameters if k != "self"
    }
    value = altered(get_type_hints(cls.__init__).get(key), arguments[key])
    if value is None:
        pytest.skip("no rule to alter this kind of value; a component is checked by its own tests")
    changed = cls(**copy.deepcopy({**arguments, key: value}))
    log = log_for(thing)
    before, after = behaviour(copy.deepcopy(thing), log), behaviour(changed, log)
    differs = len(before) != len(after) or any(
        a.shape != b.shape for a, b in zip(before, after, strict=True)
    )
    assert differs or not same(before, after), (
        f"{key}={value} computes what {key}={arguments[key]} does"
    )


# ---- the checks can fail


def test_a_policy_that_does_not_sum_to_one_is_caught() -> None:
    class Wrong(policies.Uniform):
        def probs(self, context: Any) -> Tensor:
            return super().probs(context) * 0.99

    with pytest.raises(
        AssertionError, match=r"check_distribution: Wrong: the sum of a row is off by 0\.01"
    ):
        checks(Wrong())["check_distribution"](Wrong(), LOG)


def test_a_sampler_that_draws_clicked_negatives_is_caught() -> None:
    class Wrong(samplers.Clicks):
        def forward(self, rows: Tensor, score: Any, step: Any) -> Any:
            batch = super().forward(rows, score, step)
            batch.item[:, 1] = batch.item[:, 0]
            return batch

    with pytest.raises(AssertionError, match="check_gives: Wrong: a negative was clicked"):
        checks(Wrong())["check_gives"](Wrong(), LOG)


def test_a_scorer_that_mixes_rows_is_caught() -> None:
    class Wrong(scorers.MF):
        def all(self, user: Tensor, out: Tensor | None = None) -> Tensor:
            return super().all(user, out).roll(1, 0)

    for name in ("check_row_order", "check_all_agrees_with_forward"):
        with pytest.raises(AssertionError, match=name):
            checks(Wrong(dim=4))[name](Wrong(dim=4), LOG)


def test_a_world_that_writes_into_its_state_is_caught() -> None:
    class Wrong(worlds.Tastes):
        def observe(self, state: Any) -> Any:
            state.taste.mul_(1.5)
            return super().observe(state)

    wrong = Wrong(7, 6)
    with pytest.raises(AssertionError, match="check_state_is_not_written"):
        checks(wrong)["check_state_is_not_written"](wrong, LOG)
