"""Slates, several loggers and more shrunk forms beside obp: a log in, obp's arrays out.

What obp 0.4.1 has is asked here. What came after it is compared with the numbers that obp 0.5.7
gave on the same arrays; its pins of NumPy and torch keep it from being installed beside recfb.
"""

from __future__ import annotations

import functools
from itertools import permutations
from typing import Any, Self

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recfb import Log, Meta, evaluate
from recfb.contracts import Context, Policy, Slate, plackett_luce
from recfb.estimate import ESTIMATORS, LOGGERS
from recfb.interop import obp as ours

ope = pytest.importorskip("obp.ope")

F = torch.float64
Array = np.ndarray[Any, np.dtype[Any]]
pytestmark = pytest.mark.filterwarnings("ignore::recfb.errors.OverlapWarning")


class Luce(Policy):
    """Slates without replacement, by scores that are linear in the request's features."""

    def __init__(self, scores: list[list[float]]) -> None:
        super().__init__()
        self.scores = scores  # (D, n_items)

    def probs(self, context: Context) -> Tensor:
        assert context.features is not None
        return (context.features.to(F) @ torch.tensor(self.scores, dtype=F)).softmax(1)

    def propensities(self, context: Context, item: Tensor) -> Slate:
        p = self.probs(context)
        return Slate(item, marginals(p, item), p_prefix=plackett_luce(p, item))


def marginals(p: Tensor, item: Tensor) -> Tensor:
    """P(item at its position), by enumeration of every ranking: (n, m), (n, K) -> (n, K)."""
    every = torch.tensor(list(permutations(range(p.shape[1]), item.shape[1])))  # (R, K)
    n, r = len(p), len(every)
    whole = plackett_luce(p.repeat_interleave(r, 0), every.repeat(n, 1))[:, -1].view(n, r)
    return (whole[:, :, None] * (every == item[:, None])).sum(1)


def wanted(log: Log, policy: Luce, size: int) -> dict[str, Array]:
    """What obp must know of the policy, a row a shown item, under its names."""
    item = log.tensor("item").view(-1, size)
    features = log.tensor("features")[::size]
    said = policy.bind(log).propensities(Context(torch.zeros(len(item)), features=features), item)
    assert said.propensity is not None and said.p_prefix is not None
    each = {
        "pscore": said.p_prefix[:, -1:].expand(-1, size),
        "pscore_item_position": said.propensity,
        "pscore_cascade": said.p_prefix,
    }
    return {name: p.flatten().numpy() for name, p in each.items()}


SLATES = {
    "sips": ("SlateStandardIPS", "pscore"),
    "iips": ("SlateIndependentIPS", "pscore_item_position"),
    "rips": ("SlateRewardInteractionIPS", "pscore_cascade"),
    "snsips": ("SelfNormalizedSlateStandardIPS", "pscore"),
    "sniips": ("SelfNormalizedSlateIndependentIPS", "pscore_item_position"),
    "snrips": ("SelfNormalizedSlateRewardInteractionIPS", "pscore_cascade"),
}
"""Ours -> obp's class, and which probabilities it reads."""


def theirs(name: str, log: Log, target: dict[str, Array]) -> float:
    kind, word = SLATES[name]
    back = ours.from_log(log)
    estimator = getattr(ope, kind)(len_list=int(back["position"].max()) + 1)
    arrays = {key: back[key] for key in ("slate_id", "reward", "position", word)}
    value = estimator.estimate_policy_value(**arrays, **{f"evaluation_policy_{word}": target[word]})
    return float(value)


def mine(log: Log, policy: Policy, names: list[str]) -> dict[str, float]:
    table = evaluate(log, {"t": policy}, estimators=names).table
    return dict(zip(table["estimator"], table["value"], strict=True))


