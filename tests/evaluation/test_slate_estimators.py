"""Slates: exact by enumeration of every ranking, and the verb on logs with a `slate` column."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
import torch
from ope_world import Fixed
from torch import Tensor

from recfb import ConfigError, Log, LogError, SupportError, estimate, evaluate
from recfb.contracts import Context, Policy, Slate, plackett_luce
from recfb.data import blocks
from recfb.evaluation import slates
from recfb.evaluation.shape import Shape
from recfb.evaluation.slates import SLATES, SlateRows, ranking_weight
from recfb.evaluation.terms import Terms
from recfb.policies import Uniform
from recfb.random import stream

F = torch.float64
MU, PI = [0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]
RANKINGS = torch.tensor(list(itertools.permutations(range(4), 3)))  # (24, 3)
OWN = torch.tensor([[0.2, 0.9, 0.4, 0.6], [0.3, 0.5, 0.1, 0.8], [0.7, 0.2, 0.5, 0.35]], dtype=F)
pytestmark = pytest.mark.filterwarnings("ignore::recfb.errors.OverlapWarning")


def luce(p: list[float], item: Tensor = RANKINGS) -> dict[str, Tensor]:
    """Exact probabilities of every ranking under Plackett-Luce: marginals by enumeration."""
    prefix = plackett_luce(torch.tensor([p], dtype=F).expand(len(item), -1), item)  # (n, L)
    whole = plackett_luce(torch.tensor([p], dtype=F).expand(24, -1), RANKINGS)[:, -1]  # (24,)
    at = torch.stack(
        [(whole * (RANKINGS[:, k] == a[:, None])).sum(1) for k, a in enumerate(item.T)], dim=1
    )
    shown = (RANKINGS[None] == item[:, :, None, None]).any(-1)  # (n, L, 24)
    return {"at": at, "prefix": prefix, "display": (shown * whole).sum(-1)}


def rows_of(rewards: Tensor, logger: dict[str, Tensor], target: dict[str, Tensor]) -> SlateRows:
    """Slates (n, L) as rows for one policy."""
    one = torch.ones(rewards.T.shape, dtype=F)
    return SlateRows(
        rewards.sum(1), logger["prefix"][:, -1], target["prefix"][:, -1][None],
        slot=rewards.T, here=one, at=logger["at"].T, prefix=logger["prefix"].T,
        at_e=target["at"].T[:, None], prefix_e=target["prefix"].T[:, None],
        display_e=target["display"].T[:, None],
    )  # fmt: skip


def independent(item: Tensor) -> Tensor:
    """A slot's reward depends on its own item."""
    return torch.stack([OWN[k][item[:, k]] for k in range(3)], dim=1)


def cascade(item: Tensor) -> Tensor:
    """... and on the items above it."""
    own = independent(item)
    return own * torch.cat([torch.ones(len(item), 1, dtype=F), 1 - own[:, :-1]], dim=1).cumprod(1)


def entangled(item: Tensor) -> Tensor:
    """... and on the item below it."""
    own = independent(item)
    return own * (0.5 + (item.roll(-1, 1) > item))


WORLDS = {"independent": independent, "cascade": cascade, "entangled": entangled}


def expectation(name: str, world: Callable[[Tensor], Tensor]) -> tuple[float, float]:
    """The expectation of an estimator's term, and the truth, over all rankings."""
    rows = rows_of(world(RANKINGS), luce(MU), luce(PI))
    truth = float((world(RANKINGS).sum(1) * luce(PI)["prefix"][:, -1]).sum())
    return float(SLATES[name](rows, lambda x: (x * rows.p).sum(-1))), truth


@pytest.mark.parametrize(
    "name, world, unbiased",
    [("sips", "independent", True), ("sips", "cascade", True), ("sips", "entangled", True),
     ("rips", "independent", True), ("rips", "cascade", True), ("rips", "entangled", False),
     ("iips", "independent", True), ("iips", "cascade", False), ("iips", "entangled", False)],
)  # fmt: skip
def test_o_t1_each_is_exact_under_its_own_assumption(name: str, world: str, unbiased: bool) -> None:
    found, truth = expectation(name, WORLDS[world])
    if unbiased:
        assert found == pytest.approx(truth, abs=1e-12)
    else:
        assert abs(found - truth) > 0.01


