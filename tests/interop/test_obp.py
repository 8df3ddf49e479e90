"""obp's feedback both ways, and obp's estimators beside ours on the Open Bandit sample."""

from __future__ import annotations

import functools
import importlib
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import recfb
import recfb.estimate
import recfb.random
from recfb import Log, LogError, Meta, OverlapWarning, SupportError, evaluate
from recfb.contracts import Context, Policy, Slate, plackett_luce
from recfb.estimate import ESTIMATORS, Estimator
from recfb.interop import obp as ours
from recfb.policies import BetaThompson, Uniform

obp = pytest.importorskip("obp")
ope = pytest.importorskip("obp.ope")


def feedback_of(behaviour: str, campaign: str) -> dict[str, Any]:
    """obp's dictionary from the file it ships; its own loader fails on current pandas."""
    path = Path(obp.__file__).parent / "dataset" / "obd" / behaviour / campaign
    frame = pl.read_csv(path / f"{campaign}.csv")
    items = pl.read_csv(path / "item_context.csv").height
    return {
        "n_rounds": frame.height,
        "n_actions": items,
        "action": frame["item_id"].to_numpy(),
        "reward": frame["click"].to_numpy(),
        "pscore": frame["propensity_score"].to_numpy(),
        "position": frame["position"].to_numpy() - 1,
        "context": None,
    }


class Best(Policy):
    """Always the same item."""

    def __init__(self, item: int = 7) -> None:
        super().__init__()
        self.item = item

    def probs(self, context: Context) -> torch.Tensor:
        probs = torch.zeros(len(context), self.n_items, dtype=torch.float64)
        probs[:, self.item] = 1.0
        return probs


class Softmax(Policy):
    """Prefers items by the request's features and its position."""

    def probs(self, context: Context) -> torch.Tensor:
        assert context.features is not None
        assert context.position is not None
        item = torch.arange(self.n_items, dtype=torch.float64)
        taste = context.features.to(torch.float64) @ torch.stack([item.sin(), item.cos()])
        return (taste * context.position[:, None]).softmax(1)


def random_feedback(n: int = 500, k: int = 5, slots: int = 3) -> dict[str, Any]:
    """Rewards of order one, contexts, three positions, propensities of a softmax logger."""
    g = np.random.default_rng(7)
    context = g.normal(size=(n, 2)).astype(np.float32)
    mu = np.exp(context @ g.normal(size=(2, k)))
    mu /= mu.sum(1, keepdims=True)
    action = np.array([g.choice(k, p=row) for row in mu])
    expected = context[:, :1] * np.arange(k) / k + g.normal(size=k)
    return {
        "n_rounds": n,
        "n_actions": k,
        "context": context,
        "action_context": g.integers(0, 9, size=(k, 4)),
        "action": action,
        "position": g.integers(0, slots, size=n),
        "reward": (expected[np.arange(n), action] + g.normal(size=n)).astype(np.float32),
        "expected_reward": expected,
        "pscore": mu[np.arange(n), action],
    }


def test_round_trip_of_every_key() -> None:
    feedback = random_feedback()
    log = ours.to_log(feedback)
    assert "expected_reward" not in log.columns + log.items.columns
    back = ours.from_log(log, truth=ours.truth_of(feedback))
    assert set(back) == set(feedback)
    for key, value in feedback.items():
        assert np.array_equal(back[key], value), key
        if isinstance(value, np.ndarray):
            assert back[key].shape == value.shape, key


def test_round_trip_of_the_open_bandit_sample() -> None:
    feedback = feedback_of("bts", "women")
    back = ours.from_log(ours.to_log(feedback))
    for key, value in feedback.items():
        assert np.array_equal(back[key], value), key
    assert back["n_actions"] == 46
    assert back["action_context"] is None and back["expected_reward"] is None


