"""3.3: bubbles, drift and polarisation of tastes."""

from __future__ import annotations

import math

import polars as pl
import pytest
import torch

from recfb.data import Log
from recfb.metrics.loop_strength import slope
from recfb.metrics.tastes import angle, bubble, drift, polarisation, turn


def vectors(rows: list[list[float]]) -> pl.Series:
    return pl.Series(rows, dtype=pl.Array(pl.Float64, len(rows[0])))


def log_of(user: list[int], time: list[int], k: int = 1) -> Log:
    """Requests of k items each."""
    n = len(user) * k
    return Log.of(
        {
            "user": [u for u in user for _ in range(k)],
            "item": [0] * n,
            "reward": [0.0] * n,
            "time": [t for t in time for _ in range(k)],
            "position": [j % k + 1 for j in range(n)],
            "slate": [j // k for j in range(n)],
        },
        n_users=max(user) + 1,
        n_items=1,
    )


def test_drift_starts_with_the_first_request_of_each_user() -> None:
    """User 1 comes in round 1 only; user 0 moves by (3, 4) and then back."""
    log = log_of([0, 0, 1, 0, 1], [0, 1, 1, 2, 2])
    taste = [[1.0, 1.0], [4.0, 5.0], [7.0, 7.0], [1.0, 1.0], [7.0, 9.0]]
    truth = pl.DataFrame({"taste": vectors(taste)})
    assert drift(log, truth).tolist() == [[0.0, 2.5, 1.0]]


def test_turn_is_exact_for_small_angles() -> None:
    small, a = 1e-9, torch.tensor([1.0, 0.0])
    b = torch.tensor([1.0, small], dtype=torch.float64)
    assert float(angle(a, b)) == pytest.approx(small, rel=1e-6)
    assert float(angle(a, -a)) == pytest.approx(math.pi)
    log = log_of([0, 0], [0, 1])
    truth = pl.DataFrame({"taste": vectors([[0.0, 2.0], [5.0, 5.0]])})  # the length does not count
    assert turn(log, truth)[0].tolist() == pytest.approx([0.0, math.pi / 4])


def test_bubble_compares_the_centre_with_the_initial_taste() -> None:
    """Slates turn towards the first taste, whatever the taste has become; the trend is upwards."""
    log = log_of([0, 0, 0], [0, 1, 2], k=2)
    content = [[-1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, 1.0], [1.0, 0.0], [3.0, 0.0]]
    taste = [[1.0, 0.0]] * 2 + [[0.0, 1.0]] * 4
    got = bubble(log, pl.DataFrame({"content": vectors(content), "taste": vectors(taste)}))
    assert got[0].tolist() == pytest.approx([-1 / math.sqrt(2), 0.0, 1.0])
    assert float(slope(got)[0]) == pytest.approx((1 + 1 / math.sqrt(2)) / 2)


def test_polarisation_by_hand() -> None:
    """Groups around (0, 0) and (10, 0), members 1 away from the centroid; then around one point."""
    log = log_of([0, 1, 2, 3] * 2, [0] * 4 + [1] * 4)
    apart = [[0.0, 1.0], [0.0, -1.0], [10.0, 1.0], [10.0, -1.0]]
    mixed = [[0.0, 1.0], [0.0, -1.0], [1.0, 0.0], [-1.0, 0.0]]
    truth = pl.DataFrame({"taste": vectors(apart + mixed), "group": [0, 0, 1, 1] * 2})
    assert polarisation(log, truth)[0].tolist() == pytest.approx([10.0, 0.0])
    one = truth.with_columns(group=pl.lit(0))
    assert polarisation(log, one).isnan().all()


def test_polarisation_takes_the_groups_of_the_round() -> None:
    """Three groups in round 0, at distances 3, 4 and 5; two of them, 4 apart, in round 1."""
    log = log_of([0, 1, 2, 3, 4, 5, 0, 1, 2, 3], [0] * 6 + [1] * 4)
    near = [[0.0, 0.5], [0.0, -0.5], [4.0, 0.5], [4.0, -0.5]]
    third = [[0.0, 3.5], [0.0, 2.5]]
    truth = pl.DataFrame(
        {"taste": vectors(near + third + near), "group": [0, 0, 1, 1, 2, 2, 0, 0, 1, 1]}
    )
    assert polarisation(log, truth)[0].tolist() == pytest.approx([4 / 0.5, 4 / 0.5])