def test_o_t1_iips_bias_when_rewards_cascade() -> None:
    reward, p, q = cascade(RANKINGS), luce(MU)["prefix"][:, -1], luce(PI)["prefix"][:, -1]
    total = 0.0
    for k in range(3):
        for a in range(4):  # the target's share of item a at k x the logger's mean reward of it
            on = RANKINGS[:, k] == a
            total += float(q[on].sum() * (p[on] * reward[on, k]).sum() / p[on].sum())
    found, truth = expectation("iips", cascade)
    assert found == pytest.approx(total, abs=1e-12) and abs(total - truth) > 0.01


@pytest.mark.parametrize("name, world", [("snsips", entangled), ("snrips", cascade),
                                         ("sniips", independent)])  # fmt: skip
def test_o_t1_bias_of_self_normalised_slates(name: str, world: Callable[[Tensor], Tensor]) -> None:
    i, j = torch.cartesian_prod(torch.arange(24), torch.arange(24)).T
    item = torch.stack([i, j], dim=1)  # (576 logs, 2 slates)
    one = rows_of(world(RANKINGS), luce(MU), luce(PI))
    p = one.p[i] * one.p[j]  # (576,)

    def pair(x: Tensor) -> Tensor:
        return x[..., item]  # (..., 576, 2)

    rows = SlateRows(
        pair(one.r), pair(one.p), pair(one.pe)[0], slot=pair(one.slot), here=pair(one.here),
        at=pair(one.at), prefix=pair(one.prefix), at_e=pair(one.at_e)[:, 0],
        prefix_e=pair(one.prefix_e)[:, 0], display_e=pair(one.display_e)[:, 0],
    )  # fmt: skip
    weights = {
        "snsips": (rows.pe / rows.p)[None],
        "snrips": rows.prefix_e / rows.prefix,
        "sniips": rows.at_e / rows.at,
    }[name]
    slot = rows.r[None] if name == "snsips" else rows.slot
    bias = 0.0
    for w, r in zip(weights, slot, strict=True):
        mean = w.mean(-1)  # (576,)
        ratio = (w * r).mean(-1) / mean
        bias -= float((ratio * mean * p).sum() - (ratio * p).sum() * (mean * p).sum())
    lines = [SLATES[name](_one_log(rows, k), estimate.average) for k in range(576)]
    found = float((torch.cat(lines) * p).sum())
    truth = expectation(name.removeprefix("sn"), world)[1]
    assert abs(bias) > 1e-4 and found - truth == pytest.approx(bias, abs=1e-12)


def _one_log(rows: SlateRows, k: int) -> SlateRows:
    return SlateRows(
        rows.r[k], rows.p[k], rows.pe[k][None], slot=rows.slot[:, k], here=rows.here[:, k],
        at=rows.at[:, k], prefix=rows.prefix[:, k], at_e=rows.at_e[:, k][:, None],
        prefix_e=rows.prefix_e[:, k][:, None], display_e=rows.display_e[:, k][:, None],
    )  # fmt: skip


# ---- pseudo-inverse


def indicators(item: Tensor, m: int) -> Tensor:
    """1_s: (n, L m)."""
    return torch.nn.functional.one_hot(item, m).flatten(1).to(F)


def by_inverse(item: Tensor, p: Tensor, q: Tensor, m: int) -> Tensor:
    """q_pi' G^+ 1_s of every slate (n,)."""
    one = indicators(item, m)
    g = one.T @ (p[:, None] * one)
    return (q @ one) @ torch.linalg.pinv(g, rcond=1e-10) @ one.T


def additive(item: Tensor) -> Tensor:
    return torch.stack([OWN[k][item[:, k]] for k in range(item.shape[1])], dim=1)


