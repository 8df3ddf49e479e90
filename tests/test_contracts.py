"""What every component inherits: whatever it is made of is trained, bound and reset."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor, nn

from recfb import Log, Recommender, objectives, policies, samplers, scorers
from recfb.contracts import Context, Policy, Scorer, sample_cdf
from recfb.random import stream


class Network(Scorer):
    """A scorer made of plain torch modules, one of them in a container."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = scorers.MF(dim=2)
        self.hidden = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
        self.out = nn.ModuleList([nn.Linear(4, 1)])


def test_every_parameter_is_in_exactly_one_group(small_log: Log) -> None:
    with torch.random.fork_rng():  # torch's own modules draw their first values as they are made
        network = Network().bind(small_log)
    model = Recommender(network, objectives.BPR(), samplers.Clicks()).bind(small_log)
    for thing in (network, model):
        grouped = [id(p) for group in thing.groups() for p in group["params"]]
        assert len(grouped) == len(set(grouped))
        assert set(grouped) == {id(p) for p in thing.parameters()}


class Plain:
    """A model that is no module: what an adapter to another library looks like."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def bind(self, log: Log) -> Plain:
        self.n_items = log.n_items
        self.done.append("bind")
        return self

    def reset(self, generator: Generator) -> None:
        self.done.append("reset")

    def scores(self, context: Context) -> Tensor:
        return torch.arange(self.n_items).double().expand(len(context), -1)

    width = scores


def test_a_model_that_is_no_module_is_bound_and_reset_once(small_log: Log) -> None:
    made: list[Policy] = [policies.Ranked(Plain()), policies.UCB(Plain())]  # type: ignore[arg-type]
    for policy in made:
        policy.bind(small_log)
        policy.reset(stream(0))
        model: Any = policy.model  # type: ignore[attr-defined]
        assert model.done == ["bind", "reset"], type(policy).__name__


def test_a_draw_is_never_of_an_item_without_mass() -> None:
    """Also where u is the largest double below 1, and the last items have none."""
    probs = torch.rand(1000, 6, generator=stream(0)).double() * 10.0 ** torch.arange(-3, 3)
    probs[:, -2:] = 0
    totals = probs.cumsum(1)[:, -1]
    assert bool(((1 - 2.0**-53) * totals < totals).all())
    drawn = sample_cdf(probs, stream(1))
    assert bool((probs.gather(1, drawn) > 0).all())
