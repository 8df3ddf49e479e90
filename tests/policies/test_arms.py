"""Index policies and posterior sampling for independent arms."""

from __future__ import annotations

from math import log, sqrt

import pytest
import torch

from recfb.beliefs import Linear
from recfb.contracts import Context, Feedback, Policy, Slate
from recfb.data import Log, Meta
from recfb.errors import ConfigError
from recfb.policies import BetaThompson
from recfb.policies.boltzmann_gumbel import BoltzmannGumbel, gumbel_largest
from recfb.policies.gaussian_thompson import GaussianThompson
from recfb.policies.klucb import KLUCB, bernoulli_kl, klucb
from recfb.policies.thompson import Thompson
from recfb.policies.ucb1 import UCB1, ucb1
from recfb.random import stream
from recfb.simulate import Refit, simulate
from recfb.worlds import Arms


def shape(n_items: int, learners: int = 1) -> Log:
    return Log.empty(1, n_items, meta=Meta(learners=learners))


def taught(policy: Policy, rewards: dict[int, list[float]]) -> Policy:
    """Rewards of items, one row each."""
    items = [item for item, seen in rewards.items() for _ in seen]
    seen = [reward for some in rewards.values() for reward in some]
    context = Context(torch.zeros(len(items)).long())
    feedback = Feedback(torch.tensor(seen)[:, None])
    policy.update(context, Slate(torch.tensor(items)[:, None]), feedback, stream(0))
    return policy


def test_ucb1_by_hand() -> None:
    """t = 5 pulls, one of them without a reward: t = 4, means 1/3 of 3 and 1 of 1."""
    policy = taught(UCB1(alpha=0.5).bind(shape(3)), {0: [1, 0, 0, torch.nan], 1: [1]})
    index = policy.index(Context(torch.tensor([0])))[0]  # type: ignore[operator]
    wide = 0.5 * sqrt(2 * log(4))
    assert index[:2].tolist() == pytest.approx([1 / 3 + wide / sqrt(3), 1 + wide])
    assert index[2] == torch.inf


def test_b_2_a_klucb_index() -> None:
    """kl(0.5, q) = 0.2 at q = (1 + sqrt(1 - exp(-0.4))) / 2; the page's other two, cut after six
    digits."""
    found = klucb(
        torch.tensor([0.5, 0.1, 0.9]).double(), torch.tensor([0.2, 0.2, 0.4], dtype=torch.float64)
    )
    assert float(found[0]) == pytest.approx((1 + sqrt(1 - 2.718281828459045**-0.4)) / 2, abs=1e-11)
    assert found.tolist() == pytest.approx([0.787088, 0.378391, 0.999285], abs=1.01e-6)
    mean = torch.linspace(0, 1, 21).double()
    budget = torch.tensor(0.3).double().expand(21)
    upper = klucb(mean, budget)
    inside = upper < 1 - 1e-9
    assert torch.allclose(bernoulli_kl(mean, upper)[inside], budget[inside], atol=1e-8)


def test_b_2_a_klucb_is_the_root_that_bisection_finds() -> None:
    """Means from 1e-9 to 1 - 1e-9 and both ends, budgets from 1e-6 to 100."""
    some = torch.rand(20_000, generator=stream(0)).double()
    mean = torch.cat([some, 10 ** (-9 * some), 1 - 10 ** (-9 * some), 0 * some, 0 * some + 1])
    budget = 10 ** (8 * torch.rand(len(mean), generator=stream(1)).double() - 6)
    low, high = mean.clone(), torch.ones_like(mean)
    for _ in range(100):
        q = (low + high) / 2
        kl = torch.special.xlogy(mean, mean / q) + torch.special.xlogy(
            1 - mean, (1 - mean) / (1 - q)
        )
        low, high = torch.where(kl <= budget, q, low), torch.where(kl <= budget, high, q)
    assert float((klucb(mean, budget) - low).abs().max()) < 1e-9
    for little in (0.0, 1e-16, 1e-12):
        upper = klucb(mean, torch.full_like(mean, little))
        assert bool((upper >= mean).all()) and float((upper - mean).max()) < 1e-6


def test_klucb_at_the_ends() -> None:
    mean = torch.tensor([0.0, 0.5, 1.0, 0.3, 0.0, 1.0]).double()
    budget = torch.tensor([0.0, 0.0, 0.0, 1e-14, 40.0, 40.0]).double()
    found = klucb(mean, budget)
    assert found.tolist() == pytest.approx([0, 0.5, 1, 0.3, 1, 1], abs=1e-6)


def test_b_2_b_klucb_is_below_ucb1_with_half_the_constant() -> None:
    mean = torch.rand(200, 5, generator=stream(0)).double()
    pulls = torch.randint(1, 50, (200, 5), generator=stream(1)).double()
    t = pulls.sum(1, keepdim=True)
    low = klucb(mean, t.log() / pulls)
    assert bool((low <= ucb1(mean, pulls, t, alpha=0.5) + 1e-12).all())
    assert bool((low >= mean).all())


