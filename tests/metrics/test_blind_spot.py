"""3.4 and 3.7: probes of what the model thinks of all pairs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from recfb.contracts import Context, Slate
from recfb.errors import UnboundError
from recfb.metrics.blind_spot import blind_share, blind_spot, calibration, headroom, model_scores
from recfb.policies import Mixture, Ranked, Uniform
from recfb.simulate import simulate
from recfb.solvers import ALS
from recfb.worlds import Tastes

SCORE = torch.tensor([[0.9, 0.5, 0.1, 0.0], [0.8, 0.1, 0.5, 0.2]])
TRUE = torch.tensor([[0.9, 0.1, 0.1, 0.7], [0.9, 0.8, 0.1, 0.1]])


def round_of(available: torch.Tensor | None = None) -> Any:
    """Two users, four items, slates of one; both were shown item 0."""
    model = SimpleNamespace(scores=lambda context: SCORE)
    return SimpleNamespace(
        context=Context(torch.arange(2), available=available),
        slate=Slate(torch.zeros(2, 1, dtype=torch.int64)),
        policy=SimpleNamespace(model=model),
        world=SimpleNamespace(values=lambda state: TRUE),
        state=None,
    )


def test_blind_spot_by_hand() -> None:
    """Relevant to someone: 0, 1, 3; best for someone: 0. Without item 0: 1 and 3, shown 1 and 2."""
    assert float(blind_spot()(round_of())["blind_spot"]) == pytest.approx(2 / 3)
    gone = torch.tensor([[False, True, True, True]])
    assert float(blind_spot()(round_of(gone))["blind_spot"]) == pytest.approx(1 / 2)
    assert float(blind_spot(relevant=0.85)(round_of())["blind_spot"]) == 0
    assert blind_spot(relevant=0.95)(round_of())["blind_spot"].isnan()
    everything = blind_share(SCORE, TRUE > 0.5, torch.full((2,), -1.0))
    assert float(everything) == 0


def test_calibration_by_hand() -> None:
    found = {key: float(x) for key, x in calibration()(round_of()).items()}
    gaps = (SCORE - TRUE).double().flatten()
    place = (SCORE * 10).long().clamp(max=9).flatten()
    ece = sum(abs(float(gaps[place == b].sum())) for b in range(10)) / 8
    assert found["ece"] == pytest.approx(ece)
    assert found["ece_shown"] == pytest.approx(0.05, abs=1e-6)  # .9, .8 against .9, .9
    assert found["selection"] == pytest.approx(ece - 0.05, abs=1e-6)
    only = calibration()(round_of(torch.tensor([[True, False, False, False]])))
    assert float(only["ece"]) == pytest.approx(0.05, abs=1e-6)


def test_headroom_by_hand() -> None:
    """Best .9 and .9, shown .9 and .9; without item 0 the best are .7 and .8."""
    assert {key: float(x) for key, x in headroom(round_of()).items()} == pytest.approx(
        {"ideal": 0.9, "shown": 0.9, "headroom": 0.0}
    )
    gone = torch.tensor([[False, True, True, True]])
    assert float(headroom(round_of(gone))["ideal"]) == pytest.approx(0.75)


def test_policies_without_a_model_are_not_measured() -> None:
    def unbound(context: Context) -> torch.Tensor:
        raise UnboundError("not trained")

    bare, early, inside = round_of(), round_of(), round_of()
    bare.policy = SimpleNamespace()
    early.policy = SimpleNamespace(model=SimpleNamespace(scores=unbound))
    inside.policy = SimpleNamespace(policy=inside.policy)
    assert model_scores(bare) is None
    assert model_scores(early) is None
    assert model_scores(inside) is SCORE
    for done in (bare, early):
        assert blind_spot()(done)["blind_spot"].isnan()
        assert all(x.isnan() for x in calibration()(done).values())


def test_probes_of_a_run() -> None:
    """One row a round; exploring leaves the model fewer blind spots."""
    world = Tastes(80, 50, offset=-1.0)

    def predict(done: Any) -> torch.Tensor | None:
        score = model_scores(done)
        return None if score is None else score.clamp(0, 1)

    def probed(epsilon: float) -> Any:
        policy = Ranked(ALS(8, alpha=5.0, l2=5.0, sweeps=4, ridge="absolute"), epsilon=epsilon)
        probes = [blind_spot(), calibration(predict), headroom]
        return simulate(world, policy, rounds=8, slate=3, probes=probes, seed=1).probes

    greedy, exploring = probed(0.0), probed(0.5)
    assert greedy.height == 8
    assert greedy["blind_spot"][-1] - exploring["blind_spot"][-1] > 0.1
    assert greedy["blind_spot"][-1] - greedy["blind_spot"][2] > 0.1  # and they grow
    assert greedy["headroom"].min() > 0
    assert (greedy["ideal"] == exploring["ideal"]).all()
    mixed = simulate(world, Mixture(Uniform(), 0.1), rounds=2, slate=1, probes=[blind_spot()])
    assert mixed.probes["blind_spot"].is_nan().all()
