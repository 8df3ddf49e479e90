"""Who users and items are."""

from __future__ import annotations

import pytest
import torch

from recfb.contracts import Slate
from recfb.data import Log
from recfb.errors import ConfigError
from recfb.random import stream
from recfb.worlds import Gaussian, Population, Tastes
from recfb.worlds.boredom import Leaky
from recfb.worlds.choices import RankedChoice
from recfb.worlds.population import Clustered, split
from recfb.worlds.populations import (
    Dirichlet,
    Factors,
    Interests,
    LongTail,
    dirichlet,
    factorise,
    long_tail,
)


def test_topics_are_uniform_and_change_no_other_draw() -> None:
    plain = Gaussian(4).draw(50, 20_000, stream(0))
    people = Gaussian(4, topics=5).draw(50, 20_000, stream(0))
    assert torch.equal(people.content, plain.content)
    assert torch.equal(people.quality, plain.quality)
    generator, bare = stream(0), stream(0)
    Gaussian(4, topics=5).draw(5, 6, generator)
    for shape in ((5, 4), (6, 4), (6,)):
        torch.randn(shape, generator=bare)
    assert torch.equal(generator.get_state(), bare.get_state())
    share = torch.bincount(people.topic, minlength=5) / 20_000
    assert share.tolist() == pytest.approx([0.2] * 5, abs=4 * (0.16 / 20_000) ** 0.5)
    assert not plain.topic.any()
    assert abs(float(people.content[people.topic == 2].mean())) < 4 * 0.5 / 16_000**0.5


@pytest.mark.parametrize("sizes", [(0.8, 0.2), (5.0, 3.0, 2.0)])
def test_clusters_have_their_sizes_and_their_shares_of_variance(sizes: tuple[float, ...]) -> None:
    n, d = 20_000, 64
    people = Clustered(d, 0.5, sizes=sizes, within=0.25).draw(n, n, stream(0))
    count = torch.bincount(people.group)
    assert count.tolist() == pytest.approx([n * s / sum(sizes) for s in sizes], abs=1)
    assert (people.group.diff() >= 0).all()
    topics = torch.bincount(people.topic) / n
    assert topics.tolist() == pytest.approx([s / sum(sizes) for s in sizes], abs=4 * 0.5 / n**0.5)
    for g in range(len(sizes)):
        users, items = people.taste[people.group == g], people.content[people.topic == g]
        assert float((users - users.mean(0)).square().mean()) == pytest.approx(0.25, rel=0.02)
        assert float((items - items.mean(0)).square().mean()) == pytest.approx(0.25 / d, rel=0.02)
        # items of a topic are around the centre of the users of that cluster
        assert torch.allclose(users.mean(0), items.mean(0) * d**0.5, atol=0.06)
        # centres are N(0, I): a mean square of 1 over d coordinates, 4 sd each way
        assert float(users.mean(0).square().mean()) == pytest.approx(0.75, abs=4 * 0.75 / 32**0.5)


def test_one_wide_cluster_is_the_default_population_in_distribution() -> None:
    people = Clustered(8, within=1.0, sizes=[1.0]).draw(20_000, 20_000, stream(0))
    assert float(people.taste.std()) == pytest.approx(1.0, abs=0.01)
    assert float(people.content.std()) == pytest.approx(8**-0.5, abs=0.005)
    assert not people.group.any()


def test_split_is_to_the_nearest_id() -> None:
    cpu = torch.device("cpu")
    assert split(10, [0.25, 0.75], cpu).tolist() == [0, 0] + [1] * 8
    assert torch.bincount(split(1000, [0.1] * 10, cpu)).tolist() == [100] * 10


def test_dirichlet_draws_have_their_moments_also_for_tiny_shapes() -> None:
    """Var x_j = m_j (1 - m_j) / (1 + sum of alpha)."""
    n = 50_000
    for total in (10.0, 0.1, 0.005):
        m = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
        x = dirichlet((total * m).expand(n, -1), stream(0))
        assert torch.allclose(x.sum(1), torch.ones(n, dtype=torch.float64), atol=1e-12)
        want = m * (1 - m) / (1 + total)
        assert (x.mean(0) - m).abs().le(4 * (want / n).sqrt()).all()
        assert torch.allclose(x.var(0), want, rtol=0.05)


