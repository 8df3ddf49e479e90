"""Applicants whose labels show only when accepted, and the auditors of how they are treated."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from recfb.contracts import Slate
from recfb.errors import ConfigError
from recfb.policies.fair_exp import FairExp
from recfb.policies.hypotheses import Thresholds
from recfb.policies.uniform import Uniform
from recfb.random import stream
from recfb.simulate import Refit, simulate
from recfb.testing import check
from recfb.worlds.applicants import Applicants, ApplicantsState, Minority
from recfb.worlds.arms import Arms
from recfb.worlds.audited import Audited, objections, panel_flags, reported, violations
from recfb.worlds.wrappers import OneSided

NOW = Refit(warmup=0)


@pytest.mark.parametrize(
    "world",
    [
        Applicants(),
        Applicants([1.0, -1.0], bias=0.5, link="logistic", requests=1, gain=2.0, loss=3.0),
        Applicants(minority=Minority(0.4, -1.0, 0.5)),
        Audited(Applicants()),
        Audited(OneSided(Applicants()), 3, gamma=1.0, noise=0.2),
        OneSided(Audited(Applicants())),
    ],
    ids=repr,
)
def test_worlds_pass_the_checks(world: object) -> None:
    check(world)


def slate_of(accept: Tensor) -> Slate:
    accept = accept.flatten()
    probs = torch.stack([1 - accept, accept], 1)
    return Slate((accept > 0.5).to(torch.int64)[:, None], probs=probs)


# ---- applicants


def test_payoffs_by_hand() -> None:
    """z = 0.6 x 2 - 0.2 = 1: logistic P = .731; gain 2, loss 3: 2 x .731 - 3 x .269 = .6553."""
    world = Applicants([2.0], bias=-0.2, link="logistic", gain=2.0, loss=3.0)
    state = ApplicantsState(0, torch.tensor([[0.6, 1.0]]))
    p = float(torch.tensor(1.0).sigmoid())
    expected = [[0.0, 2 * p - 3 * (1 - p)]]
    assert world.values(state).tolist()[0] == pytest.approx(expected[0], abs=1e-6)


def test_outcomes_mistakes_and_noise() -> None:
    world = Applicants([1.0, 0.0], noise=0.1, requests=20_000)
    state = world.start(stream(0))
    for item in (0, 1):
        slate = Slate(torch.full((20_000, 1), item))
        feedback, truth = world.respond(state, slate, stream(1))
        assert torch.equal(feedback.reward[:, 0], world.outcomes(state, stream(1))[:, item])
        assert torch.equal(truth["mistake"] == 1, (truth["label"] == 1) != bool(item))
    good = (state.x[:, 0] > 0) == (truth["label"] == 1)
    assert float(good.double().mean()) == pytest.approx(0.9, abs=5 * 0.3 / 20_000**0.5)


def test_with_gain_and_loss_1_regret_counts_mistakes() -> None:
    """E[mistakes] of decisions minus those of the best ones is best - value."""
    world = Applicants(noise=0.2, requests=50)
    state = world.start(stream(0))
    p, item = world.good(state), torch.arange(50)[:, None] % 2
    _, truth = world.respond(state, Slate(item), stream(1))
    wrong = torch.where(item[:, 0] == 1, 1 - p, p)
    least = torch.minimum(p, 1 - p)
    assert torch.allclose(truth["best"] - truth["value"][:, 0], wrong - least, atol=1e-12)


def test_a_minority_by_hand() -> None:
    """z = .5 x 2 - .2 = .8 for others; .5 x 2 x .25 + 1 - .2 = 1.05 for members."""
    world = Applicants([2.0], bias=-0.2, link="logistic", minority=Minority(0.5, 1.0, 0.25))
    state = ApplicantsState(0, torch.tensor([[0.5, 0.0, 1.0], [0.5, 1.0, 1.0]]))
    expected = torch.tensor([0.8, 1.05], dtype=torch.float64).sigmoid()
    assert torch.allclose(world.good(state), expected, atol=1e-7)


def test_a_minority_has_its_share_and_a_feature() -> None:
    world = Applicants([1.0, 0.0], requests=20_000, minority=Minority(0.3))
    state = world.start(stream(0))
    member = state.x[:, 2].double()
    assert float(member.mean()) == pytest.approx(0.3, abs=5 * (0.21 / 20_000) ** 0.5)
    assert member.unique().tolist() == [0.0, 1.0] and bool((state.x[:, 3] == 1).all())
    assert world.opening(state, 1, 5).frame.schema["features"].size == 4
    plain = Applicants([1.0, 0.0], requests=20_000)
    assert torch.equal(plain.start(stream(0)).x[:, :2], state.x[:, :2])
    with pytest.raises(ConfigError, match="share in"):
        Minority(1.5)


# ---- auditors


def test_a_violation_by_hand() -> None:
    """Two applicants at distance 1, lambdas .3 and .8, alpha .1: d + alpha = .4 and .9."""
    d = torch.tensor([0.3, 0.8], dtype=torch.float64)[None, :, None, None] * (1 - torch.eye(2))
    for gap, count in ((0.39, 0), (0.41, 1), (0.89, 1), (0.91, 2)):
        accept = torch.tensor([[gap, 0.0]], dtype=torch.float64)
        flags = violations(accept, d, 0.1)
        assert int(flags.sum()) == count and int(flags[:, :, 0, 1].sum()) == count
        for gamma, needed in ((0.0, 1), (0.5, 1), (0.51, 2), (1.0, 2)):
            signs = reported(flags, accept, d, gamma).tolist()
            assert signs == ([[1, -1]] if count >= needed else [[0, 0]])


def test_distances_look_at_the_first_features_only() -> None:
    world = Audited(Applicants(requests=2), 2, sees=3)
    state = world.start(stream(0))
    state.world.x.copy_(torch.tensor([[1.0, 2, 2, 9, 1], [0.0, 0, 0, -9, 1]]))
    state.beside.copy_(torch.tensor([[0.1, 0.5]]))
    d = world.distances(state, stream(0))[0, :, 0, 1]
    assert d.tolist() == pytest.approx([0.3, 1.0])


def panel(seed: int, R: int = 40, m: int = 5, k: int = 4) -> tuple[Tensor, Tensor]:
    g = stream(seed)
    accept = torch.rand(R, k, generator=g, dtype=torch.float64)
    accept[:, 0] = accept[:, 1]  # a tie of gaps
    away = torch.rand(R, m, k, k, generator=g, dtype=torch.float64) * 0.5
    d = (away + away.mT) * (1 - torch.eye(k, dtype=torch.float64))
    return accept, d


def test_f_4_9_6_violations_fall_with_alpha_and_gamma_for_fixed_policies() -> None:
    accept, d = panel(0)
    count = [
        [int(objections(violations(accept, d, a), g).any((1, 2)).sum()) for g in (0, 0.4, 0.7, 1)]
        for a in (0.0, 0.1, 0.3, 0.6)
    ]
    for rows in (count, list(zip(*count, strict=True))):
        for row in rows:
            assert list(row) == sorted(row, reverse=True)
    assert count[0][0] > count[-1][0] and count[1][0] > count[1][-1]


def test_f_4_9_6_identical_applicants_never_make_a_violation() -> None:
    world = Audited(Applicants(), alpha=0.0, gamma=0.0, noise=0.3)
    state = world.start(stream(0), 50)
    state.world.x.copy_(state.world.x[::4].repeat_interleave(4, 0))
    policy = FairExp(Thresholds(8), mixing=0.1)
    policy.bind(world.opening(state, 50, 10)).reset(stream(1))
    slate = policy.act(world.observe(state), stream(2))
    feedback, truth = world.respond(state, slate, stream(3))
    assert not bool(feedback.complaint.any())
    assert not bool(truth["flags"].any()) and not bool(truth["violation"].any())


def test_f_4_9_7_neither_the_order_of_auditors_nor_of_applicants_matters() -> None:
    accept, d = panel(1)
    signs = reported(violations(accept, d, 0.1), accept, d, 0.4)
    assert int(signs.any(1).sum()) > 5
    auditors, people = torch.tensor([3, 0, 4, 1, 2]), torch.tensor([2, 0, 3, 1])
    other = d[:, auditors]
    assert torch.equal(reported(violations(accept, other, 0.1), accept, other, 0.4), signs)
    there, moved = accept[:, people], d[:, :, people][:, :, :, people]
    again = reported(violations(there, moved, 0.1), there, moved, 0.4)
    assert torch.equal(again, signs[:, people])


def test_the_pair_reported_is_that_of_most_auditors_then_of_the_largest_gap() -> None:
    accept = torch.tensor([[0.9, 0.6, 0.1]], dtype=torch.float64)
    d = torch.ones(1, 2, 3, 3, dtype=torch.float64)
    d[0, :, 1, 2] = 0.0  # both object to 1 over 2
    d[0, 0, 0, 2] = 0.0  # one objects to 0 over 2, a larger gap
    assert reported(violations(accept, d, 0.1), accept, d, 0.0).tolist() == [[0, 1, -1]]
    d[0, 1, 0, 2] = 0.0
    assert reported(violations(accept, d, 0.1), accept, d, 0.0).tolist() == [[1, 0, -1]]


def test_f_4_9_7_ties_of_gaps_go_to_the_pair_that_is_most_alike() -> None:
    accept = torch.tensor([[0.9, 0.9, 0.1]], dtype=torch.float64)
    for nearer, signs in ((0, [[1, 0, -1]]), (1, [[0, 1, -1]])):
        d = torch.full((1, 2, 3, 3), 0.2, dtype=torch.float64)
        d[:, :, nearer, 2] = 0.1
        assert reported(violations(accept, d, 0.1), accept, d, 1.0).tolist() == signs


def test_flags_in_the_truth_read_again_with_any_gamma() -> None:
    for gamma in (0.2, 0.6, 1.0):
        world = Audited(Applicants(requests=3), 5, alpha=0.05, gamma=gamma)
        state = world.start(stream(0), 30)
        accept = torch.rand(30, 3, generator=stream(1), dtype=torch.float64)
        feedback, truth = world.respond(state, slate_of(accept), stream(2))
        flags = panel_flags(truth["flags"])
        d = world.distances(state, stream(0))
        assert torch.equal(flags, violations(accept, d, 0.05))
        again = objections(flags, gamma).any((1, 2)).double().repeat_interleave(3)
        assert torch.equal(truth["violation"], again)
        assert 0 < float(again.mean()) < 1
        signs = feedback.complaint.view(30, 3)
        assert torch.equal(signs.sum(1), torch.zeros(30, dtype=torch.int64))
        assert torch.equal(signs.abs().sum(1), 2 * signs.any(1).long())


def test_auditors_read_the_published_policy_else_the_decisions() -> None:
    world = Audited(Applicants(requests=2), 1, slopes=(0.0, 0.0))
    state = world.start(stream(0))
    slate = replace(slate_of(torch.tensor([0.55, 0.5])), item=torch.tensor([[1], [0]]))
    assert world.respond(state, slate, stream(0))[0].complaint.tolist() == [0, 0]
    bare = Slate(slate.item)
    assert world.respond(state, bare, stream(0))[0].complaint.tolist() == [1, -1]


def test_noisy_panels_judge_anew_and_alike_both_ways() -> None:
    world = Audited(Applicants(), 3, noise=0.2)
    state = world.start(stream(0), 4)
    first, second = (world.distances(state, stream(s)) for s in (1, 2))
    assert not torch.equal(first, second)
    assert torch.equal(first, first.mT) and bool((first.diagonal(dim1=2, dim2=3) == 0).all())
    assert float(first.min()) >= 0 and float(first.max()) <= 1
    calm = Audited(Applicants(), 3)
    assert torch.equal(calm.distances(state, stream(1)), calm.distances(state, stream(2)))


def test_the_log_has_the_complaint_and_the_truth_the_rest() -> None:
    world = Audited(OneSided(Applicants()), gamma=0.0, alpha=0.0, slopes=(0.0, 0.1))
    policy = FairExp(Thresholds(8), mixing=0.1)
    run = simulate(world, policy, rounds=20, replications=3, refit=NOW)
    assert set(run.log.frame["complaint"].unique()) == {-1, 0, 1}
    assert not {"violation", "flags", "label", "mistake"} & set(run.log.frame.columns)
    flags = run.truth["flags"].to_torch()
    assert panel_flags(flags).shape == (60, 5, 4, 4)
    assert run.truth["violation"].mean() == pytest.approx(
        float(objections(panel_flags(flags), 0.0).any(2).any(1).double().mean())
    )


def test_the_wrapper_does_not_change_what_the_world_inside_draws() -> None:
    inner = Applicants()
    alone = simulate(inner, Uniform(), rounds=10, replications=2, refit=NOW)
    under = simulate(Audited(inner, noise=0.1), Uniform(), rounds=10, replications=2, refit=NOW)
    assert under.log.frame.drop("complaint").equals(alone.log.frame)
    assert under.truth.select(alone.truth.columns).equals(alone.truth)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Applicants([]), "applicants have features"),
        (lambda: Applicants(noise=0.6), "noise is in"),
        (lambda: Applicants(gain=0.0), "gain"),
        (lambda: Applicants(link="probit"), "threshold or logistic"),
        (lambda: Audited(Applicants(), 0), "a panel has auditors"),
        (lambda: Audited(Applicants(), gamma=1.5), "gamma"),
        (lambda: Audited(Applicants(), noise=-1.0), "noise of at least 0"),
        (lambda: Audited(Applicants(), slopes=(0.5, 0.2)), "from low to high"),
        (lambda: simulate(Audited(Arms([0.5, 0.5])), Uniform(), rounds=1), "Audited\\(Applicants"),
    ],
)
def test_refusals(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()  # type: ignore[operator]
