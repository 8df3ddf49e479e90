"""Means over replications with intervals, and paired differences."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from scipy import stats

from recfb.errors import ConfigError
from recfb.metrics.summary import paired, summarise
from recfb.policies import Oracle, Uniform
from recfb.simulate import simulate
from recfb.worlds import Tastes

R, T = 6, 3


def table(seed: int = 0) -> pl.DataFrame:
    """Policies a and b; what a replication adds to both is ten times their own noise."""
    g = np.random.default_rng(seed)
    shared = g.normal(size=(R, T))
    rows = []
    for policy, shift in (("a", 0.0), ("b", 1.0)):
        own = shared + shift + 0.1 * g.normal(size=(R, T))
        rows += [
            {"policy": policy, "replication": r, "round": t, "gini": own[r, t], "clicks": r + t}
            for r in range(R)
            for t in range(T)
        ]
    return pl.DataFrame(rows)


def test_intervals_agree_with_scipy() -> None:
    got = summarise(table(), ["gini"], alpha=0.1)
    assert got.columns == ["policy", "round", "metric", "mean", "lower", "upper", "n"]
    assert got.height == 2 * T
    for row in got.to_dicts():
        x = table().filter(policy=row["policy"], round=row["round"])["gini"].to_numpy()
        want = stats.ttest_1samp(x, 0).confidence_interval(0.9)
        assert (row["lower"], row["upper"]) == pytest.approx((want.low, want.high))
        assert (row["mean"], row["n"]) == (pytest.approx(x.mean()), R)
    assert set(summarise(table())["metric"]) == {"gini", "clicks"}


def test_paired_intervals_agree_with_scipy_and_are_narrower() -> None:
    got = paired(table(), "a", ["gini"])
    assert got["policy"].unique().to_list() == ["b"]
    wide = table().pivot("policy", index=["replication", "round"], values="gini")
    alone = summarise(table(), ["gini"]).filter(policy="b")
    for row, single in zip(got.to_dicts(), alone.to_dicts(), strict=True):
        now = wide.filter(round=row["round"])
        want = stats.ttest_rel(now["b"].to_numpy(), now["a"].to_numpy()).confidence_interval()
        assert (row["lower"], row["upper"]) == pytest.approx((want.low, want.high))
        assert row["upper"] - row["lower"] < 0.5 * (single["upper"] - single["lower"])


def test_pairs_are_of_the_same_replication() -> None:
    """The order of the rows does not count; a replication of one policy alone has no pair."""
    shuffled = table().sample(fraction=1.0, shuffle=True, seed=1)
    assert paired(shuffled, "a", ["gini"])["mean"].to_list() == pytest.approx(
        paired(table(), "a", ["gini"])["mean"].to_list()
    )
    lone = table().filter((pl.col("policy") == "a") | (pl.col("replication") > 1))
    assert paired(lone, "a", ["gini"])["n"].to_list() == [R - 2] * T


def test_seeds_are_replications() -> None:
    seeds = pl.concat([table(s).with_columns(pl.lit(s).alias("seed")) for s in range(3)])
    assert summarise(seeds, ["gini"])["n"].to_list() == [3 * R] * 2 * T
    assert paired(seeds, "a", ["gini"])["n"].to_list() == [3 * R] * T


def test_what_is_undefined_is_left_out() -> None:
    first = pl.col("round") == 0
    rows = table().with_columns(
        gini=pl.when(first).then(math.nan).when(pl.col("replication") > 0).then(None).otherwise(1.0)
    )
    got = summarise(rows, ["gini"])
    assert got["round"].to_list() == [1, 2] * 2
    assert got["n"].to_list() == [1] * 4
    assert got["lower"].is_null().all()  # one value has no interval


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="no column 'giny'"):
        summarise(table(), ["giny"])
    with pytest.raises(ConfigError, match="no column 'round'"):
        summarise(table().drop("round"))
    with pytest.raises(ConfigError, match='alias\\("seed"\\)'):
        summarise(pl.concat([table(), table(1)]))
    with pytest.raises(ConfigError, match="error rate in"):
        summarise(table(), alpha=5)
    with pytest.raises(ConfigError, match="no policy 'c'"):
        paired(table(), "c")


def test_tables_of_runs() -> None:
    runs = [
        simulate(Tastes(60, 30), policy, rounds=4, slate=3, replications=5, metrics=["clicks"])
        for policy in (Uniform(), Oracle())
    ]
    both = pl.concat([run.metrics for run in runs])
    names = both["policy"].unique(maintain_order=True).to_list()
    means, gain = summarise(both), paired(both, names[0])
    assert means.height == 2 * 4
    assert gain["policy"].unique().to_list() == [names[1]]
    assert gain.filter(round=0).select("mean", "lower", "upper").row(0) == (0, 0, 0)  # both uniform
    assert gain.filter(pl.col("round") > 0)["lower"].min() > 0.3
