"""Greedy and eps-slate: exact probabilities of any slate."""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy.stats import chi2, chisquare
from torch import Tensor

from recfb.contracts import Context, Policy, Solver, plackett_luce
from recfb.data import Log
from recfb.data.history import History
from recfb.errors import ConfigError
from recfb.policies import Ranked
from recfb.policies.slates import uniform_slate
from recfb.random import stream


class Table(Solver):
    """Given scores, the same for all users unless the table has a row a user."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = table

    def all(self, user: Tensor, out: Tensor | None = None) -> Tensor:
        return self.table[user] if self.table.dim() == 2 else self.table.expand(len(user), -1)

    def forward(self, user: Tensor, item: Tensor, batch: object = None) -> Tensor:
        return self.all(user).gather(1, item)


class Fixed(Policy):
    """One given distribution for every request, shown by the default `act`."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = weights

    def probs(self, context: Context) -> Tensor:
        return self.weights.expand(len(context), -1)


def ranked(scores: list[float], epsilon: float) -> Ranked:
    return Ranked(Table(torch.tensor(scores)), epsilon).bind(Log.empty(8, len(scores)))


def users(n: int) -> Context:
    return Context(torch.arange(n))


def test_w_t5_default_act_is_plackett_luce() -> None:
    """n = 5, K = 2: all 20 ordered pairs in 2e5 draws, and p_prefix to 1e-10."""
    w = torch.tensor([0.4, 0.25, 0.2, 0.1, 0.05], dtype=torch.float64)
    policy, n = Fixed(w).bind(Log.empty(1, 5)), 200_000
    context = Context(torch.zeros(n, dtype=torch.int64))
    slate = policy.act(context, stream(0), k=2)
    pairs = list(itertools.permutations(range(5), 2))
    expected = torch.tensor([w[a] * w[b] / (1 - w[a]) for a, b in pairs], dtype=torch.float64)
    key = slate.item[:, 0] * 5 + slate.item[:, 1]
    counts = torch.bincount(key, minlength=25)[[a * 5 + b for a, b in pairs]]
    assert int(counts.sum()) == n
    assert chisquare(counts.numpy(), (expected * n).numpy()).pvalue > 1e-3
    formula = plackett_luce(w.expand(n, -1), slate.item)
    assert slate.p_prefix is not None
    first = w[slate.item[:, 0]]
    by_hand = torch.stack([first, first * w[slate.item[:, 1]] / (1 - first)], 1)
    assert torch.allclose(slate.p_prefix, by_hand, atol=1e-10, rtol=0)
    assert torch.allclose(formula, by_hand, atol=1e-10, rtol=0)


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_w_t7_probabilities_are_normalised(epsilon: float) -> None:
    n, k = 6, 3
    policy = ranked([0.3, 0.9, 0.1, 0.5, 0.7, 0.2], epsilon)
    each = torch.arange(n)[:, None].expand(n, k)  # every item at every position
    context = Context(torch.zeros(n, dtype=torch.int64))
    slate = policy.propensities(context, each)
    assert slate.propensity is not None and slate.p_display is not None
    assert torch.allclose(slate.propensity.sum(0), torch.ones(k).double(), atol=1e-12)
    assert float(slate.p_display[:, 0].sum()) == pytest.approx(k, abs=1e-12)
    orders = torch.tensor(list(itertools.permutations(range(n), k)))
    many = Context(torch.zeros(len(orders), dtype=torch.int64))
    whole = policy.propensities(many, orders)
    assert whole.p_prefix is not None
    assert float(whole.p_prefix[:, -1].sum()) == pytest.approx(1, abs=1e-12)
    at = torch.zeros(k, n, dtype=torch.float64)  # P(item at position), summed over all slates
    for position in range(k):
        at[position].index_add_(0, orders[:, position], whole.p_prefix[:, -1])
    assert torch.allclose(at.T, slate.propensity, atol=1e-12)
    inside = torch.zeros(n, dtype=torch.float64)
    inside.index_add_(0, orders.flatten(), whole.p_prefix[:, -1].repeat_interleave(k))
    assert torch.allclose(inside, slate.p_display[:, 0], atol=1e-12)
    one = policy.probs(context[:1])
    assert torch.allclose(one[0], slate.propensity[:, 0], atol=1e-12)


