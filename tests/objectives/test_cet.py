"""Coupled estimation of relevance and selection."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from recfb import Log
from recfb.contracts import Batch, Exposure, Step
from recfb.errors import ConfigError
from recfb.exposures import Popularity, Selection
from recfb.objectives import BPR, CET
from recfb.objectives.bce import bce
from recfb.objectives.bpr import bpr
from recfb.objectives.cet import Anchor, Mode, centered, cet, posterior, ratio
from recfb.random import stream
from recfb.testing import check

F64 = torch.float64
ANCHORS: tuple[Anchor, ...] = ("none", "bce", "center")


class Fixed(Exposure):
    """A selection model whose logits are at hand."""

    def __init__(self, h: Tensor) -> None:
        super().__init__()
        self.h = h

    def logit(self, batch: Batch) -> Tensor:
        return self.h

    def forward(self, batch: Batch) -> Tensor:
        return torch.sigmoid(self.h)


def drawn(rows: int, negatives: int, seed: int = 0) -> tuple[Tensor, Tensor, Batch]:
    """Logits of both models in float64 and a batch of clicks with negatives."""
    shape = rows, 1 + negatives
    f, h = (2 * torch.randn(shape, generator=stream(seed, x), dtype=F64) for x in ("f", "h"))
    reward = torch.zeros(shape, dtype=F64)
    reward[:, 0] = 1.0
    return f, h, Batch(torch.arange(rows), torch.zeros(shape, dtype=torch.int64), reward)


def losses(f: Tensor, h: Tensor, temperature: float = 2.0, cap: float = 20.0,
           anchor: Anchor = "none", mode: Mode = "ratio") -> tuple[Tensor, Tensor]:  # fmt: skip
    return cet(f, h, temperature=temperature, cap=cap, anchor=anchor, mode=mode)


@pytest.mark.parametrize("anchor", ANCHORS)
@pytest.mark.parametrize("mode", ["ratio", "posterior"])
def test_keeps_the_contract(anchor: Anchor, mode: Mode, small_log: Log) -> None:
    check(CET(Selection(), anchor=anchor, mode=mode), small_log)


def test_weights_by_hand() -> None:
    z = torch.tensor([0.0, 2 * math.log(3), -40.0, 10.0, 5000.0], dtype=F64)
    # 1 / (1 - sigmoid(z / 2)); the page's example: logit 10 at T = 2 gives 149
    expected = [2.0, 4.0, 1.0, 1 + math.exp(5), 1000.0]
    assert ratio(z, 2.0, 1000.0).tolist() == pytest.approx(expected, abs=1e-8)
    assert round(float(ratio(z[3], 2.0, 1000.0))) == 149
    assert ratio(z, 2.0, 3.0).tolist() == pytest.approx([2.0, 3.0, 1.0, 3.0, 3.0], abs=1e-8)
    direct = 1 / (1 - torch.sigmoid(z[:4] / 2))
    assert torch.allclose(ratio(z[:4], 2.0, 1000.0), direct, rtol=1e-12)


def test_losses_by_hand() -> None:
    """Two clicks with one negative each: h- = 0 and 2 log 3 weigh 2 and 4, f- = 2 log 2 and 0
    weigh 3 and 2; divided by their means, 2/3 and 4/3, 6/5 and 4/5."""
    f = torch.tensor([[2 * math.log(2), 2 * math.log(2)], [math.log(3), 0.0]], dtype=F64)
    h = torch.tensor([[math.log(3), 0.0], [2 * math.log(3), 2 * math.log(3)]], dtype=F64)
    even, won = math.log(2), math.log(4 / 3)  # losses at differences of 0 and log 3
    relevance, selection = losses(f, h)
    assert relevance.squeeze(1).tolist() == pytest.approx([2 / 3 * even, 4 / 3 * won], rel=1e-12)
    assert selection.squeeze(1).tolist() == pytest.approx([6 / 5 * won, 4 / 5 * even], rel=1e-12)
    batch = Batch(torch.arange(2), torch.zeros(2, 2, dtype=torch.int64), torch.tensor([[1, 0]] * 2))
    both = CET(Fixed(h))(lambda u, i: f, batch)
    assert torch.allclose(both, relevance + selection, rtol=0, atol=0)


# ---- R-T4.1: large temperatures weigh all negatives alike


def test_r_t4_1_at_a_large_temperature_all_weights_are_2() -> None:
    _, h, _ = drawn(200, 3)
    assert float((ratio(h, 1e6, 20.0) - 2).abs().max()) < 1e-5


def auc(score: Tensor, relevant: Tensor) -> float:
    rank = score.argsort().argsort().double() + 1  # (n,)
    n = int(relevant.sum())
    total = rank[relevant].sum() - n * (n + 1) / 2
    return float(total) / (n * (len(score) - n))


def learned(objective: BPR | CET, steps: int = 200) -> Tensor:
    """The weights of a linear scorer after descent on 400 clicks with 2 negatives of 4 numbers."""
    x = torch.randn(400, 3, 4, generator=stream(0, "x"), dtype=F64)
    x[:, 0] += torch.tensor([1.0, 0.5, 0.0, 0.0], dtype=F64)  # (B, 1 + S, 4)
    w = torch.zeros(4, dtype=F64, requires_grad=True)
    v = torch.zeros(4, dtype=F64, requires_grad=True)
    if isinstance(objective, CET):
        objective.selection = Fixed(x @ v)
    batch = drawn(400, 2)[2]
    for _ in range(steps):
        if isinstance(objective, CET):
            objective.selection.h = x.flip(-1) @ v
        loss = objective(lambda u, i: x @ w, batch).mean()
        for p, grad in zip(
            (w, v), torch.autograd.grad(loss, (w, v), allow_unused=True), strict=True
        ):
            if grad is not None:
                p.data -= 0.5 * grad
    return w.detach()


def test_r_t4_1_at_a_large_temperature_the_optimum_is_the_unweighted_one() -> None:
    plain, large, small = (
        learned(BPR()),
        learned(CET(Fixed(torch.zeros(1)), temperature=1e6)),
        learned(CET(Fixed(torch.zeros(1)), temperature=1.0)),
    )
    fresh = torch.randn(5000, 4, generator=stream(1, "x"), dtype=F64)
    chance = torch.sigmoid(fresh @ torch.tensor([1.0, 0.5, 0.0, 0.0], dtype=F64))
    relevant = torch.rand(5000, generator=stream(1, "r"), dtype=F64) < chance
    values = [auc(fresh @ w, relevant) for w in (plain, large, small)]
    assert abs(values[0] - values[1]) < 1e-4
    assert float((plain - large).abs().max()) < 1e-5
    assert float((plain - small).abs().max()) > 1e-2  # so the comparison can fail


# ---- R-T4.2: equal weights are no weights


@pytest.mark.parametrize("level", [-3.0, 0.0, 1.7])
def test_r_t4_2_a_constant_selection_is_the_unweighted_loss_and_gradient(level: float) -> None:
    f, h, batch = drawn(64, 4)
    grads = []
    for objective in (BPR(), CET(Fixed(torch.full_like(h, level)))):
        leaf = f.clone().requires_grad_()
        loss = objective(lambda u, i, leaf=leaf: leaf, batch)
        loss.mean().backward()
        grads.append(leaf.grad)
    relevance, _ = losses(f, torch.full_like(h, level))
    exact = {"rtol": 0.0 if level == 0 else 1e-14, "atol": 0.0}  # exp rounds by its place
    assert torch.allclose(relevance, bpr(f[:, :1], f[:, 1:]), **exact)
    assert torch.allclose(*grads, **exact)


# ---- R-T4.3: no gradient across


@pytest.mark.parametrize("anchor", ANCHORS)
@pytest.mark.parametrize("mode", ["ratio", "posterior"])
def test_r_t4_3_no_gradient_from_one_loss_into_the_other_model(anchor: Anchor, mode: Mode) -> None:
    f, h, batch = drawn(20, 3)
    f, h = f.requires_grad_(), h.requires_grad_()
    relevance, selection = losses(f, h, anchor=anchor, mode=mode)

    def reaches(loss: Tensor, logit: Tensor) -> bool:
        [grad] = torch.autograd.grad(loss.sum(), logit, retain_graph=True, allow_unused=True)
        return grad is not None and bool((grad != 0).any())

    assert reaches(relevance, f) and reaches(selection, h)
    assert not reaches(relevance, h) and not reaches(selection, f)
    # and in the objective each gets the gradient of its own weighed loss, the weights held fast
    both = CET(Fixed(h), anchor=anchor, mode=mode)(lambda u, i: f, batch)
    total = torch.autograd.grad(both.sum(), (f, h), retain_graph=True)
    [own] = torch.autograd.grad(relevance.sum(), f, retain_graph=True)
    assert torch.equal(total[0], own)
    [own] = torch.autograd.grad(selection.sum(), h)
    if anchor == "bce":  # (B, S) losses carry the term of their row S times
        own = own + 0.1 * 3 / 4 * (torch.sigmoid(h) - batch.reward)
    assert torch.allclose(total[1], own, rtol=1e-12)
    # by hand: -w / mean(w) sigmoid(f- - f+) on f-, and minus their sum on f+
    if (anchor, mode) == ("none", "ratio"):
        w = (1 + torch.exp(h[:, 1:] / 2)).clamp(max=20.0)
        slope = w / w.mean() * torch.sigmoid(f[:, 1:] - f[:, :1])  # (B, S)
        expected = torch.cat([-slope.sum(1, keepdim=True), slope], 1).detach()
        assert torch.allclose(total[0], expected, rtol=1e-12)


# ---- R-T4.4: nothing tells the two models apart


@pytest.mark.parametrize("anchor", ["none", "center"])
@pytest.mark.parametrize("mode", ["ratio", "posterior"])
def test_r_t4_4_swapping_the_models_swaps_the_losses(anchor: Anchor, mode: Mode) -> None:
    f, h, batch = drawn(30, 3)
    straight, swapped = (losses(*pair, anchor=anchor, mode=mode) for pair in ((f, h), (h, f)))
    assert torch.equal(straight[0], swapped[1]) and torch.equal(straight[1], swapped[0])
    both = [
        CET(Fixed(b), anchor=anchor, mode=mode)(lambda u, i, a=a: a, batch)
        for a, b in ((f, h), (h, f))
    ]
    assert torch.allclose(*both, rtol=1e-14)


# ---- R-T4.5: the level of the logits


@pytest.mark.parametrize("mode", ["ratio", "posterior"])
def test_r_t4_5_only_centred_weights_do_not_know_the_level_of_a_query(mode: Mode) -> None:
    f, h, _ = drawn(30, 3)
    shift = torch.randn(30, 1, generator=stream(2), dtype=F64)  # another one for each query
    for anchor in ("none", "center"):
        straight, moved = (losses(f, z, anchor=anchor, mode=mode) for z in (h, h + shift))
        unchanged = [torch.allclose(a, b, rtol=1e-12) for a, b in zip(straight, moved, strict=True)]
        assert unchanged[0] == (anchor == "center")
        # the posterior of selection reads its own level, too
        assert unchanged[1] == (anchor == "center" or mode == "ratio")
    assert centered(h + shift).mean(1).abs().max() < 1e-12


def test_the_point_wise_anchor_is_a_tenth_of_the_log_loss_of_clicks() -> None:
    f, h, batch = drawn(10, 3)
    plain, anchored = (CET(Fixed(h), anchor=a)(lambda u, i: f, batch) for a in ("none", "bce"))
    added = anchored - plain  # (B, S), the mean over 4 columns in each
    by_hand = 0.1 * (torch.nn.functional.softplus(h).sum(1) - h[:, 0]) / 4
    assert torch.allclose(added, by_hand[:, None].expand(-1, 3), rtol=1e-9)
    assert torch.isclose(added.mean(), 0.1 * bce(h, batch.reward).mean())
    # a watch time is a click, whatever its size
    long = Batch(batch.user, batch.item, 30 * batch.reward)
    assert torch.equal(CET(Fixed(h), anchor="bce")(lambda u, i: f, long), anchored)


# ---- R-T4.6: the posterior


def test_r_t4_6_posterior_weights_at_their_ends() -> None:
    logit = torch.linspace(-6, 6, 13, dtype=F64)
    rho = torch.sigmoid(logit)
    never, always = torch.full_like(logit, -800.0), torch.full_like(logit, 800.0)
    assert torch.allclose(posterior(never, logit), torch.ones_like(logit), atol=1e-12)  # rho = 0
    assert torch.allclose(posterior(logit, never), 1 - rho, atol=1e-12)  # pi = 0
    assert torch.allclose(posterior(logit, always), torch.ones_like(logit), atol=1e-12)  # pi = 1


def test_r_t4_6_posterior_weights_are_those_of_bayes() -> None:
    """P(r = 0 | l = 0) by counting the four states of (r, s)."""
    for rho, pi in ((0.2, 0.5), (0.9, 0.9), (0.01, 0.7)):
        logits = [torch.tensor(math.log(p / (1 - p)), dtype=F64) for p in (rho, pi)]
        state = {(r, s): (rho if r else 1 - rho) * (pi if s else 1 - pi)
                 for r in (0, 1) for s in (0, 1)}  # fmt: skip
        without = sum(p for (r, s), p in state.items() if r * s == 0)
        irrelevant = (state[0, 0] + state[0, 1]) / without
        unselected = (state[0, 0] + state[1, 0]) / without
        assert float(posterior(*logits)) == pytest.approx(irrelevant, rel=1e-12)
        assert float(posterior(*logits[::-1])) == pytest.approx(unselected, rel=1e-12)
        weights = losses(*(torch.stack([z, z])[None] for z in logits), mode="posterior")
        assert [float(w) for w in weights] == pytest.approx([math.log(2)] * 2)  # one pair: mean 1


def test_posterior_losses_by_hand() -> None:
    f, h, _ = drawn(8, 2)
    rho, pi = torch.sigmoid(f[:, 1:]), torch.sigmoid(h[:, 1:])
    w, v = (1 - rho) / (1 - rho * pi), (1 - pi) / (1 - rho * pi)
    relevance, selection = losses(f, h, mode="posterior")
    assert torch.allclose(relevance, w / w.mean() * bpr(f[:, :1], f[:, 1:]), rtol=1e-10)
    assert torch.allclose(selection, v / v.mean() * bpr(h[:, :1], h[:, 1:]), rtol=1e-10)


# ---- schedule and doors


def test_during_the_burn_in_all_negatives_weigh_the_same() -> None:
    f, h, batch = drawn(16, 2)
    score: Callable[[Tensor, Tensor], Tensor] = lambda u, i: f  # noqa: E731
    objective = CET(Fixed(h), burn_in=0.25)
    plain = bpr(f[:, :1], f[:, 1:]) + bpr(h[:, :1], h[:, 1:])
    weighed = sum(losses(f, h))
    for index, expected in ((0, plain), (24, plain), (25, weighed), (99, weighed)):
        assert torch.equal(objective(score, batch, Step(index=index, total=100)), expected)
    assert torch.equal(objective(score, batch), weighed)  # no planned end
    never = CET(Fixed(h), burn_in=1.0)
    assert torch.equal(never(score, batch, Step(index=99, total=100)), plain)


def test_an_exposure_that_is_not_learned_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"exposures.Popularity is not learned.*Selection"):
        CET(Popularity())


@pytest.mark.parametrize("burn_in", [-0.1, 300.0])
def test_a_burn_in_in_steps_is_refused(burn_in: float) -> None:
    with pytest.raises(ConfigError, match=f"share of the steps, found {burn_in}"):
        CET(Selection(), burn_in=burn_in)