def test_klucb_constant() -> None:
    """c adds c ln ln t to ln t: with 20 pulls ln 20 + 3 ln ln 20."""
    policy = taught(KLUCB(c=3.0).bind(shape(2)), {0: [1, 0] * 5, 1: [0] * 10})
    index = policy.index(Context(torch.tensor([0])))[0]  # type: ignore[operator]
    bound = (log(20) + 3 * log(log(20))) / 10
    expected = klucb(torch.tensor([0.5, 0.0]).double(), torch.tensor([bound] * 2).double())
    assert torch.allclose(index, expected)


@pytest.mark.parametrize("make", [UCB1, KLUCB, BoltzmannGumbel])
def test_every_item_is_shown_once_first_in_an_order_of_its_own(make: type[Policy]) -> None:
    run = simulate(Arms([0.5] * 4), make(), rounds=4, replications=200, refit=Refit(warmup=0))
    item = run.log.tensor("item").view(4, 200)
    assert (item.sort(0).values == torch.arange(4)[:, None]).all()
    share = torch.bincount(item[0], minlength=4) / 200
    assert float((share - 0.25).abs().max()) < 5 * 0.433 / sqrt(200)


def test_b_2_c_posterior_mean_of_beta_thompson() -> None:
    policy = taught(BetaThompson().bind(shape(2)), {0: [1, 1, 0, 0.5], 1: [0]})
    a, b = policy.successes[0, 0], policy.failures[0, 0]  # type: ignore[index]
    assert (a / (a + b)).tolist() == pytest.approx([(1 + 2.5) / (2 + 4), 1 / 3])


def test_gaussian_thompson_is_thompson_over_linear() -> None:
    """The posterior of a mean with prior N(0, sd^2): s / (n + 1), sd^2 / (n + 1)."""
    named = taught(GaussianThompson(sd=0.3).bind(shape(3)), {0: [1, 1, 0], 2: [0.5]})
    composed = taught(Thompson(Linear(scale=0.3)).bind(shape(3)), {0: [1, 1, 0], 2: [0.5]})
    context = Context(torch.zeros(1).long())
    assert torch.equal(named.probs(context), composed.probs(context))
    belief = named.model  # type: ignore[union-attr]
    assert belief.scores(context)[0].tolist() == pytest.approx([0.5, 0, 0.25])  # type: ignore
    width = belief.width(context)[0]  # type: ignore[operator, union-attr]
    assert width.tolist() == pytest.approx([0.15, 0.3, 0.3 / sqrt(2)])


def test_gumbel_probabilities() -> None:
    """Equal scales are a softmax; others are counted: 4e5 draws, 5 standard errors."""
    mean = torch.tensor([[0.1, 0.5, 0.4]]).double()
    live = torch.tensor([[True, True, True]])
    flat = gumbel_largest(mean, torch.full_like(mean, 0.2), live)
    assert torch.allclose(flat, (mean / 0.2).softmax(1), atol=1e-10)
    scale = torch.tensor([[0.5, 0.02, 0.1]]).double()
    n = 400_000
    u = torch.rand(n, 3, generator=stream(0), dtype=torch.float64)
    best = (mean - scale * (-u.log()).log()).argmax(1)
    share = torch.bincount(best, minlength=3) / n
    p = gumbel_largest(mean, scale, live)[0]
    assert bool(((share - p).abs() < 5 * (p * (1 - p) / n).sqrt()).all())
    two = gumbel_largest(mean, scale, torch.tensor([[True, False, True]]))
    assert float(two[0, 1]) == 0
    assert float(two.sum()) == pytest.approx(1)


def test_boltzmann_gumbel_draws_what_it_says() -> None:
    n = 100_000
    policy = taught(BoltzmannGumbel(0.5).bind(shape(3)), {0: [1, 0] * 8, 1: [1], 2: [0] * 4})
    context = Context(torch.zeros(n).long())
    slate = policy.act(context, stream(0))
    assert slate.propensity is None
    share = torch.bincount(slate.item[:, 0], minlength=3) / n
    p = policy.probs(context[torch.tensor([0])])[0]
    assert bool(((share - p).abs() < 5 * (p * (1 - p) / n).sqrt()).all())


@pytest.mark.parametrize(
    "policy", [UCB1(), KLUCB(), BoltzmannGumbel(), GaussianThompson()], ids=repr
)
def test_two_far_apart_arms_are_told_apart(policy: Policy) -> None:
    run = simulate(Arms([0.1, 0.9]), policy, rounds=200, replications=32, refit=Refit(warmup=0))
    late = run.log.tensor("item").view(200, 32)[100:]
    assert float((late == 1).double().mean(0).min()) > 0.8


def test_refusals() -> None:
    for make, match in (
        (lambda: UCB1(alpha=-1.0), "alpha is not negative"),
        (lambda: KLUCB(c=-1.0), "c is at least 0"),
        (lambda: BoltzmannGumbel(scale=0.0), "scale of the noise is positive"),
        (lambda: GaussianThompson(sd=0.0), "sd is a positive"),
    ):
        with pytest.raises(ConfigError, match=match):
            make()


def test_what_is_certain_has_a_1_for_every_item_shown() -> None:
    policy = UCB1().bind(shape(5))
    for rows, k in ((1, 1), (3, 1), (3, 2)):
        slate = policy.act(Context(torch.zeros(rows).long()), stream(0), k=k)
        assert torch.equal(slate.propensity, torch.ones(rows, k).double())