def test_a_simulation_of_obp_goes_there_and_back() -> None:
    from obp.dataset import SyntheticBanditDataset

    world = SyntheticBanditDataset(n_actions=4, dim_context=3, random_state=0)
    feedback = world.obtain_batch_bandit_feedback(n_rounds=300)
    log = ours.to_log(feedback, meta=Meta(reward_range=(0, 1), propensity="exact"))
    truth = ours.truth_of(feedback)
    back = ours.from_log(log, truth=truth)
    assert set(back) == set(feedback)
    for key, value in feedback.items():
        if key == "context":  # 64-bit there, 32-bit here
            assert back[key] == pytest.approx(value, rel=1e-6)
        else:
            assert np.array_equal(back[key], value), key
    dist = ours.action_dist(log, Uniform().bind(log))
    value = world.calc_ground_truth_policy_value(expected_reward=truth, action_dist=dist)
    assert value == pytest.approx(truth.mean(), abs=1e-12)


def test_slates_of_obp_go_there_and_back() -> None:
    from obp.dataset import SyntheticSlateBanditDataset

    world = SyntheticSlateBanditDataset(
        n_unique_action=5, len_list=3, dim_context=2, reward_type="continuous", random_state=0
    )
    feedback = world.obtain_batch_bandit_feedback(n_rounds=40, return_pscore_item_position=True)
    log = ours.to_log(feedback)
    assert len(log) == 120 and log.n_items == 5
    last = log.frame.filter(pl.col("position") == 3)["p_prefix"]
    assert last.to_numpy() == pytest.approx(feedback["pscore"][2::3], rel=1e-12)
    back = ours.from_log(log, truth=ours.truth_of(feedback))
    assert set(back) == set(feedback)
    for key, value in feedback.items():
        if key in ("context", "reward"):  # 64-bit there, 32-bit here
            assert back[key] == pytest.approx(value, rel=1e-6), key
        elif key == "pscore":
            assert back[key] == pytest.approx(value, rel=1e-12)
        else:
            assert np.array_equal(back[key], value), key


def test_slates_without_probabilities() -> None:
    log = Log.of({"item": [0, 1], "reward": [1, 0], "position": [1, 2], "slate": [7, 7]}, n_items=3)
    back = ours.from_log(log)
    assert back["n_rounds"] == 1 and back["slate_id"].tolist() == [0, 0]
    for key in ("pscore", "pscore_item_position", "pscore_cascade", "context", "action_context"):
        assert back[key] is None, key


def test_bad_contexts_and_missing_truth_are_named() -> None:
    feedback = random_feedback(10)
    with pytest.raises(LogError, match="one row an action"):
        ours.to_log({**feedback, "action_context": np.zeros((4, 2))})
    with pytest.raises(LogError, match="has no expected_reward"):
        ours.truth_of({**feedback, "expected_reward": None})


def test_the_log_is_that_of_the_shelf() -> None:
    log = ours.to_log(feedback_of("random", "all"))
    shelf = recfb.dataset("open_bandit/all/random").log
    for column in ("item", "reward", "propensity", "position"):
        assert torch.equal(log.tensor(column), shelf.tensor(column))


def test_without_position_context_and_pscore() -> None:
    log = ours.to_log({"n_actions": 2, "action": np.array([1]), "reward": np.array([1.0])})
    assert log.columns == ["item", "reward"]
    back = ours.from_log(log)
    assert back["position"] is None and back["pscore"] is None and back["context"] is None


def test_missing_keys_and_rewards_are_named() -> None:
    with pytest.raises(LogError, match=r"lacks \['reward', 'n_actions'\]"):
        ours.to_log({"action": np.array([1])})
    with pytest.raises(LogError, match="1 rows have no reward"):
        ours.from_log(Log.of({"item": [0], "reward": [None]}))


LAM = 2.0
PAIRS = {
    "ips": ope.InverseProbabilityWeighting(),
    "snips": ope.SelfNormalizedInverseProbabilityWeighting(),
    "dm": ope.DirectMethod(),
    "dr": ope.DoublyRobust(),
    "sndr": ope.SelfNormalizedDoublyRobust(),
    "switch": ope.SwitchDoublyRobust(tau=LAM),
    "dros": ope.DoublyRobustWithShrinkage(lambda_=LAM),
}


