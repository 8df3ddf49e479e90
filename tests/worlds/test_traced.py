"""The wrapper that tells the vectors behind the clicks."""

from __future__ import annotations

import torch

from recfb.metrics.loops import METRICS
from recfb.policies import Uniform
from recfb.simulate import simulate
from recfb.worlds import Attraction, Tastes, Traced


def test_it_tells_the_tastes_before_they_move_and_changes_nothing() -> None:
    inside = Tastes(20, 12, drift=Attraction(0.5))
    plain = simulate(inside, Uniform(), rounds=3, slate=4, seed=1)
    run = simulate(Traced(inside), Uniform(), rounds=3, slate=4, seed=1)
    assert run.log.frame.equals(plain.log.frame)
    assert run.truth.select(plain.truth.columns).equals(plain.truth)
    taste = torch.tensor(run.truth["taste"].to_numpy()).view(3, 20, 4, 8)
    content = torch.tensor(run.truth["content"].to_numpy()).view(3, 20, 4, 8)
    assert torch.equal(taste, taste[:, :, :1].expand_as(taste))
    assert not torch.equal(taste[0], taste[2])
    home = torch.tensor(run.truth["home_relevance"].to_numpy()).view(3, 20, 4)
    seen = torch.tensor(run.truth["relevance"].to_numpy()).view(3, 20, 4)
    assert torch.equal(home[0], seen[0]) and not torch.equal(home[2], seen[2])
    gap = seen[2].logit() - home[2].logit() - ((taste[2] - taste[0]) * content[2]).sum(2)
    assert float(gap.abs().max()) < 1e-4
    assert float(METRICS["drift"](run.log, run.truth)[0, 0]) == 0.0
    assert float(METRICS["drift"](run.log, run.truth)[0, 2]) > 0.1