def test_w_t7_mean_inverse_propensity_counts_the_support() -> None:
    policy, n = ranked([0.3, 0.9, 0.1, 0.5], 0.5), 100_000
    slate = policy.act(Context(torch.zeros(n, dtype=torch.int64)), stream(0), k=2)
    assert slate.propensity is not None
    inverse = 1 / slate.propensity
    assert inverse.mean(0).tolist() == pytest.approx([4, 4], abs=4 * float(inverse.std()) / 316)


def test_probabilities_by_hand() -> None:
    """n = 4, eps = .2: 1 - eps = .8, eps / n = .05, eps / (4 * 3) = .0166..., eps K / n = .1."""
    policy = ranked([0.1, 0.4, 0.3, 0.2], 0.2)
    slate = policy.propensities(users(3), torch.tensor([[1, 2], [2, 1], [1, 0]]))
    assert slate.propensity is not None
    assert slate.p_prefix is not None
    assert slate.p_display is not None
    third = 0.2 / 12
    assert slate.propensity.flatten().tolist() == pytest.approx(
        [0.85, 0.85, 0.05, 0.05, 0.85, 0.05]
    )
    assert slate.p_prefix.flatten().tolist() == pytest.approx(
        [0.85, 0.8 + third, 0.05, third, 0.85, third]
    )
    assert slate.p_display.flatten().tolist() == pytest.approx([0.9, 0.9, 0.9, 0.9, 0.9, 0.1])
    assert slate.propensity.dtype == torch.float64
    assert policy.prob_of(users(2), torch.tensor([1, 3])).tolist() == pytest.approx([0.85, 0.05])
    assert policy.probs(users(1))[0].tolist() == pytest.approx([0.05, 0.85, 0.05, 0.05])


def test_what_act_returns_is_what_propensities_says() -> None:
    policy = ranked([0.1, 0.4, 0.3, 0.2, 0.9], 0.4)
    available = torch.rand(200, 5, generator=stream(3)) < 0.7
    available[:, :3] = True
    context = Context(torch.zeros(200, dtype=torch.int64), available=available)
    slate = policy.act(context, stream(0), k=3)
    again = policy.propensities(context, slate.item)
    for name in ("propensity", "p_prefix", "p_display"):
        assert torch.equal(getattr(slate, name), getattr(again, name))
        assert (getattr(slate, name) > 0).all()
    assert available.gather(1, slate.item).all()


def test_impossible_slates_have_probability_0() -> None:
    policy = ranked([0.1, 0.4, 0.3, 0.2], 0.5)
    available = torch.tensor([[True, True, True, False]])
    context = Context(torch.zeros(2, dtype=torch.int64), available=available)
    slate = policy.propensities(context, torch.tensor([[0, 3], [2, 2]]))
    assert slate.p_prefix is not None and slate.propensity is not None
    assert slate.propensity[0, 1] == 0
    assert slate.p_prefix[:, 1].tolist() == [0, 0]


@pytest.mark.parametrize("kind", ["all", "shared", "own", "candidates"])
def test_uniform_slates_are_uniform_over_ordered_slates(kind: str) -> None:
    """12 ordered pairs of 4 items, 48,000 draws."""
    rows, n_items = 48_000, {"all": 4}.get(kind, 7)
    items, options = [0, 1, 2, 3], {}
    if kind in ("shared", "own"):
        mask = torch.tensor([[False, True, True, False, True, False, True]])
        items, options = [1, 2, 4, 6], {"available": mask.expand(rows if kind == "own" else 1, -1)}
    if kind == "candidates":
        items, options = [6, 0, 3, 5], {"candidates": torch.tensor([[6, 0, 3, 5]]).expand(rows, -1)}
    context = Context(torch.zeros(rows, dtype=torch.int64), **options)
    u = torch.rand(rows, 2, generator=stream(0), dtype=torch.float64)
    slate = uniform_slate(context, n_items, u)
    key = slate[:, 0] * n_items + slate[:, 1]
    pairs = [a * n_items + b for a, b in itertools.permutations(items, 2)]
    counts = torch.bincount(key, minlength=n_items**2)[pairs]
    assert int(counts.sum()) == rows
    assert chisquare(counts.numpy()).pvalue > 1e-3
    edge = uniform_slate(context[:1], n_items, torch.full((1, 4), 1 - 2**-53, dtype=torch.float64))
    assert sorted(edge[0].tolist()) == sorted(items)