@pytest.mark.parametrize("behaviour", ["uniform", "linear"])
def test_o_t2_a_simulation_of_obp_by_its_own_probabilities(behaviour: str) -> None:
    """obp draws the slates and says how likely they are under the target; so do we."""
    from obp.dataset import SyntheticSlateBanditDataset, linear_behavior_policy_logit

    world = SyntheticSlateBanditDataset(
        n_unique_action=5, len_list=3, dim_context=2, reward_type="binary", random_state=3,
        behavior_policy_function=linear_behavior_policy_logit if behaviour == "linear" else None,
    )  # fmt: skip
    feedback = world.obtain_batch_bandit_feedback(n_rounds=50, return_pscore_item_position=True)
    log = ours.to_log(feedback, meta=Meta(propensity="exact"))
    policy = Luce([[0.9, -0.4, 0.1, 0.0, 0.5], [-0.6, 0.2, 0.8, 0.3, -0.1]])
    logits = log.tensor("features")[::3].double().numpy() @ np.array(policy.scores)
    said = world.obtain_pscore_given_evaluation_policy_logit(
        action=feedback["action"], evaluation_policy_logit_=logits,
        return_pscore_item_position=True,
    )  # fmt: skip
    target = dict(zip(("pscore", "pscore_item_position", "pscore_cascade"), said, strict=True))
    own = wanted(log, policy, 3)
    found = mine(log, policy, ["sips", "iips", "rips"])
    for name, value in found.items():
        word = SLATES[name][1]
        assert own[word] == pytest.approx(target[word], rel=1e-10), word
        assert value == pytest.approx(theirs(name, log, target), abs=1e-10), name
    assert len(set(found.values())) == 3


def rankings() -> Log:
    """Every ranking of three of four items as a slate, with odd rewards."""
    item = torch.tensor(list(permutations(range(4), 3)))  # (24, 3)
    p = torch.tensor([[0.4, 0.3, 0.2, 0.1]], dtype=F).expand(24, -1)
    slate, slot = torch.arange(24)[:, None], torch.arange(3)
    columns = {
        "item": item.flatten(),
        "reward": ((5 * slate + 3 * slot + item) % 9 / 8).flatten(),
        "propensity": marginals(p, item).flatten(),
        "p_prefix": plackett_luce(p, item).flatten(),
        "position": (slot + 1).repeat(24),
        "slate": slate.expand(-1, 3).flatten(),
        "features": torch.stack([slate % 3 / 2, slate % 4 / 4], 2).expand(-1, 3, -1).flatten(0, 1),
    }
    return Log.of(columns, n_items=4)


LATER_SLATES = {
    "sips": 2.549787594111488,
    "iips": 1.68101165620877,
    "rips": 2.267481944538646,
    "snsips": 1.4666392314213101,
    "sniips": 1.4777983848249907,
    "snrips": 1.4591157449930243,
}
"""What obp 0.5.7 gave on `rankings()`."""


def test_o_t2_every_ranking() -> None:
    policy = Luce([[0.1, 0.9, 0.4, -0.2], [0.7, -0.3, 0.2, 1.1]])
    log = rankings()
    found, target = mine(log, policy, list(SLATES)), wanted(log, policy, 3)
    assert found == pytest.approx(LATER_SLATES, abs=1e-10)
    known = [name for name, (kind, _) in SLATES.items() if hasattr(ope, kind)]
    assert set(known) >= {"sips", "iips", "rips"}
    for name in known:
        assert found[name] == pytest.approx(theirs(name, log, target), abs=1e-10), name


# ---- single items: what obp 0.5 added


class Table(nn.Module):
    """A reward model: of every item its own number."""

    def __init__(self, given: list[float]) -> None:
        super().__init__()
        self.given = given
        self.fitted_on = "nothing"

    def bind(self, log: Log) -> Self:
        return self

    def scores(self, context: Context) -> Tensor:
        return torch.tensor([self.given], dtype=F).expand(len(context), -1)


class Fixed(Policy):
    """The same distribution for every request."""

    def __init__(self, given: list[float]) -> None:
        super().__init__()
        self.given = given

    def probs(self, context: Context) -> Tensor:
        return torch.tensor([self.given], dtype=F).expand(len(context), -1)


