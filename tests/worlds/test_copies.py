"""Copies as vectors, and the statistics of pairs."""

from __future__ import annotations

import pytest
import torch

from recfb.errors import ConfigError
from recfb.random import stream
from recfb.worlds.copies import Copies, artefact, fit_copies, provenance_auc, split, unit
from recfb.worlds.texts import DrawnTexts

V = unit(torch.randn(16, generator=stream(0, "v")))
X = 2 * torch.randn(3000, 16, generator=stream(0, "x"))


def test_kappa_is_the_cosine_and_lengths_stay() -> None:
    (c, _), (content, _) = split(X, V), split(Copies(0.8, 0.3)(X, V, stream(1)), V)
    assert torch.allclose((unit(c) * unit(content)).sum(1), torch.tensor(0.8), atol=1e-5)
    assert torch.allclose(content.norm(dim=1), c.norm(dim=1), rtol=1e-5)


def test_style_is_contracted_and_shifted_in_lengths_of_the_content() -> None:
    c, z = split(X, V)
    _, style = split(Copies(0.9, 0.3, 0.5)(X, V, stream(1)), V)
    assert torch.allclose(style, 0.5 * z + 0.3 * c.norm(dim=1), atol=1e-4)
    _, noisy = split(Copies(0.9, 0.3, 0.5, noise=0.2)(X, V, stream(1)), V)
    xi = (noisy - style) / c.norm(dim=1)
    assert float(xi.mean()) == pytest.approx(0, abs=0.02)
    assert float(xi.std()) == pytest.approx(0.2, abs=0.01)


def test_a_copy_that_keeps_all_is_its_original() -> None:
    assert torch.allclose(Copies(1.0, 0.0, 1.0)(X, V, stream(1)), X, atol=1e-5)


def test_repeated_copies_go_to_the_fixed_style() -> None:
    copies, x, g = Copies(0.99, 0.3, 0.5), X, stream(2)
    for _ in range(20):
        x = copies(x, V, g)
    size = split(X, V)[0].norm(dim=1)
    assert torch.allclose(split(x, V)[1], 0.6 * size, atol=1e-3)


def test_focus_shrinks_what_is_outside_the_main_directions() -> None:
    scale = torch.ones(16)
    scale[:2] = 10.0
    x, v = X * scale, torch.eye(16)[15]
    y = Copies(1.0, 0.0, focus=0.5, rank=2)(x, v, stream(3))
    c, content = split(x, v)[0], split(y, v)[0]
    main = torch.linalg.svd(c, full_matrices=False).Vh[:2]
    assert torch.allclose(content @ main.T, c @ main.T, rtol=1e-3, atol=1e-3)
    rest = c - c @ main.T @ main
    assert torch.allclose(content - content @ main.T @ main, 0.5 * rest, atol=1e-3)


@pytest.mark.parametrize(
    "wrong", [{"kappa": 1.1}, {"gamma": -0.1}, {"focus": 2.0}, {"noise": -1.0}, {"rank": 0}]
)
def test_copies_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Copies(**wrong)  # type: ignore[arg-type]


def test_1_9_the_fit_recovers_what_made_the_copies() -> None:
    texts = DrawnTexts(2000, 24, copies=Copies(0.9, 0.4, 0.5, noise=0.1), rotate=True).draw(
        stream(4)
    )
    found = fit_copies(texts.human, texts.copy)
    assert float(found.direction @ texts.artefact) > 0.98
    assert found.kappa == pytest.approx(0.9, abs=0.01)
    assert found.gamma == pytest.approx(0.5, abs=0.03)
    assert found.shift == pytest.approx(0.4, abs=0.03)
    assert found.delta == pytest.approx(0.4, abs=0.03)  # E z = 0, so gamma does not move the mean
    assert found.noise == pytest.approx(0.1, abs=0.02)
    assert found.copies.kappa == found.kappa
    change = texts.copy - texts.human
    along = (change @ found.direction).square().sum() / change.square().sum()
    assert found.share == pytest.approx(float(along), rel=1e-4)


def test_1_9_shift_and_difference_part_where_humans_have_a_style() -> None:
    x = X + 2 * V
    found = fit_copies(x, Copies(1.0, 0.3, 0.5)(x, V, stream(1)))
    size = float(split(X, V)[0].norm(dim=1).mean())
    assert found.shift == pytest.approx(0.3, abs=0.02)
    assert found.delta == pytest.approx(0.3 - 0.5 * 2 / size, abs=0.02)


def test_1_9_the_probe_never_sees_the_other_text_of_an_item() -> None:
    x = torch.randn(103, 60, generator=stream(6))
    y = x + 0.01 * torch.randn(103, 60, generator=stream(7))
    assert provenance_auc(x, y) == pytest.approx(0.5, abs=0.05)


def test_1_9_the_probe_tells_a_strong_artefact_and_not_chance() -> None:
    strong = DrawnTexts(400, 16, copies=Copies(0.95, 2.0, 0.5)).draw(stream(5))
    assert provenance_auc(strong.human, strong.copy) > 0.97
    null = DrawnTexts(400, 16, copies=Copies(1.0, 0.0), jitter=0.2).draw(stream(5))
    assert provenance_auc(null.human, null.copy) == pytest.approx(0.5, abs=0.06)


def test_the_artefact_is_the_mean_difference() -> None:
    assert torch.allclose(artefact(X, X + 3 * V), V, atol=1e-5)
