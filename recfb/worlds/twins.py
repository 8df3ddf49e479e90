"""The digital twin of real pairs of texts: does the one-direction model of copies fit them?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import polars as pl

from recfb.contracts import Fitted
from recfb.data import Log
from recfb.metrics.sources import source_metrics
from recfb.random import stream
from recfb.worlds.copies import CopyFit, fit_copies
from recfb.worlds.sources import Sources
from recfb.worlds.texts import GivenTexts, Texts, table_of

CLOSE = 0.05


@dataclass(frozen=True)
class TwinReport:
    """What real pairs are like, and whether their twin behaves as they do.

    `fit` are the statistics of the pairs. `real` and `twin` are SS@3, the share of machine-written
    texts in the top three, of a model trained on human clicks of half the users and tested on the
    others: with the real copies, and with copies drawn by `fit.copies`.
    """

    fit: CopyFit
    real: float
    twin: float
    approx_rewrite: bool

    @property
    def fits(self) -> bool:
        """Whether the two shares are within .05; else do not trust the parametric simulator."""
        return abs(self.real - self.twin) <= CLOSE

    def __str__(self) -> str:
        f = self.fit
        verdict = (
            "the one-direction model fits" if self.fits else "the one-direction model does not fit"
        )
        guess = "; copies of copies are guessed" if self.approx_rewrite else ""
        return (
            f"kappa {f.kappa:.3f}, delta {f.delta:.3f}, gamma {f.gamma:.3f}, share on the "
            f"direction {f.share:.2f}, provenance AUC {f.auc:.3f}; SS@3 {self.real:.3f} with the "
            f"real copies, {self.twin:.3f} with the twin's: {verdict}{guess}"
        )


def drawn_twin(texts: Texts, seed: int = 0) -> tuple[CopyFit, Texts]:
    """The statistics of pairs, and the same human texts with copies drawn by them."""
    found = fit_copies(texts.human, texts.copy)
    generator = stream(seed, "twin")
    copy = found.copies(texts.human, found.direction, generator)
    again = found.copies(copy, found.direction, generator)
    return found, Texts(texts.human, copy, again, found.direction)


def check_twin(
    texts: Texts, model: Fitted, fit: Callable[[Log, Any], Any], *, seed: int = 0
) -> TwinReport:
    """Play the first round of the loop with real pairs and with their twin.

    Args:
        texts: of `read_texts`.
        model: a scorer of histories under training, such as `solvers.Direct`.
        fit: the verb `recfb.fit`.
        seed: of the users and the twin.
    """
    found, twin = drawn_twin(texts, seed)
    shares = []
    for each in (texts, twin):
        world = Sources(GivenTexts(table_of(each)))
        state = world.start(stream(seed, "start"))
        log = world.opening(state, 1, 1)
        fit(log.filter(pl.col("user") % 2 == 0), model)
        scores = model.scores(world.test(state))[1::2]
        shares.append(float(source_metrics(scores.view(-1, *state.test.shape[1:]))["share@3"]))
    return TwinReport(found, shares[0], shares[1], texts.approx_rewrite)
