"""Apple tasting and lending: labels are seen of the accepted only."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import recfb
from recfb.beliefs import Linear, Logistic, Payoff
from recfb.beliefs.payoff import pseudo_label
from recfb.contracts import Context, Feedback, Policy, Slate
from recfb.data import Log, Meta
from recfb.errors import ConfigError
from recfb.policies import IGW, STAP, Greedy, Officer, Switch, Tasting, Thompson
from recfb.random import stream
from recfb.simulate import Refit, simulate
from recfb.worlds import Applicants, OneSided
from recfb.worlds.contextual import with_features

NOW = Refit(warmup=0)
WORLD = Applicants([0.41] * 6, link="logistic", requests=1)


def opening(learners: int = 1, width: int = 3) -> Log:
    return with_features(Log.empty(1, 2, meta=Meta(horizon=50, learners=learners)), width)


def requests(rows: int, seed: int = 0) -> Context:
    x = torch.randn(rows, 3, generator=stream(seed, "x"))
    x[:, -1] = 1.0
    return Context(torch.zeros(rows, dtype=torch.int64), features=x)


def lender(**options: object) -> Payoff:
    return Payoff(Logistic(), doubt=3.72, **options)  # type: ignore[arg-type]


def trained(model: Payoff, rows: int = 200, learners: int = 1) -> Payoff:
    model.bind(opening(learners)).reset(stream(0))
    context = requests(rows, seed=5)
    good = context.features[:, :1] + 0.5 * torch.randn(rows, 1, generator=stream(6)) > 0
    slate = Slate(torch.ones(rows, 1, dtype=torch.int64), torch.ones(rows, 1).double())
    model.update(context, slate, Feedback(torch.where(good, 1.0, -1.0)), stream(0))
    return model


# ---- payoffs and their training


def test_the_threshold_is_loss_over_gain_plus_loss() -> None:
    model = trained(Payoff(Logistic(), gain=1.0, loss=3.0))
    context = requests(500)
    m = model.good(context)
    yes = Greedy(model).bind(opening())  # binding forgets; train again
    trained(model)
    assert torch.equal(yes.probs(context)[:, 1] == 1, m > 0.75)
    assert 0.1 < float((m > 0.75).double().mean()) < 0.9
    assert torch.allclose(model.scores(context)[:, 1], m - 3 * (1 - m))
    assert bool((model.scores(context)[:, 0] == 0).all())
    assert torch.allclose(model.width(context)[:, 1], 4 * model.model.width(context)[:, 1])


def test_doubt_is_a_prior_of_bad_ones_for_every_learner() -> None:
    """l2 m = -3.72 sigmoid(m) at m = -1: 3.72 x .2689 = 1.0004."""
    model = lender().bind(opening(learners=3))
    model.reset(stream(0))
    assert torch.allclose(model.model.mean[:, 1, 2], torch.tensor(-1.0).double(), atol=1e-3)
    assert not bool(model.model.mean[:, 0].any())


def test_only_labels_of_the_accepted_are_learned() -> None:
    context, first = requests(40), torch.arange(40)[:, None] % 2
    reward = torch.where(torch.rand(40, 1, generator=stream(1)) < 0.5, 1.0, -1.0)
    slate = Slate(first, torch.full((40, 1), 0.5).double())
    for weights in ("none", "ips"):
        seen = []
        for rejected in (torch.nan, 7.0):
            model = Payoff(Logistic(), weights=weights).bind(opening())
            model.reset(stream(0))
            model.update(context, slate, Feedback(reward.where(first == 1, rejected)), stream(0))
            seen.append(model.model.mean.clone())
        assert torch.equal(*seen) and bool(seen[0].any())


def test_ips_counts_rows_as_often_as_they_would_have_come_up_to_the_cap() -> None:
    """A row of e = .5 counts twice; one of e = .01 as often as the cap."""
    context = requests(1)
    yes = Slate(torch.ones(1, 1, dtype=torch.int64))
    for e, times in ((0.5, 2), (0.01, 4)):
        model = Payoff(Linear(), weights="ips", cap=4.0).bind(opening())
        plain = Payoff(Linear()).bind(opening())
        good = Feedback(torch.ones(1, 1))
        model.update(context, replace(yes, propensity=torch.tensor([[e]])), good, stream(0))
        for _ in range(times):
            plain.update(context, yes, good, stream(0))
        assert torch.allclose(model.model.theta, plain.model.theta, atol=1e-12)


def test_pseudo_labels_are_unbiased_by_enumeration() -> None:
    """Weighted by e and 1 - e they are y for every guess; a cap below 1 / e shrinks to it."""
    for y in (0.0, 1.0):
        for guess in (0.1, 0.7):
            for e in (0.1, 0.6):
                label = torch.tensor([y, torch.nan], dtype=torch.float64)
                m, p = torch.full((2,), guess).double(), torch.full((2,), e).double()
                yes, no = pseudo_label(label, m, p, cap=20.0)
                assert float(e * yes + (1 - e) * no) == pytest.approx(y, abs=1e-7)
                yes, no = pseudo_label(label, m, p, cap=2.0)
                shrunk = guess + (y - guess) * min(1.0, 2 * e)
                assert float(e * yes + (1 - e) * no) == pytest.approx(shrunk, abs=1e-7)


def test_dr_learns_pseudo_labels_of_all_requests() -> None:
    context, item = requests(6), torch.tensor([[1], [0], [1], [0], [1], [1]])
    slate = Slate(item, torch.full((6, 1), 0.25).double())
    reward = Feedback(torch.tensor([[1.0], [9.0], [-1.0], [9.0], [1.0], [torch.nan]]))
    model = Payoff(Linear(), weights="dr").bind(opening())
    model.update(context, slate, reward, stream(0))
    by_hand = Linear().bind(opening())
    target = torch.tensor([[4.0], [0.0], [0.0], [0.0], [4.0], [0.0]])  # the first guess is 0
    by_hand.update(context, Slate(torch.ones_like(item)), Feedback(target), stream(0))
    assert torch.allclose(model.model.theta[0, 1], by_hand.theta[0, 1], atol=1e-12)


# ---- policies over payoffs


def test_tasting_accepts_some_of_the_rejected_and_rejects_none_of_the_accepted() -> None:
    policy = Tasting(lender(), 0.1).bind(opening())
    trained(policy.model)
    context = requests(300)
    accept, good = policy.probs(context)[:, 1], policy.model.good(context)
    taste = torch.full_like(good, 0.1)
    assert torch.equal(accept, taste.masked_fill(good > 0.5, 1.0))
    assert len(accept.unique()) == 2


def test_stap_by_hand() -> None:
    """Two learners; the first sees two mistakes in four requests: sqrt(3 / 5), sqrt(1 / 5)."""
    policy = STAP(Payoff(Linear())).bind(opening(learners=2))
    policy.reset(stream(0))
    policy.model.model.theta[:, 1, 2] = torch.tensor([0.9, 0.9])  # all are taken for good
    context = requests(8)
    item = torch.tensor([1, 1, 1, 0, 1, 1, 1, 0])[:, None]
    reward = torch.tensor([-1.0, -1, 1, -1, 1, 1, 1, -1])[:, None]
    policy.model.model.update = lambda *_: None  # type: ignore[method-assign]
    policy.update(context, Slate(item), Feedback(reward), stream(0))
    assert policy.mistakes.tolist() == [2.0, 0.0] and policy.count.tolist() == [4.0, 4.0]
    policy.model.model.theta.zero_()
    policy.model.model.theta[:, 1, 2] = 0.1
    expected = [(3 / 5) ** 0.5, (1 / 5) ** 0.5]
    assert policy.probs(requests(2))[:, 1].tolist() == pytest.approx(expected)


def test_thompson_over_payoffs_is_exact() -> None:
    policy = Thompson(lender(loss=2.0)).bind(opening())
    trained(policy.model, rows=30)
    one = requests(4)
    exact = policy.probs(one)[:, 1]
    n = 40_000
    for row in range(4):
        many = one[torch.full((n,), row)]
        slate = policy.act(many, stream(row))
        share = float(slate.item.double().mean())
        p = float(exact[row])
        assert share == pytest.approx(p, abs=5 * (p * (1 - p) / n) ** 0.5 + 1e-9)
        assert torch.allclose(slate.propensity, slate.probs.gather(1, slate.item))
    assert float(exact.max() - exact.min()) > 0.2
    assert Payoff(Linear()).bind(opening()).p_best(one) is None


@pytest.mark.parametrize("weights", ["none", "ips"])
@pytest.mark.parametrize(
    "make",
    [Greedy, Tasting, STAP, Thompson, lambda model: IGW(model, 20.0, power=0.5)],
    ids=["greedy", "eps", "stap", "ts", "igw"],
)
def test_f_e5_every_explorer_runs_and_its_log_can_be_evaluated(make: object, weights: str) -> None:
    policy = make(Payoff(Logistic(), gain=1.5, weights=weights))  # type: ignore[operator]
    run = simulate(WORLD, policy, rounds=60, replications=2, refit=NOW)
    assert run.log.frame["propensity"].null_count() == 0
    assert 0 < run.log.frame["item"].mean() <= 1


def test_f_e5_greedy_on_selected_labels_rejects_everybody_for_ever() -> None:
    """4.7 in order: greedy accepts nobody; tasting a little and Thompson recover most; STAP tastes
    too much where labels are noisy."""
    found: dict[str, float] = {}
    policies: dict[str, Policy] = {
        "greedy": Greedy(lender()), "eps": Tasting(lender(), 0.05), "ts": Thompson(lender()),
        "stap": STAP(lender()),
    }  # fmt: skip
    for name, policy in policies.items():
        run = simulate(WORLD, policy, rounds=400, replications=16, refit=NOW, metrics=["regret"])
        found[name] = run.metrics.filter(round=399)["regret"].mean()  # type: ignore[assignment]
        if name == "greedy":
            assert run.log.frame["item"].sum() == 0
    assert found["ts"] < found["eps"] < found["stap"] < found["greedy"]


# ---- an officer of old, and what the model does not see


def test_an_officer_by_hand() -> None:
    """sigmoid(2 x 0 - 1) = .2689; sigmoid(2 x 3 - 1) = .993, kept at .9."""
    officer = Officer([2.0, 0.0, -1.0], floor=0.1).bind(opening())
    x = torch.tensor([[0.0, 5.0, 1.0], [3.0, 5.0, 1.0], [-3.0, 5.0, 1.0]])
    probs = officer.probs(Context(torch.zeros(3, dtype=torch.int64), features=x))
    assert probs[:, 1].tolist() == pytest.approx([1 / (1 + 2.718281828459045), 0.9, 0.1])


@pytest.mark.parametrize("belief", [Linear, Logistic])
def test_a_blind_model_is_one_of_requests_without_the_feature(belief: type) -> None:
    """In everything it says and learns, `blind` is the same model of requests whose feature is 0;
    the requests themselves stay as they are."""
    blind, plain, seeing = Payoff(belief(), blind=[0]), Payoff(belief()), Payoff(belief())
    context = requests(50)
    before, zero = context.features.clone(), context.features.clone()
    zero[:, 0] = 0.0
    without = replace(context, features=zero)
    slate = Slate(torch.ones(50, 1, dtype=torch.int64), torch.full((50, 1), 0.5).double())
    reward = Feedback(torch.where(context.features[:, 1:2] > 0, 1.0, -1.0))
    for model, seen in ((blind, context), (plain, without), (seeing, context)):
        model.bind(opening()).reset(stream(0))
        model.update(seen, slate, reward, stream(0))
    assert torch.equal(context.features, before)
    for ask in ("scores", "width"):
        assert torch.equal(getattr(blind, ask)(context), getattr(plain, ask)(without))
    assert torch.equal(blind.sample(context, stream(1)), plain.sample(without, stream(1)))
    if belief is Logistic:
        assert torch.equal(blind.p_best(context), plain.p_best(without))
    assert not torch.equal(blind.scores(context), seeing.scores(context))


def test_weights_repair_what_an_officer_chose_by_a_hidden_feature() -> None:
    """Accepted by z alone, which costs: unweighted, the good look bad; weighted by 1 / e they do
    not. 20,000 decisions; the mean of y is 1/2 by symmetry."""
    world = Applicants([-2.0], link="logistic", requests=20_000)
    officer = Officer([2.0, 0.0])
    found = {}
    for weights in ("none", "ips", "dr"):
        model = Payoff(Linear(), weights=weights, blind=[0])  # type: ignore[arg-type]
        policy = Switch(1, officer, Greedy(model))
        run = simulate(world, policy, rounds=1, replications=1, refit=NOW)
        found[weights] = float(run.state[0].policy.after.model.model.theta[0, 1, 1])
    assert found["none"] < 0.35
    assert found["ips"] == pytest.approx(0.5, abs=0.03)
    assert found["dr"] == pytest.approx(0.5, abs=0.03)


# ---- values on logs


def test_values_on_logs_are_those_of_evaluate() -> None:
    """V_IPS = mean(pi a r / e), V_DR = mean(pi (m + a (r - m) / e)); rejecting pays 0, known."""
    logging = Tasting(lender(), 0.3)
    run = simulate(WORLD, logging, rounds=300, replications=1, refit=NOW)
    log = run.log
    target = Tasting(Fixed(), 0.2)
    report = recfb.evaluate(
        log, {"target": target}, estimators=["ips", "dr"], reward_model=Fixed(0.05)
    )
    table = report.table
    frame = log.frame
    x = frame["features"].to_torch().double()
    context = Context(torch.zeros(len(x), dtype=torch.int64), features=x.float())
    pi = target.bind(log).probs(context)[:, 1]
    a = frame["item"].to_torch().double()
    r, p = frame["reward"].to_torch().double(), frame["propensity"].to_torch()
    e = torch.where(a == 1, p, 1 - p)
    assert bool((e > 0).all())
    m = Fixed(0.05).scores(context)[:, 1]
    ips = (pi * a * r / e).mean()
    dr = (pi * (m + a * (r - m) / e)).mean()
    value = dict(zip(table["estimator"], table["value"], strict=True))
    assert value["ips"] == pytest.approx(float(ips), abs=1e-9)
    assert value["dr"] == pytest.approx(float(dr), abs=1e-9)
    assert abs(float(ips - dr)) > 1e-4


class Fixed:
    """A known payoff: by the first feature, and nothing for rejecting."""

    vectorised = True

    def __init__(self, shift: float = 0.0) -> None:
        self.shift = shift

    def bind(self, log: Log) -> Fixed:
        return self

    def scores(self, context: Context) -> Tensor:
        pays = context.features[:, 0].double() / 4 + self.shift
        return torch.stack([torch.zeros_like(pays), pays], 1)

    def score_of(self, context: Context, item: Tensor) -> Tensor:
        index = item if item.dim() == 2 else item[:, None]
        return self.scores(context).gather(1, index).view_as(item)


def test_one_sided_hiding_does_not_change_a_lender() -> None:
    """The reward of a rejected one is 0 whoever it was; hiding it changes nothing."""
    for make in (lambda: Tasting(lender(), 0.2), lambda: STAP(Payoff(Linear(), weights="dr"))):
        items = [
            simulate(world, make(), rounds=60, replications=2, refit=NOW).log.frame["item"]
            for world in (WORLD, OneSided(WORLD))
        ]
        assert items[0].equals(items[1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Payoff(Linear(), gain=0.0), "gain and loss are positive"),
        (lambda: Payoff(Linear(), cap=0.5), "cap is at least 1"),
        (lambda: Payoff(Linear(), doubt=-1.0), "doubt at least 0"),
        (lambda: Payoff(Linear(), weights="snips"), "none, ips or dr"),
        (lambda: Tasting(Linear(), 1.5), "epsilon is a share"),
        (lambda: STAP(Linear()).bind(Log.empty(1, 3)), "world of 3 items"),
        (lambda: Payoff(Linear()).bind(Log.empty(1, 3)), "world of 3 items"),
        (lambda: Payoff(Linear(), blind=[3]).bind(opening()), "3 features"),
        (lambda: Officer([1.0], floor=0.6), "floor is a probability"),
        (lambda: Officer([1.0]).bind(opening()), "3 features"),
        (lambda: Payoff(Linear(), weights="ips").bind(opening()).update(
            requests(1), Slate(torch.ones(1, 1).long()), Feedback(torch.ones(1, 1)), stream(0)
        ), "probability of accepting"),
    ],
)  # fmt: skip
def test_refusals(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()  # type: ignore[operator]