def with_lam(name: str) -> Estimator:
    function = ESTIMATORS[name]
    shrunk = name in ("switch", "dros")
    return functools.partial(function, lam=LAM) if shrunk else function


class Means(Uniform):
    """A reward model that was fitted elsewhere: the item's number and the request's features."""

    def scores(self, context: Context) -> torch.Tensor:
        assert context.features is not None
        return context.features[:, :1] * torch.arange(self.n_items) / self.n_items


@pytest.mark.parametrize("fitted", [False, True], ids=["cell means", "model"])
def test_o_t2_every_estimator_on_random_rows(fitted: bool) -> None:
    log = ours.to_log(random_feedback(), meta=Meta(reward_range=(-9, 9)))
    policy = Softmax().bind(log)
    model = Means().bind(log) if fitted else None
    mine = evaluate(
        log,
        {"soft": policy},
        estimators={name: with_lam(name) for name in PAIRS},
        reward_model=model,
        interval="student",
    ).table
    assert mine["estimator"].to_list() == list(PAIRS)
    for name, value in mine.select("estimator", "value").iter_rows():
        theirs = ours.estimate(log, policy, PAIRS[name], reward_model=model)
        assert value == pytest.approx(theirs, abs=1e-10), name
    assert mine["value"].n_unique() == len(PAIRS)


def test_o_t2_replay_on_random_rows() -> None:
    log = ours.to_log(random_feedback(), meta=Meta(reward_range=(-9, 9)))
    policy = Best(2).bind(log)
    mine = evaluate(log, {"best": policy}, estimators=["replay"]).table["value"].item()
    assert mine == pytest.approx(ours.estimate(log, policy, ope.ReplayMethod()), abs=1e-10)


def test_estimate_takes_the_items_of_slates_one_by_one() -> None:
    feedback = random_feedback(300)
    plain = ours.to_log(feedback)
    slates = ours.to_log(feedback)
    more = pl.Series("slate", np.arange(300) // 3), pl.Series("p_prefix", np.full(300, 0.01))
    slates = slates.with_frame(slates.frame.with_columns(*more))
    policy, estimator = Softmax().bind(plain), ope.InverseProbabilityWeighting()
    assert ours.estimate(slates, policy, estimator) == ours.estimate(plain, policy, estimator)


def test_estimate_needs_rewards() -> None:
    log = Log.of({"item": [0], "reward": [None], "propensity": [1.0]})
    with pytest.raises(LogError, match="1 rows have no reward"):
        ours.estimate(log, Uniform().bind(log), ope.DirectMethod())


def test_estimate_without_propensities() -> None:
    log = Log.of({"item": [0, 1, 1], "reward": [1.0, 0.0, 0.5]})
    assert ours.estimate(log, Best(1).bind(log), ope.ReplayMethod()) == 0.25


@pytest.mark.parametrize("behaviour", ["random", "bts"])
def test_o_t2_values_agree_with_obp(behaviour: str) -> None:
    log = ours.to_log(feedback_of(behaviour, "all"), meta=Meta(reward_range=(0, 1)))
    target = recfb.dataset("open_bandit/all/random").policies["bts@start"]
    best = Best().bind(log)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OverlapWarning)
        report = evaluate(
            log,
            {"target": target, "best": best},
            estimators=["ips", "snips", "dm", "dr", "replay"],
        )
    mine = {(r["policy"], r["estimator"]): r["value"] for r in report.table.to_dicts()}
    theirs = {name: PAIRS[name] for name in ("ips", "snips", "dm", "dr")}
    theirs["replay"] = ope.ReplayMethod()
    checked = 0
    for name, policy in {"target": target, "best": best}.items():
        for estimator, reference in theirs.items():
            value = ours.estimate(log, policy, reference)
            if estimator == "replay" and name == "target":
                assert mine[name, estimator] is None and value == 0  # no match: theirs says 0
                continue
            assert mine[name, estimator] == pytest.approx(value, abs=1e-10), (name, estimator)
            checked += 1
    assert checked == 9