def test_a_dirichlet_world_has_probabilities_without_a_sigmoid() -> None:
    world = Tastes(30, 40, population=Dirichlet(), clicks=RankedChoice(), offset=0.0)
    state = world.start(stream(0))
    assert torch.allclose(state.taste.sum(1), torch.ones(30), atol=1e-5)
    assert torch.allclose(state.content.sum(1), torch.ones(40), atol=1e-5)
    assert torch.equal(state.topic, state.content.argmax(1))
    assert float(state.content.max(1).values.mean()) > 0.85
    values = world.values(state)
    assert torch.allclose(values, state.taste @ state.content.T)
    slate = Slate(torch.arange(5).expand(30, -1))
    truth = world.respond(state, slate, stream(1))[1]
    assert torch.allclose(truth["relevance"], values[:, :5])
    assert (truth["reward"].sum(1) == 1).all()
    assert float(Dirichlet(users=1e6).draw(99, 2, stream(0)).taste.std(0).max()) < 1e-3


@pytest.mark.parametrize(
    "options", [{}, {"offset": 0.0, "base_rate": 0.2}, {"offset": 0.0, "boredom": Leaky()}]
)
def test_nothing_is_added_to_probabilities(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"write offset=0\.0"):
        Tastes(5, 5, population=Dirichlet(), **options)  # type: ignore[arg-type]


def test_long_tail_by_hand() -> None:
    got = long_tail(torch.tensor([0.0, 1.0]), "lognormal", 1.0)
    assert got.tolist() == pytest.approx([-1.0, 1.0])
    # weights 1/4, 1, 1/9 have the mean 49/108
    got = long_tail(torch.tensor([1.0, 2.0, 0.0]), "zipf", 2.0)
    apart = torch.tensor([0.25, 1.0, 1 / 9]) - 49 / 108
    assert got.tolist() == pytest.approx((apart / apart.square().mean().sqrt()).tolist())
    assert long_tail(torch.zeros(3), "lognormal", 1.0).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("tail", ["zipf", "lognormal"])
@pytest.mark.parametrize("correlation", [-0.6, 0.0, 0.8])
def test_long_tails_have_their_spread_and_correlation(tail: str, correlation: float) -> None:
    n, d = 20_000, 256
    population = LongTail(d, 0.7, tail=tail, correlation=correlation)  # type: ignore[arg-type]
    people = population.draw(3, n, stream(1))
    assert float(people.quality.std()) == pytest.approx(0.7, rel=1e-3)
    assert abs(float(people.quality.mean())) < 1e-5
    assert float(people.quality.max()) > 5 * float(people.quality.std())
    length = people.content.norm(dim=1).log()
    # the length of N(0, I/d) adds a variance of 1 / (2d) to that of the scale
    want = (0.3**2 + 1 / (2 * d)) ** 0.5
    assert float(length.std()) == pytest.approx(want, rel=0.03)
    order = torch.empty(n).scatter_(0, people.quality.argsort(), torch.arange(n) + 0.5)
    z = torch.special.ndtri(order / n)
    got = float(torch.corrcoef(torch.stack([z, length]))[0, 1])
    assert got == pytest.approx(correlation * 0.3 / want, abs=4 / n**0.5)


POPULATIONS = [
    Gaussian(),
    Clustered(sizes=(0.5, 0.3, 0.2)),
    LongTail(),
    LongTail(tail="lognormal", correlation=-0.5),
    Interests(),
]


@pytest.mark.parametrize("population", POPULATIONS, ids=repr)
def test_w_t15_base_rate_is_solved_for_every_population(population: Population) -> None:
    world = Tastes(400, 300, population=population, base_rate=0.17)
    assert float(world.relevance(world.start(stream(1))).mean()) == pytest.approx(0.17, abs=2e-3)


def test_interests_are_independent_numbers_of_pairs() -> None:
    people = Interests().draw(200, 100, stream(0))
    assert torch.equal(people.taste @ people.content.T, people.taste)
    assert float(people.taste.std()) == pytest.approx(1.0, abs=4 / 200)
    assert people.topic.tolist() == list(range(100))


