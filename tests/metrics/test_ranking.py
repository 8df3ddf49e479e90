"""Ranking metrics against hand numbers and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, ndcg_score

from recfb.errors import ConfigError
from recfb.metrics import average_precision, coverage, hit, ndcg, recall, top_k
from recfb.metrics.loops import concentration
from recfb.metrics.ranking import Metric, discounts, largest
from recfb.random import stream

GAIN = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
N_POS = torch.tensor([2, 1, 5])


def test_ndcg_by_hand() -> None:
    ideal2 = 1 + 1 / math.log2(3)
    ideal3 = ideal2 + 0.5
    expected = [1.5 / ideal2, 0.0, (1 / math.log2(3)) / ideal3]
    assert ndcg(GAIN, N_POS).tolist() == pytest.approx(expected)


def test_ndcg_variants_by_hand() -> None:
    third = 1 / math.log2(3)
    assert ndcg(GAIN, N_POS, norm="none").tolist() == pytest.approx([1.5, 0.0, third])
    assert ndcg(GAIN, N_POS, norm="n_pos").tolist() == pytest.approx([0.75, 0.0, third / 5])
    assert ndcg(GAIN, N_POS, discount="saito", norm="none").tolist() == pytest.approx(
        [1 + third, 0.0, 1.0]
    )
    ideal5 = sum(1 / math.log2(r + 1) for r in range(1, 6))
    assert float(ndcg(GAIN, N_POS, norm="untruncated")[2]) == pytest.approx(third / ideal5)


def test_discounts_sum_as_published() -> None:
    assert float(discounts(5).sum()) == pytest.approx(2.95, abs=0.005)
    assert float(discounts(5, "saito").sum()) == pytest.approx(3.56, abs=0.005)


def test_others_by_hand() -> None:
    assert recall(GAIN, N_POS).tolist() == [1.0, 0.0, 0.2]
    assert hit(GAIN, N_POS).tolist() == [1.0, 0.0, 1.0]
    assert average_precision(GAIN, N_POS).tolist() == pytest.approx([(1 + 2 / 3) / 2, 0.0, 0.5 / 3])
    by_n_pos = average_precision(GAIN, N_POS, norm="n_pos").tolist()
    assert by_n_pos == pytest.approx([(1 + 2 / 3) / 2, 0.0, 0.1])
    assert average_precision(GAIN, N_POS, norm="none")[0] == pytest.approx(1 + 2 / 3)


def test_users_without_a_click_are_not_a_zero() -> None:
    gain, none = torch.zeros(1, 3), torch.zeros(1, dtype=torch.int64)
    for metric in (ndcg, recall, hit, average_precision):
        assert math.isnan(float(metric(gain, none)[0]))


@pytest.mark.parametrize("k", [1, 3, 10, 20])
def test_scikit_learn_agrees(k: int) -> None:
    rng = np.random.default_rng(0)
    truth, score = rng.random((50, 12)) < 0.3, rng.random((50, 12))
    truth[:, 0] = True
    order = torch.tensor(-score).argsort(dim=1)[:, :k]
    gain = torch.tensor(truth, dtype=torch.float64).gather(1, order)
    n_pos = torch.tensor(truth.sum(1))
    ours = ndcg(gain, n_pos)
    theirs = [ndcg_score(truth[r : r + 1], score[r : r + 1], k=k) for r in range(50)]
    assert np.allclose(ours.numpy(), theirs, atol=1e-12)
    if k >= 12:
        ap = [average_precision_score(truth[r], score[r]) for r in range(50)]
        assert np.allclose(average_precision(gain, n_pos).numpy(), ap, atol=1e-12)


def test_coverage_and_concentration_by_hand() -> None:
    count = torch.tensor([2, 0, 2, 0])
    assert float(coverage(count)) == 0.5
    assert float(concentration(count)) == 0.5


def test_names_are_read() -> None:
    metric = Metric.of("ndcg@10:saito,n_pos")
    assert (metric.kind, metric.k, metric.discount, metric.norm) == ("ndcg", 10, "saito", "n_pos")
    assert Metric.of("recall@3").per_user(torch.ones(1, 5), torch.tensor([6])).tolist() == [0.5]


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("ngcd@10", "Did you mean 'ndcg'"),
        ("ndcg", "cut-off"),
        ("ndcg@0", "cut-off"),
        ("ndcg@10:sato", "variants"),
        ("recall@10:saito", "variants"),
        ("map@10:saito", "variants"),
    ],
)
def test_names_that_mean_nothing_are_refused(name: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Metric.of(name)


def test_ties_rank_at_random_and_not_by_id() -> None:
    top = top_k(torch.zeros(5000, 10), 1, torch.arange(5000)).squeeze(1)
    count = torch.bincount(top, minlength=10)
    assert bool(((count - 500).abs() < 4 * 450**0.5).all())


def test_ties_below_the_cut_do_not_displace_better_items() -> None:
    score = torch.tensor([[3.0, 1.0, 1.0, 1.0, 2.0]])
    assert top_k(score, 3, torch.tensor([7]))[0, :2].tolist() == [0, 4]
    assert top_k(score, 9, torch.tensor([7])).shape == (1, 5)


def test_top_k_sorts() -> None:
    score = torch.randn(20, 50, generator=stream(0))
    assert torch.equal(top_k(score, 5, torch.arange(20)), score.argsort(1, descending=True)[:, :5])


@pytest.mark.parametrize("n", [2048, 2063, 5000])
@pytest.mark.parametrize("k", [1, 7, 31])
def test_wide_rows_give_what_topk_gives(n: int, k: int) -> None:
    scores = torch.randn(50, n, generator=stream(0, n, k))
    scores[0, -1] = 9.0  # in the columns beyond the last whole stride, for n = 2063
    scores[1, :: n // 16] = 8.0  # all in one stride, and tied
    scores[2] = 0.0
    scores[3, 100:] = -torch.inf
    value, pick = largest(scores, k)
    assert torch.equal(value, scores.topk(k, dim=1).values)
    assert torch.equal(scores.gather(1, pick), value)
    assert all(len(set(row)) == k for row in pick.tolist())
    untied = torch.arange(4, 50)
    assert torch.equal(top_k(scores[4:], k, untied), scores[4:].topk(k, dim=1).indices)