def test_action_dist_has_every_position() -> None:
    log = Log.of({"item": [0, 1], "reward": [1, 0], "position": [2, 1]}, n_items=2)
    policy = BetaThompson(alpha=[2.0, 1.0]).bind(log)
    dist = ours.action_dist(log, policy)
    assert dist.shape == (2, 2, 2)
    for row in dist:
        assert row[:, 0] == pytest.approx([2 / 3, 1 / 3])
        assert row[:, 1] == pytest.approx([1 / 3, 2 / 3])
    assert ours.action_dist(Log.empty(1, 2), policy).shape == (0, 2, 1)


def test_a_policy_that_is_no_distribution_is_refused() -> None:
    class Half(Uniform):
        def probs(self, context: Context) -> torch.Tensor:
            return super().probs(context) / 2

    log = ours.to_log(feedback_of("random", "men"))
    with pytest.raises(SupportError, match=r"10,000 rows do not sum to 1"):
        evaluate(log, {"half": Half()})


@pytest.mark.parametrize("lam", [0.0, 0.7, 3.0])
def test_o_t2_forms_with_a_model_agree_with_obp(lam: float) -> None:
    from functools import partial

    from obp import ope

    g, n = np.random.default_rng(0), 500
    mu, pi = (g.dirichlet(np.ones(4), n) for _ in range(2))  # (n, 4)
    action = np.array([g.choice(4, p=row) for row in mu])
    q = g.random((n, 4))
    rows = {
        "reward": g.integers(0, 2, n),
        "action": action,
        "pscore": mu[np.arange(n), action],
        "position": np.zeros(n, dtype=int),
    }
    at = (np.arange(n), action)
    columns = (rows["reward"], rows["pscore"], pi[at][None], (pi * q).sum(1)[None], q[at])
    t = recfb.estimate.Rows(*(torch.tensor(x, dtype=torch.float64) for x in columns))
    pairs = {
        "sndr": (recfb.estimate.sndr, ope.SelfNormalizedDoublyRobust()),
        "switch": (partial(recfb.estimate.switch, lam=lam), ope.SwitchDoublyRobust(tau=lam)),
        "dros": (
            partial(recfb.estimate.dros, lam=lam),
            ope.DoublyRobustWithShrinkage(lambda_=lam),
        ),
    }
    for name, (mine, reference) in pairs.items():
        value = reference.estimate_policy_value(
            action_dist=pi[:, :, None], estimated_rewards_by_reg_model=q[:, :, None], **rows
        )
        found = float(mine(t, recfb.estimate.average))
        assert found == pytest.approx(value, abs=1e-10), name