FIRST, SECOND, TARGET = [0.4, 0.3, 0.2, 0.1], [0.1, 0.1, 0.3, 0.5], [0.15, 0.35, 0.3, 0.2]
MODEL = [0.25, 0.5, 0.125, 0.75]


def two_loggers() -> Log:
    """Forty rows of one logger among eighty of another: counts and rewards by arithmetic."""
    row = torch.arange(120)
    logger, item = (row % 3 == 0).long(), (row * row // 2 + row) % 4
    p = torch.tensor([FIRST, SECOND], dtype=F)[logger, item]
    reward = (7 * row + 3 * item) % 9 / 8
    columns = {"item": item, "reward": reward, "propensity": p, "logger": logger}
    return Log.of(columns, n_items=4, meta=Meta(reward_range=(0, 1)))


STRENGTH = {"cips": 1.5, "cdr": 1.5, "sgips": 0.3, "sgdr": 0.3}

LATER = {
    "cips": 0.4649739583333333,  # InverseProbabilityWeighting(lambda_=1.5)
    "cdr": 0.39900173611111117,  # DoublyRobust(lambda_=1.5)
    "sgips": 0.4858147868686046,  # SubGaussianInverseProbabilityWeighting(lambda_=0.3)
    "sgdr": 0.39428399920844254,  # SubGaussianDoublyRobust(lambda_=0.3)
    "naive_ips": 0.5743489583333333,  # MultiLoggersNaiveInverseProbabilityWeighting()
    "weighted_ips": 0.5596770856339006,  # MultiLoggersWeightedInverseProbabilityWeighting()
    "balanced_ips": 0.40870535714285716,  # MultiLoggersBalancedInverseProbabilityWeighting()
    "naive_dr": 0.36254340277777786,  # MultiLoggersNaiveDoublyRobust()
    "weighted_dr": 0.3665695860534392,  # MultiLoggersWeightedDoublyRobust()
    "balanced_dr": 0.39799107142857154,  # MultiLoggersBalancedDoublyRobust()
}
"""What obp 0.5.7 gave on `arrays_of(two_loggers())`."""


def arrays_of(log: Log) -> dict[str, Array]:
    """What obp reads; `pscore_avg` is the mixture of the loggers by their shares of the rows."""
    feedback = ours.from_log(log)
    logger = log.tensor("logger")
    share = torch.bincount(logger).to(F) / len(log)
    mixture = share @ torch.tensor([FIRST, SECOND], dtype=F)  # (n_items,)
    return {
        **{key: feedback[key] for key in ("reward", "action", "pscore")},
        "pscore_avg": mixture[log.tensor("item")].numpy(),
        "stratum_idx": logger.numpy(),
        "action_dist": ours.action_dist(log, Fixed(TARGET).bind(log)),
        "estimated_rewards_by_reg_model": ours.predicted(log, Table(MODEL)),
    }


def test_o_t2_numbers_of_a_later_obp() -> None:
    estimators = {name: LOGGERS[name] for name in LATER if name in LOGGERS} | {
        name: functools.partial(ESTIMATORS[name], lam=lam) for name, lam in STRENGTH.items()
    }
    table = evaluate(
        two_loggers(), {"t": Fixed(TARGET)}, estimators=estimators, reward_model=Table(MODEL),
        loggers={0: Fixed(FIRST), 1: Fixed(SECOND)},
    ).table  # fmt: skip
    found = dict(zip(table["estimator"], table["value"], strict=True))
    assert found == pytest.approx(LATER, abs=1e-10)


def test_o_t2_naive_forms_are_obps_plain_ones() -> None:
    arrays = {**arrays_of(two_loggers()), "position": np.zeros(120, dtype=int)}
    del arrays["pscore_avg"], arrays["stratum_idx"]
    plain = {"naive_ips": ope.InverseProbabilityWeighting(), "naive_dr": ope.DoublyRobust()}
    for name, estimator in plain.items():
        value = estimator.estimate_policy_value(**arrays)
        assert LATER[name] == pytest.approx(value, abs=1e-10), name
