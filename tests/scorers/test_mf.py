"""Matrix factorisation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recfb.contracts import Batch, Context
from recfb.data import Log, Pairs
from recfb.errors import UnboundError
from recfb.random import stream
from recfb.scorers import MF
from recfb.testing import check


def filled(mf: MF, n_users: int = 4, n_items: int = 6) -> MF:
    mf.bind(Log.empty(n_users, n_items)).double()
    generator = stream(0, "values")
    with torch.no_grad():
        for p in mf.parameters():
            p.normal_(generator=generator)
    return mf


def test_keeps_the_contract(small_log: Log) -> None:
    check(MF(dim=3), small_log)


@pytest.mark.parametrize("bias", ["none", "item", "full"])
def test_scores_are_the_formula(bias: str) -> None:
    mf = filled(MF(dim=3, bias=bias))
    expected = mf.user @ mf.item.T  # (n_users, n_items)
    if bias != "none":
        expected = expected + mf.item_bias.T + mf.offset
    if bias == "full":
        expected = expected + mf.user_bias
    user, item = torch.tensor([3, 0]), torch.tensor([[5, 1, 1], [0, 2, 4]])
    assert torch.allclose(mf.all(user), expected[user])
    assert torch.allclose(mf(user, item), expected[user[:, None], item])
    assert torch.allclose(mf(user, item[:, 0]), expected[user, item[:, 0]])
    out = torch.empty(2, 6, dtype=torch.float64)
    with torch.no_grad():
        assert mf.all(user, out=out) is out
    assert torch.allclose(out, expected[user])


def test_penalty_by_hand() -> None:
    mf = filled(MF(dim=2, l2=0.5))
    with torch.no_grad():
        mf.user.copy_(torch.tensor([[1.0, 2.0]]))
        mf.item.copy_(torch.tensor([[3.0, 0.0]]))
    user, item = torch.tensor([0, 1]), torch.tensor([[0, 1], [2, 3]])
    batch = Batch(user, item, torch.ones(2, 2))
    # a row: user 5, two items of 9 each: 23; half of it times l2
    assert float(mf.penalty(batch).detach()) == pytest.approx(0.25 * 23)
    weighed = Batch(user, item[:, 0], torch.ones(2), weight=torch.tensor([3.0, 1.0]))
    assert float(mf.penalty(weighed).detach()) == pytest.approx(0.25 * 14 * 2)
    wide = Batch(user, item, torch.ones(2, 2), weight=torch.tensor([3.0, 1.0]))
    assert float(mf.penalty(wide).detach()) == pytest.approx(0.25 * 23 * 2)


def test_l2_is_not_zero_by_default() -> None:
    assert MF().l2 > 0


def test_penalty_reads_no_table_twice() -> None:
    mf = filled(MF(dim=2, l2=0.5))
    view = mf.ready()
    batch = Batch(torch.tensor([0, 1]), torch.tensor([[0, 1], [2, 3]]), torch.ones(2, 2))
    (view(batch.user, batch.item).sum() + view.penalty(batch)).backward()
    assert mf.user.grad._values().shape == (2, 2)
    shared = mf.item.grad.to_dense()
    mf.zero_grad()
    (mf(batch.user, batch.item).sum() + mf.penalty(batch)).backward()
    assert torch.allclose(mf.item.grad.to_dense(), shared)


def test_rows_read_without_gradient_are_not_kept() -> None:
    mf = filled(MF(dim=2))
    view, user, item = mf.ready(), torch.tensor([0]), torch.tensor([1])
    with torch.no_grad():
        view(user, item)
    assert view(user, item).requires_grad


def test_unbound() -> None:
    with pytest.raises(UnboundError, match="bind"):
        MF()(torch.tensor([0]), torch.tensor([0]))


def test_binding_again_keeps_what_was_learned() -> None:
    mf = filled(MF(dim=3))
    before = mf.user.detach().clone()
    mf.bind(Log.empty(5, 9))
    assert torch.equal(mf.user[:4], before)
    assert mf.user[4].abs().sum() == 0 and mf.item.shape == (9, 3)


@pytest.mark.parametrize("dense", [False, True])
def test_hidden_items_are_not_picked_among_all_or_among_candidates(dense: bool) -> None:
    """Also where scores are laid out by columns, and beside a mask of what is available."""

    class ByColumn(MF):
        def all(self, user: Tensor, out: Tensor | None = None) -> Tensor:
            return super().all(user).T.contiguous().T

    hide = Pairs(torch.tensor([0, 0, 2]), torch.tensor([1, 4, 0]), n_users=3, n_items=6)
    user = torch.tensor([2, 0])
    available = torch.ones(2, 6, dtype=torch.bool) if dense else None
    candidates = torch.tensor([[0, 3, 5], [4, 1, 2]])
    for model in (MF(dim=4), ByColumn(dim=4)):
        model.bind(Log.empty(3, 6))
        model.reset(stream(0))
        pick = model.top(Context(user, available=available), 4, hide=hide)
        assert not bool(hide.has(user[:, None] * 6 + pick).any())
        among = Context(user, candidates=candidates)
        pick = model.top(among, 1, hide=hide)
        assert pick[1].item() == 2 and pick[0].item() in (3, 5)