def test_o_t2_slates_agree_with_obp() -> None:
    from obp import ope

    uniform, target = (
        policy.bind(Log.empty(1, 6))
        for policy in (Uniform(), Mixed([0.4, 0.2, 0.1, 0.1, 0.1, 0.1]))
    )
    n, k, g = 400, 3, recfb.random.stream(0, "obp slates")
    slate = uniform.act(Context(torch.zeros(n, dtype=torch.int64)), g, k=k)
    reward = (torch.rand(n, k, generator=g) < 0.4).double()
    columns = {
        "item": slate.item.flatten(),
        "reward": reward.flatten(),
        "propensity": slate.propensity.flatten(),
        "p_prefix": slate.p_prefix.flatten(),
        "slate": torch.arange(n).repeat_interleave(k),
        "position": torch.arange(k).repeat(n) + 1,
    }
    log = Log.of(columns, n_items=6)
    table = evaluate(log, {"t": target}, estimators=["sips", "iips", "rips"]).table
    mine = dict(zip(table["estimator"], table["value"], strict=True))
    said = target.propensities(Context(torch.zeros(n, dtype=torch.int64)), slate.item)
    whole = (x[:, -1:].expand(-1, k) for x in (slate.p_prefix, said.p_prefix))
    pairs = {
        "sips": (ope.SlateStandardIPS(len_list=k), "pscore", tuple(whole)),
        "iips": (
            ope.SlateIndependentIPS(len_list=k),
            "pscore_item_position",
            (slate.propensity, said.propensity),
        ),
        "rips": (
            ope.SlateRewardInteractionIPS(len_list=k),
            "pscore_cascade",
            (slate.p_prefix, said.p_prefix),
        ),
    }
    for name, (reference, word, (logged, wanted)) in pairs.items():
        value = reference.estimate_policy_value(
            slate_id=columns["slate"].numpy(),
            reward=columns["reward"].numpy(),
            position=columns["position"].numpy() - 1,
            **{
                word: logged.flatten().numpy(),
                f"evaluation_policy_{word}": wanted.flatten().numpy(),
            },
        )
        assert mine[name] == pytest.approx(value, abs=1e-10), name


class Mixed(Uniform):
    """A slate of items drawn with Plackett-Luce; here at its positions as if drawn alone."""

    def __init__(self, given: list[float]) -> None:
        super().__init__()
        self.given = given

    def probs(self, context: Context) -> torch.Tensor:
        return torch.tensor([self.given], dtype=torch.float64).expand(len(context), -1)

    def propensities(self, context: Context, item: torch.Tensor) -> Slate:
        at = self.probs(context).gather(1, item)
        return Slate(item, propensity=at, p_prefix=plackett_luce(self.probs(context), item))


NAME = re.compile(r"`([A-Za-z_]+(?:\.[A-Za-z_]+)+)")
PAGE = Path(__file__).parents[2] / "docs" / "from_obp.md"


def found(root: str, name: str) -> bool:
    """Whether root.name is a module, or something in one; a field of a dataclass counts."""
    parts = f"{root}.{name}".split(".")
    for cut in range(len(parts), 0, -1):
        try:
            at: Any = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            if part in getattr(at, "__dataclass_fields__", {}):
                return True
            if not hasattr(at, part):
                return False
            at = getattr(at, part)
        return True
    return False


def names_table() -> list[list[str]]:
    lines = PAGE.read_text().split("## Names", 1)[1].splitlines()
    rows = [line.strip("|").split("|")[:3] for line in lines if line.startswith("|")][2:]
    return [[cell.strip() for cell in row] for row in rows]


def test_every_name_of_the_table_exists_on_both_sides() -> None:
    rows = names_table()
    assert len(rows) > 45
    for theirs, mine, note in rows:
        assert NAME.findall(theirs), theirs
        for name in NAME.findall(theirs):
            assert found("obp", name), name
        assert mine == "-" or NAME.findall(mine), mine
        for name in NAME.findall(mine) + NAME.findall(note):
            assert found("recfb", name.removeprefix("recfb.")), name
    assert not found("recfb", "estimate.nothing") and not found("recfb", "nothing.ips")


def test_the_table_leaves_no_public_name_of_obp_out() -> None:
    named = {name for row in names_table() for name in NAME.findall(row[0])}
    for room in ("ope", "dataset", "policy"):
        public = importlib.import_module(f"obp.{room}").__all__
        assert {f"{room}.{name}" for name in public} <= named


def test_every_key_of_the_feedback_is_on_the_page() -> None:
    text = PAGE.read_text().split("## The feedback dictionary", 1)[1].split("## Names", 1)[0]
    keys = ours.from_log(Log.of({"item": [0], "reward": [1.0]}))
    for key in (*keys, "action_dist", "estimated_rewards_by_reg_model"):
        assert f"`{key}`" in text, key
    for name in ("to_log", "from_log", "truth_of", "action_dist", "predicted"):
        assert f"{name}(" in text and callable(getattr(ours, name)), name
