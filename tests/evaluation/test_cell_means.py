"""The default reward model: its formula, and that no row is predicted by its own unit."""

from __future__ import annotations

import pytest
import torch
from ope_world import draw

from recfb import Log, UnboundError, evaluate
from recfb.contracts import Block
from recfb.data.door import Problems
from recfb.evaluation import CellMeans
from recfb.evaluation.cell_means import cell_counts, fold_of
from recfb.policies import Uniform


def block_of(log: Log) -> Block:
    return next(iter(log.parts())).record(Problems())


def fitted(*blocks: Block, seed: int = 0) -> CellMeans:
    return CellMeans(seed=seed).fit(
        [cell_counts(block, folds=3, seed=seed, n_items=4) for block in blocks]
    )


def test_o_cell_means_by_hand() -> None:
    block = block_of(draw(900))
    model, fold = fitted(block), fold_of(block.unit, 3, 0)
    assert torch.bincount(fold).tolist() == pytest.approx([300] * 3, abs=60)
    position, item = block.context.position, block.slate.item[:, 0]
    reward, predicted = block.feedback.reward[:, 0].double(), model.predict(block)
    for row in (0, 1, 2, 500):
        others = (fold != fold[row]) & (position == position[row])
        mean = float(reward[others].mean())
        for i in range(4):
            here = others & (item == i)
            expected = (float(reward[here].sum()) + 50 * mean) / (int(here.sum()) + 50)
            assert float(predicted[row, i]) == pytest.approx(expected, rel=1e-12)


def test_o_a_row_is_not_predicted_by_its_own_unit() -> None:
    log = draw(600, unit=torch.arange(600) // 5)
    block = block_of(log)
    before = fitted(block).predict(block)
    mine = block.unit == block.unit[17]
    reward = torch.where(mine[:, None], 1 - block.feedback.reward, block.feedback.reward)
    changed = type(block.feedback)(reward)
    other = Block(block.context, block.slate, changed, block.unit, block.part)
    after = fitted(other).predict(block)
    assert torch.equal(before[mine], after[mine]) and not torch.equal(before, after)


def test_o_parts_give_the_same_model() -> None:
    block = block_of(draw(900))
    whole = fitted(block)
    pieces = fitted(block[:100], block[100:101], block[101:])
    assert whole.table is not None and pieces.table is not None
    assert torch.allclose(whole.table, pieces.table, rtol=1e-12, atol=0)


def test_o_positions_and_rewards_that_are_not_there() -> None:
    flat = Log.of({"item": [0, 1], "reward": [1.0, None]}, n_items=4)
    block = block_of(flat)
    prediction = fitted(block).predict(block)
    fold = fold_of(block.unit, 3, 0)
    alone = prediction[0]  # its own fold is all there is to learn from
    assert alone.tolist() == [0.0] * 4
    if fold[0] != fold[1]:
        assert prediction[1].tolist() == pytest.approx([51 / 51, 1.0, 1.0, 1.0])
    seen, far = block_of(draw(90)), block_of(draw(90, position=torch.full((90,), 9)))
    assert bool(torch.isfinite(fitted(seen).predict(far)).all())
    with pytest.raises(UnboundError, match=r"plan\.fit\(log\)"):
        CellMeans().predict(block)


def test_o_the_report_says_which_model_it_used() -> None:
    report = evaluate(draw(200), {"u": Uniform()}, estimators=["dr"])
    assert report.notes[-1] == (
        "Reward model: cross-fitted cell means by (position, item), k = 50, 3 folds by unit."
    )
    assert "Reward model" not in str(evaluate(draw(200), {"u": Uniform()}, estimators=["ips"]))
