"""The verb measure: by hand, intervals that cover, and what it refuses."""

from __future__ import annotations

import math
import statistics

import polars as pl
import pytest
import torch
from scipy import stats
from torch import Tensor

from recfb import fit, measure
from recfb.contracts import Batch, Context, Solver
from recfb.data import Log, Pairs
from recfb.errors import ConfigError, LogError, RecfbWarning, UnboundError
from recfb.measure import Bootstrap, Lists, Task
from recfb.metrics.ranking import Metric, discounts
from recfb.random import stream
from recfb.solvers import Popularity, Random


class Given(Solver):
    """Scores from a table."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = table

    def solve(self, log: Log) -> Given:
        return self

    def forward(self, user: Tensor, item: Tensor, batch: Batch | None = None) -> Tensor:
        owner = user[:, None] if item.dim() > 1 else user
        return self.table[owner, item]

    def all(self, user: Tensor, out: Tensor | None = None) -> Tensor:
        return self.table[user]


def log_of(pairs: list[tuple[int, int]], reward: list[float] | None = None) -> Log:
    user, item = zip(*pairs, strict=True)
    rows = {"user": user, "item": item, "reward": reward or [1.0] * len(pairs)}
    return Log.of(rows, n_users=4, n_items=5)


TRAIN = log_of([(0, 0), (0, 1), (1, 1), (2, 0), (2, 2)])  # user 3 and items 3, 4 have no click
TEST = log_of([(0, 0), (0, 2), (1, 0), (1, 2), (1, 3), (2, 1), (3, 0)])
DOWN = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0]).repeat(4, 1)  # every user: items in order of id


def values(table: pl.DataFrame) -> dict[tuple[str, str], float]:
    return {(r["recommender"], r["metric"]): r["value"] for r in table.iter_rows(named=True)}


def test_by_hand() -> None:
    model = fit(TRAIN, Given(DOWN))
    table = measure(TEST, {"m": model}, metrics=["recall@1", "ndcg@2", "coverage@1"], exclude=TRAIN)
    # known users 0, 1, 2, known items 0, 1, 2. Clicks to find: user 0: 2; user 1: 0, 2; user 2: 1.
    # Lists without what was clicked before: user 0: 2, 3; user 1: 0, 2; user 2: 1, 3.
    assert values(table) == pytest.approx(
        {("m", "recall@1"): (1 + 0.5 + 1) / 3, ("m", "ndcg@2"): 1.0, ("m", "coverage@1"): 3 / 5}
    )
    assert table.columns == [
        "recommender",
        "metric",
        "value",
        "lower",
        "upper",
        "n_users",
        "left_users",
        "left_clicks",
    ]
    assert table["n_users"].to_list() == [3] * 3
    assert table["left_users"].to_list() == [1] * 3  # user 3
    assert table["left_clicks"].to_list() == [3] * 3  # (0, 0), (1, 3), (3, 0)
    assert table["lower"].to_list()[2] is None


def test_all_users() -> None:
    table = measure(
        TEST, {"m": fit(TRAIN, Given(DOWN))}, metrics=["recall@1"], exclude=TRAIN, users="all"
    )
    assert table["value"].item() == pytest.approx((1 + 1 / 3 + 1 + 1) / 4)
    assert table["n_users"].item() == 4 and table["left_clicks"].item() == 1


def test_without_exclude_nothing_is_removed() -> None:
    table = measure(TEST, {"m": fit(TRAIN, Given(DOWN))}, metrics=["recall@1"])
    # what is known comes from the model. User 0: items 0, 2, list 0; user 2: item 1, list 0
    assert table["value"].item() == pytest.approx((0.5 + 0.5 + 0.0) / 3)


def test_judged_candidates() -> None:
    train = log_of([(0, 4), (1, 1)], [0.0, 1.0])
    test = log_of([(0, 1), (0, 3), (0, 4), (1, 2), (1, 1)], [0.0, 1.0, 1.0, 1.0, 1.0])
    table = measure(
        test,
        {"m": fit(train, Given(DOWN))},
        metrics=["ndcg@3", "recall@1", "coverage@3"],
        exclude=train,
        users="all",
        candidates="judged",
    )
    # user 0 judges 1 and 3 (4 occurs in train): 3 is second. User 1 judges 2: first.
    assert values(table)[("m", "ndcg@3")] == pytest.approx((1 / math.log2(3) + 1) / 2)
    assert values(table)[("m", "recall@1")] == pytest.approx(0.5)
    assert values(table)[("m", "coverage@3")] == pytest.approx(3 / 5)  # 1, 3, 2 and nothing else


def test_users_who_clicked_nothing_are_counted_or_count_as_zero() -> None:
    test = log_of([(0, 2), (1, 0), (1, 2), (2, 1), (2, 3), (3, 0)], [1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    models = {"m": fit(TRAIN, Given(DOWN)), "r": fit(TRAIN, Random())}
    table = measure(test, models, metrics=["hit@1", "hit@1:zero"], exclude=TRAIN, base="r")
    mine = table.filter(recommender="m")
    # users 0 and 1 click what comes first; user 2 is known and clicks nothing; user 3 is unknown
    assert mine["value"].to_list() == pytest.approx([1.0, 2 / 3])
    assert mine["n_users"].to_list() == [2, 3]
    assert mine["left_users"].to_list() == [2, 1]
    gap = mine["difference"]
    assert gap[1] == pytest.approx(gap[0] * 2 / 3)


def test_paired_differences_have_a_p_value() -> None:
    other = Given(DOWN.flip(1))
    models = {"m": fit(TRAIN, Given(DOWN)), "other": fit(TRAIN, other)}
    table = measure(TEST, models, metrics=["recall@1"], exclude=TRAIN, users="all", base="other")
    mine, theirs = (table.filter(recommender=name) for name in ("m", "other"))
    lists = {"m": [1, 1 / 3, 1, 1], "other": [0, 0, 0, 0]}  # by hand, users 0 to 3
    gap = [a - b for a, b in zip(*lists.values(), strict=True)]
    assert mine["difference"].item() == pytest.approx(sum(gap) / 4)
    t = (sum(gap) / 4) / (statistics.stdev(gap) / 2)
    assert mine["p_value"].item() == pytest.approx(2 * stats.t.sf(t, 3))
    assert theirs["p_value"].item() is None


def test_another_vocabulary_is_recoded() -> None:
    model = fit(TRAIN, Given(DOWN))
    rows = TEST.decode().vstack(
        pl.DataFrame({"user": [77], "item": [0], "reward": [1.0]}, schema=TEST.decode().schema)
    )
    other = Log.of(rows)
    assert other.vocabulary.digest != TRAIN.vocabulary.digest
    here = measure(TEST, {"m": model}, exclude=TRAIN)
    there = measure(other, {"m": model}, exclude=Log.of(TRAIN.decode()))
    assert here.drop("left_users", "left_clicks").equals(there.drop("left_users", "left_clicks"))
    assert there["left_users"][0] == here["left_users"][0] + 1


def test_differences_are_paired() -> None:
    n = 300
    user = torch.arange(n).repeat_interleave(2)
    item = torch.stack([torch.arange(n) % 10, (torch.arange(n) + 3) % 10], 1).reshape(-1)
    log = Log.of({"user": user, "item": item, "reward": torch.ones(2 * n)}, n_items=10)
    noise = torch.randn(n, 10, generator=stream(0))
    better = noise + 0.1 * log.clicks.label(torch.arange(n), torch.arange(10).expand(n, -1))
    models = {"a": fit(log, Given(noise)), "b": fit(log, Given(better))}
    table = measure(log, models, metrics=["ndcg@3", "gini@3"], base="a", users="all")
    a, b = table.filter(pl.col("metric") == "ndcg@3").iter_rows(named=True)
    assert (a["difference"], a["difference_lower"], a["difference_upper"]) == (0.0, 0.0, 0.0)
    assert b["difference"] == pytest.approx(b["value"] - a["value"])
    width = b["difference_upper"] - b["difference_lower"]
    assert width < 0.6 * (b["upper"] - b["lower"])
    assert b["difference_lower"] < b["difference"] < b["difference_upper"]


def test_groups_of_users_and_of_items() -> None:
    users = pl.DataFrame({"id": [0, 1, 2, 3], "country": ["x", "y", "y", "x"]})
    items = pl.DataFrame({"id": [0, 1, 2, 3, 4], "rare": [False, False, True, True, True]})
    log = TEST.with_users(users).with_items(items)
    model = fit(TRAIN, Given(DOWN))
    table = measure(log, {"m": model}, metrics=["recall@1"], exclude=TRAIN, by="country")
    assert table.columns[0] == "country"
    assert table["country"].to_list() == ["x", "y"]
    assert table["value"].to_list() == pytest.approx([1.0, (0.5 + 1) / 2])
    assert table["left_users"].to_list() == [1, 0]
    table = measure(log, {"m": model}, metrics=["recall@1"], exclude=TRAIN, by="rare")
    assert table["value"].to_list() == pytest.approx([(1 + 1) / 2, (1 + 0) / 2])
    with pytest.raises(ConfigError, match="country"):
        measure(log, {"m": model}, by="county")


def test_snips_by_hand() -> None:
    train = log_of([(0, 0), (1, 0), (2, 0), (3, 0), (0, 1), (1, 2), (2, 2)])  # 4, 1, 2 clicks
    test = log_of([(0, 2), (1, 1), (2, 1), (3, 1), (3, 2)])
    model = fit(train, Given(DOWN))
    names = ["ndcg@2:snips", "recall@1:snips", "ndcg@2:n_pos"]
    table = values(measure(test, {"m": model}, metrics=names, exclude=train))
    one, two = 4**1.5, 2**1.5  # weights of items 1 and 2 relative to item 0
    # user 0: 2 first. User 1: 1 first. User 2: 1 first. User 3: 1, 2.
    last = (one + two / math.log2(3)) / (one + two)
    assert table["m", "ndcg@2:snips"] == pytest.approx((3 + last) / 4)
    assert table["m", "recall@1:snips"] == pytest.approx((3 + one / (one + two)) / 4)
    flat = log_of([(u, i) for u, i in zip([0, 1, 2, 3, 0], [0, 1, 2, 3, 4], strict=True)])
    model = fit(flat, Given(DOWN))
    table = values(measure(test, {"m": model}, metrics=names, exclude=flat))
    assert table["m", "ndcg@2:snips"] == pytest.approx(table["m", "ndcg@2:n_pos"])


def test_snips_says_when_few_clicks_carry_it() -> None:
    n = 200
    train = Log.of({"user": range(n), "item": [0] * (n - 1) + [1], "reward": [1] * n}, n_items=2)
    test = Log.of({"user": range(n), "item": [1] + [0] * (n - 1), "reward": [1] * n}, n_items=2)
    both = {"m": fit(train, Popularity())}
    with pytest.warns(RecfbWarning, match="unreliable"):
        measure(test.extend(train), both, metrics=["ndcg@1:snips"], users="all")
    with pytest.raises(ConfigError, match="exclude=train"):
        measure(TEST, {"m": Adapter()}, metrics=["ndcg@1:snips"])  # type: ignore[dict-item]


class Adapter:
    """Ranks, and is nothing else."""

    def top(self, context: Context, k: int) -> Tensor:
        return DOWN[context.user].masked_fill(~context.available, -1).topk(k).indices


def test_intervals_cover_the_mean() -> None:
    covered, draw = 0, Bootstrap(torch.arange(60), 0.1, seed=0)
    for seed in range(300):
        value, lower, upper = draw(torch.rand(60, generator=stream(seed), dtype=torch.float64) ** 2)
        covered += lower <= 1 / 3 <= upper
        assert lower <= value <= upper
    assert 0.84 <= covered / 300 <= 0.95


def test_many_users_are_resampled_in_groups() -> None:
    x = torch.rand(50_000, generator=stream(0), dtype=torch.float64)
    value, lower, upper = Bootstrap(torch.arange(50_000), 0.05, seed=0)(x)
    normal = 2 * 1.96 * float(x.std()) / 50_000**0.5
    assert value == pytest.approx(float(x.mean()))
    assert 0.85 < (upper - lower) / normal < 1.15


def test_one_seed_one_table() -> None:
    models = {"pop": fit(TRAIN, Popularity()), "random": fit(TRAIN, Random())}
    first, again = (measure(TEST, models, exclude=TRAIN, base="pop") for _ in range(2))
    assert first.equals(again)
    x = torch.rand(50, generator=stream(0), dtype=torch.float64)
    draws = [Bootstrap(torch.arange(50), 0.05, seed=seed)(x) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_an_adapter_without_history_is_welcome() -> None:
    table = measure(TEST, {"m": Adapter()}, metrics=["recall@1"], exclude=TRAIN)  # type: ignore[dict-item]
    assert table["value"].item() == pytest.approx((1 + 0.5 + 1) / 3)


def test_the_commonest_mistakes() -> None:
    model = fit(TRAIN, Given(DOWN))
    with pytest.raises(ConfigError, match="Did you mean 'known'"):
        measure(TEST, {"m": model}, users="knwon")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="candidates"):
        measure(TEST, {"m": model}, candidates="some")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="base is one of"):
        measure(TEST, {"m": model}, base="n")
    with pytest.raises(ConfigError, match="name for each model"):
        measure(TEST, {})
    with pytest.raises(UnboundError, match="not fitted"):
        measure(TEST, {"m": Popularity()})
    with pytest.raises(LogError, match="nothing to measure"):
        measure(TRAIN, {"m": model}, exclude=TRAIN)
    unclicked = TEST.with_frame(TEST.frame.with_columns(reward=pl.lit(0.0, pl.Float32)))
    with pytest.raises(LogError, match="binarise"):
        measure(unclicked, {"m": model})
    other = fit(Log.of({"user": ["a"], "item": [1], "reward": [1]}), Popularity())
    with pytest.raises(ConfigError, match="different vocabularies"):
        measure(TEST, {"m": model, "o": other})


def test_a_log_without_rows_gives_a_table_of_nulls() -> None:
    model = fit(TRAIN, Given(DOWN))
    empty = Log.empty(0, 0, vocabulary=TRAIN.vocabulary)
    table = measure(empty, {"m": model}, exclude=TRAIN, metrics=["ndcg@2", "coverage@2"])
    assert table["value"].to_list() == [None, None]
    assert table["n_users"].to_list() == [0, 0]


def test_r_8_7_snips_finds_the_value_that_plain_clicks_miss() -> None:
    """2,000 users x 1,000 items, half of them wanted, seen with a known chance: a million clicks.

    Training clicks are such that their 1.5th power is that chance. One ranking for all, popular
    items first: held-out clicks flatter it, and inverse popularity does not.
    """
    users, items, k = 2000, 1000, 100
    seen = torch.linspace(1.0, 0.05, items, dtype=torch.float64)  # (items,)
    generator = stream(0, "snips")
    wanted = torch.rand(users, items, generator=generator) < 0.5
    clicked = wanted & (torch.rand(users, items, generator=generator) < seen)
    user, item = clicked.nonzero().T
    clicks = Pairs(user, item, n_users=users, n_items=items)
    count = (users * seen ** (2 / 3)).round().long()  # (items,)
    trained = torch.arange(users)[:, None] < count  # (users, items)
    history = Pairs(*trained.nonzero().T, n_users=users, n_items=items)
    everyone = torch.arange(users)
    task = Task(everyone, clicks, None, None, history, everyone[:0])
    top = torch.arange(k).expand(users, -1)  # (users, k): the items seen most
    lists = Lists(top, clicked[:, :k].float())
    truth = (wanted[:, :k].double() @ discounts(k) / wanted.sum(1)).mean()
    plain = lists.values(Metric.of(f"ndcg@{k}:n_pos"), task).mean()
    snips = lists.values(Metric.of(f"ndcg@{k}:snips"), task).mean()
    assert 500_000 < len(clicks) < 1_500_000
    assert abs(float(snips / truth) - 1) < 0.02
    assert float(plain / truth) > 1.5
