"""Statistics as columns: whole = blocks, influence, traits, bootstrap counts."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from recfb import ConfigError, estimate
from recfb.estimate import ESTIMATORS, Mean, Rows, average
from recfb.evaluation.estimates import BucketEstimates, poisson_counts, poisson_table
from recfb.evaluation.shape import traits
from recfb.evaluation.terms import Terms, accumulate, moments, residual, weight
from recfb.random import mix64

F = torch.float64


def rows_of(n: int, policies: int = 2, seed: int = 0) -> Rows:
    g = torch.Generator().manual_seed(seed)
    p = torch.rand(n, generator=g, dtype=F) * 0.9 + 0.1
    pe = torch.rand(policies, n, generator=g, dtype=F)
    pe[:, ::5] = 1.0
    r = (torch.rand(n, generator=g, dtype=F) < 0.3).to(F)
    v, q = (torch.rand(policies, n, generator=g, dtype=F), torch.rand(n, generator=g, dtype=F))
    return Rows(r, p, pe, v, q, 0.7 * v, 0.8 * q.expand(policies, -1))


def sums_of(terms: Terms, rows: Rows, buckets: int = 4096, seed: int = 0) -> Tensor:
    bucket = mix64(torch.arange(len(rows)) ^ seed) & (buckets - 1)
    return accumulate(terms, rows, bucket, buckets)


@pytest.mark.parametrize("name", list(ESTIMATORS))
@pytest.mark.parametrize("block", [1, 37, 500])
def test_o_value_from_sums_is_the_value_on_rows(name: str, block: int) -> None:
    rows, terms = rows_of(500), Terms(ESTIMATORS, policies=2)
    sums = accumulate(terms, rows, torch.arange(500) % 64, 64, chunk=block)
    value = terms.value(name, sums.sum(-1))
    assert torch.allclose(value, ESTIMATORS[name](rows, average), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["ips", "snips", "dr", "replay"])
def test_o_influence_gives_the_standard_error_of_the_textbook(name: str) -> None:
    rows, terms = rows_of(400, policies=1), Terms({name: ESTIMATORS[name]}, policies=1)
    made = BucketEstimates(name, terms, sums_of(terms, rows, 1 << 20), 0, (0, 1), (0, 1e9))
    n, w, hit = len(rows), rows.w[0], (rows.pe[0] == 1).to(F)
    value = float(ESTIMATORS[name](rows, average))
    term = {
        "ips": rows.wr[0],
        "snips": w * (rows.r - value) / w.mean(),
        "dr": (rows.v + rows.we)[0],
        "replay": hit * (rows.r - value) / hit.mean(),
    }[name]
    assert made.df == n - 1  # every row has a bucket of its own
    assert float(made.se()[0]) == pytest.approx(float(term.std()) / n**0.5, rel=1e-9)
    assert float(made.phi.sum()) == pytest.approx(0, abs=1e-15)


def test_o_differences_are_paired() -> None:
    rows, terms = rows_of(400), Terms({"ips": estimate.ips}, policies=2)
    made = BucketEstimates("ips", terms, sums_of(terms, rows, 1 << 20), 0, (0, 1), (0, 1e9))
    gap = rows.wr[0] - rows.wr[1]
    assert float(made.se_diff(1)[0]) == pytest.approx(float(gap.std()) / 20, rel=1e-9)
    assert float(made.se_diff(1)[1]) == 0


def test_o_clusters_are_whole() -> None:
    rows, terms = rows_of(600, policies=1), Terms({"ips": estimate.ips}, policies=1)
    unit = torch.arange(600) // 6
    sums = accumulate(terms, rows, mix64(unit) & ((1 << 20) - 1), 1 << 20)
    made = BucketEstimates("ips", terms, sums, 0, (0, 1), (0, 1e9))
    means = rows.wr[0].view(100, 6).mean(1)
    assert made.df == 99
    assert float(made.se()[0]) == pytest.approx(float(means.std()) / 10, rel=1e-9)


def test_o_traits_are_found_by_running() -> None:
    assert traits(estimate.ips).weighs_only and not traits(estimate.ips).equivariant
    assert traits(estimate.snips).weighs_only and traits(estimate.snips).equivariant
    assert traits(estimate.dr).weighs and traits(estimate.dr).models
    assert traits(estimate.dm).models and not traits(estimate.dm).weighs
    assert traits(estimate.replay).equivariant and not traits(estimate.replay).weighs
    assert traits(functools.partial(estimate.dros, lam=3.0)).unshrunk is estimate.dr
    assert traits(estimate.cips).unshrunk is estimate.ips
    assert traits(estimate.ips).unshrunk is None


def test_o_shared_columns_are_summed_once() -> None:
    terms = Terms({"ips": estimate.ips, "snips": estimate.snips, "w": weight}, policies=1)
    assert terms.size == 3  # rows, w r, w
    assert terms.calls == {"ips": [1], "snips": [1, 2], "w": [2]}


def test_o_an_estimator_of_ones_own() -> None:
    def clipped(t: Rows, mean: Mean) -> Tensor:
        return mean(t.w.clamp(max=2) * t.r) / mean(t.w.clamp(max=2))

    rows, terms = rows_of(100), Terms({"mine": clipped, "all": moments, "d": residual}, policies=2)
    value = terms.value("mine", sums_of(terms, rows).sum(-1))
    assert torch.allclose(value, clipped(rows, average), rtol=1e-12, atol=0)
    assert terms.value("all", sums_of(terms, rows).sum(-1)).shape == (6, 2)


def test_o_a_value_that_is_no_value_a_policy_is_refused() -> None:
    def scalar(t: Rows, mean: Mean) -> Tensor:
        return mean(t.wr).sum()

    with pytest.raises(ConfigError, match=r"'odd' returned \(\), expected \(2,\)"):
        Terms({"odd": scalar}, policies=2)


def test_o_t4_counts_of_the_bootstrap() -> None:
    table = poisson_table().to(F)
    assert float(table.mean()) == 1.0
    assert float(table.var(correction=0)) == pytest.approx(1, abs=0.003)
    counts = poisson_counts(100, 4096, 0).to(F)  # (100, 4096)
    n = counts.numel()
    assert abs(float(counts.mean()) - 1) < 3 / n**0.5
    assert float(counts.var()) == pytest.approx(1, abs=0.01)
    centred = counts - counts.mean(1, keepdim=True)
    correlation = (centred @ centred.T) / (centred.norm(dim=1)[:, None] * centred.norm(dim=1))
    off = correlation - torch.eye(100, dtype=F)
    assert float(off.abs().max()) < 4.5 / 4096**0.5
    assert not torch.equal(counts, poisson_counts(100, 4096, 1).to(F))


def test_o_t4_replicates_of_a_mean_spread_like_the_mean() -> None:
    def mean_reward(t: Rows, mean: Mean) -> Tensor:
        return mean(t.r + 0 * t.pe)

    rows, terms = rows_of(5000, policies=1), Terms({"mean": mean_reward}, policies=1)
    made = BucketEstimates("mean", terms, sums_of(terms, rows), 0, (0, 1), (0, 1e9))
    spread = float(made.replicates(1000)[:, 0].std())
    assert spread == pytest.approx(float(rows.r.std()) / 5000**0.5, rel=0.1)
