"""Rel-MF over the whole matrix: gradients, the closed form it must find, and the checkerboard."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from recfb import fit
from recfb.data import Log
from recfb.exposures import Popularity
from recfb.objectives.relmf import relmf
from recfb.random import stream
from recfb.solvers import FullRelMF, RelMF, relmf_full
from recfb.solvers.bilinear import Lists
from recfb.solvers.relmf import clicked
from recfb.testing import check

Link = Literal["bce", "sq_sigmoid", "sq_linear"]
LINKS: tuple[Link, ...] = ("bce", "sq_sigmoid", "sq_linear")


def test_keeps_the_contract(small_log: Log) -> None:
    check(FullRelMF(Popularity(), dim=3, steps=5), small_log)


@pytest.mark.parametrize("cells", [3, 1 << 20])
@pytest.mark.parametrize("link", LINKS)
def test_gradients_are_those_of_the_objective(
    link: Link, cells: int, small_log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the sum of the pairs' losses and of the penalty, in blocks of one user and in one."""
    monkeypatch.setattr(relmf_full, "_CELLS", cells)
    model = FullRelMF(Popularity(power=1.0), dim=2, link=link, l2=0.3, clip=0.6).bind(small_log)
    model = model.double()
    model.reset(stream(0))
    model.item_bias.normal_(generator=stream(1))
    model.offset.fill_(0.4)
    m, n = small_log.n_users, small_log.n_items
    batch = clicked(small_log)
    weight = 1 / model.exposure(batch).clamp(min=0.6).double()
    lists = Lists.of(batch.user, batch.item, weight, m)
    found = model.gradients(lists)
    model.requires_grad_()
    user, item = torch.meshgrid(torch.arange(m), torch.arange(n), indexing="ij")
    score = model.user @ model.item.T + model.item_bias.T + model.offset
    theta = model.exposure.theta.double()[item]
    reward = small_log.clicks.label(user.flatten(), item.flatten()).view(m, n).double()
    loss = relmf(score, reward, theta, link=link, clip=0.6).sum()
    lengths = n * model.user.square().sum() + m * model.item.square().sum()
    (loss + 0.3 * lengths).backward()
    for name, gradient in zip(("user", "item", "item_bias", "offset"), found, strict=True):
        assert torch.allclose(getattr(model, name).grad, gradient, rtol=0, atol=1e-10), name


def test_it_finds_the_closed_form(small_log: Log) -> None:
    options = {"dim": 2, "l2": 0.02, "clip": 0.8}
    exact = fit(small_log, RelMF(Popularity(), sweeps=400, **options))
    steps = FullRelMF(Popularity(), link="sq_linear", bias="none", steps=3000, lr=0.01, **options)
    scores = [
        model.all(torch.arange(small_log.n_users)) for model in (exact, fit(small_log, steps))
    ]
    assert torch.allclose(*scores, atol=2e-3)


@pytest.mark.parametrize("link", LINKS)
def test_it_completes_the_checkerboard(link: Link, checkerboard: Log) -> None:
    model = fit(checkerboard, FullRelMF(Popularity(), dim=2, l2=0.01, link=link))
    scores = model.all(torch.arange(24))
    same = (torch.arange(24)[:, None] % 2) == (torch.arange(24) % 2)
    assert float(scores[same].min()) > float(scores[~same].max())
