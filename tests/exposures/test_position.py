"""Examination by position: EM and click rates, by hand, by enumeration and by simulation."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from recfb import Log, Recommender, fit, load, save
from recfb.contracts import Batch, Step
from recfb.errors import ConfigError, LogError
from recfb.exposures import Position
from recfb.exposures.position import Cells, em, groups, slots
from recfb.objectives import RelMF
from recfb.objectives.relmf import Link, inverse_exposure, local_losses, relmf
from recfb.random import stream
from recfb.samplers import AllPairs, Logged
from recfb.scorers import MF
from recfb.solvers import RelMF as Solver
from recfb.testing import check

LINKS: list[Link] = ["bce", "sq_sigmoid", "sq_linear"]


def cells_of(counts: dict[tuple[int, int], tuple[int, int]]) -> Cells:
    """{(item, position): (shown, clicks)}."""
    item, position = torch.tensor(list(counts)).T
    shown, clicks = torch.tensor(list(counts.values()), dtype=torch.float64).T
    return Cells(item, position, shown, clicks)


def log_of(counts: dict[tuple[int, int], tuple[int, int]], n_items: int | None = None) -> Log:
    """A log with these counts."""
    item = [i for (i, _), (shown, _) in counts.items() for _ in range(shown)]
    position = [k for (_, k), (shown, _) in counts.items() for _ in range(shown)]
    reward = [float(t < c) for shown, c in counts.values() for t in range(shown)]
    return Log.of({"item": item, "position": position, "reward": reward}, n_items=n_items)


@pytest.mark.parametrize("how", ["em", "slots"])
def test_keeps_the_contract(how: str) -> None:
    check(Position(how))


# ---- the formulas by hand


def test_two_sweeps_of_em_by_hand() -> None:
    # item 0: 4 rows at position 1 with 2 clicks, 2 rows at 2 without; item 1: 2 rows at 2, 1 click.
    cells = cells_of({(0, 1): (4, 2), (0, 2): (2, 0), (1, 2): (2, 1)})
    # sweep 1: P(E | no click) = P(R | no click) = (1/4) / (3/4) = 1/3
    # e_1 = (2 + 2/3) / 4, e_2 = (0 + 2/3 + 1 + 1/3) / 4, g_0 = (2 + 4/3) / 6, g_1 = (1 + 1/3) / 2
    e, gamma = em(cells, sweeps=1)
    assert e.tolist() == pytest.approx([0.0, 2 / 3, 1 / 2])
    assert gamma.tolist() == pytest.approx([5 / 9, 2 / 3])
    # sweep 2, (e, g) -> e (1 - g) / (1 - e g), (1 - e) g / (1 - e g):
    # (2/3, 5/9): 1 - 10/27 = 17/27, 8/17 and 5/17; (1/2, 5/9): 13/18, 4/13 and 5/13;
    # (1/2, 2/3): 2/3, 1/4 and 1/2
    e, gamma = em(cells, sweeps=2)
    assert e.tolist() == pytest.approx(
        [0.0, (2 + 2 * 8 / 17) / 4, (0 + 2 * 4 / 13 + 1 + 1 / 4) / 4], rel=1e-12
    )
    assert gamma.tolist() == pytest.approx(
        [(2 + 2 * 5 / 17 + 2 * 5 / 13) / 6, (1 + 1 / 2) / 2], rel=1e-12
    )


def test_em_never_lowers_the_likelihood() -> None:
    generator = stream(0)
    item, position = torch.meshgrid(torch.arange(6), torch.arange(1, 5), indexing="ij")
    shown = torch.randint(1, 20, (24,), generator=generator).double()
    clicks = (shown * torch.rand(24, generator=generator, dtype=torch.float64)).floor()
    cells = Cells(item.reshape(-1), position.reshape(-1), shown, clicks)

    def likelihood(sweeps: int) -> float:
        e, gamma = em(cells, sweeps)
        p = e[cells.position] * gamma[cells.item]
        return float((torch.xlogy(clicks, p) + torch.xlogy(shown - clicks, 1 - p)).sum())

    values = [likelihood(sweeps) for sweeps in range(30)]
    assert all(after >= before for before, after in itertools.pairwise(values))
    assert values[-1] > values[0] + 1


def test_em_finds_what_made_the_counts() -> None:
    e, gamma = [1.0, 0.5, 0.25], [0.8, 0.4, 0.2]
    counts = {
        (i, k): (1000, round(1000 * e[k - 1] * gamma[i])) for i in range(3) for k in (1, 2, 3)
    }
    found, relevance = em(cells_of(counts), sweeps=500)
    assert (found[1:] / found[1]).tolist() == pytest.approx(e, abs=1e-6)
    assert (relevance * found[1]).tolist() == pytest.approx(gamma, abs=1e-6)
    # where every click is certain, nothing is divided by 0
    sure, same = em(cells_of({(0, 1): (5, 5)}), sweeps=300)
    assert sure.tolist() == [0.0, 1.0] and same.tolist() == [1.0]


def test_slots_are_click_rates() -> None:
    counts = {(0, 1): (10, 4), (1, 1): (10, 4), (0, 2): (10, 1), (1, 2): (10, 3)}
    assert slots(cells_of(counts)).tolist() == pytest.approx([0.0, 0.4, 0.2])
    assert Position("slots").bind(log_of(counts)).theta.tolist() == pytest.approx([1.0, 1.0, 0.5])


def test_values_are_relative_to_the_largest() -> None:
    counts = {(0, 1): (10, 2), (0, 2): (10, 4)}  # position 2 is examined more
    for how in ("slots", "em"):
        theta = Position(how).bind(log_of(counts)).theta
        assert theta.tolist() == pytest.approx([1.0, 0.5, 1.0], abs=1e-3)


def test_positions_without_clicks_or_rows() -> None:
    counts = {(0, 2): (4, 1), (0, 4): (8, 0), (0, 5): (4, 2), (0, 6): (4, 1)}
    theta = Position("slots").bind(log_of(counts)).theta
    # 0: not shown; 1: like 2, the first; 3: like 2; 4: one over its rows
    assert theta.tolist() == [1.0, 0.5, 0.5, 0.5, 0.125, 1.0, 0.5]
    assert float(Position("em").bind(log_of(counts)).theta[4]) == 0.125
    rows = torch.tensor([0, 1, 3, 4, 5, 7, 99])
    batch = Batch(rows, rows, rows, position=rows)
    values = Position("slots").bind(log_of(counts))(batch)
    assert values.tolist() == [1.0, 0.5, 0.5, 0.125, 1.0, 0.5, 0.5]  # 7 and 99: like the last


def test_only_known_rewards_are_read() -> None:
    rows = {"item": [0, 0, 0, 0], "position": [1, 1, 2, 2], "reward": [1, None, 1, 0]}
    cells = Cells.of(Log.of(rows))
    assert cells.shown.tolist() == [1.0, 2.0] and cells.clicks.tolist() == [1.0, 1.0]
    none = Log.of({"item": [0], "position": [1], "reward": [None]})
    assert len(Cells.of(none).shown) == 0
    assert Position().bind(none).theta.tolist() == [1.0, 1.0]
    ratings = Log.of({"item": [0, 0], "position": [1, 1], "reward": [5.0, -1.0]})
    assert Cells.of(ratings).clicks.tolist() == [1.0]


def test_without_clicks_all_positions_are_alike() -> None:
    for log in (Log.empty(2, 3), log_of({(0, 1): (3, 0), (0, 2): (1, 0)})):
        for how in ("slots", "em"):
            assert Position(how).bind(log).theta.tolist() == [1.0, 1.0]


def test_a_never_clicked_item_changes_nothing() -> None:
    counts = {(0, 1): (20, 10), (1, 1): (20, 6), (0, 2): (20, 5), (1, 2): (20, 3)}
    base = Position().bind(log_of(counts))
    with_it = Position().bind(log_of({**counts, (2, 2): (30, 0), (3, 3): (5, 0)}, n_items=6))
    assert torch.allclose(with_it.theta[:3], base.theta, atol=1e-3)
    assert float(with_it.theta[3]) == pytest.approx(0.2)  # 5 rows


# ---- what EM cannot know


def test_groups_that_no_clicked_item_links_are_refused() -> None:
    apart = {(0, 1): (4, 2), (1, 2): (4, 1), (2, 3): (4, 1), (1, 3): (4, 1)}
    assert groups(cells_of(apart)) == [[1], [2, 3]]
    with pytest.raises(ConfigError, match=r"2 groups, \[1\], \[2, 3\]:") as caught:
        Position().bind(log_of(apart))
    assert 'Position("slots")' in str(caught.value) and "exposures.Given" in str(caught.value)
    Position("slots").bind(log_of(apart))
    # an item that was never clicked says nothing, so it is no link
    assert len(groups(cells_of({**apart, (3, 1): (9, 0), (3, 2): (9, 0)}))) == 2
    # one that was clicked at one place only is
    assert groups(cells_of({**apart, (0, 2): (9, 0)})) == [[1, 2, 3]]
    many = {(i, i + 1): (4, 2) for i in range(5)}
    with pytest.raises(ConfigError, match=r"5 groups, \[1\], \[2\], \[3\], \.\.\.:"):
        Position().bind(log_of(many))


def test_groups_that_are_apart_would_have_been_wrong() -> None:
    """Two logs of the same law, whose items move between no groups: EM gives other ratios."""
    first = {(0, 1): (1000, 400), (1, 2): (1000, 100)}
    second = {(0, 1): (1000, 100), (1, 2): (1000, 400)}  # the relevant item lower
    e, f = (em(cells_of(counts), sweeps=1000)[0] for counts in (first, second))
    assert float(e[2] / e[1]) < 0.6 < 1.6 < float(f[2] / f[1])


# ---- bad input


def test_a_log_without_positions_is_refused(small_log: Log) -> None:
    with pytest.raises(LogError, match="position"):
        Position().bind(small_log)


def test_a_batch_without_positions_is_refused() -> None:
    exposure = Position().bind(log_of({(0, 1): (4, 2), (0, 2): (4, 1)}))
    row = torch.tensor([0])
    with pytest.raises(
        ConfigError, match=r"samplers\.Logged\(\) or samplers\.AllPairs\(\).*position="
    ):
        exposure(Batch(row, row, row))


def test_positions_of_any_shape() -> None:
    exposure = Position("slots").bind(log_of({(0, 1): (4, 2), (0, 2): (4, 1)}))
    item = torch.tensor([[0, 0], [0, 0]])
    batch = Batch(item[:, 0], item, item, position=torch.tensor([[1, 0], [2, 3]]))
    assert exposure(batch).tolist() == [[1.0, 1.0], [0.5, 0.5]]


# ---- in a model


def test_models_with_it_are_saved_and_loaded(tmp_path) -> None:
    counts = {(0, 1): (4, 2), (1, 1): (4, 1), (0, 2): (4, 1), (1, 2): (4, 1)}
    log = log_of(counts, n_items=3)
    model = Recommender(MF(dim=2), RelMF(Position()), Logged())
    fit(log, model, max_epochs=1)
    again = load(save(model, tmp_path / "model"))
    assert torch.equal(again.scorer.all(torch.arange(1)), model.scorer.all(torch.arange(1)))


def test_pairs_that_were_not_shown_have_exposure_one() -> None:
    log = log_of({(0, 1): (4, 2), (0, 2): (4, 1), (1, 2): (1, 1)}, n_items=3)
    exposure, sampler = Position("slots").bind(log), AllPairs(draw="uniform").bind(log)
    batch = sampler(torch.tensor([0, 1, 2]), None, Step())
    assert batch.position is not None and batch.position.tolist() == [1, 2, 0]
    assert exposure(batch).tolist() == pytest.approx([1.0, 0.8, 1.0])  # 2/4 and 2/5


def test_the_closed_form_takes_it() -> None:
    log = log_of({(0, 1): (4, 2), (0, 2): (4, 1), (1, 2): (4, 1)}, n_items=3)
    assert bool(torch.isfinite(fit(log, Solver(Position(), dim=2)).item).all())


@pytest.mark.parametrize("link", LINKS)
def test_unbiased_over_all_patterns_of_clicks(link: Link) -> None:
    """3 users x 4 items, each pair in one row at a fixed position: 2^12 patterns of clicks."""
    e = torch.tensor([1.0, 0.5, 0.25, 0.125], dtype=torch.float64)
    user, item = torch.meshgrid(torch.arange(3), torch.arange(4), indexing="ij")
    place = (user + item) % 4  # the position, from 0
    # fitted on a randomised log in which each position has 8 rows and 8 e_k clicks
    clicks = (8 * e).long().tolist()
    exposure = Position("slots").bind(log_of({(0, k + 1): (8, c) for k, c in enumerate(clicks)}))
    rows = {"user": user.reshape(-1), "item": item.reshape(-1), "reward": torch.eye(12)[0]}
    log = Log.of({**rows, "position": place.reshape(-1) + 1}, n_users=3, n_items=4)
    batch = Logged().bind(log)(torch.arange(12), None, Step())
    theta = exposure(batch).double()
    assert torch.equal(theta, e[place.reshape(-1)])

    gamma = torch.linspace(0.1, 0.9, 12, dtype=torch.float64)
    score = torch.linspace(-2, 3, 12, dtype=torch.float64).flip(0)
    c = torch.tensor(list(itertools.product([0.0, 1.0], repeat=12)), dtype=torch.float64)
    chance = e[place.reshape(-1)] * gamma  # the click model
    probability = torch.where(c > 0, chance, 1 - chance).prod(1)  # (4096,)
    loss = relmf(score, c, theta.expand_as(c), link=link, clip=0.0).mean(1)
    d1, d0 = local_losses(score, link)
    ideal = (gamma * d1 + (1 - gamma) * d0).mean()
    assert abs(float((probability * loss).sum() - ideal)) < 1e-12
    naive = relmf(score, c, torch.ones_like(c), link=link, clip=0.0).mean(1)
    assert abs(float((probability * naive).sum() - ideal)) > 1e-2


# ---- R-T6


def simulation() -> tuple[Log, Tensor, Tensor]:
    """200,000 impressions at 10 positions of 500 items: the log, e and gamma."""
    generator, n = stream(0, "positions"), 200_000
    e = torch.arange(1, 11, dtype=torch.float64) ** -0.8
    u = torch.rand(500, generator=generator, dtype=torch.float64)
    gamma = 1 - (1 - u) ** (1 / 3)  # Beta(1, 3)
    item = torch.randint(500, (n,), generator=generator)
    place = torch.randint(10, (n,), generator=generator)
    click = torch.rand(n, generator=generator, dtype=torch.float64) < e[place] * gamma[item]
    rows = {"item": item, "position": place + 1, "reward": click.float()}
    return Log.of(rows, n_items=500), e, gamma


def by_item(log: Log, weight: Tensor) -> Tensor:
    """The mean of a weight over the rows of each item."""
    item = log.tensor("item")
    return torch.bincount(item, weights=weight, minlength=log.n_items) / torch.bincount(item)


def test_r_t6_6_position_based_model() -> None:
    log, e, gamma = simulation()
    click, place = log.tensor("reward").double(), log.tensor("position")
    ips = by_item(log, inverse_exposure(click, e[place - 1], 0.0)) - gamma
    assert abs(float(ips.mean())) < 0.003
    rmse = float(ips.square().mean().sqrt())
    variance = (float(gamma.mean() * (1 / e).mean()) - float(gamma.square().mean())) / 400
    assert abs(rmse - variance**0.5) < 0.002 and abs(rmse - 0.044) < 0.003  # 400 rows an item
    naive = by_item(log, click) - gamma
    assert abs(float(naive.mean()) + 0.155) < 0.01
    for how in ("em", "slots"):
        theta = Position(how).bind(log).theta.double()
        assert theta.shape == (11,)
        assert float((theta[1:] / theta[1] - e).abs().max()) < 0.02, how
        estimated = by_item(log, inverse_exposure(click, theta[place], 0.0)) - gamma
        assert abs(float(estimated.mean())) < 0.006  # with e off by up to .02


def test_r_t6_6_without_randomisation() -> None:
    """Better items stand higher: click rates mislead, EM does not."""
    log, e, gamma = simulation()
    generator, item = stream(1), log.tensor("item")
    noise = 0.3 * torch.randn(len(item), generator=generator, dtype=torch.float64)
    place = 9 - (gamma[item] + noise).argsort().argsort() // 20_000  # ten equal parts
    click = torch.rand(len(item), generator=generator, dtype=torch.float64) < e[place] * gamma[item]
    rows = {"item": item, "position": place + 1, "reward": click.float()}
    ranked = Log.of(rows, n_items=500)
    fitted = {how: Position(how).bind(ranked).theta.double()[1:] for how in ("em", "slots")}
    assert float((fitted["em"] - e).abs().max()) < 0.03
    assert float((fitted["slots"] - e).abs().max()) > 0.1


@pytest.mark.parametrize("link", LINKS)
def test_r_t6_7_without_position_bias_it_is_the_plain_loss(link: Link) -> None:
    counts = {(i, k): (4, (2, 1)[i]) for i in range(2) for k in (1, 2, 3)}
    log = log_of(counts)
    batch = Logged().bind(log)(torch.arange(len(log)), None, Step())
    score = torch.randn(len(log), generator=stream(1), dtype=torch.float64)
    d1, d0 = local_losses(score, link)
    plain = batch.reward * d1 + (1 - batch.reward) * d0
    for how in ("slots", "em"):
        objective = RelMF(Position(how), link=link, clip=0.0).bind(log)
        losses = objective(lambda u, i: score, batch)
        assert torch.allclose(losses, plain, rtol=0, atol=1e-12 if how == "slots" else 1e-5)
