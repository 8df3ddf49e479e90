"""Click models against their closed forms."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from recfb.errors import ConfigError
from recfb.random import stream
from recfb.worlds import PBM, ClickModel
from recfb.worlds.choices import MNL, RankAcceptance, RankedChoice, mnl
from recfb.worlds.clicks import DBN, DCM, Cascade, Chain, TrustBias

A = [0.9, 0.4, 0.7, 0.2]
DRAWS = 200_000


def cascade(k: int) -> float:
    return A[k] * math.prod(1 - A[j] for j in range(k))


def dcm(k: int, stay: tuple[float, ...] = (0.8, 0.3, 0.5)) -> float:
    return A[k] * math.prod(1 - A[j] * (1 - stay[j]) for j in range(k))


def dbn(k: int, gamma: float = 0.9, s: float = 0.6) -> float:
    return A[k] * gamma**k * math.prod(1 - A[j] * s for j in range(k))


def trust(k: int) -> float:
    plus, minus = (1.0, 0.9, 0.9, 0.9)[k], (0.3, 0.1, 0.0, 0.0)[k]
    return (plus * A[k] + minus * (1 - A[k])) / (k + 1)


ODDS = [a / (1 - a) / (k + 1) for k, a in enumerate(A)]
CLOSED = {
    "pbm": (PBM(eta=1.0), [a / (k + 1) for k, a in enumerate(A)]),
    "cascade": (Cascade(), [cascade(k) for k in range(4)]),
    "dcm": (DCM(stay=[0.8, 0.3, 0.5]), [dcm(k) for k in range(4)]),
    "dbn": (DBN(gamma=0.9, satisfaction=0.6), [dbn(k) for k in range(4)]),
    "trust": (
        TrustBias(PBM(eta=1.0), plus=[1.0, 0.9], minus=[0.3, 0.1, 0.0]),
        [trust(k) for k in range(4)],
    ),
    "mnl": (MNL(no_click=0.5, eta=1.0), [x / (math.exp(0.5) + sum(ODDS)) for x in ODDS]),
    "acceptance": (
        RankAcceptance(alpha=0.7),
        [math.exp(-0.7 * k) / sum(math.exp(-0.7 * j) for j in range(4)) for k in range(4)],
    ),
    "ranked": (RankedChoice(power=0.8), [1.0, 0.0, 0.0, 0.0]),
}


def near(sample: Tensor, expected: Tensor) -> bool:
    """Rates within 4 standard errors of what they estimate."""
    error = (expected * (1 - expected) / len(sample)).sqrt() + 1e-9
    return bool(((sample.float().mean(0) - expected).abs() < 4 * error).all())


@pytest.mark.parametrize(("model", "rates"), CLOSED.values(), ids=CLOSED.keys())
def test_w_t3_marginal_click_rates(model: ClickModel, rates: list[float]) -> None:
    """2e5 visits of one slate: clicks and examination by position, against closed forms."""
    a, want = torch.tensor(A), torch.tensor(rates)
    assert model.marginal(a[None])[0].tolist() == pytest.approx(rates, rel=1e-5)
    got = model.sample(a.expand(DRAWS, -1), stream(0))
    assert near(got.click, want)
    assert near(got.examined, got.p_examine[0])
    assert not (got.click.bool() & ~got.examined).any()


@pytest.mark.parametrize("model", [Cascade(), DCM([0.8, 0.3, 0.5]), DBN(0.9, 0.6)], ids=repr)
def test_w_t3_examination_of_chains_by_enumeration(model: Chain) -> None:
    """The sum over every pattern of attraction and going on, to 1e-12 in float64."""
    a = torch.tensor(A, dtype=torch.float64)
    skip, click = (x.tolist() for x in model.going_on(4))
    want = [0.0] * 4
    for attracted, on in itertools.product(itertools.product((0, 1), repeat=4), repeat=2):
        weight, reached = 1.0, True
        for k in range(4):
            go = click[k] if attracted[k] else skip[k]
            weight *= (A[k] if attracted[k] else 1 - A[k]) * (go if on[k] else 1 - go)
        for k in range(4):
            want[k] += weight * reached
            reached = reached and bool(on[k])
    assert model.examination(a[None])[0].tolist() == pytest.approx(want, abs=1e-12)


def test_w_t3_the_joint_of_a_cascade_has_one_click_at_most() -> None:
    clicks = Cascade().sample(torch.tensor(A).expand(DRAWS, -1), stream(0)).click
    assert int(clicks.sum(1).max()) == 1
    many = DCM([0.5]).sample(torch.tensor(A).expand(DRAWS, -1), stream(0)).click
    both = (many[:, 0] * many[:, 1]).mean()
    want = 0.9 * 0.5 * 0.4
    assert float(both) == pytest.approx(want, abs=4 * (want * (1 - want) / DRAWS) ** 0.5)


def test_pbm_positions_are_independent() -> None:
    got = PBM(eta=0.5).sample(torch.full((200_000, 2), 0.5), stream(1))
    assert abs(float(torch.corrcoef(got.click.T)[0, 1])) < 4 / 447


def test_w_t4_limits_of_the_click_models() -> None:
    """With attraction 1: a cascade clicks the first only, the others see everything."""
    ones = torch.ones(100, 5)
    for model in (PBM(eta=0.0), DCM([1.0]), DBN(gamma=1.0, satisfaction=0.0)):
        got = model.sample(ones, stream(0))
        assert got.examined.all()
        assert (got.click == 1).all()
        assert (got.p_examine == 1).all()
    first = Cascade().sample(ones, stream(0))
    assert first.click[:, 0].all()
    assert not first.click[:, 1:].any()
    assert first.p_examine[0].tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]
    a = torch.rand(20, 5, generator=stream(1))
    assert torch.allclose(DCM([0.0]).marginal(a), Cascade().marginal(a))
    assert torch.allclose(DBN(1.0, 1.0).marginal(a), Cascade().marginal(a))
    trusted = TrustBias(Cascade(), plus=[1.0], minus=[0.0])
    assert torch.equal(trusted.marginal(a), Cascade().marginal(a))


def test_w_t14_mnl_frequencies_do_not_move_with_a_constant() -> None:
    utility, rank = torch.tensor([[0.5, -1.0, 2.0]], dtype=torch.float64), torch.tensor([0, -1, -2])
    got = mnl(utility, 0.3, 2.0, rank)[0]
    weight = [math.exp(0.25), math.exp(-0.5 - 1), math.exp(1.0 - 2), math.exp(0.15)]
    assert got.tolist() == pytest.approx([w / sum(weight) for w in weight], abs=1e-12)
    moved = mnl(utility + 7.0, 7.3, 2.0, rank)[0]
    assert moved.tolist() == pytest.approx(got.tolist(), abs=1e-12)


def test_mnl_takes_the_utility_back_from_the_attraction() -> None:
    utility = torch.tensor([[-3.0, 0.0, 2.0]], dtype=torch.float64)
    got = MNL(temperature=0.5, no_click=1.0).probs(utility.sigmoid())
    assert torch.allclose(got, mnl(utility, 1.0, 0.5), atol=1e-12)
    sure = MNL().probs(torch.tensor([[1.0, 0.0]]))[0]
    assert sure.tolist() == pytest.approx([1.0, 0.0, 0.0], abs=1e-11)


def test_ranked_choice_by_hand() -> None:
    a = torch.tensor([[0.5, 0.8, 0.9], [0.5, 0.9, 0.9], [0.0, 0.0, 0.0]])
    # 2^-0.8 = 0.574, 3^-0.8 = 0.415: scores .5 .459 .374, then .5 .517 .374, then a tie
    assert RankedChoice().marginal(a).argmax(1).tolist() == [0, 1, 0]
    assert RankedChoice(power=0.0).marginal(a).argmax(1).tolist() == [2, 1, 0]


MODELS = [PBM(), Cascade(), DCM(), DBN(), TrustBias(PBM()), TrustBias(DBN())]


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_draws_do_not_depend_on_the_slate(model: ClickModel) -> None:
    """A more attractive item at one position never takes a click away from it, and the generator
    is left in the same place."""
    g, h = stream(0), stream(0)
    low = torch.full((500, 4), 0.4)
    high = low.clone()
    high[:, 2] = 0.8
    few, many = model.sample(low, g), model.sample(high, h)
    assert torch.equal(few.examined[:, :3], many.examined[:, :3])
    assert torch.equal(few.click[:, :2], many.click[:, :2])
    assert (few.click[:, 2] <= many.click[:, 2]).all()
    assert float(few.click[:, 2].sum()) < float(many.click[:, 2].sum())
    assert torch.equal(g.get_state(), h.get_state())


def test_choices_share_their_numbers() -> None:
    low = torch.full((2000, 4), 0.4)
    high = low.clone()
    high[:, 2] = 0.8
    few, many = MNL().sample(low, stream(0)).click, MNL().sample(high, stream(0)).click
    assert (few[:, 2] <= many[:, 2]).all()
    assert (few[:, [0, 1, 3]] >= many[:, [0, 1, 3]]).all()
    same = RankAcceptance()
    assert torch.equal(same.sample(low, stream(0)).click, same.sample(high, stream(0)).click)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PBM(eta=-1.0), "eta is not negative"),
        (lambda: DCM(stay=[]), "stay are probabilities"),
        (lambda: DCM(stay=[0.5, 1.2]), "stay are probabilities"),
        (lambda: DBN(gamma=1.1), "gamma and satisfaction"),
        (lambda: DBN(satisfaction=-0.1), "gamma and satisfaction"),
        (lambda: TrustBias(PBM(), plus=[2.0]), "plus are probabilities"),
        (lambda: TrustBias(PBM(), minus=[-0.1]), "minus are probabilities"),
        (lambda: MNL(temperature=0.0), "positive temperature"),
        (lambda: MNL(eta=-1.0), "positive temperature"),
        (lambda: RankedChoice(power=-1.0), "power is not negative"),
        (lambda: RankAcceptance(alpha=-1.0), "alpha is not negative"),
    ],
)
def test_refuses_what_is_no_model(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()  # type: ignore[operator]
