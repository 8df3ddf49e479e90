"""Claims and simulators."""

from __future__ import annotations

import math

import polars as pl
import pytest

import recfb
from recfb.contracts import describe
from recfb.data import Log
from recfb.errors import ConfigError
from recfb.policies import LinUCB, Oracle, Uniform
from recfb.simulate import Claim, Refit, Simulator
from recfb.worlds import Arms

TABLE = pl.DataFrame(
    {
        "policy": ["a"] * 4 + ["b"] * 4,
        "replication": [0, 0, 1, 1] * 2,
        "round": [0, 1] * 4,
        "gini": [0.1, 0.8, 0.3, 0.6, 0.2, 0.2, 0.2, 0.3],
    }
)


def test_claims_by_hand() -> None:
    assert Claim("gini", "a", above=0).value(TABLE) == pytest.approx(0.7)
    assert Claim("gini", "a", above=0, round=0).value(TABLE) == pytest.approx(0.2)
    assert Claim("gini", "a", minus="b", above=0).value(TABLE) == pytest.approx(0.45)
    assert Claim("gini", "a", over="b", above=0).value(TABLE) == pytest.approx(2.8)


def test_bounds_hold_for_every_seed_or_in_the_mean() -> None:
    every, mean = Claim("gini", "a", above=0.4), Claim("gini", "a", above=0.4, seeds="mean")
    assert every.holds([0.5, 0.41])
    assert not every.holds([0.9, 0.4])
    assert mean.holds([0.9, 0.1])
    assert not mean.holds([0.4, 0.4])
    both = Claim("gini", "a", above=0.1, below=0.3)
    assert both.holds([0.2])
    assert not both.holds([0.3])
    assert not every.holds([0.5, math.nan])
    assert not Claim("gini", "a", below=1, seeds="mean").holds([math.nan, 0.5])


def test_claims_read_as_they_are_meant() -> None:
    assert repr(Claim("gini", "a", over="b", below=2, round=3)) == (
        "gini[a] / gini[b] in round 3 < 2"
    )
    assert repr(Claim("gini", "a", above=0.1, seeds="mean")) == "gini[a] > 0.1 in the mean"


def test_impossible_claims_are_refused() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'gini'"):
        Claim("ginni", "a", above=0)
    with pytest.raises(ConfigError, match="needs a bound"):
        Claim("gini", "a")
    with pytest.raises(ConfigError, match="not both"):
        Claim("gini", "a", minus="b", over="c", above=0)


def arms(**options: object) -> Simulator:
    policies = {"random": Uniform(), "linucb": LinUCB(), "oracle": Oracle()}
    claims = [
        Claim("regret", "random", minus="oracle", above=10),
        Claim("regret", "linucb", over="random", above=1),
    ]
    return Simulator(
        Arms([0.2, 0.8]), policies, rounds=60, replications=5, refit=Refit(warmup=0),
        metrics=["clicks"], seeds=2, expect=claims, **options,
    )  # fmt: skip


def test_check_plays_every_seed_and_says_what_holds() -> None:
    table = arms().check()
    assert table.columns == ["claim", "holds", "least", "mean", "most", "seeds"]
    assert table["holds"].to_list() == [True, False]
    assert table["seeds"].to_list() == [2, 2]
    assert table["least"][0] < table["mean"][0] < table["most"][0]
    assert arms().check(seeds=1)["seeds"].to_list() == [1, 1]


def test_run_takes_a_name_an_object_or_all() -> None:
    simulator = arms()
    named = simulator.run("linucb", seed=3)
    object_ = simulator.run(LinUCB(), seed=3)
    assert named.log.frame.equals(object_.log.frame)
    assert named.metrics["policy"].unique().to_list() == ["linucb"]
    assert object_.metrics["policy"].unique().to_list() == ["LinUCB()"]
    assert named.metrics.columns == ["policy", "replication", "round", "clicks", "regret"]
    together = simulator.run(seed=3)
    assert together.metrics["policy"].unique(maintain_order=True).to_list() == [
        "random", "linucb", "oracle",
    ]  # fmt: skip
    second = together.log.frame.filter(pl.col("logger") == 1)
    assert second.select("item", "reward").equals(named.log.frame.select("item", "reward"))
    again = Log.of(together.log.frame, n_users=1, n_items=2)
    assert len(again) == 3 * 5 * 60 == together.truth.height
    assert together.truth.select("slate").equals(together.log.frame.select("slate"))


def test_unknown_policies_are_named() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'linucb'"):
        arms().run("linubc")
    with pytest.raises(ConfigError, match="no policy 'best'"):
        Simulator(Arms([0.5]), {}, rounds=1, expect=[Claim("clicks", "best", above=0)])


def test_a_simulator_is_its_configuration() -> None:
    data = describe(arms(summary="two arms"))
    assert data["init_args"]["summary"] == "two arms"
    assert data["init_args"]["refit"]["init_args"]["warmup"] == 0
    assert data["init_args"]["policies"]["linucb"]["class_path"] == "recfb.policies.LinUCB"


def test_two_arms_meets_its_claims() -> None:
    simulator = recfb.simulator("two_arms")
    table = simulator.check(seeds=1)
    assert table["holds"].all(), table


@pytest.mark.claims
def test_two_arms_meets_its_claims_under_all_seeds() -> None:
    table = recfb.simulator("two_arms").check()
    assert table["holds"].all(), table


def swept(**sweep: list[float]) -> Simulator:
    return Simulator(
        Arms([0.2, 0.8]), {"ucb": LinUCB(), "random": Uniform()}, rounds=20, replications=3,
        metrics=["regret"], sweep={k.replace("__", "."): v for k, v in sweep.items()},
    )  # fmt: skip


def test_a_sweep_is_every_combination_and_differs_by_it_alone() -> None:
    table = swept(policies__ucb__alpha=[0.0, 2.0], world__sd=[0.1, 0.5]).swept()
    keys = ["policies.ucb.alpha", "world.sd"]
    assert table.columns == [*keys, "policy", "replication", "round", "regret"]
    assert table.select(keys).unique().height == 4
    assert table.height == 4 * 2 * 3 * 20
    same = table.filter(pl.col("policy") == "random").group_by(keys).agg(pl.col("regret").sum())
    assert same["regret"].n_unique() == 1
    one = swept(policies__ucb__alpha=[2.0]).swept().drop("policies.ucb.alpha")
    alone = Simulator(
        Arms([0.2, 0.8]), {"ucb": LinUCB(alpha=2.0), "random": Uniform()}, rounds=20,
        replications=3, metrics=["regret"],
    )  # fmt: skip
    assert one.equals(alone.run().metrics)


def test_a_sweep_of_what_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"LinUCB has no 'alpa'.*Did you mean 'alpha'"):
        swept(policies__ucb__alpa=[1.0])
    with pytest.raises(ConfigError, match=r"dict has no 'ucbb'.*Did you mean 'ucb'"):
        swept(policies__ucbb__alpha=[1.0])


def test_rows_are_known_before_the_run() -> None:
    loop = swept()
    assert loop.rows() == len(loop.run("ucb").log) == 60


def test_measured_and_judged_is_checked() -> None:
    loop = recfb.simulator("two_arms")
    loop.rounds = 40
    table = loop.measured(seeds=2)
    assert table.columns[:4] == ["seed", "policy", "replication", "round"]
    assert table["seed"].unique().to_list() == [0, 1]
    assert loop.judge(table).equals(loop.check())