def test_repeated_candidates_count_each_time() -> None:
    """Candidates 5, 5, 2: P(5 first) = 2/3; P(5, 2) = 2/3 * 1/2; P(5 shown in 2) = 1."""
    policy = Ranked(Table(torch.arange(6.0)), 1.0).bind(Log.empty(1, 6))
    context = Context(torch.zeros(3, dtype=torch.int64), candidates=torch.tensor([[5, 5, 2]] * 3))
    slate = policy.propensities(context, torch.tensor([[5, 2], [5, 5], [2, 5]]))
    assert slate.propensity is not None
    assert slate.p_prefix is not None
    assert slate.p_display is not None
    assert slate.propensity[:, 0].tolist() == pytest.approx([2 / 3, 2 / 3, 1 / 3])
    assert slate.p_prefix[:, 1].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3])
    assert slate.p_display[0].tolist() == pytest.approx([1.0, 2 / 3])
    assert policy.probs(context)[0].tolist() == pytest.approx([0, 0, 1 / 3, 0, 0, 2 / 3])


def test_w_t18_equal_scores_are_shown_equally_often() -> None:
    """Display counts of 2,000 greedy slates of 5 of 40 equal items. A slate draws without
    replacement, so the statistic is divided by 1 - K / n."""
    policy, n, k = Ranked(Table(torch.zeros(40))).bind(Log.empty(2000, 40)), 2000, 5
    slate = policy.act(users(n), stream(0), k=k)
    counts = torch.bincount(slate.item.flatten(), minlength=40).double()
    mean = n * k / 40
    statistic = float(((counts - mean) ** 2 / mean).sum()) / (1 - k / 40) * (39 / 40)
    assert 1e-3 < chi2.sf(statistic, 39) < 1 - 1e-3


def test_the_same_numbers_are_drawn_whatever_epsilon() -> None:
    scores = [0.1, 0.4, 0.3, 0.2, 0.9, 0.6]
    generator, other = stream(0), stream(0)
    low = ranked(scores, 0.2).act(Context(torch.zeros(500).long()), generator, k=3).item
    high = ranked(scores, 0.6).act(Context(torch.zeros(500).long()), other, k=3).item
    assert torch.equal(generator.get_state(), other.get_state())
    greedy = torch.tensor([4, 5, 1])
    explored = (low != greedy).any(1)
    assert torch.equal(low[explored], high[explored])


def test_users_without_clicks_are_shown_the_most_clicked_items() -> None:
    model = Table(torch.tensor([[9.0, 1.0, 2.0, 0.0]] * 3))
    log = Log.of({"user": [0, 0, 1, 2], "item": [3, 1, 3, 0], "reward": [1, 1, 1, 0]},
                 n_users=3, n_items=4)  # fmt: skip
    policy = Ranked(model).bind(log)
    assert policy.top(users(3), 2).tolist() == [[0, 2]] * 3
    model.history = History.of(log)
    assert policy.top(users(3), 2).tolist() == [[0, 2], [0, 2], [3, 1]]
    told = Context(torch.arange(3), features=torch.zeros(3, 1))
    assert policy.top(told, 2).tolist() == [[0, 2]] * 3
    listed = Context(torch.tensor([2]), candidates=torch.tensor([[0, 2, 1]]))
    assert policy.top(listed, 1).tolist() == [[1]]
    assert "history" in vars(model)
    policy.bind(log)
    assert "history" not in vars(model)


def test_refuses_long_slates_and_epsilon_outside_0_1() -> None:
    with pytest.raises(ConfigError, match="epsilon is a probability"):
        Ranked(Table(torch.zeros(2)), 1.2)
    with pytest.raises(ConfigError, match="slate=2 or fewer"):
        ranked([0.1, 0.2], 0.1).act(users(4), stream(0), k=3)
    available = torch.tensor([[True, False, True], [True, False, False]])
    few = Context(torch.zeros(2, dtype=torch.int64), available=available)
    with pytest.raises(ConfigError, match="only 1 items"):
        ranked([0.1, 0.2, 0.3], 0.1).act(few, stream(0), k=2)