def test_o_pi_product_is_the_pseudo_inverse_and_unbiased() -> None:
    item = torch.cartesian_prod(torch.arange(3), torch.arange(3))  # (9, 2), with repetitions
    mu = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]], dtype=F)
    pi = torch.tensor([[0.1, 0.1, 0.8], [0.6, 0.3, 0.1]], dtype=F)
    at, at_e = (torch.stack([t[k][item[:, k]] for k in range(2)], dim=1) for t in (mu, pi))
    logger, target = ({"at": x, "prefix": x.cumprod(1), "display": x} for x in (at, at_e))
    rows = rows_of(additive(item), logger, target)
    w = by_inverse(item, rows.p, rows.pe[0], 3)
    assert torch.allclose(rows.product.w[0], w, rtol=0, atol=1e-9)
    assert float(rows.product.w.min()) < 0  # negative weights are right
    truth = float((rows.pe[0] * rows.r).sum())
    found = slates.pi_product(rows, lambda x: (x * rows.p).sum(-1))
    assert float(found) == pytest.approx(truth, abs=1e-12)
    assert float((rows.product.w * rows.p).sum()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("size", [3, 4])
def test_o_pi_ranking_is_the_pseudo_inverse_and_unbiased(size: int) -> None:
    item = torch.tensor(list(itertools.permutations(range(4), size)))  # (24, size)
    n = len(item)
    q = plackett_luce(torch.tensor([PI], dtype=F).expand(n, -1), item)[:, -1]
    p = torch.full((n,), 1 / n, dtype=F)
    at_e = torch.stack([(q * (item[:, k] == a[:, None])).sum(1) for k, a in enumerate(item.T)], 1)
    shown = (item[None] == item[:, :, None, None]).any(-1)  # (n, L, n)
    s, t = at_e.sum(1), (shown * q).sum(-1).sum(1)
    w = ranking_weight(s, t, torch.full((n,), float(size)).double(), torch.full((n,), 4.0).double())
    assert torch.allclose(w, by_inverse(item, p, q, 4), rtol=0, atol=1e-9)
    reward = torch.cat([additive(item[:, :3]), 0.1 * item[:, 3:].to(F)], dim=1).sum(1)
    assert float((p * w * reward).sum()) == pytest.approx(float((q * reward).sum()), abs=1e-12)
    assert float((p * w).sum()) == pytest.approx(1, abs=1e-12)


# ---- one slot, and the door to the data


def test_o_t15_7_a_slate_of_one_is_a_single_item() -> None:
    g = torch.Generator().manual_seed(0)
    r, p, pe = (torch.rand(1 + k, 50, generator=g, dtype=F) + 0.1 for k in (0, 0, 1))
    one = torch.ones(1, 50, dtype=F)
    t = SlateRows(
        r[0], p[0], pe, slot=r, here=one, at=p, prefix=p, at_e=pe[None], prefix_e=pe[None],
        display_e=pe[None],
    )  # fmt: skip
    plain = estimate.Rows(r[0], p[0], pe)
    for name in ("sips", "iips", "rips", "pi_product"):
        found = SLATES[name](t, estimate.average)
        assert torch.allclose(found, estimate.ips(plain, estimate.average), rtol=1e-12)
    for name in ("snsips", "sniips", "snrips"):
        found = SLATES[name](t, estimate.average)
        assert torch.allclose(found, estimate.snips(plain, estimate.average), rtol=1e-12)


@pytest.mark.parametrize("name", list(SLATES))
def test_o_t3_slate_estimators_reduce_through_mean_alone(name: str) -> None:
    g = torch.Generator().manual_seed(1)
    n, size, policies = 100, 3, 2

    def uniform(*shape: int) -> Tensor:
        return 0.2 + 0.8 * torch.rand(*shape, n, generator=g, dtype=F)

    t = SlateRows(
        uniform(), uniform(), uniform(policies), slot=uniform(size), here=torch.ones(size, n).to(F),
        at=uniform(size), prefix=uniform(size), at_e=uniform(size, policies),
        prefix_e=uniform(size, policies), display_e=uniform(size, policies),
    )  # fmt: skip
    f: Any = SLATES[name]
    terms = Terms({"it": f}, policies=policies, shape=Shape(slots=size))
    for block in (n, 37, 1):
        parts = [t[k : k + block] for k in range(0, n, block)]
        sums = torch.stack([terms.columns(part).sum(-1) for part in parts]).sum(0)
        assert torch.allclose(terms.value("it", sums), f(t, estimate.average), rtol=1e-10)


# ---- the verb


class Luce(Policy):
    """Plackett-Luce with its exact marginals, for slates of three of four items."""

    def __init__(self, given: list[float]) -> None:
        super().__init__()
        self.given = given

    def probs(self, context: Context) -> Tensor:
        return torch.tensor([self.given], dtype=F).expand(len(context), -1)

    def propensities(self, context: Context, item: Tensor) -> Slate:
        exact = luce(self.given, item)
        return Slate(item, exact["at"], p_prefix=exact["prefix"], p_display=exact["display"])


def slate_log(n: int = 3000, seed: int = 0, **more: Any) -> Log:
    """n slates of three that Luce(MU) drew; clicks cascade."""
    g = stream(seed, "slates")
    policy = Luce(MU).bind(Log.empty(1, 4))
    item = policy.act(Context(torch.zeros(n, dtype=torch.int64)), g, k=3).item  # (n, 3)
    said = luce(MU, item)
    click = torch.rand(n, 3, generator=g, dtype=F) < cascade(item)
    columns = {
        "item": item.flatten(),
        "reward": click.flatten().float(),
        "propensity": said["at"].flatten(),
        "p_prefix": said["prefix"].flatten(),
        "p_display": said["display"].flatten(),
        "position": torch.arange(3).repeat(n) + 1,
        "slate": torch.arange(n).repeat_interleave(3) + 10,
    }
    return Log.of({**columns, **more}, n_items=4)


NAMES = ["sips", "iips", "rips", "snsips", "sniips", "snrips"]


def test_o_values_by_hand() -> None:
    log = slate_log()
    report = evaluate(log, {"t": Luce(PI)}, estimators=NAMES)
    found = dict(zip(report.table["estimator"], report.table["value"], strict=True))
    item, r = (log.tensor(c).view(-1, 3) for c in ("item", "reward"))
    said = luce(PI, item)
    at = said["at"] / log.tensor("propensity").view(-1, 3)
    prefix = said["prefix"] / log.tensor("p_prefix").view(-1, 3)
    joint = prefix[:, -1]
    by_hand = {
        "sips": (joint * r.sum(1)).mean(),
        "iips": (at * r).sum(1).mean(),
        "rips": (prefix * r).sum(1).mean(),
        "snsips": (joint * r.sum(1)).sum() / joint.sum(),
        "sniips": ((at * r).sum(0) / at.sum(0)).sum(),
        "snrips": ((prefix * r).sum(0) / prefix.sum(0)).sum(),
    }
    for name, value in by_hand.items():
        assert found[name] == pytest.approx(float(value), rel=1e-12), name
    truth = expectation("sips", cascade)[1]
    rips = report.table.filter(estimator="rips").to_dicts()[0]
    assert rips["lower"] < truth < rips["upper"] and rips["n"] == 3000
    se = float((prefix * r).sum(1).std()) / 3000**0.5
    assert rips["se"] == pytest.approx(se, rel=0.1)  # the slate is the unit, in hashed buckets
    assert "3,000 slates; a value is the mean reward of a whole slate." in report.notes


def test_o_uniform_rankings_through_the_verb() -> None:
    uniform = Uniform().bind(Log.empty(1, 4))
    n, g = 2000, stream(3, "uniform")
    slate = uniform.act(Context(torch.zeros(n, dtype=torch.int64)), g, k=3)
    columns = {
        "item": slate.item.flatten(),
        "reward": independent(slate.item).flatten().float(),
        "propensity": slate.propensity.flatten(),
        "p_prefix": slate.p_prefix.flatten(),
        "position": torch.arange(3).repeat(n) + 1,
        "slate": torch.arange(n).repeat_interleave(3),
    }
    log = Log.of(columns, n_items=4)
    table = evaluate(log, {"t": Luce(PI)}, estimators=["pi_ranking"]).table
    truth = expectation("sips", independent)[1]
    row = table.to_dicts()[0]
    assert row["value"] == pytest.approx(truth, abs=4 * row["se"])
    with pytest.raises(LogError, match="pi_product: 2,000 rows are not of independently drawn"):
        evaluate(log, {"t": Luce(PI)}, estimators=["pi_product"])
    with pytest.raises(LogError, match=r"pi_ranking: \S+ rows are not of uniform rankings"):
        evaluate(slate_log(), {"t": Luce(PI)}, estimators=["pi_ranking"])


def test_o_a_logger_of_another_kind_shows_in_its_marginals() -> None:
    log = slate_log(50)
    bare = log.with_frame(log.frame.drop("p_prefix"))
    with pytest.raises(LogError, match="pi_ranking: 50 rows are not of uniform rankings"):
        evaluate(bare, {"t": Luce(PI)}, estimators=["pi_ranking"])


def test_o_diagnostics_are_of_each_estimators_own_weights() -> None:
    log = slate_log(500)
    table = evaluate(log, {"t": Luce(PI)}, estimators=["sips", "iips", "rips"]).table
    said = luce(PI, log.tensor("item").view(-1, 3))
    prefix = said["prefix"] / log.tensor("p_prefix").view(-1, 3)
    at = said["at"] / log.tensor("propensity").view(-1, 3)
    for name, w in {"sips": prefix[:, -1], "iips": at.mean(1), "rips": prefix.mean(1)}.items():
        row = table.filter(estimator=name).to_dicts()[0]
        assert row["ess"] == pytest.approx(float(w.sum() ** 2 / (w * w).sum()), rel=1e-9), name
        assert row["max_weight"] == pytest.approx(float(w.max()), rel=1e-12), name


def test_o_a_policy_without_exact_probabilities_has_no_value() -> None:
    report = evaluate(slate_log(200), {"t": Fixed(PI)}, estimators=["iips", "rips"])
    reasons = dict(zip(report.table["estimator"], report.table["reasons"], strict=True))
    assert reasons["iips"] == "the policy has no exact probability of these slates"
    assert report.table.filter(estimator="rips")["value"].item() is not None


def test_o_slates_of_different_lengths() -> None:
    log = slate_log(400)
    short = log.filter((pl.col("slate") % 2 == 0) | (pl.col("position") < 3))
    found = evaluate(short, {"t": Luce(PI)}, estimators=NAMES).table
    whole, cut = (log.filter(pl.col("slate") % 2 == k) for k in (0, 1))
    cut = cut.filter(pl.col("position") < 3)
    for name in ("iips", "rips", "sips"):
        halves = [
            evaluate(x, {"t": Luce(PI)}, estimators=[name]).table["value"].item()
            for x in (whole, cut)
        ]
        mine = found.filter(estimator=name)["value"].item()
        assert mine == pytest.approx(sum(halves) / 2, rel=1e-12)


@pytest.mark.parametrize("cut", [7, 300])
def test_o_parts_never_cut_a_slate(monkeypatch: pytest.MonkeyPatch, cut: int) -> None:
    log = slate_log(200)
    whole = evaluate(log, {"t": Luce(PI)}, estimators=NAMES).table
    monkeypatch.setattr(blocks, "PART", cut)
    assert all(len(part.load(None)) % 3 == 0 for part in log.parts())
    parts = evaluate(log, {"t": Luce(PI)}, estimators=NAMES).table
    for column in ("value", "se", "ess", "max_weight"):
        assert whole[column].to_list() == pytest.approx(parts[column].to_list(), rel=1e-9)


def test_o_a_slate_in_two_parts_of_a_file_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    from recfb.data import scan

    slate_log(20).frame.write_parquet(tmp_path / "log.parquet")
    scanned = Log.scan(tmp_path / "log.parquet", n_items=4)
    assert evaluate(scanned, {"t": Luce(PI)}, estimators=["sips"]).exit_code in (0, 3)
    monkeypatch.setattr(scan, "PART", 10)
    with pytest.raises(LogError, match="slate 13 lies in two parts"):
        evaluate(scanned, {"t": Luce(PI)}, estimators=["sips"])


def test_o_unknown_rewards_leave_the_slate_out() -> None:
    log = slate_log(100)
    hole = pl.when(pl.int_range(pl.len()) != 4).then(pl.col("reward"))
    report = evaluate(
        log.with_frame(log.frame.with_columns(reward=hole)), {"t": Luce(PI)}, estimators=["sips"]
    )
    assert report.table["n"].item() == 99
    assert "1 slates without a known reward were left out." in report.notes
    rest = evaluate(log.filter(pl.col("slate") != 11), {"t": Luce(PI)}, estimators=["sips"])
    assert report.table["value"].item() == pytest.approx(rest.table["value"].item(), rel=1e-12)


@pytest.mark.parametrize("name, column", [("iips", "propensity"), ("sips", "p_prefix"),
                                          ("rips", "slate"), ("rips", "position")])  # fmt: skip
def test_o_missing_columns_are_named(name: str, column: str) -> None:
    log = slate_log(20)
    with pytest.raises(LogError, match=f"needs the column '{column}'"):
        evaluate(log.with_frame(log.frame.drop(column)), {"t": Luce(PI)}, estimators=[name])


def test_o_rows_out_of_order_are_counted() -> None:
    log = slate_log(20)
    swapped = log.with_frame(log.frame.sort("slate", "position", descending=[False, True]))
    with pytest.raises(LogError, match="slate: 40 rows are not sorted by slate and position"):
        evaluate(swapped, {"t": Luce(PI)}, estimators=["sips"])
    apart = log.with_frame(pl.concat([log.frame[1:], log.frame[:1]]))
    with pytest.raises(LogError, match="are not sorted"):
        evaluate(apart, {"t": Luce(PI)}, estimators=["sips"])


def test_o_some_slates_without_a_propensity_are_an_error() -> None:
    log = slate_log(20)
    hole = pl.when(pl.int_range(pl.len()) >= 4).then(pl.col("p_prefix"))
    log = log.with_frame(log.frame.with_columns(p_prefix=hole))
    with pytest.raises(LogError, match="2 of 20 rows have no propensity"):
        evaluate(log, {"t": Luce(PI)}, estimators=["rips"])
    assert evaluate(log, {"t": Luce(PI)}, estimators=["iips"]).table["value"].item() is not None


def test_o_impossible_probabilities_are_refused() -> None:
    class Double(Luce):
        def propensities(self, context: Context, item: Tensor) -> Slate:
            return Slate(item, propensity=torch.full(item.shape, 2.0))

    with pytest.raises(SupportError, match=r"propensities: 20 rows have propensity outside"):
        evaluate(slate_log(20), {"t": Double(PI)}, estimators=["iips"])


def test_o_slates_and_single_items_do_not_mix() -> None:
    with pytest.raises(ConfigError, match=r"\['sips'\] value whole slates and \['ips'\] rows"):
        evaluate(slate_log(20), {"t": Luce(PI)}, estimators=["sips", "ips"])


def test_o_no_slates() -> None:
    report = evaluate(slate_log(0), {"t": Luce(PI)}, estimators=NAMES)
    assert report.exit_code == 4 and set(report.table["reasons"]) == {"no rows"}


def test_o_subgroups_of_slates() -> None:
    log = slate_log(300, replication=torch.arange(300).repeat_interleave(3) % 2)
    by = evaluate(log, {"t": Luce(PI)}, estimators=["rips"], by="replication").table
    alone = evaluate(log.filter(pl.col("replication") == 1), {"t": Luce(PI)}, estimators=["rips"])
    mine = by.filter(replication="1")["value"].item()
    assert mine == pytest.approx(alone.table["value"].item(), rel=1e-12)
