"""Source bias of rankings: hand numbers, symmetry, and what is undefined."""

from __future__ import annotations

import math

import pytest
import torch

from recfb.metrics.loop_strength import slope
from recfb.metrics.sources import rel_delta, source_metrics, source_share
from recfb.random import stream


def test_hand_numbers_of_one_list() -> None:
    # ranked: AI of 1 (.9), human of 0 (.8), human of 2 (.5), AI of 0 (.4), AI of 2, human of 1
    scores = torch.tensor([[[0.8, 0.4], [0.1, 0.9], [0.5, 0.2]]])
    found = source_metrics(scores, cuts=[1, 3, 5])
    second, fourth = 1 / math.log2(3), 1 / math.log2(5)
    want = {
        "ndcg_human@1": 100.0,  # the clicked item leads the human texts
        "map_human@5": 100.0,
        "ndcg_ai@1": 0.0,  # and is second among the others
        "ndcg_ai@3": 100 * second,
        "map_ai@3": 50.0,
        "ndcg_human_target@3": 100 * second,
        "ndcg_ai_target@3": 0.0,
        "ndcg_ai_target@5": 100 * fourth,
        "map_ai_target@5": 25.0,
        "rel_delta@3": 200.0,
        "rel_delta@5": 200 * (second - fourth) / (second + fourth),
        "share@1": 1.0,
        "share@3": 1 / 3,
        "share@5": 3 / 5,
        "lift@5": 6 / 5,
        "win": 0.0,
    }
    for name, value in want.items():
        assert float(found[name]) == pytest.approx(value, abs=1e-5), name
    assert math.isnan(float(found["rel_delta@1"]))  # 0 / 0 is not 0


def test_1_12_7_swapping_the_sources_negates_rel_delta() -> None:
    scores = torch.randn(200, 5, 2, generator=stream(0))
    one, other = source_metrics(scores), source_metrics(scores.flip(2))
    for k in (1, 3, 5):
        assert float(one[f"rel_delta@{k}"] + other[f"rel_delta@{k}"]) == pytest.approx(0, abs=1e-9)
        assert float(one[f"share@{k}"] + other[f"share@{k}"]) == pytest.approx(1, abs=1e-12)
    assert float(one["win"] + other["win"]) == 1.0
    assert float(one["ndcg_human@3"]) == float(other["ndcg_ai@3"])


def test_scores_without_a_source_have_no_bias() -> None:
    found = source_metrics(torch.randn(20_000, 5, 2, generator=stream(1)), cuts=[3])
    assert float(found["share@3"]) == pytest.approx(0.5, abs=0.01)
    assert abs(float(found["rel_delta@3"])) < 8
    assert float(found["ndcg_human@3"]) == pytest.approx(20 * (1 + 1 / math.log2(3) + 0.5), abs=2)


def test_impressions_with_a_tied_click_are_left_out() -> None:
    scores = torch.tensor([[[0.5, 0.5], [0.1, 0.9]], [[0.9, 0.1], [0.3, 0.2]]])
    assert float(source_metrics(scores, cuts=[1])["win"]) == 0.0
    none = source_metrics(scores[:1], cuts=[1])
    assert all(math.isnan(float(value)) for value in none.values())


def test_share_slope_and_difference() -> None:
    machine = torch.tensor([[1, 1, 0], [0, 0, 1]])
    assert source_share(machine, 2).tolist() == [1.0, 0.0]
    assert float(rel_delta(torch.tensor(3.0), torch.tensor(1.0))) == 100.0
    table = torch.tensor([[0.0, 1.0, 2.0], [1.0, 1.0, 1.0]])
    assert slope(table).tolist() == [1.0, 0.0]
    assert float(slope(torch.tensor([0.0, 1.0, 0.0, 1.0]))) == pytest.approx(0.2)