def test_factorise_gives_back_a_matrix_of_its_rank() -> None:
    a = torch.randn(30, 3, generator=stream(0)) @ torch.randn(3, 20, generator=stream(1)) + 2
    taste, content, quality = factorise(a, 3)
    back = taste @ content.T + quality + a.mean()
    assert torch.allclose(back, a, atol=1e-4)
    assert torch.allclose(taste.square().mean(0), torch.ones(3), atol=1e-5)
    # one factor: what is left is the rest of the singular values
    s = torch.linalg.svdvals((a - a.mean(0)).double())
    taste, content, _ = factorise(a, 1)
    left = (a - a.mean(0) - taste @ content.T).double().square().sum()
    assert float(left) == pytest.approx(float(s[1:].square().sum()), rel=1e-4)


def test_a_population_of_a_log() -> None:
    rows = {
        "user": [0, 0, 1, 1, 1, 0],
        "item": [0, 1, 0, 1, 1, 2],
        "reward": [1.0, 2.0, 3.0, 4.0, 6.0, None],
    }
    people = Factors.of(Log.of(rows), dim=1).draw(2, 3, stream(0))
    # items 0 and 1 have the means 2 and 3.5, item 2 that of all five rewards, 3.2
    mean = torch.tensor([2.0, 3.5, 3.2])
    assert torch.allclose(people.quality, mean - mean.mean(), atol=1e-6)
    want = torch.tensor([[-1.0, -1.5, 0.0], [1.0, 1.5, 0.0]])
    assert torch.allclose(people.taste @ people.content.T, want, atol=1e-5)


def test_a_population_of_clicks_with_a_spread() -> None:
    rows = {"user": [0, 0, 1, 2], "item": [0, 1, 1, 0], "reward": [1.0, 1.0, 1.0, 1.0]}
    log = Log.of(rows, n_users=4)
    clicks = Factors.of(log, dim=2, missing=0.0).draw(4, 2, stream(0))
    found = clicks.taste @ clicks.content.T + clicks.quality
    seen = torch.tensor([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    assert torch.allclose(found - found.mean(), seen - seen.mean(), atol=1e-5)
    wide = Factors.of(log, dim=2, missing=0.0, spread=1.5).draw(4, 2, stream(0))
    wider = wide.taste @ wide.content.T + wide.quality
    assert torch.allclose(wider, found * (1.5 / found.std()), atol=1e-5)
    with pytest.raises(ConfigError, match="all pairs of this log are alike"):
        Factors.of(log, dim=1, spread=1.0)
    with pytest.raises(ConfigError, match="spread is positive, found -1"):
        Factors.of(log, spread=-1.0)


def test_a_given_population_is_what_was_given() -> None:
    given = Factors([[1.0, 0.0], [0.0, 1.0]], [[2.0, 3.0]], quality=[0.5])
    state = Tastes(2, 1, population=given, offset=0.0).start(stream(0))
    assert state.taste.tolist() == [[1.0, 0.0], [0.0, 1.0]]
    values = Tastes(2, 1, population=given, offset=0.0).values(state)
    assert values[:, 0].tolist() == pytest.approx(torch.tensor([2.5, 3.5]).sigmoid().tolist())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gaussian(topics=0), "one topic"),
        (lambda: Clustered(sizes=()), "positive sizes"),
        (lambda: Clustered(sizes=(1.0, 0.0)), "positive sizes"),
        (lambda: Clustered(within=1.5), "within"),
        (lambda: Dirichlet(users=0.0), "positive concentrations"),
        (lambda: Dirichlet(items=-1.0), "positive concentrations"),
        (lambda: LongTail(power=0.0), "positive power"),
        (lambda: LongTail(correlation=1.5), "correlation"),
        (lambda: Factors([[1.0]], [[1.0, 2.0]]), "belong together"),
        (lambda: Factors([[1.0]], [[1.0]], quality=[1.0, 2.0]), "belong together"),
        (lambda: Factors([1.0], [[1.0]]), "belong together"),
        (lambda: Factors([[float("nan")]], [[1.0]]), "finite numbers"),
        (
            lambda: Tastes(3, 1, population=Factors([[1.0]], [[1.0]])).start(stream(0)),
            r"Make it Tastes\(1, 1",
        ),
    ],
)
def test_refuses_what_is_no_population(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()  # type: ignore[operator]
