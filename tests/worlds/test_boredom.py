"""Users who tire of topics."""

from __future__ import annotations

import math

import pytest
import torch

from recfb.contracts import Slate
from recfb.errors import ConfigError
from recfb.random import stream
from recfb.worlds import Gaussian, Tastes
from recfb.worlds.boredom import Leaky, Threshold, leaky, topic_clicks

CPU = torch.device("cpu")


def test_clicks_are_counted_by_topic() -> None:
    click = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    topic = torch.tensor([[1, 1, 0], [2, 0, 2]])
    assert topic_clicks(click, topic, 3).tolist() == [[0.0, 2.0, 0.0], [0.0, 0.0, 1.0]]


def test_leaky_by_hand() -> None:
    got = leaky(torch.tensor([0.0, 3.0]), 0.5, 0.2, 3.0)
    assert got.tolist() == pytest.approx([0.0, -0.5 * math.log(4) + 0.2 * 3 / math.e])
    boredom = Leaky(decay=0.5, strength=1.0)
    memory = boredom.begin(1, 2, CPU)
    for clicks in ([4.0, 0.0], [2.0, 1.0]):
        memory = boredom.step(memory, torch.tensor([clicks]))
    assert memory[0].tolist() == [[4.0, 1.0]]
    assert boredom.effect(memory)[0].tolist() == pytest.approx([-math.log(5), -math.log(2)])


def test_novelty_rises_to_its_peak_and_falls() -> None:
    n = torch.linspace(0, 20, 2001)
    hump = leaky(n, 0.0, 0.7, 4.0)
    assert float(n[hump.argmax()]) == pytest.approx(4.0, abs=0.02)
    assert float(hump.max()) == pytest.approx(0.7 * 4 / math.e, rel=1e-5)
    assert float(hump[0]) == 0.0


def dead(boredom: Threshold, clicks: list[list[float]]) -> list[list[bool]]:
    """Which topics are dead in each round and in the one after the last."""
    memory, seen = boredom.begin(1, len(clicks[0]), CPU), []
    for round in [*clicks, None]:
        seen.append((boredom.effect(memory)[0] == -torch.inf).tolist())
        if round is not None:
            memory = boredom.step(memory, torch.tensor([round]))
    return seen


def test_w_t11_a_topic_is_dead_for_exactly_its_rounds() -> None:
    """Two clicks in rounds 0 and 1 kill topic 0 in rounds 2, 3 and 4, and it is back in 5."""
    boredom = Threshold(clicks=2, window=2, rounds=3)
    alone = [[1.0, 1.0], [1.0, 0.0]] + [[0.0, 0.0]] * 5
    assert [x[0] for x in dead(boredom, alone)] == [False] * 2 + [True] * 3 + [False] * 3
    assert not any(x[1] for x in dead(boredom, alone))


def test_w_t11_the_count_begins_anew_and_forgets_old_rounds() -> None:
    boredom = Threshold(clicks=2, window=3, rounds=1)
    # round 1 kills round 2; one click in 2 or 3 is not enough, the second in 4 kills 5
    clicks = [[1.0], [1.0], [0.0], [1.0], [1.0], [0.0]]
    assert [x[0] for x in dead(boredom, clicks)] == [False, False, True, False, False, True, False]
    seldom = [[1.0], [0.0], [0.0], [1.0], [0.0], [0.0], [1.0]]
    assert not any(x[0] for x in dead(boredom, seldom))
    near = [[1.0], [0.0], [1.0], [0.0]]
    assert [x[0] for x in dead(boredom, near)] == [False, False, False, True, False]


def test_one_dead_topic_takes_all_of_them_with_whole() -> None:
    boredom = Threshold(clicks=1, window=1, rounds=2, whole=True)
    clicks = [[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    assert dead(boredom, clicks) == [[False] * 2, [True] * 2, [True] * 2, [False] * 2]


def test_w_t11_in_a_world_nothing_of_a_dead_topic_is_clicked() -> None:
    world = Tastes(
        3, 6, population=Gaussian(4, topics=3), offset=50.0, boredom=Threshold(1, 1, rounds=2)
    )
    state = world.start(stream(0))
    topic = int(state.topic[0])
    slate = Slate(torch.zeros(3, 1, dtype=torch.int64))
    seen = []
    for t in range(7):
        _, truth = world.respond(state, slate, stream(1, t))
        values = world.values(state)
        assert torch.equal(values.gather(1, slate.item), truth["relevance"])
        same = state.topic == topic
        assert (values[:, same] == (0.0 if seen and t % 3 else 1.0)).all()
        assert (values[:, ~same] == 1.0).all()
        seen.append(truth["reward"][:, 0].tolist())
        state = world.step(state, slate, truth, stream(2, t))
    assert [x[0] for x in seen] == [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0]
    assert all(x == [x[0]] * 3 for x in seen)


def played(strength: float, *, diverse: bool, seed: int) -> float:
    """Clicks a user over 25 rounds, the first one uniform, of the best slates by static utility,
    or by static utility less log(1 + n)."""
    boredom = Leaky(decay=0.9, strength=strength)
    world = Tastes(500, 300, population=Gaussian(8, 0.5, topics=10), boredom=boredom)
    state = world.start(stream(seed, "start"))
    utility = state.taste @ state.content.T + state.quality
    score, total = torch.rand(500, 300, generator=stream(seed, "warmup")), 0.0
    for t in range(25):
        if t:
            tired = state.memory[0].log1p()[:, state.topic]
            score = utility - tired if diverse else utility
        slate = Slate(score.topk(10, dim=1).indices)
        _, truth = world.respond(state, slate, stream(seed, "respond", t))
        total += float(truth["reward"].sum()) / 500
        state = world.step(state, slate, truth, stream(seed, "step", t))
    return total


@pytest.mark.parametrize(
    ("strength", "greedy", "diverse"), [(0.0, 46.5, 42.9), (0.3, 41.5, 40.4), (1.0, 31.4, 34.5)]
)
def test_boredom_makes_diversity_worth_it(strength: float, greedy: float, diverse: float) -> None:
    """Section 8.6: means of 4 seeds, of which each has a standard deviation of 1.1."""
    seeds = range(4)
    first = [played(strength, diverse=False, seed=s) for s in seeds]
    second = [played(strength, diverse=True, seed=s) for s in seeds]
    error = 4 * 1.1 * (2 / 4) ** 0.5
    assert sum(first) / 4 == pytest.approx(greedy, abs=error)
    assert sum(second) / 4 == pytest.approx(diverse, abs=error)
    wins = {a > b for a, b in zip(first, second, strict=True)}
    assert wins == {strength < 1.0}
    gap = (sum(first) - sum(second)) / 4
    assert gap == pytest.approx(greedy - diverse, abs=0.5)


def test_refuses_what_is_no_boredom() -> None:
    with pytest.raises(ConfigError, match="decay"):
        Leaky(decay=1.5)
    with pytest.raises(ConfigError, match="positive scale"):
        Leaky(scale=0.0)
    with pytest.raises(ConfigError, match="at least 1"):
        Threshold(clicks=0)
